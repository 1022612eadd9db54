"""A request as received is its head, which is read once for all requests that send the same one, and its body.

This module decides which headers travel and what the router reads of them. It does not parse HTTP (llhttp does) and
never touches the body. Source: RFC 9110 section 7.6.1 (hop-by-hop fields), RFC 9112 section 6 (framing).
"""

from __future__ import annotations

import re
from typing import Final

from warmroute.core.types import Api
from warmroute.dialects.coding import named as named_coding
from warmroute.dialects.routes import Route, route, slash_dropped
from warmroute.dialects.sessions import NOWHERE, Said, Sessions
from warmroute.dialects.urgency import named_class, timeout_s
from warmroute.tenants.caller import Caller
from warmroute.tenants.keys import presented

HOP_BY_HOP: Final = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
"""Fields that mean this connection only; never forwarded, in either direction."""

KEPT_BACK: Final = HOP_BY_HOP | frozenset(
    (b"host", b"content-length", b"expect", b"x-request-id", b"x-forwarded-for", b"x-data-parallel-rank")
)
"""Request fields that the router writes anew where they are needed, in addition to the hop-by-hop ones."""

CREDENTIALS: Final = frozenset((b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key"))
"""Fields that show a key to the router, where it asks for one."""

_REQUEST_ID: Final = re.compile(rb"[\x21-\x7e]{1,128}")

Fields = list[tuple[bytes, bytes]]
"""Lower-case names, values as received, in order."""


class RequestHead:
    """What is known from a request's head alone. Immutable once made: connections share it (see `head_cache`)."""

    __slots__ = (
        "accept",
        "anthropic",
        "authorization",
        "caller",
        "caller_epoch",
        "coding",
        "content_type",
        "cors_headers",
        "cors_method",
        "credential",
        "expects_continue",
        "forwarded",
        "forwarded_for",
        "keep_alive",
        "method",
        "minor_version",
        "origin",
        "path",
        "prefix",
        "priority",
        "request_id",
        "route",
        "said",
        "target",
        "timeout_s",
        "usage_words",
    )

    def __init__(
        self,
        method: bytes,
        target: bytes,
        fields: Fields,
        *,
        keep_alive: bool,
        minor_version: int,
        sessions: Sessions | None = None,
        upstream: bytes | None = None,
    ) -> None:
        """`upstream`: `Authorization` for replicas in place of the client's key, which they never see; empty: none.
        None: they are sent what the client sent."""
        self.method = method
        self.keep_alive = keep_alive
        """Whether the client lets the connection stay open."""
        self.minor_version = minor_version
        """0 for HTTP/1.0, 1 for HTTP/1.1."""
        self.target = _origin_form(target)
        """Path and query, as forwarded; empty if the target is in no form that a server of resources takes."""
        query = self.target.find(b"?")
        self.path = self.target if query < 0 else self.target[:query]
        if slash_dropped(self.path):
            self.target = self.path[:-1] + self.target[len(self.path) :]
            self.path = self.path[:-1]
        self.route: Route | None = route(method, self.path)
        self.anthropic = self.route is not None and self.route.api is Api.MESSAGES
        """Whether whoever sent it expects Anthropic's errors and `request-id`, wherever it goes."""
        self.content_type = b""
        self.coding = b""
        """Content coding of the body, in lower case; empty without one."""
        self.said: Said = NOWHERE if sessions is None else sessions.said(fields)
        """What the head says of the session that the request belongs to."""
        self.accept = b""
        self.authorization = b""
        """As replicas are sent it."""
        self.credential = b""
        """The key that the client shows, where it is for the router."""
        self.caller: Caller | None = None
        """Whose key that is, as of `caller_epoch`; the one thing that `admission` notes here."""
        self.caller_epoch = 0
        self.origin = b""
        """The web page's origin where a browser says that a page asks; empty else."""
        self.cors_method = b""
        """Of a preflight: the method that the page will use."""
        self.cors_headers = b""
        """Of a preflight: the headers that the page will set."""
        self.request_id: bytes | None = None
        """The client's X-Request-Id, if it is a plain token of at most 128 characters."""
        self.forwarded_for = b""
        """The client's X-Forwarded-For and a comma, or empty."""
        self.forwarded = b""
        """The client's Forwarded and a comma, or empty."""
        self.expects_continue = False
        self.usage_words = b""
        """Whose words usage is to be told in besides, where that is served (`X-Warmroute-Usage`); lower case."""
        self.priority = -1
        """Number of the class that `X-Warmroute-Priority` names; -1: none."""
        self.timeout_s = 0.0
        """What `X-Request-Timeout` says; 0: nothing."""
        dropped = KEPT_BACK if upstream is None else KEPT_BACK | CREDENTIALS
        lines = [b"%b %b HTTP/1.1\r\n" % (method, self.target)]
        for name, value in fields:
            if name == b"connection":
                dropped = dropped | named(value)
        for name, value in fields:
            self._read(name, value)
            if name not in dropped:
                lines.append(b"%b: %b\r\n" % (name, value))
        if upstream is not None:
            api_key = b""
            for name, value in fields:
                if name == b"x-api-key" or (name == b"x-goog-api-key" and not api_key):
                    api_key = value
            self.credential = presented(self.authorization, api_key)
            self.authorization = upstream
            if upstream:
                lines.append(b"authorization: %b\r\n" % upstream)
        self.prefix = b"".join(lines)
        """Request line and the forwarded fields."""

    def _read(self, name: bytes, value: bytes) -> None:
        if name == b"content-type":
            # Of two, servers take the one or the other.
            self.content_type = self.content_type + b", " + value if self.content_type else value
        elif name == b"x-request-id":
            self.request_id = value if _REQUEST_ID.fullmatch(value) else None
        elif name == b"x-forwarded-for":
            self.forwarded_for += value + b", "
        elif name == b"forwarded":
            self.forwarded += value + b", "
        elif name == b"content-encoding":
            # A second one is another coding on top of the first: none that is read here.
            self.coding = self.coding + b", " + named_coding(value) if self.coding else named_coding(value)
        elif name == b"accept":
            self.accept = value
        elif name == b"authorization":
            self.authorization = value
        elif name == b"anthropic-version":
            self.anthropic = True
        elif name == b"origin":
            self.origin = value
        elif name == b"access-control-request-method":
            self.cors_method = value
        elif name == b"access-control-request-headers":
            self.cors_headers = value
        elif name == b"x-warmroute-usage":
            self.usage_words = value.strip().lower()
        elif name == b"x-warmroute-priority":
            self.priority = named_class(value)
        elif name == b"x-request-timeout":
            self.timeout_s = timeout_s(value)
        elif name == b"expect":
            self.expects_continue = value.lower() == b"100-continue"


class Request:
    """A complete request. `body` is dropped as soon as no retry can need it."""

    __slots__ = ("body", "body_bytes", "head", "received_s", "reserved_bytes")

    def __init__(self, head: RequestHead, body: bytes | bytearray, received_s: float) -> None:
        self.head = head
        self.body = body
        self.body_bytes = len(body)
        """Length of the body, also once it is dropped."""
        self.reserved_bytes = 0
        """What the body takes of `limits.buffered_body_bytes`; given back by `Gateway.drop_body`."""
        self.received_s = received_s
        """Monotonic time at which the request was complete."""

    def upstream_head(self, host: bytes, request_id: bytes, client_ip: bytes, spliced_bytes: int) -> bytes:
        """Request line and headers for a replica; a body always goes with a Content-Length.

        `host` is the replica's `Home.address`; `spliced_bytes` is how much longer the body is than it was received.
        """
        head = self.head
        if head.method != b"POST" and not self.body_bytes:
            return b"%bhost: %b\r\nx-request-id: %b\r\nx-forwarded-for: %b%b\r\n\r\n" % (
                head.prefix,
                host,
                request_id,
                head.forwarded_for,
                client_ip,
            )
        return b"%bhost: %b\r\ncontent-length: %d\r\nx-request-id: %b\r\nx-forwarded-for: %b%b\r\n\r\n" % (
            head.prefix,
            host,
            self.body_bytes + spliced_bytes,
            request_id,
            head.forwarded_for,
            client_ip,
        )


def _origin_form(target: bytes) -> bytes:
    if target[:1] == b"/":
        return target
    scheme, separator, rest = target.partition(b"://")
    if not separator or scheme.lower() not in (b"http", b"https"):
        return b""
    slash = rest.find(b"/")
    return rest[slash:] if slash >= 0 else b"/"


def named(connection: bytes) -> frozenset[bytes]:
    """Fields that a Connection field declares to mean this connection only."""
    return frozenset(token.strip().lower() for token in connection.split(b","))
