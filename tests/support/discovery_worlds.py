"""Sources of members with a hand in what they name, for the contract suite of discovery: one `World` a backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from router.adapters.discovery.static import StaticDiscovery
from router.core.types import ReplicaId
from router.ports import Discovery, DiscoveryFailure, DiscoveryReport, Member


class World(Protocol):
    """One backend. Used within one event loop: `start`, anything, `stop`."""

    candidates: Sequence[Member]
    """At least three members as the source would name them, each with id and URL of its own."""
    drains: bool
    """Whether the source can name a member as draining."""
    fails: bool
    """Whether the source can fail."""

    async def start(self) -> None:
        """Bring up what the source reads; it names nobody yet."""

    async def stop(self) -> None:
        """Take it down."""

    def discovery(self, report: DiscoveryReport) -> Discovery:
        """The adapter under test, with short times."""

    async def name(self, *members: Member) -> None:
        """From now on the source names exactly these, each one of `candidates` or such a one draining."""

    async def fail(self) -> None:
        """From now on the source cannot be read."""

    async def mend(self) -> None:
        """It can again."""


class Report:
    """Remembers what a source reports."""

    def __init__(self) -> None:
        self.successes = 0
        self.failures: list[tuple[DiscoveryFailure, str]] = []
        self.problems: list[str] = []
        """Each that is news, `` where it ended."""

    def succeeded(self) -> None:
        self.successes += 1

    def failed(self, failure: DiscoveryFailure, detail: str, retry_in_s: float) -> None:
        self.failures.append((failure, detail))

    def noticed(self, problem: str) -> None:
        if problem != (self.problems[-1] if self.problems else ""):
            self.problems.append(problem)


class StaticWorld:
    """Members that the settings name."""

    candidates = tuple(Member(ReplicaId(name), f"http://{name}:8000") for name in "abc")
    drains = True
    fails = False

    def __init__(self) -> None:
        self._members: tuple[Member, ...] = ()
        self._watched: list[StaticDiscovery] = []

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def discovery(self, report: DiscoveryReport) -> Discovery:
        static = StaticDiscovery(self._members)
        self._watched.append(static)
        return static

    async def name(self, *members: Member) -> None:
        self._members = members
        for static in self._watched:
            static.change(members)

    async def fail(self) -> None:
        raise NotImplementedError

    async def mend(self) -> None:
        raise NotImplementedError


WORLDS: dict[str, type[World]] = {"static": StaticWorld}
