"""One public HTTP format per file: what a request asks for, and what the router's own errors look like in it.

Decides how bodies are read; forwards nothing and chooses nothing. `parse` reads a request, `render` writes errors,
`routes` maps paths, `sse` finds the ends of events, `usage` reads what an answer reports.
"""

from __future__ import annotations

import re

import msgspec

from router.core.errors import ClientError
from router.core.types import Api
from router.dialects import chat, completions, messages, other, responses
from router.dialects.other import multipart_model
from router.dialects.parsed import Parsed
from router.dialects.render import render_error, render_stream_error

__all__ = ["Parsed", "multipart_model", "parse", "render_error", "render_stream_error"]

_CHAT, _COMPLETIONS, _RESPONSES, _MESSAGES = Api.CHAT, Api.COMPLETIONS, Api.RESPONSES, Api.MESSAGES
_PLACE = re.compile(r"^(.*?)(?: - at `(?:key in )?\$\.?([^`]*)`)?$", re.DOTALL)


def parse(api: Api, body: bytes | bytearray | memoryview) -> Parsed:
    """Read a request body.

    Raises:
        ClientError: 400, with code `invalid_json`, `invalid_type`, `model_required` or `prompt_required`; nothing else
            is raised whatever the body holds.
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
    except msgspec.ValidationError as error:
        raise _wrong_type(error) from None
    except RecursionError:
        raise ClientError("The body is not valid JSON: nested too deeply", code="invalid_json") from None
    except UnicodeError:
        raise ClientError("The body is not valid JSON: not UTF-8", code="invalid_json") from None
    except msgspec.DecodeError as error:
        raise ClientError(f"The body is not valid JSON: {error}", code="invalid_json") from None


def _wrong_type(error: msgspec.ValidationError) -> ClientError:
    text = str(error)
    if text.startswith("Number out of range"):
        return ClientError("The body is not valid JSON: number out of range", code="invalid_json")
    place = _PLACE.match(text)
    what, param = (place[1], place[2]) if place is not None else (text, None)
    message = f"{param}: {what[:1].lower()}{what[1:]}" if param else what
    return ClientError(message, code="invalid_type", param=param or None)
