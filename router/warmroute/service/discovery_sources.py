"""Several sources of members become one fleet: a task follows each, and what they name last is put together.

This module decides who counts where two sources name one id or one URL (the first source, in the order of the
settings). It decides what is logged of a source: a failure when it begins or changes, and its end. It keeps the figures
of each for `/metrics` and `/replicas`. A source that fails keeps its last members. This module knows nothing of how a
source finds them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from warmroute.core.types import ReplicaId
from warmroute.ports import Discovery, DiscoveryFailure, DiscoveryReport, Member
from warmroute.tasks import Tasks
from warmroute.telemetry.logs import fields

log = logging.getLogger(__name__)

EXAMPLES = 3
"""Replicas named in one log line; it says how many there are."""

MakeSource = Callable[[DiscoveryReport], Discovery]
"""Builds a source; connects to nobody. Raises whatever a wrong setting is to raise."""


@dataclass(slots=True)
class SourceFigures:
    """How one source fares."""

    members: int = 0
    draining: int = 0
    succeeded_s: float | None = None
    """When it was read last; None: not yet."""
    failures: dict[DiscoveryFailure, int] = field(default_factory=dict)
    failing: str = ""
    """What is wrong now, for people; empty: nothing."""
    problem: str = ""
    """What it says that an operator should know; empty: nothing."""


class _Source:
    """One source, and where it reports to."""

    def __init__(self, name: str, make: MakeSource, clock: Callable[[], float]) -> None:
        self.name = name
        self.figures = SourceFigures()
        self.members: tuple[Member, ...] | None = None
        self.task: asyncio.Task[object] | None = None
        self._clock = clock
        self._failure: DiscoveryFailure | None = None
        self.discovery = make(self)

    def succeeded(self) -> None:
        self.figures.succeeded_s = self._clock()
        if self._failure is not None:
            self._failure = None
            self.figures.failing = ""
            log.info("discovery_recovered", extra=fields(source=self.name, members=self.figures.members))

    def failed(self, failure: DiscoveryFailure, detail: str, retry_in_s: float) -> None:
        failures = self.figures.failures
        failures[failure] = failures.get(failure, 0) + 1
        if failure is not self._failure:
            log.warning(
                "discovery_failed",
                extra=fields(
                    source=self.name,
                    reason=failure,
                    detail=detail,
                    retry_in_s=round(retry_in_s, 1),
                    members_kept=self.figures.members,
                ),
            )
        self._failure = failure
        self.figures.failing = detail

    def noticed(self, problem: str) -> None:
        if problem and problem != self.figures.problem:
            log.warning("discovery_problem", extra=fields(source=self.name, detail=problem))
        self.figures.problem = problem


class DiscoverySources:
    """A `Discovery` made of several, which may be exchanged while it is watched. One watcher."""

    def __init__(self, tasks: Tasks, clock: Callable[[], float]) -> None:
        self._tasks = tasks
        self._clock = clock
        self._sources: dict[str, _Source] = {}
        self._owners: dict[ReplicaId, str] = {}
        self._clashes: set[tuple[str, str]] = set()
        self._changed = asyncio.Event()
        self._started = False

    def prepared(self, wanted: Mapping[str, MakeSource]) -> list[_Source]:
        """The sources by these names, in order, for `use`; those there are already stay as they are.

        Changes nothing; raises what a `MakeSource` raises.
        """
        return [self._sources.get(name) or _Source(name, make, self._clock) for name, make in wanted.items()]

    def use(self, sources: list[_Source]) -> None:
        """From now on these are all. Those left out are no longer read, and their members go at once."""
        kept = {source.name: source for source in sources}
        for name, source in self._sources.items():
            if name not in kept and source.task is not None:
                source.task.cancel()
        self._sources = kept
        if self._started:
            self._follow_all()
        self._changed.set()

    def source_of(self, replica_id: ReplicaId) -> str:
        """Name of the source whose word counts for a replica; empty for one that none names."""
        return self._owners.get(replica_id, "")

    def rows(self) -> list[dict[str, object]]:
        """One row a source, for `/replicas` and `/metrics`. Every reason is there, since alerts count from 0."""
        now_s = self._clock()
        rows: list[dict[str, object]] = []
        for name, figures in self.figures().items():
            succeeded_s = figures.succeeded_s
            rows.append(
                {
                    "source": name,
                    "up": not figures.failing,
                    "ready": figures.members - figures.draining,
                    "draining": figures.draining,
                    "age_s": None if succeeded_s is None else round(max(0.0, now_s - succeeded_s), 3),
                    "errors_total": {str(each): figures.failures.get(each, 0) for each in DiscoveryFailure},
                    "failing": figures.failing or None,
                    "problem": figures.problem or None,
                }
            )
        return rows

    def failing(self) -> bool:
        """Whether a source cannot be read now."""
        return any(source.figures.failing for source in self._sources.values())

    def figures(self) -> dict[str, SourceFigures]:
        """How each source fares, by name."""
        return {name: source.figures for name, source in self._sources.items()}

    async def watch(self) -> AsyncIterator[tuple[Member, ...]]:
        """All members of all sources. Nothing is said before somebody is named or every source has answered."""
        self._started = True
        self._follow_all()
        self._changed.set()
        while True:
            await self._changed.wait()
            self._changed.clear()
            members = self._merged()
            if members or all(source.members is not None for source in self._sources.values()):
                yield members

    def _follow_all(self) -> None:
        for source in self._sources.values():
            if source.task is None:
                source.task = self._tasks.supervise(
                    partial(self._follow, source), name=f"discovery {source.name}"
                )

    async def _follow(self, source: _Source) -> None:
        async for members in source.discovery.watch():
            source.members = members
            source.figures.members = len(members)
            source.figures.draining = sum(member.draining for member in members)
            if self._sources.get(source.name) is source:
                self._changed.set()

    def _merged(self) -> tuple[Member, ...]:
        merged: dict[ReplicaId, Member] = {}
        owners: dict[ReplicaId, str] = {}
        urls: dict[str, ReplicaId] = {}
        clashes: dict[tuple[str, str], list[str]] = {}
        for name, source in self._sources.items():
            for member in source.members or ():
                replica_id, url = member.replica_id, member.url
                if replica_id in merged:
                    clashes.setdefault((owners[replica_id], name), []).append(f"id {replica_id}")
                elif url in urls:
                    clashes.setdefault((owners[urls[url]], name), []).append(f"url {url}")
                else:
                    merged[replica_id] = member
                    owners[replica_id] = name
                    urls[url] = replica_id
        for (first, other), twice in clashes.items():
            if (first, other) not in self._clashes:
                log.warning(
                    "discovery_named_twice",
                    extra=fields(
                        what=", ".join(twice[:EXAMPLES]),
                        replicas=len(twice),
                        counts=first,
                        ignored=other,
                        remedy="name each replica in one source",
                    ),
                )
        self._clashes = set(clashes)
        self._owners = owners
        return tuple(merged.values())
