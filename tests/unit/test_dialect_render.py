"""The router's own errors in each API's shape."""

from __future__ import annotations

import json

import pytest

from warmroute.core.errors import ClientError, NotFoundError, OverloadError, ReplicaError, RouterError
from warmroute.core.types import Api
from warmroute.dialects import render_error, render_stream_error

BROKEN = ReplicaError("The replica closed the connection.")


@pytest.mark.parametrize("api", [Api.CHAT, Api.COMPLETIONS, Api.RESPONSES, Api.OTHER])
def test_openai_errors_have_message_type_param_and_code(api: Api) -> None:
    error = ClientError("messages: expected an array", code="invalid_type", param="messages")
    assert json.loads(render_error(api, error, "r1")) == {
        "error": {
            "message": "messages: expected an array",
            "type": "invalid_request_error",
            "param": "messages",
            "code": "invalid_type",
        }
    }


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (ClientError("x"), "invalid_request_error"),
        (ClientError("x", status=401), "authentication_error"),
        (ClientError("x", status=403), "permission_error"),
        (NotFoundError("x"), "not_found_error"),
        (ClientError("x", status=405), "invalid_request_error"),
        (ClientError("x", status=413), "request_too_large"),
        (OverloadError("x", status=429), "rate_limit_error"),
        (RouterError("x"), "api_error"),
        (ReplicaError("x"), "api_error"),
        (OverloadError("x"), "overloaded_error"),
        (ReplicaError("x", status=504), "timeout_error"),
    ],
)
def test_anthropic_errors_are_named_by_status(error: RouterError, name: str) -> None:
    assert json.loads(render_error(Api.MESSAGES, error, "r1")) == {
        "type": "error",
        "error": {"type": name, "message": "x", "code": error.code},
        "request_id": "r1",
    }


@pytest.mark.parametrize("api", [Api.CHAT, Api.COMPLETIONS])
def test_a_broken_openai_stream_ends_with_an_error_and_done(api: Api) -> None:
    first, last, rest = render_stream_error(api, BROKEN, "r1").split(b"\n\n")
    assert json.loads(first.removeprefix(b"data: "))["error"]["code"] == "replica_failed"
    assert (last, rest) == (b"data: [DONE]", b"")


@pytest.mark.parametrize("api", [Api.MESSAGES, Api.RESPONSES])
def test_a_broken_named_event_stream_ends_with_an_error_event(api: Api) -> None:
    head, data, *rest = render_stream_error(api, BROKEN, "r1").split(b"\n")
    assert (head, rest) == (b"event: error", [b"", b""])
    event = json.loads(data.removeprefix(b"data: "))
    assert event["type"] == "error"
    assert BROKEN.code in (event.get("code"), event.get("error", {}).get("code"))
    assert BROKEN.message in (event.get("message"), event.get("error", {}).get("message"))
