"""The fields of a chat request that routing needs are here as msgspec decodes them.

This module is data only; `chat` reads it. It stands apart, because the reading is compiled and these classes cannot be.
Reading a field of such an object by name costs as much as decoding it, so `chat` takes the fields in their order: what
most requests have comes first, and of the rest it is one comparison whether there is any.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec.structs import astuple

from warmroute.dialects.fields import ABSENT, Options, SessionFields
from warmroute.dialects.parts import Part


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: Any = None


class ToolCall(msgspec.Struct, gc=False):
    """A call in an assistant message."""

    id: str | None = None
    function: _Function | None = None
    custom: Any = None


class Message(msgspec.Struct, gc=False):
    """One message."""

    role: str
    content: str | list[str | Part] | None = None
    name: str | None = None
    tool_call_id: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None
    tools: msgspec.Raw = ABSENT


NO_MORE: Final = astuple(Message(""))[2:]
"""Of a message that has nothing but a role and a content."""


class ChatRequest(SessionFields, gc=False):
    """The body."""

    model: str | None = None
    messages: list[Message] | None = None
    stream: bool | None = None
    stream_options: Options = msgspec.UNSET
    n: msgspec.Raw = ABSENT
    cache_salt: str | None = None
    tools: msgspec.Raw = ABSENT
    documents: msgspec.Raw = ABSENT
    chat_template: str | None = None
    chat_template_kwargs: msgspec.Raw = ABSENT
    mm_processor_kwargs: msgspec.Raw = ABSENT
    media_io_kwargs: msgspec.Raw = ABSENT
    reasoning_effort: str | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    truncate_prompt_tokens: int | None = None
    truncation_side: str | None = None
    prompt_logprobs: msgspec.Raw = ABSENT
    echo: msgspec.Raw = ABSENT
    top_logprobs: msgspec.Raw = ABSENT
    prompt_cache_retention: msgspec.Raw = ABSENT
    prompt_cache_options: msgspec.Raw = ABSENT


SESSION: Final = len(SessionFields.__struct_fields__)
"""So many fields come before `model`."""
RARE: Final = ChatRequest.__struct_fields__.index("tools")
"""So many before what few requests have."""
NO_SESSION: Final = astuple(ChatRequest())[:SESSION]
NOTHING_RARE: Final = astuple(ChatRequest())[RARE:]


class _RawMessage(msgspec.Struct, gc=False):
    content: msgspec.Raw = ABSENT


class _RawRequest(msgspec.Struct, gc=False):
    messages: list[_RawMessage]


decode = msgspec.json.Decoder(ChatRequest).decode
decode_raw = msgspec.json.Decoder(_RawRequest).decode
