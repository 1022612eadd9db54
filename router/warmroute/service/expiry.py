"""Expiry keeps the registry's idle time at what the replicas' caches are worth, every few seconds.

It is off the request path. `beliefs.idle_time` decides how long that is, and the registry decides what expires.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from warmroute.core.beliefs.idle_time import IdleTime
from warmroute.core.fleet.fleet import Fleet
from warmroute.ports import Registry
from warmroute.tasks import Tasks
from warmroute.telemetry.logs import fields

log = logging.getLogger(__name__)

INTERVAL_S = 10.0
"""Lifetimes are learnt to an octave, from many answers, and are minutes: there is no haste."""


class Expiry:
    """One router's. `clock`: seconds that never go back."""

    def __init__(
        self,
        fleet: Fleet,
        registry: Registry,
        tasks: Tasks,
        *,
        least_s: float,
        most_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._fleet = fleet
        self._registry = registry
        self._tasks = tasks
        self._clock = clock
        self._fixed = least_s == most_s
        self._idle_time = IdleTime(least_s, most_s)
        self._idle_s = most_s

    def start(self) -> None:
        """Follow the fleet until the task keeper stops; between equal bounds there is nothing to follow."""
        if not self._fixed:
            self._tasks.supervise(self._run, name="expiry")

    async def _run(self) -> None:
        while True:
            self.step()
            await asyncio.sleep(INTERVAL_S)

    def step(self) -> None:
        """Tell the registry, if there is something new."""
        idle_s = self._idle_time.idle_s(self._fleet.replicas.values(), self._clock())
        if idle_s != self._idle_s:
            self._idle_s = idle_s
            log.debug("registry_idle_time", extra=fields(idle_s=idle_s))
            self._registry.expire_after(idle_s)
