"""Limits counted in this process alone, where there is no Redis."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from warmroute.tenants.limits import Grant, LocalLimits, Scope


class MemoryLimiter:
    """Implements the port `Limiter` for one router.

    Args:
        clock: Unix seconds.
    """

    __slots__ = ("_clock", "own")

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self.own = LocalLimits()

    @property
    def healthy(self) -> bool:
        """Nothing can fail."""
        return True

    async def start(self) -> None:
        """Nothing to connect to."""

    async def stop(self) -> None:
        """Nothing to tell."""

    def take(self, grant: Grant, done: Callable[[], None]) -> bool:
        """At once."""
        self.own.take(grant, self._clock())
        return True

    def settle(self, grant: Grant, requests: int, tokens: int, cost_nano: int = 0) -> None:
        """At once."""
        if not grant.settled:
            self.own.settle(grant, requests, tokens, self._clock(), grant.at_s, cost_nano)

    def charge(self, scopes: Sequence[Scope], cost_nano: int, at_s: float) -> None:
        """At once."""
        self.own.charge(scopes, cost_nano, self._clock(), at_s)

    def statistics(self) -> dict[str, float]:
        """Nothing can fail."""
        return {"local_total": 0, "errors_total": 0}
