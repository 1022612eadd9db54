"""Membership keeps the fleet's view current: who belongs to it (discovery), how each is (probes), with how many ranks.

A member is a server: one URL, one probe, whether one engine is behind it or several data-parallel ranks. An operator's
drain stands beside what discovery says, and stays when discovery names the member anew. One task for each member asks,
tells the fleet, and sleeps. It decides nothing about routing, which is the fleet's business. A member is asked at once
when it joins, every `interval_s` while it is well, and sooner while it is not: 0.25 s later, then doubling up to the
interval. So a starting replica is used within a moment of being ready, and a death is confirmed within a second.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from random import Random

from warmroute.core.fleet.fleet import (
    DrainStarted,
    Fleet,
    ProbeFailed,
    ProbeSucceeded,
    RanksFound,
    ReplicaAdded,
    ReplicaRemoved,
)
from warmroute.core.health.health import FailureReason
from warmroute.core.types import Incarnation, ReplicaId
from warmroute.ports import Discovery, Engine, Member, ProbeResult
from warmroute.tasks import Tasks
from warmroute.telemetry.logs import fields

log = logging.getLogger(__name__)

FAST_INTERVAL_S = 0.25
JITTER_RATIO = 0.1
"""Probes spread by this much, so that routers and replicas started together do not keep in step."""
TAKE_OVER_S = 5.0
"""Longest time that replicas which left still serve while those that came at the same time are asked."""
CHANGES_AT_ONCE = 1
"""Members that come, change or go before requests have their turn: 0.2 ms each, and 1 ms in a fleet of 1,000 for its
view, which is then made anew for the next request."""
MAX_CONCURRENT_PROBES = 64
"""A large fleet's first round must not open a thousand connections in one moment."""


@dataclass(slots=True)
class _Watched:
    member: Member
    wake: asyncio.Event
    task: asyncio.Task[object]
    latest: ProbeResult | None = None
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once it was asked."""


class Membership:
    """The fleet's members under watch. `start` returns at once; `wait_first_round` waits for the first answers."""

    def __init__(
        self,
        fleet: Fleet,
        engine: Engine,
        discovery: Discovery,
        tasks: Tasks,
        *,
        interval_s: float,
        clock: Callable[[], float],
        rng: Random,
        on_removed: Callable[[ReplicaId], None] | None = None,
        incarnation_of: Callable[[ReplicaId, Incarnation], Incarnation] = lambda _, told: told,
    ) -> None:
        """Args:
        clock: The one whose times the fleet is given everywhere.
        on_removed: Drops what others keep of a replica: a member, or one rank of it.
        incarnation_of: What the fleet is to call the incarnation that a probe told (`service.lives`).
        """
        self._fleet = fleet
        self._engine = engine
        self._discovery = discovery
        self._tasks = tasks
        self.interval_s = interval_s
        """Time between two probes of a replica that is well; may be changed at any time."""
        self._clock = clock
        self._rng = rng
        self._on_removed = on_removed
        self._incarnation_of = incarnation_of
        self._drained: set[ReplicaId] = set()
        """Members that an operator drains, whatever discovery says."""
        self._watched: dict[ReplicaId, _Watched] = {}
        self._wanted: dict[ReplicaId, Member] = {}
        """As discovery names them; those who left are watched a little longer where others came."""
        self._slots = asyncio.Semaphore(MAX_CONCURRENT_PROBES)
        self._steps = 0
        """Changes made, for `_give_way`."""
        self._unasked: set[ReplicaId] = set()
        self._first_round = asyncio.Event()

    def start(self) -> None:
        """Follow discovery and probe, until the task keeper stops."""
        self._tasks.supervise(self._follow, name="membership")

    async def wait_first_round(self, timeout_s: float) -> bool:
        """Wait until each of the first members was asked once; False if that takes longer."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._first_round.wait()
        except TimeoutError:
            return False
        return True

    def probe_soon(self, replica_id: ReplicaId) -> None:
        """Ask this replica now instead of at its next turn: traffic has seen it fail."""
        watched = self._watched.get(replica_id)
        if watched is not None:
            watched.wake.set()

    @property
    def drained(self) -> frozenset[ReplicaId]:
        """Members that an operator drains; those that are not named any more among them."""
        return frozenset(self._drained)

    def drain(self, drained: frozenset[ReplicaId]) -> None:
        """From now on an operator drains these members, and no others."""
        changed = self._drained ^ drained
        self._drained = set(drained)
        for replica_id in sorted(changed):
            watched = self._watched.get(replica_id)
            if watched is not None and not watched.member.draining:
                self._drain_or_readmit(watched.member, replica_id in drained)

    def member(self, replica_id: ReplicaId) -> Member | None:
        """A member under watch, as discovery named it last."""
        watched = self._watched.get(replica_id)
        return watched.member if watched is not None else None

    def members(self) -> list[Member]:
        """All members under watch."""
        return [watched.member for watched in self._watched.values()]

    def latest(self) -> Mapping[ReplicaId, ProbeResult]:
        """The last answer of every member that was asked."""
        return {key: watched.latest for key, watched in self._watched.items() if watched.latest is not None}

    async def _follow(self) -> None:
        async for members in self._discovery.watch():
            await self._change(members)

    async def _change(self, members: tuple[Member, ...]) -> None:
        """Take over who is named now, a few at a time: each few are a whole step, and what comes meanwhile waits."""
        wanted = self._wanted = {member.replica_id: member for member in members}
        await asyncio.sleep(0)  # comparing a thousand with a thousand takes a turn of its own, here and below
        for replica_id, watched in list(self._watched.items()):
            member = wanted.get(replica_id)
            if member is not None and member is not watched.member:
                if member.url != watched.member.url:
                    self._remove(replica_id, watched)  # it has moved, and takes its own place
                else:
                    self._update(watched, member)
                await self._give_way()
        if not self._first_round.is_set() and not self._watched:
            self._unasked.update(wanted)  # all of them, before the first can have answered
        added = []
        for replica_id, member in wanted.items():
            if replica_id not in self._watched:
                added.append(self._add(member))
                await self._give_way()
        if not self._unasked:
            self._first_round.set()
        await asyncio.sleep(0)
        if not added or not self._needed():
            await self._remove_unwanted()
        else:
            self._tasks.spawn(self._take_over(added), name="take over")

    async def _give_way(self) -> None:
        self._steps += 1
        if self._steps % CHANGES_AT_ONCE == 0:
            await asyncio.sleep(0)

    def _needed(self) -> bool:
        """Whether some of those who left serve what, for now, nobody who stays can."""
        staying, leaving = [], []
        for replica_id in self._watched:
            replica = self._fleet.servers[replica_id].replicas[0]
            if replica_id not in self._wanted:
                leaving.append(replica)
            elif replica.routable:
                staying.append(replica)
        if not leaving or not staying:
            return bool(leaving)
        served = frozenset().union(*(replica.models for replica in staying))
        return any(replica.models - served for replica in leaving)

    async def _take_over(self, added: list[_Watched]) -> None:
        """Let go of who left once who came was asked, so that a fleet that is replaced as a whole refuses nobody."""
        try:
            async with asyncio.timeout(TAKE_OVER_S):
                for watched in added:
                    await watched.asked.wait()
        except TimeoutError:
            pass
        await self._remove_unwanted()

    async def _remove_unwanted(self) -> None:
        for replica_id, watched in list(self._watched.items()):
            if replica_id not in self._wanted and self._watched.get(replica_id) is watched:
                self._remove(replica_id, watched)
                await self._give_way()

    def _add(self, member: Member) -> _Watched:
        log.info("replica_added", extra=fields(replica=member.replica_id, url=member.url))
        self._fleet.apply(ReplicaAdded(member.replica_id, member.url, member.models, member.ranks or 1))
        if member.draining or member.replica_id in self._drained:
            self._drain_or_readmit(member, drain=True)
        wake = asyncio.Event()
        task = self._tasks.supervise(partial(self._watch, member, wake), name=f"probe {member.replica_id}")
        watched = self._watched[member.replica_id] = _Watched(member, wake, task)
        return watched

    def _update(self, watched: _Watched, member: Member) -> None:
        """Something is said of a member that was not said before."""
        drained, watched.member = watched.member.draining, member
        if member.draining is not drained and member.replica_id not in self._drained:
            self._drain_or_readmit(member, member.draining)
        if member.ranks is not None:
            self._use_ranks(member, member.ranks)
            self.probe_soon(member.replica_id)

    def _drain_or_readmit(self, member: Member, drain: bool) -> None:
        replica_id = member.replica_id
        if drain:
            log.info("replica_draining", extra=fields(replica=replica_id))
            self._fleet.apply(DrainStarted(replica_id))
        else:
            log.info("replica_readmitted", extra=fields(replica=replica_id))
            self._fleet.apply(ReplicaAdded(replica_id, member.url))
            self.probe_soon(replica_id)

    def _use_ranks(self, member: Member, ranks: int) -> None:
        """Have the fleet know how many ranks a member has, and drop what is kept of those that it has no longer."""
        server = self._fleet.servers[member.replica_id]
        before = [replica.id for replica in server.replicas]
        if len(before) == max(1, ranks):
            return
        self._fleet.apply(RanksFound(member.replica_id, ranks))
        log.info("replica_ranks", extra=fields(replica=member.replica_id, ranks=ranks, before=len(before)))
        if self._on_removed is not None:
            for replica_id in before:
                if replica_id not in self._fleet.replicas:
                    self._on_removed(replica_id)

    def _remove(self, replica_id: ReplicaId, watched: _Watched) -> None:
        log.info("replica_removed", extra=fields(replica=replica_id))
        watched.task.cancel()
        del self._watched[replica_id]
        self._asked(replica_id)
        replicas = [replica.id for replica in self._fleet.servers[replica_id].replicas]
        self._fleet.apply(ReplicaRemoved(replica_id))
        self._engine.forget(replica_id)
        if self._on_removed is not None:
            for removed in replicas:
                self._on_removed(removed)

    async def _watch(self, member: Member, wake: asyncio.Event) -> None:
        failures = 0
        while True:
            async with self._slots:
                begun_s = self._clock()
                result = await self._engine.probe(member.replica_id, member.url)
            watched = self._watched[member.replica_id]
            refused_s = self._fleet.servers[member.replica_id].health.refused_s
            if result.alive and begun_s <= refused_s <= self._clock():
                # It may have died since it answered this probe, and the refusal is the later word: another probe tells.
                # A refusal that is still to come was before the clock was set back.
                failures += 1
                await self._sleep(failures, wake)
                continue
            member, previous, watched.latest = watched.member, watched.latest, result
            self._tell(member, result)
            self._log_change(member, previous, result)
            watched.asked.set()
            self._asked(member.replica_id)
            failures = 0 if result.alive else failures + 1
            await self._sleep(failures, wake)

    async def _sleep(self, failures: int, wake: asyncio.Event) -> None:
        delay_s = self.interval_s
        if failures:
            delay_s = min(delay_s, FAST_INTERVAL_S * 2.0 ** min(failures - 1, 16))
        delay_s *= 1.0 + JITTER_RATIO * (2.0 * self._rng.random() - 1.0)
        # Failing traffic may wake it, yet never into a busy loop.
        await asyncio.sleep(min(delay_s, FAST_INTERVAL_S) / 5.0)
        try:
            async with asyncio.timeout(delay_s):
                await wake.wait()
        except TimeoutError:
            pass
        wake.clear()

    def _tell(self, member: Member, result: ProbeResult) -> None:
        now_s = self._clock()
        if result.alive:
            engines = result.engines
            if member.ranks is None and engines:
                self._use_ranks(member, len(engines))
            incarnation = result.incarnation
            if incarnation is not None:
                incarnation = self._incarnation_of(member.replica_id, incarnation)
            self._fleet.apply(
                ProbeSucceeded(
                    member.replica_id,
                    incarnation,
                    result.models,
                    result.block_tokens,
                    result.cache_tokens,
                    now_s,
                    result.life_told,
                    result.process,
                    tuple(engine.cache_tokens for engine in engines) if len(engines) > 1 else (),
                )
            )
        else:
            reason = result.failure or FailureReason.PROBE
            self._fleet.apply(ProbeFailed(member.replica_id, reason, now_s, result.detail or ""))

    def _log_change(self, member: Member, previous: ProbeResult | None, result: ProbeResult) -> None:
        replica = member.replica_id
        if member.ranks is not None and 1 < member.ranks != len(result.engines) > 0:
            if previous is None or previous.engines != result.engines:
                log.warning(
                    "replica_ranks_differ",
                    extra=fields(
                        replica=replica,
                        named=member.ranks,
                        engines=len(result.engines),
                        hint="requests that name a rank which is not there are refused with 400: correct ranks",
                    ),
                )
        if not result.alive:
            if previous is None or previous.alive or previous.detail != result.detail:
                log.warning(
                    "replica_unwell",
                    extra=fields(replica=replica, reason=result.failure, detail=result.detail),
                )
        elif previous is None or not previous.alive:
            models = "unknown" if result.models is None else ",".join(sorted(result.models)[:8])
            log.info(
                "replica_well", extra=fields(replica=replica, models=models, cache_tokens=result.cache_tokens)
            )
        elif previous.incarnation != result.incarnation:
            if result.process is not None and result.process == previous.process:
                log.info("replica_emptied", extra=fields(replica=replica))
            else:
                log.info("replica_restarted", extra=fields(replica=replica))

    def _asked(self, replica_id: ReplicaId) -> None:
        self._unasked.discard(replica_id)
        if not self._unasked and self._watched:
            self._first_round.set()
