"""The dialect of `/v1/chat/completions` reads what routing needs, and lays out the canonical prompt.

Source: vLLM's entrypoints/openai/chat_completion/protocol.py and chat_utils.py: which fields reach the chat template.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import UNSET
from msgspec.structs import astuple

from warmroute.core.prompt import prompt
from warmroute.core.prompt.prompt import TEXT, TEXT_MESSAGES, add_json
from warmroute.dialects import chat_request
from warmroute.dialects.chat_request import ChatRequest, Message, decode_raw
from warmroute.dialects.fields import ABSENT, FALSE, NOT_GIVEN, ONE
from warmroute.dialects.parsed import Parsed, messages_required
from warmroute.dialects.parts import Part, add_content

# The module's own: those of others are looked up by name at every use.
_decode: Final = chat_request.decode
_fields_of: Final = astuple
_unset: Final = UNSET
_TEXT_MESSAGES: Final = TEXT_MESSAGES
_SESSION: Final = chat_request.SESSION
_NO_SESSION: Final = chat_request.NO_SESSION
_RARE: Final = chat_request.RARE
_NOTHING_RARE: Final = chat_request.NOTHING_RARE
_NO_MORE: Final = chat_request.NO_MORE


def parse(body: bytes | bytearray | memoryview) -> Parsed:
    """Read a chat request.

    Raises:
        ClientError: No messages.
        msgspec.MsgspecError, UnicodeError, RecursionError: The caller translates them.
    """
    request = _decode(body)
    fields = _fields_of(request)
    messages: list[Message] | None
    model, messages, streams, options, n, salt = fields[_SESSION:_RARE]
    if messages is None:
        raise messages_required()
    out: list[bytes] = []
    rare = fields[_RARE:] != _NOTHING_RARE
    if rare:
        add_header(out, request)
    raws: list[msgspec.Raw] = []
    for index, message in enumerate(messages):
        of_message = _fields_of(message)
        content = of_message[1]
        if type(content) is list and len(content) == 1:
            part = content[0]
            if isinstance(part, Part) and part.type == "text":
                content = part.text
        start = _TEXT_MESSAGES.get(of_message[0]) if of_message[2:] == _NO_MORE else None
        if start is not None and isinstance(content, str) and content:
            out.append(start)
            out.append(content.encode())
        else:
            add_message(out, message, body, index, raws)
    if rare and (request.add_generation_prompt is False or request.continue_final_message):
        out.append(prompt.ENDING)
        out.append(b"continue" if request.continue_final_message else b"none")
    canonical = b"".join(out)
    stream = streams is True
    return Parsed(
        model or "",
        salt or "",
        canonical,
        len(canonical),
        stream,
        None if fields[:_SESSION] == _NO_SESSION else request,
        None,
        None,
        stream and options is _unset and bytes(n) in ONE,
        not rare or _reads_cache(request),
        request,
    )


def _reads_cache(request: ChatRequest) -> bool:
    """Source: vLLM's `to_sampling_params`: with `echo`, `prompt_logprobs` is `top_logprobs`, 0 unless given."""
    if request.prompt_logprobs is ABSENT and request.echo is ABSENT:
        return True
    if bytes(request.prompt_logprobs) not in NOT_GIVEN:
        return False
    return bytes(request.echo) in FALSE or bytes(request.top_logprobs) == b"null"


def add_header(out: list[bytes], request: ChatRequest) -> None:
    """Add what stands before the messages."""
    if request.tools is not ABSENT:
        add_json(out, prompt.TOOLS, bytes(request.tools))
    if request.chat_template:
        out.append(prompt.CHAT_TEMPLATE + request.chat_template.encode())
    if request.chat_template_kwargs is not ABSENT:
        add_json(out, prompt.TEMPLATE_ARGUMENTS, bytes(request.chat_template_kwargs))
    if request.documents is not ABSENT:
        add_json(out, prompt.DOCUMENTS, bytes(request.documents))
    if request.mm_processor_kwargs is not ABSENT:
        add_json(out, prompt.MEDIA_PROCESSOR, bytes(request.mm_processor_kwargs))
    if request.media_io_kwargs is not ABSENT:
        add_json(out, prompt.MEDIA_READER, bytes(request.media_io_kwargs))
    if request.reasoning_effort:
        out.append(prompt.REASONING_EFFORT + request.reasoning_effort.encode())
    if request.add_special_tokens:
        out.append(prompt.SPECIAL_TOKENS)
    if request.truncate_prompt_tokens is not None:
        side = request.truncation_side or ""
        out.append(prompt.TRUNCATION + f"{request.truncate_prompt_tokens} {side}".encode())


def add_message(
    out: list[bytes],
    message: Message,
    body: bytes | bytearray | memoryview,
    index: int,
    raws: list[msgspec.Raw],
) -> None:
    """Add one message, of whatever form. `raws`: contents as sent, one list for all messages of a body; empty until
    the first one is needed."""
    reasoning = message.reasoning or message.reasoning_content
    prompt.start_message(out, message.role, message.name, message.tool_call_id, reasoning)
    content = message.content
    if isinstance(content, str):
        if content:
            out.append(TEXT)
            out.append(content.encode())
    elif content:
        before = len(out)
        if not add_content(out, content):
            del out[before:]
            if not raws:
                raws += [raw.content for raw in decode_raw(body).messages]
            add_json(out, prompt.RAW, bytes(raws[index]))
    for call in message.tool_calls or ():
        function = call.function
        if function is not None:
            prompt.add_call(out, function.name, call.id, json_text(function.arguments))
        else:
            prompt.add_call(out, None, call.id, b"")
            add_json(out, prompt.RAW, msgspec.json.encode(call.custom))
    if message.tools is not ABSENT:
        add_json(out, prompt.MESSAGE_TOOLS, bytes(message.tools))


def json_text(arguments: object) -> bytes:
    """Arguments of a call: JSON text in a string by the specification, an object from some clients."""
    if isinstance(arguments, str):
        return arguments.encode()
    return b"" if arguments is None else msgspec.json.encode(arguments)
