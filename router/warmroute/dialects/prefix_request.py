"""The request that has an engine compute a promised prefix again: the client's own, cut behind the breakpoint's block.

This module decides what of a request is needed for that. It goes to the endpoint that the client's went to, so that the
engine lays out both alike; it has the fields that engines make prompts of, and nothing of how the answer is to be but
that it is one token. The rules it keeps:

1. Tools are never cut, and nothing of the system prompt is where a tool is marked: templates put one into the other.
2. What is cut ends with what a user says or a tool answered, since templates refuse other ends, or write the last turn
   of an assistant otherwise than the same turn later on. So behind an assistant's turn the next one stays; behind a
   system prompt that nothing follows stands a message of a full stop.
3. What goes on from something that an engine stores has no text of its own: there is no such request.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from warmroute.core.types import Api
from warmroute.dialects.fields import NOT_GIVEN

Json = dict[str, Any]

_SESSION: Final = ("prompt_cache_key", "session_id", "metadata", "client_metadata", "vllm_xargs")
_FIELDS: Final = {
    Api.CHAT: (
        *_SESSION,
        "model",
        "messages",
        "tools",
        "cache_salt",
        "documents",
        "chat_template",
        "chat_template_kwargs",
        "mm_processor_kwargs",
        "media_io_kwargs",
        "reasoning_effort",
        "add_special_tokens",
    ),
    Api.MESSAGES: (
        *_SESSION,
        "model",
        "system",
        "messages",
        "tools",
        "cache_salt",
        "chat_template_kwargs",
        "thinking",
        "output_config",
    ),
    Api.RESPONSES: (
        *_SESSION,
        "model",
        "instructions",
        "input",
        "tools",
        "cache_salt",
        "chat_template",
        "chat_template_kwargs",
        "mm_processor_kwargs",
        "reasoning",
    ),
}
_ONE_TOKEN: Final[dict[Api, Json]] = {
    Api.CHAT: {"max_tokens": 1, "temperature": 0},
    Api.MESSAGES: {"max_tokens": 1},
    Api.RESPONSES: {"max_output_tokens": 1, "store": False},
}
_ELSEWHERE: Final = (
    "previous_response_id",
    "previous_response",
    "previous_input_messages",
    "prompt",
    "truncate_prompt_tokens",
)
"""Fields with which the body does not say alone what the prompt is."""
_TURNS: Final = ("user", "tool", "ctx", "msg")
_ANSWERS: Final = ("function_call_output", "custom_tool_call_output")
_FULL_STOP: Final = {"role": "user", "content": "."}

_decode_fields: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode: Final = msgspec.json.decode
_encode: Final = msgspec.json.encode


def prefix_request(api: Api, body: bytes | bytearray, path: str) -> bytes | None:
    """The body of that request; None: there is none.

    Args:
        body: The client's, as engines were sent it.
        path: The block that the prefix ends with, as `prompt_blocks` names it.
    """
    names = _FIELDS.get(api)
    if names is None:
        return None
    try:
        fields = _decode_fields(body)
        if any(bytes(fields.get(name, b"")) not in NOT_GIVEN for name in _ELSEWHERE):
            return None
        kept: Json = {name: fields[name] for name in names if name in fields}
        place, _, rest = path.partition(".")
        index, _, part = rest.partition(".content")
        part = part.removeprefix(".")
        if place in ("messages", "input") and index:
            kept[place] = _cut(_decode(fields[place]), int(index), int(part) if part else None)
        elif place in ("system", "instructions", "tools"):
            if place == "system" and index:
                kept["system"] = _decode(fields["system"])[: int(index) + 1]
            kept["input" if api is Api.RESPONSES else "messages"] = [_FULL_STOP]
        elif place != "input":
            return None
        if bytes(fields.get("tool_choice", b"")) == b'"none"':
            kept["tool_choice"] = "none"  # some engines leave out the tools then
    except (
        msgspec.MsgspecError,
        UnicodeError,
        RecursionError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
    ):
        return None
    return _encode({**kept, **_ONE_TOKEN[api]})


def _cut(messages: list[Any], index: int, part: int | None) -> list[Any]:
    """The messages up to this one, or to this part of it, and what has to follow."""
    if messages[index].get("role") in ("system", "developer"):
        return [*messages[:index], _with_parts(messages[index], part), _FULL_STOP]
    for last in range(index, len(messages)):
        following = messages[last + 1] if last + 1 < len(messages) else None
        if _ends(messages[last]) and not _answers(following):
            if last == index:
                return [*messages[:index], _with_parts(messages[index], part)]
            return messages[: last + 1]
    return messages


def _with_parts(message: Json, part: int | None) -> Json:
    """The message with its parts up to this one, and with all that tools answered: these belong to one turn."""
    if part is None:
        return message
    parts = message["content"]
    for later in range(len(parts) - 1, part, -1):
        if isinstance(parts[later], dict) and parts[later].get("type") == "tool_result":
            part = later
            break
    return {**message, "content": parts[: part + 1]}


def _ends(message: Any) -> bool:
    return isinstance(message, dict) and (message.get("role") in _TURNS or message.get("type") in _ANSWERS)


def _answers(message: Any) -> bool:
    """Whether it is a tool's answer: those to the calls of one turn belong together."""
    return isinstance(message, dict) and (message.get("role") == "tool" or message.get("type") in _ANSWERS)
