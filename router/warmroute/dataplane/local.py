"""The router's own answers are written here: whole ones, and errors in the shape of the API that was called.

This module decides nothing about what is answered: `own_answers` does, and whoever refuses.
"""

from __future__ import annotations

from warmroute.core.errors import ClientError, OverloadError, RouterError
from warmroute.core.types import Api
from warmroute.dataplane.answer import STATUS_LINES
from warmroute.dataplane.client_side import ClientSide
from warmroute.dataplane.request import RequestHead
from warmroute.dialects import render_error, render_stream_error
from warmroute.dialects.coding import UnsupportedCodingError

RETRY_AFTER = b"retry-after: 1\r\n"
"""With every 429 and 503: replicas come back within seconds, and SDKs honour it."""

JSON = b"application/json"


class MethodError(ClientError):
    """The path exists, the method does not."""

    status = 405
    code = "method_not_allowed"

    def __init__(self, method: bytes, allow: bytes) -> None:
        self.allow = allow
        super().__init__(f"method {method.decode('latin-1')} is not allowed here; use {allow.decode()}")


class UnauthorizedError(ClientError):
    """The replicas would not take this key."""

    status = 401
    code = "invalid_api_key"

    def __init__(self) -> None:
        super().__init__("this fleet asks for a key that its replicas take: Authorization: Bearer KEY")


def headers_too_large(limit_bytes: int) -> ClientError:
    """The request's head is longer than heads may be."""
    return ClientError(
        f"request headers exceed {limit_bytes} bytes (limits.header_bytes)",
        status=431,
        code="headers_too_large",
    )


def body_too_large(limit_bytes: int) -> ClientError:
    """Its body is longer than bodies may be."""
    return ClientError(
        f"request body exceeds {limit_bytes} bytes (limits.body_bytes)", status=413, code="body_too_large"
    )


def buffers_full() -> OverloadError:
    """All bodies under way together are as long as they may be."""
    return OverloadError(
        "the router holds as many bytes of request bodies as it may (limits.buffered_body_bytes): retry later",
        code="buffers_full",
    )


def id_lines(head: RequestHead, request_id: bytes) -> bytes:
    """Header lines with the request's id, under the name that Anthropic's clients read too where one may ask."""
    if head.anthropic:
        return b"x-request-id: %b\r\nrequest-id: %b\r\n" % (request_id, request_id)
    return b"x-request-id: %b\r\n" % request_id


def write(
    client: ClientSide,
    head: RequestHead,
    status: int,
    body: bytes,
    added: bytes,
    *,
    close: bool = False,
    content_type: bytes = JSON,
) -> bool:
    """Write an answer; a HEAD request gets its head alone. Returns whether the connection stays open."""
    keep_alive = head.keep_alive and not close and not client.draining
    connection = b"connection: close\r\n" if not keep_alive else b""
    if keep_alive and head.minor_version == 0:
        connection = b"connection: keep-alive\r\n"
    cors = client.cors
    if cors is not None:
        added += cors.added(head, added)
    client.transport.write(
        b"%bcontent-type: %b\r\ncontent-length: %d\r\n%b%b\r\n%b"
        % (
            STATUS_LINES[status],
            content_type,
            len(body),
            added,
            connection,
            b"" if head.method == b"HEAD" else body,
        )
    )
    return keep_alive


def write_error(
    client: ClientSide,
    head: RequestHead,
    api: Api,
    error: RouterError,
    request_id: bytes,
    *,
    close: bool = False,
) -> tuple[bool, int]:
    """Write one of the router's own errors, in the API's shape, or in Anthropic's for whoever speaks it.

    Returns whether the connection stays open, and the bytes of the body.
    """
    added = id_lines(head, request_id)
    if error.lines:
        added += error.lines
    elif error.status in (429, 503):
        added += RETRY_AFTER
    elif error.status == 401:
        added += b"www-authenticate: Bearer\r\n"
    elif error.status == 426:
        added += b"upgrade: websocket\r\n"
    elif isinstance(error, MethodError):
        added += b"allow: %b\r\n" % error.allow
    elif isinstance(error, UnsupportedCodingError):
        added += b"accept-encoding: %b\r\n" % error.accepted
    body = render_error(Api.MESSAGES if head.anthropic else api, error, request_id.decode("latin-1"))
    keep_alive = write(client, head, error.status, body, added, close=close)
    return keep_alive, 0 if head.method == b"HEAD" else len(body)


def stream_error(api: Api, error: RouterError, request_id: bytes) -> bytes:
    """The event or events that end a broken stream."""
    return render_stream_error(api, error, request_id.decode("latin-1"))
