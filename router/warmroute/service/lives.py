"""Which incarnation a server's present cache has: the one that its probes tell, or, once the cache was emptied at our
request, another one that all routers agree on.

A cache that is emptied by a call (`/reset_prefix_cache`) leaves no sign in what probes read. Whoever passed the call on
gives the server a new incarnation, and notes it in the registry under a key of its own, made of the incarnation that
probes tell: so do workers and routers learn of it that were not asked, within `LOOK_S`, and those that start later. The
note is renewed for as long as the process lives. A registry that is away costs agreement, not requests: what is noted
of that server is then found by this router alone.

Decides nothing about routing; off the request path.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from xxhash import xxh3_64_intdigest

from warmroute.core.fleet.fleet import CacheEmptied, Fleet
from warmroute.core.types import FingerprintHash, Incarnation, Records, ReplicaId
from warmroute.ports import Registry
from warmroute.tasks import Tasks
from warmroute.telemetry.logs import fields

log = logging.getLogger(__name__)

LOOK_S: Final = 1.0
"""Time between two looks at what others noted."""
RENEW_S: Final = 60.0
"""Time between two renewals of a note: the least idle time of a registry's records is several times that."""
_MASK: Final = (1 << 48) - 1


class Lives:
    """Of all servers of one fleet."""

    def __init__(
        self, fleet: Fleet, registry: Registry, tasks: Tasks, clock: Callable[[], float], *, shared: bool
    ) -> None:
        """`clock`: Unix time; `shared`: whether anybody else can write to the registry."""
        self._fleet = fleet
        self._registry = registry
        self._tasks = tasks
        self._clock = clock
        self._shared = shared
        self._told: dict[ReplicaId, Incarnation] = {}
        """What each server's last probe told."""
        self._renewed: dict[Incarnation, tuple[Incarnation, float]] = {}
        """By what probes tell: what it is called since, and since when that is known."""
        self._noted_s = 0.0

    def start(self) -> None:
        """Follow what others note, until the task keeper stops."""
        if self._shared:
            self._tasks.supervise(self._follow, name="lives")

    def now(self, server_id: ReplicaId, told: Incarnation) -> Incarnation:
        """What the fleet is to call the incarnation that a probe told."""
        before = self._told.get(server_id)
        if before != told:
            if before is not None:
                self._renewed.pop(before, None)
            elif len(self._told) > len(self._fleet.servers):
                self._drop_gone()
            self._told[server_id] = told
        renewed = self._renewed.get(told)
        return told if renewed is None else renewed[0]

    def emptied(self, server_ids: Sequence[ReplicaId]) -> None:
        """The caches of these servers were emptied just now."""
        now_s = self._clock()
        for server_id in server_ids:
            told = self._told.get(server_id)
            if told is None:
                continue  # nothing was ever noted of it
            incarnation = Incarnation((xxh3_64_intdigest(b"%d\0%f" % (told, now_s)) & _MASK) or 1)
            self._take(server_id, told, incarnation, now_s)
            self._registry.touch([_key(told)], incarnation, now_s)

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            await self.look()

    async def look(self) -> None:
        """Take over what others noted, and renew what is known."""
        told = list(self._told.items())
        if not told:
            return
        for (server_id, incarnation), record in zip(
            told, await self._noted([i for _, i in told]), strict=False
        ):
            if record and self._told.get(server_id) == incarnation:
                latest, at_s = max(record, key=lambda holder: (holder[1], holder[0]))
                known = self._renewed.get(incarnation)
                if known is None or (
                    latest != known[0] and at_s >= known[1] - 0.1
                ):  # times are kept in tenths
                    self._take(server_id, incarnation, latest, at_s)
        now_s = self._clock()
        if not 0.0 <= now_s - self._noted_s < RENEW_S:
            self._noted_s = now_s
            for base, (incarnation, _) in self._renewed.items():
                self._registry.touch([_key(base)], incarnation, now_s)

    def _drop_gone(self) -> None:
        for server_id in self._told.keys() - self._fleet.servers.keys():
            self._renewed.pop(self._told.pop(server_id), None)

    def _take(self, server_id: ReplicaId, told: Incarnation, incarnation: Incarnation, at_s: float) -> None:
        self._renewed[told] = incarnation, at_s
        log.info("replica_emptied", extra=fields(replica=server_id))
        self._fleet.apply(CacheEmptied(server_id, incarnation))

    async def _noted(self, told: list[Incarnation]) -> Records:
        found: asyncio.Future[Records] = asyncio.get_running_loop().create_future()

        def done(records: Records) -> None:
            if not found.done():
                found.set_result(records)

        records = self._registry.lookup([_key(incarnation) for incarnation in told], done)
        return await found if records is None else records


def _key(told: Incarnation) -> FingerprintHash:
    return FingerprintHash(xxh3_64_intdigest(b"life\0%d" % told))
