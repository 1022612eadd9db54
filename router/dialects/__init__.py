"""One public HTTP format per file: what a request asks for, and what the router's own errors look like in it.

Decides how bodies are read; forwards nothing and chooses nothing. `parse` reads a request, `render` writes errors,
`routes` maps paths, `sse` finds the ends of events, `usage` reads what an answer reports.
"""

from __future__ import annotations

import msgspec

from router.core.types import Api
from router.dialects import chat, completions, lax, messages, other, responses
from router.dialects.other import multipart_model
from router.dialects.parsed import Parsed
from router.dialects.render import render_error, render_stream_error

__all__ = ["Parsed", "invoked_api", "multipart_model", "parse", "render_error", "render_stream_error"]

_CHAT, _COMPLETIONS, _RESPONSES, _MESSAGES = Api.CHAT, Api.COMPLETIONS, Api.RESPONSES, Api.MESSAGES


def invoked_api(body: bytes | bytearray | memoryview) -> Api:
    """Which API a body for `/invocations` is for, as vLLM tries them: chat, completions, others."""
    fields = lax.fields_of(body)
    if "messages" in fields:
        return _CHAT
    return _COMPLETIONS if "prompt" in fields else Api.OTHER


def parse(api: Api, body: bytes | bytearray | memoryview) -> Parsed:
    """Read a request body. What only an engine can judge is left to it (`lax`).

    Raises:
        ClientError: 400, with code `invalid_json` or `prompt_required`; nothing else is raised whatever the body holds.
    """
    try:
        if api is _CHAT:
            return chat.parse(body)
        if api is _MESSAGES:
            return messages.parse(body)
        if api is _RESPONSES:
            return responses.parse(body)
        if api is _COMPLETIONS:
            return completions.parse(body)
        return other.parse(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return lax.parse(api, body)
