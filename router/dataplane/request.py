"""One request as received, and the head under which it is forwarded.

Decides which headers travel. Does not parse HTTP (llhttp does) and never touches the body.
Source: RFC 9110 section 7.6.1 (hop-by-hop fields), RFC 9112 section 6 (framing).
"""

from __future__ import annotations

import re

HOP_BY_HOP = frozenset(
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

KEPT_APART = HOP_BY_HOP | frozenset(
    (b"host", b"content-length", b"expect", b"x-request-id", b"x-forwarded-for")
)
"""Request fields that the router reads and writes anew, in addition to the hop-by-hop ones."""

_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")

Headers = list[tuple[bytes, bytes]]
"""Lower-case names, values as received, in order."""


class Request:
    """A complete request. `body` is dropped as soon as no retry can need it."""

    __slots__ = (
        "apart",
        "body",
        "body_bytes",
        "headers",
        "keep_alive",
        "method",
        "minor_version",
        "path",
        "received_s",
        "target",
    )

    def __init__(self) -> None:
        self.method = b""
        self.target = b""
        """Origin-form: path and query, as forwarded."""
        self.path = b""
        """Target without the query."""
        self.headers: Headers = []
        """What is forwarded as it is."""
        self.apart: dict[bytes, bytes] = {}
        """Fields of `KEPT_APART`; repeated ones joined by a comma."""
        self.body: bytes | bytearray = b""
        self.body_bytes = 0
        """Length of the body, also once it is dropped."""
        self.keep_alive = True
        self.minor_version = 1
        """0 for HTTP/1.0, 1 for HTTP/1.1."""
        self.received_s = 0.0
        """Monotonic time at which the request was complete."""

    def header(self, name: bytes) -> bytes | None:
        """First value of a forwarded header, by lower-case name."""
        for key, value in self.headers:
            if key == name:
                return value
        return None

    def set_target(self, target: bytes) -> bool:
        """Keep the request target in origin form. False if it is in no form that a server of resources takes."""
        if target[:1] != b"/":
            scheme, separator, rest = target.partition(b"://")
            if not separator or scheme.lower() not in (b"http", b"https"):
                return False
            slash = rest.find(b"/")
            target = rest[slash:] if slash >= 0 else b"/"
        self.target = target
        query = target.find(b"?")
        self.path = target if query < 0 else target[:query]
        return True

    def set_headers(self, headers: Headers, *, extra_apart: frozenset[bytes] = frozenset()) -> None:
        """Sort received fields into those forwarded and those kept apart (also the ones that Connection names)."""
        kept = []
        apart = self.apart
        for field in headers:
            name = field[0]
            if name in KEPT_APART or name in extra_apart:
                apart[name] = apart[name] + b", " + field[1] if name in apart else field[1]
            else:
                kept.append(field)
        self.headers = kept
        connection = apart.get(b"connection")
        if connection is not None and not extra_apart:
            named = frozenset(token.strip().lower() for token in connection.split(b","))
            if named - {b"close", b"keep-alive", b"te", b"upgrade", b""}:
                self.apart = {}
                self.set_headers(headers, extra_apart=named)

    def client_request_id(self) -> bytes | None:
        """The client's X-Request-Id, if it is a plain token of at most 128 characters."""
        value = self.apart.get(b"x-request-id")
        return value if value is not None and _REQUEST_ID.fullmatch(value) else None

    def upstream_head(self, host: bytes, request_id: bytes, client_ip: bytes) -> bytes:
        """Request line and headers for a replica; the body always goes with a Content-Length."""
        forwarded_for = self.apart.get(b"x-forwarded-for")
        client_ip = client_ip if forwarded_for is None else forwarded_for + b", " + client_ip
        length = (
            b"" if self.method == b"GET" and not self.body else b"content-length: %d\r\n" % len(self.body)
        )
        return b"%b %b HTTP/1.1\r\nhost: %b\r\n%b%bx-request-id: %b\r\nx-forwarded-for: %b\r\n\r\n" % (
            self.method,
            self.target,
            host,
            b"".join([b"%b: %b\r\n" % field for field in self.headers]),
            length,
            request_id,
            client_ip,
        )
