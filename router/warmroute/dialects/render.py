"""The router's own errors are rendered in the shape of the API that was called, whole or as the end of a stream.

This module decides shapes only: status, code and message come with the error.
"""

from __future__ import annotations

import msgspec

from warmroute.core.errors import RouterError
from warmroute.core.types import Api

_MESSAGES = Api.MESSAGES
_RESPONSES = Api.RESPONSES
_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}

_encode = msgspec.json.Encoder().encode


def render_error(api: Api, error: RouterError, request_id: str) -> bytes:
    """Body of an error answer."""
    if api is _MESSAGES:
        return _encode(
            {
                "type": "error",
                "error": {
                    "type": _anthropic_type(error.status),
                    "message": error.message,
                    "code": error.code,
                },
                "request_id": request_id,
            }
        )
    return _encode(
        {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}
    )


def render_stream_error(api: Api, error: RouterError, request_id: str) -> bytes:
    """Events that end a stream which broke between two events."""
    if api is _MESSAGES:
        return b"event: error\ndata: " + render_error(api, error, request_id) + b"\n\n"
    if api is _RESPONSES:
        event = {
            "type": "error",
            "code": error.code,
            "message": error.message,
            "param": error.param,
            "sequence_number": 0,
        }
        return b"event: error\ndata: " + _encode(event) + b"\n\n"
    return b"data: " + render_error(api, error, request_id) + b"\n\ndata: [DONE]\n\n"


def _anthropic_type(status: int) -> str:
    known = _ANTHROPIC_TYPES.get(status)
    if known is not None:
        return known
    return "invalid_request_error" if status < 500 else "api_error"
