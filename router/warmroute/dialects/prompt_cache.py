"""`prompt_cache_options`, `prompt_cache_breakpoint` and `prompt_cache_retention`: OpenAI's clients speak of caches so.

This module decides what they may say and which prefixes they mean. Without `mode: explicit` the whole prompt is one
breakpoint, beside the latest three that content parts mark; with it the latest four of those are all there are. A
breakpoint is looked for at every block before it. `prompt_cache_key` is not of this module: it is a session.

Source: field notes of openai 3.54.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from warmroute.core.errors import ClientError
from warmroute.dialects.cache_asked import Asked, Breakpoint, decoded
from warmroute.dialects.chat_request import ChatRequest
from warmroute.dialects.prompt_blocks import Body, PromptBlock, marked, marks_parts, of_chat, of_responses
from warmroute.dialects.responses import ResponsesRequest

MOST_BREAKPOINTS: Final = 4
"""Of one request, the implicit one among them."""

DEFAULT_TTL: Final = "30m"
TTL_S: Final = {"30m": 1800.0, "12h": 43_200.0}
RETENTION_S: Final = {"in_memory": 0.0, "in-memory": 0.0, "24h": 86_400.0}
"""What is kept besides; `in_memory` is what any prompt gets. Older SDKs write it with a hyphen."""

_decode_fields: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_MODES: Final = ("implicit", "explicit")


def read(request: ChatRequest | ResponsesRequest, body: Body) -> Asked | None:
    """What a request asks for; None: nothing but what any prompt gets.

    Raises:
        ClientError: 400, for values that OpenAI's API refuses.
    """
    retained = marked(request.prompt_cache_retention)
    chosen = marked(request.prompt_cache_options)
    if not retained and not chosen and not marks_parts(request):
        return None
    retention_s = 0.0
    if retained:
        retention = decoded(request.prompt_cache_retention)
        if not isinstance(retention, str) or retention not in RETENTION_S:
            raise _invalid(retention, "prompt_cache_retention", "in_memory", "24h")
        retention_s = RETENTION_S[retention]
    explicit, default_s = _options(request.prompt_cache_options) if chosen else (False, TTL_S[DEFAULT_TTL])
    try:
        blocks = of_chat(request, body) if isinstance(request, ChatRequest) else of_responses(request, body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None  # the engine judges it
    marks = [
        (index, _breakpoint(block, default_s)) for index, block in enumerate(blocks) if marked(block.mark)
    ]
    latest = marks[-MOST_BREAKPOINTS:] if explicit else marks[-MOST_BREAKPOINTS + 1 :]
    if not explicit and blocks:
        # Without options or a mark, only `24h` asks for more than the prompt gets anyway.
        implicit_s = default_s if chosen or marks else 0.0
        latest.append((len(blocks) - 1, implicit_s))
    return _asked(blocks, [(index, max(ttl_s, retention_s)) for index, ttl_s in latest])


def stripped(body: Body) -> bytes:
    """The body without the fields, for engines that refuse what they do not know; written anew.

    Raises:
        msgspec.MsgspecError, UnicodeError, RecursionError: It cannot be read; the strict readers of requests could.
    """
    fields: dict[str, msgspec.Raw] = _decode_fields(body)
    for name in ("prompt_cache_retention", "prompt_cache_options"):
        fields.pop(name, None)
    for name in ("messages", "input"):
        raw = fields.get(name)
        if raw is not None and b'"prompt_cache_breakpoint"' in bytes(raw):
            entries = msgspec.json.decode(raw)
            for entry in entries if isinstance(entries, list) else ():
                content = entry.get("content") if isinstance(entry, dict) else None
                for part in content if isinstance(content, list) else ():
                    if isinstance(part, dict):
                        part.pop("prompt_cache_breakpoint", None)
            fields[name] = msgspec.Raw(msgspec.json.encode(entries))
    return msgspec.json.encode(fields)


def _asked(blocks: list[PromptBlock], marks: list[tuple[int, float]]) -> Asked:
    ends: list[int] = []
    place: list[int] = []
    for block in blocks:
        if block.end_bytes > (ends[-1] if ends else 0):
            ends.append(block.end_bytes)
        place.append(len(ends) - 1)
    points: dict[int, Breakpoint] = {}
    for index, ttl_s in marks:
        at = place[index]
        if at >= 0 and ttl_s > 0.0:
            known = points.get(at)
            longest_s = ttl_s if known is None else max(known.ttl_s, ttl_s)
            points[at] = Breakpoint(at, 0, longest_s, blocks[index].path)
    return Asked(ends, list(points.values()))


def _options(raw: msgspec.Raw) -> tuple[bool, float]:
    """Whether only marked parts count, and for how long breakpoints hold that do not say so."""
    options = decoded(raw)
    if not isinstance(options, dict):
        raise ClientError(
            "Invalid type for 'prompt_cache_options': expected an object.",
            code="invalid_type",
            param="prompt_cache_options",
        )
    for name in options:
        if name not in ("mode", "ttl"):
            raise ClientError(
                f"Unknown parameter: 'prompt_cache_options.{name}'.",
                code="unknown_parameter",
                param=f"prompt_cache_options.{name}",
            )
    mode = options.get("mode")
    if mode is None:
        mode = "implicit"
    if mode not in _MODES:
        raise _invalid(mode, "prompt_cache_options.mode", *_MODES)
    return mode == "explicit", _ttl_s(options.get("ttl"), "prompt_cache_options.ttl", TTL_S[DEFAULT_TTL])


def _breakpoint(block: PromptBlock, default_s: float) -> float:
    path = f"{_bracketed(block.path)}.prompt_cache_breakpoint"
    value = decoded(block.mark)
    if not isinstance(value, dict):
        raise ClientError(f"Invalid type for '{path}': expected an object.", code="invalid_type", param=path)
    if "mode" not in value:
        raise ClientError(
            f"Missing required parameter: '{path}.mode'.",
            code="missing_required_parameter",
            param=f"{path}.mode",
        )
    if value["mode"] != "explicit":
        raise _invalid(value["mode"], f"{path}.mode", "explicit")
    return _ttl_s(value.get("ttl"), f"{path}.ttl", default_s)


def _ttl_s(ttl: Any, param: str, default_s: float) -> float:
    if ttl is None:
        return default_s
    if not isinstance(ttl, str) or ttl not in TTL_S:
        raise _invalid(ttl, param, *TTL_S)
    return TTL_S[ttl]


def _bracketed(path: str) -> str:
    """A path as OpenAI's errors write it: `messages[0].content[1]`."""
    return "".join([f"[{name}]" if name.isdigit() else f".{name}" for name in path.split(".")])[1:]


def _invalid(value: Any, param: str, *supported: str) -> ClientError:
    names = " and ".join([f"'{name}'" for name in supported])
    shown = f"'{value[:64]}'" if isinstance(value, str) else "a value of another type"
    supports = f"Supported values are: {names}." if len(supported) > 1 else f"Supported value is: {names}."
    return ClientError(f"Invalid value: {shown}. {supports}", code="invalid_value", param=param)
