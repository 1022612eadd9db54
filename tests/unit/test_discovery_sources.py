"""Several sources as one fleet: who counts, what is kept, and what is logged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from warmroute.core.types import ReplicaId
from warmroute.ports import Discovery, DiscoveryFailure, DiscoveryReport, Member
from warmroute.service.discovery_sources import DiscoverySources, MakeSource
from warmroute.tasks import Tasks

A, B, C = (Member(ReplicaId(name), f"http://{name}:1") for name in "abc")


class Source:
    """Names what it is told, and reports what it is told."""

    def __init__(self, *members: Member) -> None:
        self.changes: asyncio.Queue[tuple[Member, ...]] = asyncio.Queue()
        if members:
            self.name(*members)
        self.report: DiscoveryReport | None = None
        self.watching = 0

    def make(self, report: DiscoveryReport) -> Discovery:
        self.report = report
        return self

    def name(self, *members: Member) -> None:
        self.changes.put_nowait(members)

    async def watch(self) -> AsyncIterator[tuple[Member, ...]]:
        self.watching += 1
        try:
            while True:
                yield await self.changes.get()
        finally:
            self.watching -= 1


class Together:
    """Sources under watch; `seen` is what came of them."""

    def __init__(self, **sources: Source) -> None:
        self.tasks = Tasks()
        self.now_s = 100.0
        self.sources = DiscoverySources(self.tasks, lambda: self.now_s)
        self.seen: list[tuple[Member, ...]] = []
        self.use(**sources)

    def use(self, **sources: Source) -> None:
        wanted: dict[str, MakeSource] = {name: source.make for name, source in sources.items()}
        self.sources.use(self.sources.prepared(wanted))

    async def watch(self) -> None:
        async for members in self.sources.watch():
            self.seen.append(members)


def play(scenario: Callable[[Together], Awaitable[None]], **sources: Source) -> Together:
    async def run() -> Together:
        together = Together(**sources)
        together.tasks.spawn(together.watch(), "watch")
        await settled()
        await scenario(together)
        await together.tasks.stop()
        return together

    return asyncio.run(run())


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def nothing(_: Together) -> None: ...


def told(caplog: pytest.LogCaptureFixture, event: str) -> list[dict[str, Any]]:
    return [record.fields for record in caplog.records if record.message == event]  # type: ignore[attr-defined]


def test_members_of_all_sources_are_one_fleet_in_the_order_of_the_settings() -> None:
    together = play(nothing, one=Source(B), two=Source(C, A))
    assert together.seen[-1] == (B, C, A)
    assert together.sources.source_of(B.replica_id) == "one"
    assert together.sources.source_of(A.replica_id) == "two"
    assert together.sources.source_of(ReplicaId("nobody")) == ""


def test_a_source_that_does_not_answer_holds_no_other_up() -> None:
    together = play(nothing, one=Source(), two=Source(A))
    assert together.seen == [(A,)]


def test_nobody_is_named_before_every_source_has_answered() -> None:
    silent = Source()

    async def scenario(together: Together) -> None:
        assert together.seen == []
        silent.name()
        await settled()
        assert together.seen == [()]

    empty = Source()
    empty.name()
    play(scenario, one=empty, two=silent)


def test_a_source_that_says_nothing_more_keeps_its_members() -> None:
    one, two = Source(A), Source(B)

    async def scenario(together: Together) -> None:
        assert one.report is not None
        one.report.failed(DiscoveryFailure.TIMEOUT, "silent", 1.0)
        two.name(B, C)
        await settled()
        assert together.seen[-1] == (A, B, C)

    play(scenario, one=one, two=two)


def test_of_two_that_name_one_id_or_one_url_the_first_counts_and_it_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    same_id = Member(A.replica_id, "http://elsewhere:1")
    same_url = Member(ReplicaId("other"), A.url)
    two = Source(same_id, same_url, B)

    async def scenario(together: Together) -> None:
        two.name(same_id, same_url, B, C)
        await settled()
        assert together.seen[-1] == (A, B, C)

    play(scenario, one=Source(A), two=two)
    (line,) = told(caplog, "discovery_named_twice")
    assert line["what"] == "id a, url http://a:1"
    assert (line["counts"], line["ignored"], line["replicas"]) == ("one", "two", 2)


def test_where_the_first_no_longer_names_it_the_other_counts() -> None:
    one, moved = Source(A), Member(A.replica_id, "http://elsewhere:1")

    async def scenario(together: Together) -> None:
        one.name()
        await settled()
        assert together.seen[-1] == (moved,)
        assert together.sources.source_of(A.replica_id) == "two"

    play(scenario, one=one, two=Source(moved))


def test_other_sources_can_be_used_while_it_runs_and_those_that_stay_go_on() -> None:
    one, two, three = Source(A), Source(B), Source(C)

    async def scenario(together: Together) -> None:
        together.use(two=two, three=three)
        await settled()
        assert together.seen[-1] == (B, C)
        assert (one.watching, two.watching, three.watching) == (0, 1, 1)
        one.name(A)
        two.name(B, A)
        await settled()
        assert together.seen[-1] == (B, A, C)
        assert list(together.sources.figures()) == ["two", "three"]

    play(scenario, one=one, two=two)


def test_a_source_that_cannot_be_built_changes_nothing() -> None:
    def wrong(report: DiscoveryReport) -> Discovery:
        raise ValueError("wrong")

    async def scenario(together: Together) -> None:
        with pytest.raises(ValueError, match="wrong"):
            together.sources.prepared({"two": wrong})
        await settled()
        assert list(together.sources.figures()) == ["one"]

    play(scenario, one=Source(A))


def test_a_failure_is_logged_when_it_begins_and_changes_and_ends_and_each_is_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    source = Source(A)

    async def scenario(together: Together) -> None:
        assert source.report is not None
        source.report.succeeded()
        together.now_s = 200.0
        for failure in ("timeout", "timeout", "forbidden", "timeout"):
            source.report.failed(DiscoveryFailure(failure), f"it is {failure}", 2.04)
        figures = together.sources.figures()["one"]
        assert figures.failures == {DiscoveryFailure.TIMEOUT: 3, DiscoveryFailure.FORBIDDEN: 1}
        assert (figures.succeeded_s, figures.failing, figures.members) == (100.0, "it is timeout", 1)
        (row,) = together.sources.rows()
        assert (row["source"], row["up"], row["ready"], row["age_s"]) == ("one", False, 1, 100.0)
        assert row["errors_total"] == {
            **dict.fromkeys(map(str, DiscoveryFailure), 0),
            "timeout": 3,
            "forbidden": 1,
        }
        for _ in range(2):
            source.report.succeeded()
        assert together.sources.figures()["one"].failing == ""

    play(scenario, one=source)
    failed = told(caplog, "discovery_failed")
    assert [line["reason"] for line in failed] == ["timeout", "forbidden", "timeout"]
    assert failed[0] == {
        "source": "one",
        "reason": "timeout",
        "detail": "it is timeout",
        "retry_in_s": 2.0,
        "members_kept": 1,
    }
    assert len(told(caplog, "discovery_recovered")) == 1


def test_what_an_operator_should_know_is_logged_when_it_changes(caplog: pytest.LogCaptureFixture) -> None:
    source = Source(A)

    async def scenario(together: Together) -> None:
        assert source.report is not None
        for problem in ("no port", "no port", "", "no port", "no Service"):
            source.report.noticed(problem)
        assert together.sources.figures()["one"].problem == "no Service"

    play(scenario, one=source)
    assert [line["detail"] for line in told(caplog, "discovery_problem")] == [
        "no port",
        "no port",
        "no Service",
    ]
