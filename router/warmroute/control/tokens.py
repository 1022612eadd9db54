"""Who may do what on the admin port: tokens, two roles, and what is open to all.

Every token is compared in full, and all of them each time, so that how long it takes tells nothing. Without tokens
everybody may do all; whether that is wise depends on who reaches the port.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from enum import StrEnum

from warmroute.core.errors import ClientError

OPEN = frozenset({"/health", "/ready"})
"""What Kubernetes and load balancers ask: it tells nothing but whether the router is well."""

READING = frozenset(
    {
        ("GET", "/"),
        ("GET", "/metrics"),
        ("GET", "/replicas"),
        ("GET", "/usage"),
        ("GET", "/savings"),
        ("GET", "/advice"),
        ("GET", "/keys"),
        ("POST", "/explain"),
    }
)
"""What only looks. Everything else changes something, or tells what only operators should know."""


class Role(StrEnum):
    """What a token's holder may do."""

    READER = "reader"
    OPERATOR = "operator"


class AdminAuth:
    """The tokens, as they are now."""

    def __init__(self, operators: Sequence[str], readers: Sequence[str], *, open_metrics: bool) -> None:
        self._roles: list[tuple[bytes, Role]] = []
        self._scrape = ""
        self.open_metrics = open_metrics
        self.use(operators, readers, open_metrics=open_metrics)

    def use(self, operators: Sequence[str], readers: Sequence[str], *, open_metrics: bool) -> None:
        """These from now on."""
        self._roles = [(_digest(token), Role.OPERATOR) for token in operators]
        self._roles += [(_digest(token), Role.READER) for token in readers]
        self._scrape = next(iter((*readers, *operators)), "")
        self.open_metrics = open_metrics

    @property
    def asked(self) -> bool:
        """Whether anybody needs a token."""
        return bool(self._roles)

    def role(self, authorization: str) -> Role | None:
        """What the holder of this token may do; None: it is none."""
        scheme, _, token = authorization.partition(" ")
        digest = _digest(token.strip())
        found = None
        for known, role in self._roles:
            if hmac.compare_digest(known, digest):
                found = role
        return found if scheme.lower() == "bearer" else None

    def lets_scrape(self, authorization: str) -> bool:
        """Whether metrics may be read with this."""
        return not self._roles or self.open_metrics or self.role(authorization) is not None

    def own_headers(self) -> dict[str, str]:
        """Headers with which the supervisor, which has the same settings, reads its workers' metrics."""
        return {"Authorization": f"Bearer {self._scrape}"} if self._scrape else {}

    def check(self, method: str, path: str, authorization: str) -> None:
        """Let a request through, or not.

        Raises:
            ClientError: 401 without a token that is known, 403 with one that may not do this.
        """
        if not self._roles or path in OPEN or (path == "/metrics" and self.open_metrics):
            return
        role = self.role(authorization)
        if role is None:
            raise ClientError(
                "a token is needed: Authorization: Bearer TOKEN (admin_auth)",
                status=401,
                code="missing_token",
            )
        reading = ("GET" if method == "HEAD" else method, path) in READING
        if role is Role.READER and not reading:
            raise ClientError(
                f"this token may only look; {method} {path} needs an operator's",
                status=403,
                code="read_only_token",
            )


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
