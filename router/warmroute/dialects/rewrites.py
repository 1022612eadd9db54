"""Rewrites that make equal prompts equal bytes: tools in one order, their keys in one order, passages in one order.

This module decides what may change: the order of entries in a request's `tools`, the order of keys and the blanks
inside them, and the order of passages that stand between the given marks with nothing but blanks between them.
Everything else stays as it was sent, in its bytes; numbers and strings inside tools do, too. What it does not
understand it leaves alone.

Tools are named by `tool_choice` and in calls, so their order means nothing to an engine; of two with one name the order
stays. A mark of Anthropic's caching stays where it was: behind the last tool; with marks elsewhere nothing is sorted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from warmroute.core.types import Api

Body = bytes | bytearray
_Fields = dict[str, msgspec.Raw]

MOST_DEPTH: Final = 32
MOST_TOOLS_BYTES: Final = 256 << 10
"""A longer list stays as it is: each level of it is read once more, and other requests wait meanwhile."""
MOST_PASSAGES: Final = 1000
_TOOLS: Final = b'"tools"'
_MARK: Final = "cache_control"
_PROMPTS: Final = {Api.CHAT: "messages", Api.MESSAGES: "messages", Api.RESPONSES: "input"}
_TEXTS: Final = frozenset(("text", "input_text"))
_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeError, RecursionError)

_decode_fields: Final = msgspec.json.Decoder(_Fields).decode
_decode_list: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_text: Final = msgspec.json.Decoder(str).decode
_encode: Final = msgspec.json.Encoder().encode


class Rewrites(NamedTuple):
    """What is done for one tenant."""

    sort_tools: bool = False
    sort_keys: bool = False
    passages_begin: str = ""
    """Mark before a passage; empty: passages stay as they are."""
    passages_end: str = ""


def rewritten(api: Api, body: Body, rewrites: Rewrites) -> bytes | None:
    """The body as replicas are sent it; None: as it is."""
    prompt = _PROMPTS.get(api)
    if prompt is None:
        return None
    of_tools = (rewrites.sort_tools or rewrites.sort_keys) and _TOOLS in body
    begin = rewrites.passages_begin
    of_passages = bool(begin) and _quoted(begin) in body
    if not of_tools and not of_passages:
        return None
    try:
        fields = _decode_fields(body)
        changed = False
        if of_tools and "tools" in fields:
            tools = tools_rewritten(bytes(fields["tools"]), rewrites)
            if tools is not None:
                fields["tools"] = msgspec.Raw(tools)
                changed = True
        if of_passages:
            names = (prompt, "system") if api is Api.MESSAGES else (prompt,)
            for name in names:
                if name in fields:
                    told = _prompt(bytes(fields[name]), rewrites)
                    if told is not None:
                        fields[name] = msgspec.Raw(told)
                        changed = True
    except _UNREADABLE:
        return None  # whoever reads it next says what is wrong with it
    return _encode(fields) if changed else None


# -- tools ----------------------------------------------------------------------------------------------------------


def tools_rewritten(raw: bytes, rewrites: Rewrites) -> bytes | None:
    """The value of `tools`, sorted as asked; None if that changes nothing.

    Raises:
        msgspec.MsgspecError, UnicodeError, RecursionError: It is no list of objects.
    """
    if raw[:1] != b"[" or len(raw) > MOST_TOOLS_BYTES:
        return None
    tools = [bytes(entry) for entry in _decode_list(raw)]
    if rewrites.sort_tools:
        tools = _sorted(tools)
    if rewrites.sort_keys:
        tools = [canonical(tool) for tool in tools]
    told = b"[" + b",".join(tools) + b"]"  # also where they were in order: blanks between them count too
    return None if told == raw else told


def _sorted(tools: list[bytes]) -> list[bytes]:
    fields = [_decode_fields(tool) for tool in tools]
    marks = [one.get(_MARK) for one in fields]
    if any(mark is not None for mark in marks[:-1]):
        return tools
    order = sorted(range(len(tools)), key=lambda index: _name(fields[index]))
    if order == list(range(len(tools))):
        return tools
    mark = marks[-1]
    if mark is not None and order[-1] != len(tools) - 1:
        tools = list(tools)
        without, last = fields[-1], fields[order[-1]]
        del without[_MARK]
        tools[-1] = _encode(without)
        tools[order[-1]] = _encode(last | {_MARK: mark})
    return [tools[index] for index in order]


def _name(tool: _Fields) -> tuple[str, str]:
    function = tool.get("function")
    inner = tool if function is None or bytes(function)[:1] != b"{" else _decode_fields(function)
    return _text(inner.get("name")), _text(tool.get("type"))


def _text(raw: msgspec.Raw | None) -> str:
    return "" if raw is None or bytes(raw)[:1] != b'"' else _decode_text(raw)


def canonical(raw: bytes, depth: int = 0) -> bytes:
    """A JSON value with the keys of its objects sorted and without blanks; its strings and numbers as sent.

    Raises:
        msgspec.MsgspecError, UnicodeError, RecursionError: It is none, or too deep.
    """
    if depth > MOST_DEPTH:
        raise RecursionError("too deep")
    first = raw[:1]
    if first == b"{":
        fields = _decode_fields(raw)
        return b"{" + b",".join(
            [_encode(name) + b":" + canonical(bytes(fields[name]), depth + 1) for name in sorted(fields)]
        ) + b"}"  # fmt: skip
    if first == b"[":
        return b"[" + b",".join([canonical(bytes(one), depth + 1) for one in _decode_list(raw)]) + b"]"
    return raw


# -- passages -------------------------------------------------------------------------------------------------------


def _quoted(text: str) -> bytes:
    """As it stands in a JSON string, for those that write no more escapes than they must."""
    return _encode(text)[1:-1]


def _prompt(raw: bytes, rewrites: Rewrites) -> bytes | None:
    """Messages, a system prompt or an input; None if it has nothing to change."""
    return _content(raw, rewrites, _message)


def _message(raw: bytes, rewrites: Rewrites) -> bytes | None:
    """One message of a list, or one part of a system prompt."""
    if raw[:1] != b"{":
        return None
    fields = _decode_fields(raw)
    if _text(fields.get("role")) == "assistant":
        return None
    if "content" in fields:
        told = _content(bytes(fields["content"]), rewrites, _part)
        return None if told is None else _encode(fields | {"content": msgspec.Raw(told)})
    return _part(raw, rewrites)


def _part(raw: bytes, rewrites: Rewrites) -> bytes | None:
    if raw[:1] != b"{":
        return None
    fields = _decode_fields(raw)
    if _text(fields.get("type")) not in _TEXTS or "text" not in fields:
        return None
    told = _content(bytes(fields["text"]), rewrites, None)
    return None if told is None else _encode(fields | {"text": msgspec.Raw(told)})


def _content(
    raw: bytes, rewrites: Rewrites, of_entry: Callable[[bytes, Rewrites], bytes | None] | None
) -> bytes | None:
    """A text, or a list of what has texts."""
    if _quoted(rewrites.passages_begin) not in raw:
        return None
    if raw[:1] == b'"':
        text = _decode_text(raw)
        told = passages_sorted(text, rewrites.passages_begin, rewrites.passages_end)
        return None if told == text else _encode(told)
    if raw[:1] != b"[" or of_entry is None:
        return None
    entries = [bytes(entry) for entry in _decode_list(raw)]
    changed = [of_entry(entry, rewrites) for entry in entries]
    if not any(one is not None for one in changed):
        return None
    return (
        b"["
        + b",".join([old if new is None else new for old, new in zip(entries, changed, strict=True)])
        + b"]"
    )


def passages_sorted(text: str, begin: str, end: str) -> str:
    """A text whose passages come in one order wherever several stand together; what is between them stays."""
    pieces: list[str] = []
    at = 0
    row: list[str] = []
    gaps: list[str] = []
    for start, stop in _passages(text, begin, end):
        gap = text[at:start]
        if row and gap.strip():
            pieces += _row(row, gaps)
            row, gaps = [], []
        if row:
            gaps.append(gap)
        else:
            pieces.append(gap)
        row.append(text[start:stop])
        at = stop
    pieces += _row(row, gaps)
    pieces.append(text[at:])
    return "".join(pieces)


def _passages(text: str, begin: str, end: str) -> list[tuple[int, int]]:
    """Where passages begin and end: of several marks before one passage's end the last begins it. Complexity: linear,
    since each mark is looked for from where it was found last."""
    found: list[tuple[int, int]] = []
    start = text.find(begin)
    stop = -1
    while start >= 0 and len(found) < MOST_PASSAGES:
        inside = start + len(begin)
        if stop < inside:
            stop = text.find(end, inside)
            if stop < 0:
                break
        again = text.find(begin, inside)
        if 0 <= again < stop:
            start = text.find(begin, start + 1)
            continue
        found.append((start, stop + len(end)))
        start = text.find(begin, stop + len(end))
    return found


def _row(row: list[str], gaps: list[str]) -> list[str]:
    pieces: list[str] = []
    for index, one in enumerate(sorted(row)):
        if index:
            pieces.append(gaps[index - 1])
        pieces.append(one)
    return pieces
