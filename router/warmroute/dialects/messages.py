"""The dialect of `/v1/messages` (Anthropic) lays out the prompt that the engine makes of it, which is a chat prompt.

So a conversation has the same canonical prompt here and in chat. Tools are the exception: they stay in the form of the
API that sent them, which only keeps the two APIs' prompts apart.
Source: vLLM's entrypoints/anthropic/serving.py and inline_system.py.
"""

from __future__ import annotations

from typing import Any

import msgspec

from warmroute.core.prompt import prompt
from warmroute.core.prompt.prompt import MESSAGE, TEXT, TEXT_MESSAGES, add_json, add_text
from warmroute.dialects.fields import ABSENT, SessionFields
from warmroute.dialects.parsed import Parsed, messages_required

BILLING = "x-anthropic-billing-header"
"""Claude Code's attribution block: differs in every request, and engines drop it from the prompt."""
ROLES = {"ctx": "user", "msg": "user"}
"""Roles that newer clients send, and what engines take them for."""


class _Source(msgspec.Struct, gc=False):
    type: str | None = None
    media_type: str | None = None
    data: str | None = None
    url: str | None = None


class Block(msgspec.Struct, gc=False):
    """One content block."""

    type: str
    text: str | None = None
    source: _Source | str | None = None
    id: str | None = None
    tool_use_id: str | None = None
    name: str | None = None
    input: msgspec.Raw = ABSENT
    content: str | list[Block] | dict[str, Any] | None = None
    thinking: str | None = None
    cache_control: msgspec.Raw = ABSENT


class Message(msgspec.Struct, gc=False):
    """One message."""

    role: str
    content: str | list[Block] = ""


class _Thinking(msgspec.Struct, gc=False):
    type: str | None = None


class _OutputConfig(msgspec.Struct, gc=False):
    effort: str | None = None


class MessagesRequest(SessionFields, gc=False):
    """The body."""

    model: str | None = None
    messages: list[Message] | None = None
    system: str | list[Block] | None = None
    stream: bool | None = None
    tools: msgspec.Raw = ABSENT
    thinking: _Thinking | None = None
    output_config: _OutputConfig | None = None
    chat_template_kwargs: msgspec.Raw = ABSENT
    cache_salt: str | None = None
    cache_control: msgspec.Raw = ABSENT
    max_tokens: msgspec.Raw = ABSENT


class _RawMessage(msgspec.Struct, gc=False):
    content: msgspec.Raw = ABSENT


class _RawRequest(msgspec.Struct, gc=False):
    messages: list[_RawMessage]


_decode = msgspec.json.Decoder(MessagesRequest).decode
_decode_raw = msgspec.json.Decoder(_RawRequest).decode


def parse(body: bytes | bytearray | memoryview) -> Parsed:
    """Read a messages request.

    Raises:
        ClientError: No messages.
        msgspec.MsgspecError, UnicodeError, RecursionError: The caller translates them.
    """
    request = _decode(body)
    messages = request.messages
    if messages is None:
        raise messages_required()
    out: list[bytes] = []
    add_header(out, request)
    system = request.system
    if system:
        text = system if isinstance(system, str) else _joined(system)
        if text:
            out.append(TEXT_MESSAGES["system"])
            out.append(text.encode())
    raws: list[msgspec.Raw] = []
    for index, message in enumerate(messages):
        add_message(out, message, body, index, raws)
    canonical = b"".join(out)
    return Parsed(
        request.model or "",
        request.cache_salt or "",
        canonical,
        len(canonical),
        request.stream is True,
        request,
        request=request,
    )


def add_message(
    out: list[bytes],
    message: Message,
    body: bytes | bytearray | memoryview,
    index: int,
    raws: list[msgspec.Raw],
) -> None:
    """Add one message, of whatever form. `raws`: see `chat.add_message`."""
    content = message.content
    role = ROLES.get(message.role, message.role)
    if role == "system":
        _add_inline_system(out, content)
    elif isinstance(content, str):
        prompt.start_message(out, role)
        if content:
            add_text(out, content)
    else:
        before = len(out)
        if not (_add_user(out, content) if role == "user" else _add_other(out, role, content)):
            del out[before:]
            prompt.start_message(out, role)
            if not raws:
                raws += [raw.content for raw in _decode_raw(body).messages]
            add_json(out, prompt.RAW, bytes(raws[index]))


def add_header(out: list[bytes], request: MessagesRequest) -> None:
    """Add what stands before the system prompt."""
    if request.tools is not ABSENT:
        add_json(out, prompt.TOOLS, bytes(request.tools))
    if request.chat_template_kwargs is not ABSENT:
        add_json(out, prompt.TEMPLATE_ARGUMENTS, bytes(request.chat_template_kwargs))
    if request.output_config is not None and request.output_config.effort:
        out.append(prompt.REASONING_EFFORT + request.output_config.effort.encode())
    if request.thinking is not None and request.thinking.type:
        out.append(prompt.THINKING + request.thinking.type.encode())


def _joined(blocks: list[Block]) -> str:
    return "".join(
        [block.text for block in blocks if block.type == "text" and block.text and block.text[:26] != BILLING]
    )


def _add_inline_system(out: list[bytes], content: str | list[Block]) -> None:
    text = content if isinstance(content, str) else _joined(content)
    if text and text[:26] != BILLING:
        out.append(TEXT_MESSAGES["system"])
        out.append(text.encode())


def _add_user(out: list[bytes], blocks: list[Block]) -> bool:
    """Tool results become tool messages in front of what the user says."""
    own: list[bytes] = []
    for block in blocks:
        if block.type == "tool_result":
            if not add_tool_result(out, block):
                return False
        elif not add_plain(own, block):
            return False
    if own:
        prompt.start_message(out, "user")
        out += own
    return True


def _add_other(out: list[bytes], role: str, blocks: list[Block]) -> bool:
    """An assistant's reasoning, then what it says, then its calls, in whatever order they were sent."""
    own: list[bytes] = []
    calls: list[bytes] = []
    reasoning: list[str] = []
    for block in blocks:
        kind = block.type
        if kind == "tool_use":
            arguments = bytes(block.input)
            if not arguments.isascii():
                arguments.decode()
            prompt.add_call(calls, block.name, block.id, b"{}" if arguments in (b"", b"null") else arguments)
        elif kind == "thinking":
            reasoning.append(block.thinking or "")
        elif not add_plain(own, block):
            return False
    prompt.start_message(out, role, reasoning="".join(reasoning))
    out += own
    out += calls
    return True


def add_plain(out: list[bytes], block: Block) -> bool:
    """Add a block that stands for itself. False: it is of no type known here."""
    kind = block.type
    if kind == "text":
        if block.text:
            out.append(TEXT)
            out.append(block.text.encode())
        return True
    if kind == "image":
        return _add_image(out, block.source)
    return kind == "redacted_thinking"


def _add_image(out: list[bytes], source: _Source | str | None) -> bool:
    if not isinstance(source, _Source):
        return False
    if source.type == "url":
        prompt.add_media(out, "image", source.url or "")
    elif source.type in ("base64", None):
        prompt.add_media_data(out, "image", source.media_type or "image/jpeg", source.data or "")
    else:
        return False
    return True


def add_tool_result(out: list[bytes], block: Block) -> bool:
    """Add what a tool answered. False: a part of it is of no type known here."""
    content = block.content
    images: list[bytes] = []
    if isinstance(content, list):
        texts: list[str] = []
        for item in content:
            if item.type == "text":
                texts.append(item.text or "")
            elif item.type != "image" or not _add_image(images, item.source):
                return False
        content = "\n".join(texts)
    elif isinstance(content, dict):
        return False
    prompt.start_message(out, "tool", call_answered=block.tool_use_id)
    if content:
        add_text(out, content)
    if images:
        out.append(MESSAGE + b"user")
        out += images
    return True
