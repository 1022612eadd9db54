"""Reading a request's body for routing means choosing the dialect of the API that it is for.

This module decides nothing but that. What only an engine can judge is left to it (`lax`).
"""

from __future__ import annotations

from typing import Final

import msgspec

from warmroute.core.types import Api
from warmroute.dialects import chat, completions, lax, messages, other, responses
from warmroute.dialects.parsed import Parsed

_CHAT: Final = Api.CHAT
_COMPLETIONS: Final = Api.COMPLETIONS
_RESPONSES: Final = Api.RESPONSES
_MESSAGES: Final = Api.MESSAGES


def invoked_api(body: bytes | bytearray | memoryview) -> Api:
    """Which API a body for `/invocations` is for, as vLLM tries them: chat, completions, others."""
    fields = lax.fields_of(body)
    if "messages" in fields:
        return _CHAT
    return _COMPLETIONS if "prompt" in fields else Api.OTHER


def parse(api: Api, body: bytes | bytearray | memoryview) -> Parsed:
    """Read a request body.

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
