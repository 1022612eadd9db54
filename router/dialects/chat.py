"""`/v1/chat/completions`: reads what routing needs, and lays out the canonical prompt.

Source: vLLM's entrypoints/openai/chat_completion/protocol.py and chat_utils.py: which fields reach the chat template.
"""

from __future__ import annotations

import msgspec
from msgspec import UNSET

from router.core import prompt
from router.core.prompt import TEXT, TEXT_MESSAGES, add_json
from router.dialects.chat_request import ChatRequest, Message, decode, decode_raw
from router.dialects.fields import ABSENT, FALSE, NOT_GIVEN, ONE
from router.dialects.parsed import Parsed, messages_required
from router.dialects.parts import Part, add_content


def parse(body: bytes | bytearray | memoryview) -> Parsed:
    """Read a chat request.

    Raises:
        ClientError: No messages.
        msgspec.MsgspecError, UnicodeError, RecursionError: The caller translates them.
    """
    request = decode(body)
    messages = request.messages
    if messages is None:
        raise messages_required()
    out: list[bytes] = []
    _add_header(out, request)
    append = out.append
    for index, message in enumerate(messages):
        content = message.content
        if content.__class__ is list and len(content) == 1:
            part = content[0]
            if part.__class__ is Part and part.type == "text":
                content = part.text
        if (
            content.__class__ is str
            and content
            and (start := TEXT_MESSAGES.get(message.role)) is not None
            and message.tool_calls is None
            and message.name is None
            and message.tool_call_id is None
            and message.reasoning is None
            and message.reasoning_content is None
            and message.tools is ABSENT
        ):
            append(start)
            append(content.encode())
        else:
            _add_message(out, message, body, index)
    if request.add_generation_prompt is False or request.continue_final_message:
        append(prompt.ENDING)
        append(b"continue" if request.continue_final_message else b"none")
    canonical = b"".join(out)
    stream = request.stream is True
    return Parsed(
        request.model or "",
        request.cache_salt or "",
        canonical,
        len(canonical),
        stream,
        request,
        None,
        None,
        stream and request.stream_options is UNSET and bytes(request.n) in ONE,
        (request.prompt_logprobs is ABSENT and request.echo is ABSENT) or _reads_cache(request),
    )


def _reads_cache(request: ChatRequest) -> bool:
    """Source: vLLM's `to_sampling_params`: with `echo`, `prompt_logprobs` is `top_logprobs`, 0 unless given."""
    if bytes(request.prompt_logprobs) not in NOT_GIVEN:
        return False
    return bytes(request.echo) in FALSE or bytes(request.top_logprobs) == b"null"


def _add_header(out: list[bytes], request: ChatRequest) -> None:
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


def _add_message(
    out: list[bytes], message: Message, body: bytes | bytearray | memoryview, index: int
) -> None:
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
            add_json(out, prompt.RAW, bytes(decode_raw(body).messages[index].content))
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
