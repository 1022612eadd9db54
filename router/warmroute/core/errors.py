"""The errors that the router itself answers with form one tree; each knows its status, its stable code, and what to do.

This module renders nothing: a dialect turns an error into the called API's shape. Messages name what happened, where,
and the remedy. They never hold prompt text or keys.
"""

from __future__ import annotations


class RouterError(Exception):
    """Base of all errors answered to a client.

    `status` is the HTTP status, `code` a stable snake_case string clients and metrics may rely on.
    """

    status = 500
    code = "internal_error"
    type = "server_error"
    lines = b""
    """Header lines that the answer has besides, `retry-after` among them where that is not the usual one."""

    def __init__(
        self, message: str, *, code: str | None = None, status: int | None = None, param: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if code is not None:
            self.code = code
        if status is not None:
            self.status = status


class ClientError(RouterError):
    """The request cannot be served as sent; sending it again unchanged will fail again."""

    status = 400
    code = "invalid_request"
    type = "invalid_request_error"


class NotFoundError(ClientError):
    """The model, path or stored object does not exist in this fleet."""

    status = 404
    code = "not_found"


class OverloadError(RouterError):
    """429: capacity exists but is contended. 503: there is no capacity."""

    status = 503
    code = "no_replica"
    type = "overloaded_error"


class ReplicaError(RouterError):
    """A replica failed, and no other could take over: 502 (failed), 504 (took too long)."""

    status = 502
    code = "replica_failed"
    type = "upstream_error"
