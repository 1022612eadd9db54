"""Blocks are what the providers' caching interfaces speak of: tools, contents and their parts, each with where it ends.

This module decides where in the canonical prompt a block ends. What a mark on a block asks for is decided by
`cache_control` (Anthropic) and `prompt_cache` (OpenAI). It lays out what the dialects lay out, by their own functions,
and only for requests that mark something.

Where an engine changes the order (a tool's result sent behind a text, say), the blocks of that message end where they
would without the change; the message itself ends where it does.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from warmroute.core.prompt import prompt
from warmroute.core.prompt.prompt import TEXT_MESSAGES, TOOLS
from warmroute.dialects import chat, messages, responses
from warmroute.dialects.chat_request import ChatRequest
from warmroute.dialects.fields import ABSENT, NOT_GIVEN
from warmroute.dialects.messages import BILLING, ROLES, MessagesRequest
from warmroute.dialects.parts import Part, add_content
from warmroute.dialects.responses import ResponsesRequest

Body = bytes | bytearray | memoryview

MAX_BLOCKS: Final = 10_000
"""A request of more is looked at no further: nobody's conversation has as many, and each costs time."""

TEXTS: Final = frozenset(("text", "input_text", "output_text"))


class PromptBlock(NamedTuple):
    """One block."""

    path: str
    """As errors name it: `messages.0.content.1`."""
    kind: str
    """Its type; `tool` for a tool's definition, `text` for a content that is a string."""
    mark: msgspec.Raw
    """`cache_control` or `prompt_cache_breakpoint` as sent; `ABSENT` without."""
    end_bytes: int
    """How much of the canonical prompt is there with it."""
    empty: bool = False
    """A text of no length."""


class _Tool(msgspec.Struct, gc=False):
    cache_control: msgspec.Raw = ABSENT


_decode_tools: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_tool: Final = msgspec.json.Decoder(_Tool).decode


def marked(mark: msgspec.Raw) -> bool:
    """Whether something was sent as the mark."""
    return mark is not ABSENT and bytes(mark) not in NOT_GIVEN


def _size(out: list[bytes]) -> int:
    return sum([len(piece) for piece in out])


# -- Anthropic ------------------------------------------------------------------------------------------------------


def marks_messages(request: MessagesRequest) -> bool:
    """Whether a request to `/v1/messages` marks anything."""
    if marked(request.cache_control) or b'"cache_control"' in bytes(request.tools):
        return True
    for content in (request.system, *[message.content for message in request.messages or ()]):
        if isinstance(content, list):
            for block in content:
                if block.cache_control is not ABSENT or _inner_mark(block) is not ABSENT:
                    return True
    return False


def _inner_mark(block: messages.Block) -> msgspec.Raw:
    """The last mark on what a tool's result consists of: it ends where that does."""
    found = ABSENT
    if isinstance(block.content, list):
        for part in block.content:
            if part.cache_control is not ABSENT:
                found = part.cache_control
    return found


def of_messages(request: MessagesRequest, body: Body) -> list[PromptBlock]:
    """All blocks of a request to `/v1/messages`, in the order in which they are cached: tools, system, messages.

    Raises:
        msgspec.MsgspecError: `tools` is no list of objects.
    """
    header: list[bytes] = []
    messages.add_header(header, request)
    found = _tools(bytes(request.tools)) if request.tools is not ABSENT else []
    at = _size(header)
    system = request.system
    if isinstance(system, str):
        if system:
            at += len(TEXT_MESSAGES["system"]) + len(system.encode())
            found.append(PromptBlock("system", "text", ABSENT, at))
    elif system:
        begun = False
        for index, block in enumerate(system):
            text = block.text or ""
            if block.type == "text" and text and text[: len(BILLING)] != BILLING:
                if not begun:
                    begun = True
                    at += len(TEXT_MESSAGES["system"])
                at += len(text.encode())
            found.append(PromptBlock(f"system.{index}", block.type, block.cache_control, at, not text))
    raws: list[msgspec.Raw] = []
    for index, message in enumerate(request.messages or ()):
        at = _add_message(found, message, body, index, raws, at)
        if len(found) > MAX_BLOCKS:
            break
    return found


def _tools(raw: bytes) -> list[PromptBlock]:
    found: list[PromptBlock] = []
    if raw in NOT_GIVEN:
        return found
    at = 0
    for index, tool in enumerate(_decode_tools(raw)):
        text = bytes(tool)
        at = raw.index(text, at) + len(text)
        mark = _decode_tool(text).cache_control
        found.append(PromptBlock(f"tools.{index}", "tool", mark, len(TOOLS) + at))
    return found


def _add_message(
    found: list[PromptBlock],
    message: messages.Message,
    body: Body,
    index: int,
    raws: list[msgspec.Raw],
    start: int,
) -> int:
    """Add one message's blocks. Returns where the message ends."""
    out: list[bytes] = []
    messages.add_message(out, message, body, index, raws)
    end = start + _size(out)
    content = message.content
    path = f"messages.{index}.content"
    if isinstance(content, str):
        found.append(PromptBlock(path, "text", ABSENT, end, not content))
        return end
    role = ROLES.get(message.role, message.role)
    at = start
    begun = False
    for number, block in enumerate(content):
        own: list[bytes] = []
        known = True
        if block.type == "tool_result":
            known = messages.add_tool_result(own, block)
        else:
            if not begun:
                begun = True
                prompt.start_message(own, role)
            if block.type == "tool_use":
                arguments = bytes(block.input)
                prompt.add_call(
                    own, block.name, block.id, b"{}" if arguments in (b"", b"null") else arguments
                )
            elif block.type == "thinking":
                own.append(prompt.REASONING + (block.thinking or "").encode())
            else:
                known = messages.add_plain(own, block)
        at = min(at + _size(own), end) if known and role != "system" else end
        mark = block.cache_control if block.cache_control is not ABSENT else _inner_mark(block)
        empty = block.type == "text" and not block.text
        found.append(PromptBlock(f"{path}.{number}", block.type, mark, at, empty))
    if content:
        found[-1] = found[-1]._replace(end_bytes=end)
    return end


# -- OpenAI ---------------------------------------------------------------------------------------------------------


def marks_parts(request: ChatRequest | ResponsesRequest) -> bool:
    """Whether a request marks a content part."""
    entries = request.messages if isinstance(request, ChatRequest) else request.input
    if not isinstance(entries, list):
        return False
    for entry in entries:
        content = entry.content
        if isinstance(content, list):
            for part in content:
                if isinstance(part, Part) and part.prompt_cache_breakpoint is not ABSENT:
                    return True
    return False


def of_chat(request: ChatRequest, body: Body) -> list[PromptBlock]:
    """All contents of a chat request and their parts, in order."""
    header: list[bytes] = []
    chat.add_header(header, request)
    at = _size(header)
    found: list[PromptBlock] = []
    raws: list[msgspec.Raw] = []
    for index, message in enumerate(request.messages or ()):
        out: list[bytes] = []
        chat.add_message(out, message, body, index, raws)
        start, at = at, at + _size(out)
        path = f"messages.{index}.content"
        content = message.content
        if isinstance(content, list) and content:
            head: list[bytes] = []
            reasoning = message.reasoning or message.reasoning_content
            prompt.start_message(head, message.role, message.name, message.tool_call_id, reasoning)
            _add_parts(found, content, path, start + _size(head), at)
        if not isinstance(content, list) or message.tool_calls or not content:
            found.append(PromptBlock(path, "text", ABSENT, at))
        if len(found) > MAX_BLOCKS:
            break
    return found


def of_responses(request: ResponsesRequest, body: Body) -> list[PromptBlock]:
    """All items of a responses request and their parts, in order."""
    header: list[bytes] = []
    responses.add_header(header, request)
    at = _size(header)
    found: list[PromptBlock] = []
    if request.instructions:
        at += len(TEXT_MESSAGES["system"]) + len(request.instructions.encode())
        found.append(PromptBlock("instructions", "text", ABSENT, at))
    value = request.input
    if isinstance(value, str):
        at += len(TEXT_MESSAGES["user"]) + len(value.encode())
        return [*found, PromptBlock("input", "text", ABSENT, at)]
    items = (value or [])[:MAX_BLOCKS]
    out: list[bytes] = []
    ends: list[int] = []
    responses.add_items(out, items, body, ends)
    done = 0
    for index, (item, count) in enumerate(zip(items, ends, strict=True)):
        start, at = at, at + _size(out[done:count])
        done = count
        content = item.content
        path = f"input.{index}"
        if isinstance(content, list) and content and (item.type or "message") == "message":
            parts: list[bytes] = []
            known = add_content(parts, content)
            _add_parts(found, content, f"{path}.content", at - _size(parts) if known else start, at)
        else:
            found.append(PromptBlock(path, item.type or "message", ABSENT, at))
    return found


def _add_parts(found: list[PromptBlock], content: list[str | Part], path: str, start: int, end: int) -> None:
    """Add the parts of one content that begins here; what is not understood ends where the whole does."""
    at = start
    for index, part in enumerate(content):
        own: list[bytes] = []
        known = add_content(own, [part])
        at = min(at + _size(own), end) if known else end
        mark = part.prompt_cache_breakpoint if isinstance(part, Part) else ABSENT
        kind = part.type if isinstance(part, Part) else "text"
        empty = isinstance(part, Part) and part.type in TEXTS and not part.text
        found.append(PromptBlock(f"{path}.{index}", kind, mark, at, empty))
