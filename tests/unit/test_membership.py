"""The watch over the fleet, on a virtual clock: who is asked when, and what the fleet is told."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from random import Random

import pytest

from tests.support.engines import REFUSED, WELL, ToldEngine
from tests.support.virtual_clock import VirtualClockLoop
from warmroute.core.choice.cost import CostParameters
from warmroute.core.choice.policies import POLICIES
from warmroute.core.fleet.fleet import (
    DrainStarted,
    Event,
    Fleet,
    ProbeFailed,
    ProbeSucceeded,
    ReplicaAdded,
    ReplicaRemoved,
    ReplicaState,
)
from warmroute.core.health.health import FailureReason, HealthParameters
from warmroute.core.types import FingerprintHash, Incarnation, ReplicaId, RequestShape
from warmroute.ports import Member, ProbeResult
from warmroute.service.membership import CHANGES_AT_ONCE, MAX_CONCURRENT_PROBES, Membership
from warmroute.tasks import Tasks

A = Member(ReplicaId("a:1"), "http://a:1")
B = Member(ReplicaId("b:1"), "http://b:1")


class FakeDiscovery:
    """Names what it is told."""

    def __init__(self, *members: Member) -> None:
        self.changes: asyncio.Queue[tuple[Member, ...]] = asyncio.Queue()
        self.changes.put_nowait(members)

    async def watch(self) -> AsyncIterator[tuple[Member, ...]]:
        while True:
            yield await self.changes.get()


class RecordingFleet(Fleet):
    """A fleet that remembers what it was told."""

    def __init__(self) -> None:
        parameters = CostParameters()
        super().__init__(POLICIES["round-robin"](parameters), Random(1), parameters, HealthParameters())
        self.events: list[Event] = []

    def apply(self, event: Event) -> None:
        self.events.append(event)
        super().apply(event)

    def state(self, member: Member) -> ReplicaState:
        return self.replicas[member.replica_id].state


@dataclasses.dataclass
class World:
    fleet: RecordingFleet
    engine: ToldEngine
    discovery: FakeDiscovery
    tasks: Tasks
    membership: Membership
    removed: list[ReplicaId]


def play(scenario: Callable[[World], object], *members: Member, interval_s: float = 2.0) -> World:
    """Run an asynchronous scenario over a started membership, in virtual time."""
    worlds: list[World] = []

    async def run() -> None:
        engine, discovery, tasks, fleet = ToldEngine(), FakeDiscovery(*members), Tasks(), RecordingFleet()
        removed: list[ReplicaId] = []
        membership = Membership(
            fleet,
            engine,
            discovery,
            tasks,
            interval_s=interval_s,
            clock=asyncio.get_running_loop().time,
            rng=Random(1),
            on_removed=removed.append,
        )
        world = World(fleet, engine, discovery, tasks, membership, removed)
        worlds.append(world)
        await scenario(world)  # type: ignore[misc]
        await tasks.stop()
        fleet.validate()

    with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
        runner.run(run())
    return worlds[0]


def test_members_are_added_and_asked_at_once() -> None:
    async def scenario(world: World) -> None:
        world.membership.start()
        assert await world.membership.wait_first_round(5.0)
        assert asyncio.get_running_loop().time() == 0.0

    world = play(scenario, A, B)
    assert world.fleet.events[:2] == [ReplicaAdded(A.replica_id, A.url), ReplicaAdded(B.replica_id, B.url)]
    assert ProbeSucceeded(A.replica_id, Incarnation(7), {"m": {}}, 32, 8192, 0.0) in world.fleet.events
    assert world.fleet.state(A) is ReplicaState.READY
    assert world.membership.latest() == {A.replica_id: WELL, B.replica_id: WELL}


def test_a_well_replica_is_asked_every_interval_with_jitter() -> None:
    async def scenario(world: World) -> None:
        world.membership.start()
        await asyncio.sleep(100)

    times = play(scenario, A).engine.times(A.replica_id)
    gaps = [later - earlier for earlier, later in zip(times, times[1:], strict=False)]
    assert 44 <= len(times) <= 54
    assert all(1.8 <= gap <= 2.2 + 0.06 for gap in gaps)
    assert max(gaps) - min(gaps) > 0.1


def test_an_unwell_replica_is_asked_soon_then_less_often_until_the_interval() -> None:
    async def scenario(world: World) -> None:
        world.engine.answers[A.replica_id] = REFUSED
        world.membership.start()
        await asyncio.sleep(12)
        world.engine.answers[A.replica_id] = WELL
        await asyncio.sleep(3)

    world = play(scenario, A)
    times = world.engine.times(A.replica_id)
    gaps = [later - earlier for earlier, later in zip(times, times[1:], strict=False)]
    for gap, expected in zip(gaps, (0.25, 0.5, 1.0, 2.0, 2.0), strict=False):
        assert expected * 0.89 <= gap <= expected * 1.11 + 0.06
    assert world.fleet.state(A) is ReplicaState.READY
    assert ProbeFailed(A.replica_id, FailureReason.REFUSED, 0.0, "connection refused") in world.fleet.events


def test_a_death_is_confirmed_within_a_second_of_the_first_failed_probe() -> None:
    async def scenario(world: World) -> None:
        world.membership.start()
        await asyncio.sleep(5)
        world.engine.answers[A.replica_id] = REFUSED
        await asyncio.sleep(2.3)  # one interval
        first = next(event.now_s for event in world.fleet.events if isinstance(event, ProbeFailed))
        await asyncio.sleep(max(0.0, first + 1.0 - asyncio.get_running_loop().time()))
        assert world.fleet.state(A) is ReplicaState.EJECTED

    play(scenario, A)


def test_traffic_that_fails_hurries_a_probe_but_never_into_a_busy_loop() -> None:
    async def scenario(world: World) -> None:
        world.membership.start()
        await asyncio.sleep(10)
        before = len(world.engine.asked)
        world.membership.probe_soon(A.replica_id)
        await asyncio.sleep(0.1)
        assert len(world.engine.asked) in (before + 1, before + 2)
        world.membership.probe_soon(ReplicaId("nobody"))
        before = len(world.engine.asked)
        for _ in range(1_000):
            world.membership.probe_soon(A.replica_id)
            await asyncio.sleep(0.001)
        assert len(world.engine.asked) - before <= 22

    play(scenario, A)


def test_what_a_probe_found_before_connections_were_refused_is_not_believed() -> None:
    async def scenario(world: World) -> None:
        world.membership.start()
        await asyncio.sleep(1)
        replica = world.fleet.replicas[A.replica_id]
        world.engine.delay_s = 0.5
        asked = len(world.engine.asked)
        while len(world.engine.asked) == asked:
            await asyncio.sleep(0.01)
        world.fleet.report_failure(
            replica, FailureReason.REFUSED, asyncio.get_running_loop().time(), "connection refused"
        )
        world.engine.delay_s = 0.0  # of the next one
        await asyncio.sleep(0.51)
        assert (replica.state, replica.health.dead) == (ReplicaState.EJECTED, True)
        await asyncio.sleep(0.4)
        assert (replica.state, replica.health.dead) == (ReplicaState.READY, False), (
            "the next probe is believed"
        )

    play(scenario, A)


def test_a_refusal_before_the_clock_was_set_back_is_no_later_word_for_ever() -> None:
    async def scenario(world: World) -> None:
        world.membership.start()
        await asyncio.sleep(1)
        replica = world.fleet.replicas[A.replica_id]
        world.fleet.report_failure(
            replica, FailureReason.REFUSED, asyncio.get_running_loop().time() + 3600.0, "connection refused"
        )
        await asyncio.sleep(5)
        assert (replica.state, replica.health.dead) == (ReplicaState.READY, False)

    play(scenario, A)


def test_members_come_and_go_with_discovery() -> None:
    async def scenario(world: World) -> None:
        world.membership.start()
        await asyncio.sleep(1)
        world.discovery.changes.put_nowait((B,))
        await asyncio.sleep(1)
        assert list(world.fleet.replicas) == [B.replica_id]
        asked = len(world.engine.times(A.replica_id))
        await asyncio.sleep(10)
        assert len(world.engine.times(A.replica_id)) == asked, "a removed replica is asked no more"
        assert list(world.membership.latest()) == [B.replica_id]
        world.discovery.changes.put_nowait((B, A))
        await asyncio.sleep(1)
        assert world.fleet.state(A) is ReplicaState.READY

    world = play(scenario, A)
    assert ReplicaRemoved(A.replica_id) in world.fleet.events
    assert world.engine.forgotten == world.removed == [A.replica_id]
    assert len(world.tasks) == 0


def test_a_member_that_moved_is_a_new_replica_under_its_id() -> None:
    moved = Member(A.replica_id, "http://a:2")

    async def scenario(world: World) -> None:
        world.membership.start()
        await asyncio.sleep(1)
        world.discovery.changes.put_nowait((moved,))
        await asyncio.sleep(1)
        assert world.fleet.replicas[A.replica_id].url == "http://a:2"

    assert play(scenario, A).removed == [A.replica_id]


def test_the_first_round_ends_with_the_last_answer_and_is_not_waited_for_for_ever() -> None:
    async def scenario(world: World) -> None:
        world.engine.delay_s = 3.0
        world.membership.start()
        assert not await world.membership.wait_first_round(1.0)
        assert await world.membership.wait_first_round(5.0)
        assert asyncio.get_running_loop().time() == pytest.approx(3.0)

    play(scenario, A, B)


def test_the_first_round_is_of_all_first_members_however_quick_the_first_of_them_answer() -> None:
    members = [Member(ReplicaId(f"r{index}:1"), f"http://r{index}:1") for index in range(40)]

    async def scenario(world: World) -> None:
        async def at_once(replica_id: ReplicaId, url: str) -> ProbeResult:
            world.engine.asked.append((0.0, replica_id))
            return WELL

        world.engine.probe = at_once  # type: ignore[method-assign]
        world.membership.start()
        assert await world.membership.wait_first_round(5.0)
        assert {replica_id for _, replica_id in world.engine.asked} == {m.replica_id for m in members}

    play(scenario, *members)


def test_an_empty_fleet_has_no_first_round_to_wait_for() -> None:
    async def scenario(world: World) -> None:
        world.membership.start()
        assert await world.membership.wait_first_round(1.0)

    play(scenario)


def test_a_large_fleet_is_asked_in_slices() -> None:
    members = [Member(ReplicaId(f"r{index}:1"), f"http://r{index}:1") for index in range(500)]

    async def scenario(world: World) -> None:
        world.engine.delay_s = 0.1
        world.membership.start()
        assert await world.membership.wait_first_round(5.0)

    world = play(scenario, *members)
    assert world.engine.most_at_once == MAX_CONCURRENT_PROBES
    assert world.fleet.routable() == 500


def test_changes_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")

    async def scenario(world: World) -> None:
        world.membership.start()
        await asyncio.sleep(5)
        world.engine.answers[A.replica_id] = dataclasses.replace(WELL, incarnation=Incarnation(8))
        await asyncio.sleep(5)
        world.engine.answers[A.replica_id] = REFUSED
        await asyncio.sleep(20)
        world.engine.answers[A.replica_id] = WELL
        await asyncio.sleep(5)

    play(scenario, A)
    events = [record.message for record in caplog.records if record.name == "warmroute.service.membership"]
    assert events == ["replica_added", "replica_well", "replica_restarted", "replica_unwell", "replica_well"]


def test_another_reason_for_being_unwell_is_logged_and_the_same_one_is_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    details = ["http://a:1/health: connection refused", "http://a:1/health answered 503"]

    async def scenario(world: World) -> None:
        for failure, detail in zip((FailureReason.REFUSED, FailureReason.STATUS), details, strict=True):
            world.engine.answers[A.replica_id] = ProbeResult(alive=False, failure=failure, detail=detail)
            if not world.engine.asked:
                world.membership.start()
            await asyncio.sleep(20)

    world = play(scenario, A)
    unwell = [r for r in caplog.records if r.message == "replica_unwell"]
    assert [record.fields["detail"] for record in unwell] == details  # type: ignore[attr-defined]
    assert world.fleet.snapshot(0.0)[0]["last_failure"] == f"status: {details[1]}"


@pytest.mark.parametrize("answers_s", [0.5, 60.0])
def test_a_fleet_that_is_replaced_as_a_whole_serves_until_the_new_one_was_asked(answers_s: float) -> None:
    async def scenario(world: World) -> None:
        world.membership.start()
        await asyncio.sleep(1)
        assert world.fleet.routable() == 1
        world.engine.delay_s = answers_s
        world.discovery.changes.put_nowait((B,))
        await asyncio.sleep(0.4)
        assert set(world.fleet.replicas) == {A.replica_id, B.replica_id}
        assert world.fleet.state(A) is ReplicaState.READY
        await asyncio.sleep(0.2 if answers_s < 1 else 5)
        assert set(world.fleet.replicas) == {B.replica_id}
        assert world.fleet.routable() == (answers_s < 1)

    world = play(scenario, A)
    assert world.removed == [A.replica_id]


def test_who_comes_back_before_the_others_were_asked_stays() -> None:
    async def scenario(world: World) -> None:
        world.membership.start()
        await asyncio.sleep(1)
        world.engine.delay_s = 2.0
        world.discovery.changes.put_nowait((B,))
        await asyncio.sleep(0.1)
        world.discovery.changes.put_nowait((A, B))
        await asyncio.sleep(10)
        assert set(world.fleet.replicas) == {A.replica_id, B.replica_id}

    world = play(scenario, A)
    assert world.removed == []


def test_a_member_named_as_draining_gets_nothing_new_and_stays_until_it_is_no_longer_named() -> None:
    leaving = dataclasses.replace(A, draining=True)

    async def scenario(world: World) -> None:
        world.membership.start()
        await asyncio.sleep(1)
        world.discovery.changes.put_nowait((leaving, B))
        await asyncio.sleep(5)
        assert world.fleet.state(A) is ReplicaState.DRAINING
        assert world.fleet.routable() == 1
        assert world.membership.member(A.replica_id) == leaving
        assert world.membership.member(ReplicaId("nobody")) is None
        world.discovery.changes.put_nowait((B,))
        await asyncio.sleep(1)
        assert list(world.fleet.replicas) == [B.replica_id]

    world = play(scenario, A, B)
    assert world.fleet.events.count(DrainStarted(A.replica_id)) == 1
    assert world.removed == [A.replica_id]


def test_a_member_that_stays_after_all_is_asked_at_once_and_used_again() -> None:
    leaving = dataclasses.replace(A, draining=True)

    async def scenario(world: World) -> None:
        world.membership.start()
        await asyncio.sleep(10)
        world.discovery.changes.put_nowait((A,))
        await asyncio.sleep(0.1)
        assert world.fleet.state(A) is ReplicaState.READY

    world = play(scenario, leaving, interval_s=60.0)
    assert world.fleet.events[:2] == [ReplicaAdded(A.replica_id, A.url), DrainStarted(A.replica_id)]
    assert world.removed == []


def test_what_else_is_said_of_a_member_changes_nothing_in_the_fleet() -> None:
    told = dataclasses.replace(A, zone="z", labels={"node": "n"})

    async def scenario(world: World) -> None:
        world.membership.start()
        await asyncio.sleep(1)
        before = len(world.fleet.events)
        world.discovery.changes.put_nowait((told,))
        await asyncio.sleep(0.1)
        assert len(world.fleet.events) == before
        assert world.membership.member(A.replica_id) == told

    play(scenario, A)


def test_a_member_is_known_to_serve_what_is_said_of_it_until_it_tells() -> None:
    said = dataclasses.replace(A, models=frozenset({"said"}))

    async def scenario(world: World) -> None:
        world.engine.answers[A.replica_id] = REFUSED
        world.membership.start()
        await asyncio.sleep(1)
        assert world.fleet.models() == {"said"}
        world.engine.answers[A.replica_id] = dataclasses.replace(WELL, models=None)
        await asyncio.sleep(3)
        assert world.fleet.models() == {"said"}, "an engine that does not tell leaves it at that"
        world.engine.answers[A.replica_id] = WELL
        await asyncio.sleep(3)
        assert world.fleet.models() == {"m"}

    play(scenario, said)


def test_a_large_change_is_taken_over_a_few_members_a_turn_and_the_choice_is_right_in_between() -> None:
    first = [Member(ReplicaId(f"a{number}:1"), f"http://a{number}:1") for number in range(20)]
    second = [Member(ReplicaId(f"b{number}:1"), f"http://b{number}:1") for number in range(20)]
    most: list[int] = []

    async def scenario(world: World) -> None:
        fleet, told = world.fleet, 0
        world.engine.delay_s = 0.02

        def changes() -> int:
            return sum(isinstance(event, ReplicaAdded | ReplicaRemoved) for event in fleet.events)

        async def until_all_are(named: list[Member]) -> None:
            nonlocal told
            ids = {member.replica_id for member in named}
            while set(fleet.replicas) != ids or fleet.routable() < len(ids):
                before = changes()
                await asyncio.sleep(0)
                most.append(changes() - before)
                if fleet.routable():
                    decision = fleet.choose_and_reserve(shape, None, 0.0)
                    assert fleet.replicas[decision.replica.id] is decision.replica
                    fleet.settle(decision, 0.0)
                    told += 1
                if not most[-1]:
                    await asyncio.sleep(0.001)  # time stands still while something can be done

        shape = RequestShape(rungs=[FingerprintHash(1)], prompt_bytes=4, prompt_tokens=1, model="m")
        world.membership.start()
        await until_all_are(first)
        world.discovery.changes.put_nowait(tuple(second))
        await until_all_are(second)
        assert told > 20

    play(scenario, *first)
    assert max(most) == CHANGES_AT_ONCE
