"""Simulated routers remember placements in the product's embedded registry, on the simulation's clock.

This module decides when a router knows of a placement: at once of its own, and `VISIBLE_S` later of those of other
routers. As in production, `MemoryRegistry` decides what is kept, renewed and forgotten, and `warmroute.service.expiry`
decides for how long, with the settings' defaults and from what this router's own answers taught it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from warmroute.adapters.registry.memory import MemoryRegistry
from warmroute.config.schema import RegistryConfig
from warmroute.core.fleet.fleet import Fleet
from warmroute.core.types import FingerprintHash, Incarnation, Records
from warmroute.service.expiry import INTERVAL_S, Expiry
from warmroute.tasks import Tasks

VISIBLE_S = 0.01
"""Time from a placement until another router can see its record, in seconds: it is batched for 4 ms, then written and
read."""

_SECRET = bytes(16)
_Placement = tuple[float, Sequence[FingerprintHash], Incarnation, float | None]


class VirtualRegistry:
    """The registry of one router. Calls must come in the order of their times."""

    def __init__(self, fleet: Fleet, settings: RegistryConfig | None = None) -> None:
        settings = settings or RegistryConfig()
        self.now_s = 0.0
        self._memory = MemoryRegistry(idle_s=settings.idle_max_s, clock=lambda: self.now_s, secret=_SECRET)
        self._expiry = Expiry(
            fleet,
            self._memory,
            Tasks(),
            least_s=settings.idle_min_s,
            most_s=settings.idle_max_s,
            clock=lambda: self.now_s,
        )
        self._expiry_s = 0.0
        self._others: tuple[VirtualRegistry, ...] = ()
        self._coming: deque[_Placement] = deque()
        """The placements of other routers, each with the time at which it was made; one that was taken back also with
        the time at which it had been noted."""

    def share(self, others: Sequence[VirtualRegistry]) -> None:
        """Tell these registries of every placement from now on."""
        self._others = tuple(one for one in others if one is not self)

    def lookup(self, rungs: Sequence[FingerprintHash], now_s: float) -> Records:
        """Return the records of the rungs, as far as this router can have heard of them."""
        self._pass(now_s)
        return self._memory.read(rungs)

    def touch(self, rungs: Sequence[FingerprintHash], incarnation: Incarnation, now_s: float) -> None:
        """Note a placement of this router."""
        self._pass(now_s)
        self._memory.touch(rungs, incarnation, now_s)
        for other in self._others:
            other._coming.append((now_s, rungs, incarnation, None))  # noqa: SLF001 - another of this class

    def forget(
        self, rungs: Sequence[FingerprintHash], incarnation: Incarnation, noted_s: float, now_s: float
    ) -> None:
        """Take a placement of this router back that it noted at `noted_s`."""
        self._pass(now_s)
        self._memory.forget(rungs, incarnation, noted_s)
        for other in self._others:
            other._coming.append((now_s, rungs, incarnation, noted_s))  # noqa: SLF001 - another of this class

    @property
    def idle_s(self) -> float:
        """Return how long a record is kept that nobody touches, in seconds."""
        return self._memory.statistics()["idle_s"]

    def _pass(self, now_s: float) -> None:
        self.now_s = now_s
        coming = self._coming
        while coming and coming[0][0] + VISIBLE_S <= now_s:
            at_s, rungs, incarnation, noted_s = coming.popleft()
            if noted_s is None:
                self._memory.touch(rungs, incarnation, at_s)
            else:
                self._memory.forget(rungs, incarnation, noted_s)
        if now_s >= self._expiry_s:
            self._expiry_s = now_s + INTERVAL_S
            self._expiry.step()
