"""Cross-origin requests (Fetch standard, CORS protocol) are let through from the pages that may call the data port.

This module decides by origin alone. It answers as the middleware that vLLM's server uses, so that a page finds the
router as it finds an engine. It leaves answers alone that replicas give for themselves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from warmroute.core.errors import ClientError

if TYPE_CHECKING:
    from warmroute.config.schema import CorsConfig
    from warmroute.dataplane.request import RequestHead

_ALLOWED: Final = b"access-control-allow-origin:"


class OriginError(ClientError):
    """The page is none of those that may."""

    status = 403
    code = "origin_not_allowed"


class Cors:
    """The rules of one router."""

    __slots__ = ("_allow_headers", "_any", "_any_header", "_common", "_exposed", "_origins", "_preflight")

    def __init__(self, config: CorsConfig) -> None:
        self._any = "*" in config.allowed_origins and not config.credentials
        self._origins = frozenset(origin.encode() for origin in config.allowed_origins)
        self._any_header = "*" in config.allowed_headers
        self._allow_headers = ", ".join(config.allowed_headers).encode()
        self._common = b"access-control-allow-credentials: true\r\n" if config.credentials else b""
        exposed = ", ".join(config.exposed_headers).encode()
        self._exposed = b"access-control-expose-headers: %b\r\n" % exposed if exposed else b""
        self._preflight = b"access-control-allow-methods: %b\r\naccess-control-max-age: %d\r\n" % (
            ", ".join(config.allowed_methods).encode(),
            config.max_age_s,
        )

    def added(self, head: RequestHead, answered: bytes) -> bytes:
        """Header lines for the answer to a request.

        Args:
            answered: The header lines that it has already.
        """
        origin = head.origin
        if not origin or _ALLOWED in answered.lower():
            return b""
        allowed = self._origin(origin)
        return allowed + self._exposed if allowed else b""

    def preflight(self, head: RequestHead) -> bytes:
        """Header lines of the answer to a preflight.

        Raises:
            OriginError: Pages of this origin may not call.
        """
        allowed = self._origin(head.origin)
        if not allowed:
            raise OriginError("pages of this origin may not call this router (cors.allowed_origins)")
        headers = head.cors_headers if self._any_header else self._allow_headers
        lines = b"access-control-allow-headers: %b\r\n" % headers if headers else b""
        return b"%b%b%bvary: Access-Control-Request-Headers\r\n" % (allowed, self._preflight, lines)

    def _origin(self, origin: bytes) -> bytes:
        """Lines that allow this origin; empty if it is not."""
        if self._any:
            return b"access-control-allow-origin: *\r\n"
        if origin not in self._origins and b"*" not in self._origins:
            return b""
        return b"access-control-allow-origin: %b\r\n%bvary: Origin\r\n" % (origin, self._common)
