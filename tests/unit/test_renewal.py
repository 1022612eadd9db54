"""Held prompts are looked up again before several routers, and what is found counts beside what was known."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from math import inf

import pytest

from tests.support.fleet_simulation import prompt, ready_fleet
from warmroute.core.errors import RouterError
from warmroute.core.fleet.fleet import Decision, Fleet, ReplicaRemoved
from warmroute.core.holding.admission_queue import AdmissionQueue
from warmroute.core.holding.line import DEFAULT
from warmroute.core.holding.parameters import HoldParameters
from warmroute.core.holding.queue import MAX_LOOKED_AT, STAGGER_S, HoldQueue
from warmroute.core.holding.queue_parameters import QueueParameters
from warmroute.core.holding.renewal import Renewal, merged
from warmroute.core.holding.shares import Shares
from warmroute.core.holding.ticket import Ticket
from warmroute.core.types import FingerprintHash, Incarnation, Records, ReplicaId, RequestShape
from warmroute.dataplane.hold import Hold

A, B, C = Incarnation(1), Incarnation(2), Incarnation(3)
ROUTERS = 4
HEARD_S = ROUTERS * STAGGER_S
LONG = 80_000
"""Bytes of a prompt that a replica computes for 3.3 s, attention included."""
MEAN_S = 5.0
"""More than the mean prefill of the prompts below."""


def unknown(shape: RequestShape) -> Records:
    return [None] * len(shape.rungs)


def placed(shape: RequestShape, incarnation: Incarnation, at_s: float) -> Records:
    return [((incarnation, at_s),)] * len(shape.rungs)


class World:
    """A queue before two busy replicas, one of several routers'."""

    def __init__(self, queue: Callable[[Fleet], HoldQueue], routers: int = ROUTERS) -> None:
        self.fleet = ready_fleet(2)
        self.fleet.note_routers(routers, None)
        self.queue = queue(self.fleet)
        self.granted: list[Decision | RouterError] = []
        self.busy = [
            self.fleet.choose_and_reserve(shape, unknown(shape), 0.0)
            for shape in (prompt(("one", LONG)), prompt(("two", LONG + 16_000)))
        ]
        """One prompt on each; the first ends first."""
        assert self.busy[0].replica is not self.busy[1].replica

    def hold(self, shape: RequestShape, now_s: float = 0.0) -> Ticket:
        queue = self.queue
        if isinstance(queue, AdmissionQueue):
            flow = Shares().flow(1, 1.0)
            return queue.wait(shape, unknown(shape), now_s, self.granted.append, DEFAULT, flow, 1000.0, 100)
        answer = queue.offer(shape, unknown(shape), now_s, self.granted.append)
        assert isinstance(answer, Ticket)
        return answer

    def first_byte(self, decision: Decision, now_s: float) -> None:
        self.fleet.started(decision, now_s)
        self.queue.release(now_s, decision.replica)


def plain(fleet: Fleet) -> HoldQueue:
    return HoldQueue(fleet, HoldParameters())


def admission(fleet: Fleet) -> HoldQueue:
    return AdmissionQueue(fleet, HoldParameters(), QueueParameters(), Shares())


queues = pytest.mark.parametrize("queue", [plain, admission])


@queues
def test_who_waits_goes_where_another_router_has_sent_its_prefix_meanwhile(
    queue: Callable[[Fleet], HoldQueue],
) -> None:
    for renewed in (False, True):
        world = World(queue)
        shape = prompt(("shared", 40_000), ("own", 2_000))
        ticket = world.hold(shape)
        if renewed:
            (again,) = world.queue.to_read_again(1.0)
            assert again is ticket
            found = placed(shape, world.busy[1].incarnation or C, 0.9)
            assert world.queue.renew(ticket, found, 1.0)
            assert not world.queue.renew(ticket, found, 1.1), "nothing new"
        world.first_byte(world.busy[0], 3.0)
        world.first_byte(world.busy[1], 4.0)
        (granted,) = world.granted
        assert isinstance(granted, Decision)
        assert granted.replica is world.busy[renewed].replica
        assert (granted.predicted_tokens > 9_000) == renewed
        world.fleet.validate()


@queues
def test_who_has_become_short_goes_before_others(queue: Callable[[Fleet], HoldQueue]) -> None:
    world = World(queue)
    first = world.hold(prompt(("short", 4_000)))
    long = prompt(("shared", 40_000))
    second = world.hold(long)
    assert first < second
    told_s = world.fleet.first_held_s
    assert world.queue.renew(second, placed(long, A, 0.5), 0.5)
    assert second < first
    world.queue.release(0.5)
    assert world.fleet.first_held_s < told_s, "other routers are told of it"
    world.first_byte(world.busy[0], 3.3)
    granted = world.granted[0]
    assert isinstance(granted, Decision)
    assert granted.predicted_tokens > 9_000


@queues
def test_a_single_router_looks_nothing_up_again(queue: Callable[[Fleet], HoldQueue]) -> None:
    world = World(queue, routers=1)
    world.hold(prompt(("a", 40_000)))
    assert not world.queue.to_read_again(1.0)


@queues
def test_a_request_that_waits_no_longer_is_not_renewed(queue: Callable[[Fleet], HoldQueue]) -> None:
    world = World(queue)
    shape = prompt(("a", 40_000))
    ticket = world.hold(shape)
    world.queue.withdraw(ticket)
    assert not world.queue.to_read_again(1.0)
    assert not world.queue.renew(ticket, placed(shape, A, 0.5), 1.0)
    assert world.fleet.first_held_s == inf


@queues
def test_an_answer_that_comes_when_no_replica_is_left_harms_nobody(
    queue: Callable[[Fleet], HoldQueue],
) -> None:
    world = World(queue)
    shape = prompt(("a", 40_000))
    ticket = world.hold(shape)
    for number in (0, 1):
        world.fleet.apply(ReplicaRemoved(ReplicaId(f"r{number}")))
    assert world.queue.to_read_again(1.0) == [ticket]
    assert world.queue.renew(ticket, placed(shape, A, 0.5), 1.0)
    world.queue.release(1.0)
    (refused,) = world.granted
    assert isinstance(refused, RouterError)


def test_all_are_looked_up_again_once_in_a_mean_prefill_and_at_most_so_many() -> None:
    world = World(plain)
    fleet = world.fleet
    renewal = Renewal(fleet, STAGGER_S, MAX_LOOKED_AT)
    tickets = [world.hold(prompt((f"t{number}", 40_000 - 10 * number))) for number in range(100)]
    assert not renewal.begin(tickets, HEARD_S / 2), "what they know is as new as can be"
    assert not renewal.due(HEARD_S)
    now_s = 2 * HEARD_S
    assert renewal.due(now_s)
    assert renewal.begin(tickets, now_s) == sorted(tickets)[:MAX_LOOKED_AT]
    mean_s = fleet.mean_prefill_s("m")
    assert HEARD_S < mean_s < MEAN_S
    assert not renewal.due(now_s + 0.99 * mean_s)
    assert renewal.due(now_s + 1.01 * mean_s)
    assert renewal.due(now_s - 1.0), "the clock was set back"


def test_who_is_routed_without_records_is_never_looked_up() -> None:
    world = World(plain)
    shape = prompt(("a", 40_000))
    answer = world.queue.offer(shape, None, 0.0, world.granted.append)
    assert isinstance(answer, Ticket)
    assert not world.queue.to_read_again(1.0)


def test_holders_of_both_count_with_their_later_times_the_most_recent_last() -> None:
    known: Records = [((A, 1.0), (B, 2.0)), ((A, 1.0),), None, None, ((A, 5.0),)]
    found: Records = [((B, 1.5), (A, 3.0), (C, 4.0)), None, ((C, 4.0),), None, ((A, 5.0),)]
    assert merged(known, found) == [
        ((B, 2.0), (A, 3.0), (C, 4.0)),
        ((A, 1.0),),  # a lookup that was too late gives nothing up
        ((C, 4.0),),
        None,
        ((A, 5.0),),
    ]


def test_a_rung_keeps_its_latest_holders() -> None:
    known: Records = [tuple((Incarnation(i), float(i)) for i in range(16))]
    found: Records = [tuple((Incarnation(100 + i), 8.5 + i) for i in range(16))]
    (record,) = merged(known, found)
    assert record is not None
    assert len(record) == 16
    assert [at_s for _, at_s in record] == sorted(
        at_s for at_s in (*range(16), *(8.5 + i for i in range(16)))
    )[-16:]


def test_what_was_one_object_stays_one() -> None:
    old, new = ((A, 1.0),), ((B, 2.0),)
    records = merged([old, old, old], [new, new, None])
    assert records[0] is records[1]
    assert records[2] is old


def test_the_hold_looks_up_and_lets_go_who_has_become_warm() -> None:
    class Registry:
        """Answers when told."""

        def __init__(self) -> None:
            self.asked: list[tuple[Sequence[FingerprintHash], Callable[[Records], None]]] = []

        def lookup(self, rungs: Sequence[FingerprintHash], done: Callable[[Records], None]) -> None:
            self.asked.append((rungs, done))

    async def scenario() -> None:
        world = World(plain)
        registry = Registry()
        now_s = 1.0
        hold = Hold(world.queue, registry, lambda: now_s)  # type: ignore[arg-type]
        shape = prompt(("shared", 40_000), ("own", 2_000))
        world.hold(shape)
        hold.changed()
        hold.release(now_s)
        ((rungs, done),) = registry.asked
        assert rungs == shape.keys
        hold.release(now_s)
        assert len(registry.asked) == 1, "not before the mean prefill is over"
        # The second replica begins to answer, and its first byte is heard before the registry's answer: it is idle.
        world.fleet.started(world.busy[1], now_s)
        assert world.queue.release(now_s, world.busy[1].replica) is None
        assert len(world.granted) == 1
        done(placed(shape, A, 0.5))  # comes too late, and changes nothing
        hold.stop()

        world = World(plain)
        registry = Registry()
        hold = Hold(world.queue, registry, lambda: now_s)  # type: ignore[arg-type]
        long = world.hold(prompt(("long", 40_000)))
        ticket = world.hold(shape)
        hold.changed()
        hold.release(now_s)
        assert [rungs for rungs, _ in registry.asked] == [long.shape.keys, shape.keys]
        for rungs, done in registry.asked:
            done(placed(shape, A, 0.5) if rungs == shape.keys else [None] * len(rungs))
        assert ticket < long
        now_s = 10.0  # by now both should long have begun
        async with asyncio.timeout(60):
            while ticket.open:
                await asyncio.sleep(0)
        hold.stop()

    asyncio.run(scenario())
