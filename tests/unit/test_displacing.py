"""Prompts that are held for what they would push out of a cache: whose, for how long, and what it brings."""

from __future__ import annotations

import pytest

from tests.support.fleet_simulation import ready_fleet
from warmroute.core.beliefs.returns import Returns
from warmroute.core.fleet import fleet as fleet_module
from warmroute.core.fleet.decision import Decision
from warmroute.core.fleet.displacing import worth_s
from warmroute.core.holding.parameters import HoldParameters
from warmroute.core.holding.queue import HoldQueue
from warmroute.core.holding.ticket import Ticket
from warmroute.core.types import FingerprintHash, Incarnation, Record, Records, ReplicaId, RequestShape
from warmroute_loadtest.simulate.simulation import FleetConfig, Run, simulate
from warmroute_loadtest.simulate.warm import warm
from warmroute_loadtest.simulate.workload import Session, Turn, Workload

CACHE_TOKENS = 100_000
USED_S = 90.0
"""When what fills the cache was used."""
NOW_S = 100.0
NEW_TOKENS = 40_000


class World:
    """One replica whose cache is full of what was used 10 s ago, and a queue before it.

    Of what it evicts next, a share of `ratio` will be asked for again, however old that is.
    """

    def __init__(self, ratio: float = 0.9, parameters: HoldParameters | None = None) -> None:
        self.fleet = ready_fleet(1)
        self.replica = self.fleet.replicas[ReplicaId("r0")]
        self.queue = HoldQueue(self.fleet, parameters or HoldParameters())
        self.granted: list[object] = []
        residency = self.replica.residency
        residency.resize(CACHE_TOKENS)
        residency.touch(CACHE_TOKENS, USED_S)
        residency.touch(16, USED_S + 1.0)
        assert residency.horizon_s == USED_S
        self.learn(ratio, NOW_S)

    def learn(self, ratio: float, now_s: float) -> None:
        """From now on."""
        returns = self.fleet.returns = Returns()
        for _ in range(1000):
            returns.used(1000)
            returns.returned(int(1000 * ratio), 3600.0)
        self.look(now_s)
        assert self.replica.eviction_ratio == pytest.approx(ratio, abs=0.01)

    def look(self, now_s: float) -> None:
        """What is believed is renewed once a second."""
        self.fleet.rank(prompt(1), None, now_s)

    def offer(self, tokens: int = NEW_TOKENS, held_tokens: int = 0) -> Decision | Ticket:
        shape = prompt(tokens)
        record: Record = ((Incarnation(1), USED_S + 1.0),)
        depth = held_tokens * 4 // 512
        records: Records = [record if n < depth else None for n in range(len(shape.rungs))]
        return self.queue.offer(shape, records, NOW_S, self.granted.append)


def prompt(tokens: int) -> RequestShape:
    rungs = [FingerprintHash(n + 1) for n in range(min(200, tokens * 4 // 512))]
    return RequestShape("m", rungs, tokens * 4, tokens, 1, 1, True)


def test_a_wait_is_worth_what_the_eviction_costs_the_next_and_all_that_are_held() -> None:
    replica = World(ratio=0.5).replica
    eviction_s = 1.5 * replica.prefill_s(NEW_TOKENS, 0)
    assert eviction_s > 10.0
    assert worth_s(replica, NEW_TOKENS, 0, 0.0, NOW_S) == pytest.approx(eviction_s, rel=0.02)
    # Three held for each replica are priced at six (`Prices.queued`).
    assert worth_s(replica, NEW_TOKENS, 0, 6.0, NOW_S) == pytest.approx(4.0 * eviction_s, rel=0.02)


def test_no_wait_is_worth_it_where_nothing_is_displaced_or_nothing_would_change() -> None:
    assert worth_s(ready_fleet(1).replicas[ReplicaId("r0")], NEW_TOKENS, 0, 0.0, NOW_S) == 0.0, (
        "there is room"
    )
    replica = World().replica
    assert worth_s(replica, NEW_TOKENS, NEW_TOKENS // 2, 0.0, NOW_S) == 0.0, "it goes on, and does not begin"
    assert worth_s(replica, NEW_TOKENS, NEW_TOKENS // 2 - 1, 0.0, NOW_S) > 0.0
    assert worth_s(replica, 2000, 0, 0.0, NOW_S) == 0.0, "it costs less than what goes next was idle"
    assert worth_s(replica, NEW_TOKENS, 0, 0.0, USED_S + 60.0) == 0.0, "that was idle for a minute"
    assert worth_s(World(ratio=0.0).replica, NEW_TOKENS, 0, 0.0, NOW_S) == 0.0, "nobody asks for it again"


def test_a_conversation_that_begins_waits_and_one_that_goes_on_does_not() -> None:
    assert isinstance(World().offer(), Ticket)
    assert isinstance(World().offer(held_tokens=NEW_TOKENS * 3 // 5), Decision)
    assert isinstance(World(ratio=0.1).offer(), Decision), "the evictions would cost less than the wait"


def test_it_goes_when_what_it_displaces_will_not_be_asked_for() -> None:
    world = World()
    assert isinstance(world.offer(), Ticket)
    world.queue.release(NOW_S + 1.5)
    assert world.granted == []
    world.learn(0.1, NOW_S + 3.0)
    world.queue.release(NOW_S + 3.0)
    assert len(world.granted) == 1


def test_it_goes_when_it_has_waited_for_what_that_is_worth() -> None:
    world = World(ratio=0.5)
    assert isinstance(world.offer(), Ticket)
    most_s = worth_s(world.replica, NEW_TOKENS, 0, 2.0, NOW_S)  # it is held itself
    assert most_s < HoldParameters().max_hold_s
    for wait_s, granted in ((0.9 * most_s, 0), (1.1 * most_s, 1)):
        # Others go on meanwhile, so that what goes next is always as old.
        world.replica.residency.horizon_s = NOW_S + wait_s - 10.0
        world.queue.release(NOW_S + wait_s)
        assert len(world.granted) == granted


def test_nobody_waits_for_longer_than_any_request_may() -> None:
    world = World(parameters=HoldParameters(max_hold_s=2.0))
    assert isinstance(world.offer(), Ticket)
    world.queue.release(NOW_S + 1.9)
    assert world.granted == []
    world.queue.release(NOW_S + 2.5)
    assert len(world.granted) == 1


def test_whoever_waits_for_it_makes_no_replica_look_busy() -> None:
    world = World()
    ticket = world.offer()
    assert isinstance(ticket, Ticket)
    world.queue.release(NOW_S)
    assert (ticket.meant, world.replica.held_tokens, world.replica.planned_s) == (None, 0, 0.0)
    # A turn that goes on is sent past it.
    shape = prompt(NEW_TOKENS)
    records: Records = [((Incarnation(1), USED_S + 1.0),)] * len(shape.rungs)
    world.queue.offer(shape, records, NOW_S, world.granted.append)
    world.queue.release(NOW_S)
    assert len(world.granted) == 1


def test_explain_says_how_long_a_prompt_may_wait_for_it() -> None:
    world = World(ratio=0.5)
    shape = prompt(NEW_TOKENS)
    ranking = world.fleet.rank(shape, [None] * len(shape.rungs), NOW_S)
    assert ranking.displacing_s == worth_s(world.replica, NEW_TOKENS, 0, 0.0, NOW_S)
    assert ranking.as_dict()["displacing_s"] == round(ranking.displacing_s, 3)
    assert world.queue.would_hold(world.replica, ranking.displacing_s, NOW_S)
    assert not world.queue.would_hold(world.replica, 0.0, NOW_S)


def agents(count: int) -> Workload:
    """Agents that begin 2 s apart, of 12 turns each: 30,000 tokens at first, 1,000 more each turn, every 3 s."""

    def turn(agent: int, number: int) -> Turn:
        blocks = (30_000 + 1000 * number) // 250
        keys = tuple(range(1000 * agent + 1, 1000 * agent + 1 + blocks))
        return Turn(f"{agent}.{number}", blocks * 250, 50, keys, 3.0 if number else 0.0, agent)

    sessions = [Session(2.0 * agent, [turn(agent, n) for n in range(12)]) for agent in range(count)]
    return Workload("agents", 250, sessions)


def test_more_agents_than_the_cache_holds_are_served_sooner_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def played() -> Run:
        return simulate(agents(8), FleetConfig(1, 150_000), warm("prefix-cost"))

    def mean_s(run: Run) -> float:
        return sum(served.ttft_s for served in run.served) / len(run.served)

    held = played()
    monkeypatch.setattr(fleet_module, "worth_s", lambda *args: 0.0)
    at_once = played()
    assert len(held.served) == len(at_once.served) == 8 * 12
    assert mean_s(held) < 0.5 * mean_s(at_once)
