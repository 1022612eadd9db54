"""The dialect of `/v1/responses` turns items into the chat messages that the engine makes of them.

An assistant's reasoning, text and calls are items of their own here, and one message there.
Source: vLLM's entrypoints/openai/responses/utils.py.
"""

from __future__ import annotations

from typing import Any

import msgspec

from warmroute.core.errors import ClientError
from warmroute.core.prompt import prompt
from warmroute.core.prompt.prompt import TEXT, TEXT_MESSAGES, add_json, add_text
from warmroute.dialects.chat import json_text
from warmroute.dialects.fields import ABSENT, SessionFields
from warmroute.dialects.parsed import Parsed
from warmroute.dialects.parts import Part, add_content

_Content = str | list[str | Part] | None


class Item(msgspec.Struct, gc=False):
    """One item of the input."""

    type: str | None = None
    role: str | None = None
    content: _Content = None
    call_id: str | None = None
    name: str | None = None
    namespace: str | None = None
    arguments: Any = None
    output: Any = None
    summary: list[Part] | None = None
    encrypted_content: str | None = None


class _Reasoning(msgspec.Struct, gc=False):
    effort: str | None = None


class ResponsesRequest(SessionFields, gc=False):
    """The body."""

    model: str | None = None
    input: str | list[Item] | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    previous_input_messages: msgspec.Raw = ABSENT
    previous_response: msgspec.Raw = ABSENT
    prompt: msgspec.Raw = ABSENT
    stream: bool | None = None
    tools: msgspec.Raw = ABSENT
    reasoning: _Reasoning | None = None
    chat_template: str | None = None
    chat_template_kwargs: msgspec.Raw = ABSENT
    mm_processor_kwargs: msgspec.Raw = ABSENT
    cache_salt: str | None = None
    prompt_cache_retention: msgspec.Raw = ABSENT
    prompt_cache_options: msgspec.Raw = ABSENT


class _RawRequest(msgspec.Struct, gc=False):
    input: list[msgspec.Raw]


_decode = msgspec.json.Decoder(ResponsesRequest).decode
_decode_raw = msgspec.json.Decoder(_RawRequest).decode

_CLOSED, _REASONED, _SAID = 0, 1, 2
"""What the assistant message that may still grow holds: bits; `_CLOSED` is no such message. Calls may always follow."""
_OPEN = 4


def parse(body: bytes | bytearray | memoryview) -> Parsed:
    """Read a responses request.

    Raises:
        ClientError: No input.
        msgspec.MsgspecError, UnicodeError, RecursionError: The caller translates them.
    """
    request = _decode(body)
    value = request.input
    if value is None and not request.previous_response_id and bytes(request.prompt) in (b"", b"null"):
        raise ClientError("input: an input is required", code="prompt_required", param="input")
    out: list[bytes] = []
    add_header(out, request)
    if request.instructions:
        out.append(TEXT_MESSAGES["system"])
        out.append(request.instructions.encode())
    if isinstance(value, str):
        out.append(TEXT_MESSAGES["user"])
        out.append(value.encode())
    elif value:
        add_items(out, value, body)
    canonical = b"".join(out)
    return Parsed(
        request.model or "",
        request.cache_salt or "",
        canonical,
        len(canonical),
        request.stream is True,
        request,
        request.previous_response_id or None,
        request=request,
    )


def add_header(out: list[bytes], request: ResponsesRequest) -> None:
    """Add what stands before the messages."""
    if request.tools is not ABSENT:
        add_json(out, prompt.TOOLS, bytes(request.tools))
    if request.chat_template:
        out.append(prompt.CHAT_TEMPLATE + request.chat_template.encode())
    if request.chat_template_kwargs is not ABSENT:
        add_json(out, prompt.TEMPLATE_ARGUMENTS, bytes(request.chat_template_kwargs))
    if request.mm_processor_kwargs is not ABSENT:
        add_json(out, prompt.MEDIA_PROCESSOR, bytes(request.mm_processor_kwargs))
    if request.reasoning is not None and request.reasoning.effort:
        out.append(prompt.REASONING_EFFORT + request.reasoning.effort.encode())
    if request.previous_response_id:
        out.append(prompt.HISTORY + b"id " + request.previous_response_id.encode())
    if request.previous_response is not ABSENT:
        add_json(out, prompt.HISTORY + b"response ", bytes(request.previous_response))
    if request.previous_input_messages is not ABSENT:
        add_json(out, prompt.HISTORY + b"messages ", bytes(request.previous_input_messages))
    if request.prompt is not ABSENT:
        add_json(out, prompt.HISTORY + b"prompt ", bytes(request.prompt))


def add_items(
    out: list[bytes],
    items: list[Item],
    body: bytes | bytearray | memoryview,
    ends: list[int] | None = None,
) -> None:
    """Add all items. `ends` gets the length of `out` after each."""
    state = _CLOSED
    raws: list[msgspec.Raw] = []
    for index, item in enumerate(items):
        before = len(out)
        kind = item.type or "message"
        after: int | None = None
        if kind == "message" and item.role is not None:
            after = _add_message(out, item.role, item.content, state)
        elif kind == "function_call":
            if state == _CLOSED:
                prompt.start_message(out, "assistant")
            name = f"{item.namespace}__{item.name}" if item.namespace else item.name
            prompt.add_call(out, name, item.call_id, json_text(item.arguments))
            after = state | _OPEN
        elif kind == "function_call_output":
            prompt.start_message(out, "tool", call_answered=item.call_id)
            if item.output.__class__ is str:
                if item.output:
                    add_text(out, item.output)
                after = _CLOSED
        elif kind == "reasoning" and not item.encrypted_content:
            after = _add_reasoning(out, item, state)
        if after is None:
            del out[before:]
            if not raws:
                raws = _decode_raw(body).input
            add_json(out, prompt.RAW, bytes(raws[index]))
            after = _CLOSED
        state = after
        if ends is not None:
            ends.append(len(out))


def _add_message(out: list[bytes], role: str, content: _Content, state: int) -> int | None:
    """Returns the state after it; `None` if a part of it is not understood."""
    assistant = role == "assistant"
    if not assistant or state == _CLOSED or state & _SAID:
        prompt.start_message(out, role)
        state = _OPEN
    if isinstance(content, str):
        if content:
            out.append(TEXT)
            out.append(content.encode())
    elif content and not add_content(out, content):
        return None
    return state | _SAID if assistant else _CLOSED


def _add_reasoning(out: list[bytes], item: Item, state: int) -> int | None:
    parts: _Content = item.content or (list(item.summary) if item.summary else None)
    texts = (
        [parts]
        if isinstance(parts, str)
        else [p if isinstance(p, str) else p.text or "" for p in parts or ()]
    )
    if state == _CLOSED or state & _REASONED:
        prompt.start_message(out, "assistant")
        state = _OPEN
    out.append(prompt.REASONING)
    out.append("".join(texts).encode())
    return state | _REASONED
