"""What requests that stay held will take of their replicas, as those behind them see it."""

from __future__ import annotations

import pytest

from tests.support.fleet_simulation import GRID, prompt, ready_fleet
from warmroute.core.beliefs.belief import Belief
from warmroute.core.errors import RouterError
from warmroute.core.fleet.fleet import Decision, Fleet
from warmroute.core.fleet.plan import Plan
from warmroute.core.fleet.replica import Replica
from warmroute.core.holding.parameters import HoldParameters
from warmroute.core.holding.queue import HoldQueue, Ticket
from warmroute.core.types import Records, ReplicaId, RequestShape


def believed(shape: RequestShape) -> Belief:
    return Belief(shape, [None] * len(shape.rungs), {}, GRID, 0.0)


def of(number: int, fleet: Fleet) -> Replica:
    return fleet.replicas[ReplicaId(f"r{number}")]


def test_the_first_of_several_prompts_with_one_new_prefix_computes_it_and_the_others_their_own() -> None:
    replica = of(0, ready_fleet(1))
    plan = Plan()
    shapes = [prompt(("shared", 40_000), (name, 4_000)) for name in "abc"]
    first_s, second_s, third_s = (plan.put(replica, believed(shape), 0) for shape in shapes)
    assert first_s == replica.prefill_s(11_000, 0)
    assert second_s == third_s == pytest.approx(replica.prefill_s(11_000, 10_000), rel=0.1)
    assert plan.replicas == [replica] * 3


def test_what_the_replica_holds_already_is_not_counted_twice() -> None:
    replica = of(0, ready_fleet(1))
    plan = Plan()
    plan.put(replica, believed(prompt(("shared", 4_000), ("a", 40_000))), 0)
    assert plan.put(replica, believed(prompt(("shared", 4_000), ("b", 40_000))), 5_000) == replica.prefill_s(
        11_000, 5_000
    )


def test_a_prefix_that_will_be_computed_elsewhere_counts_whole() -> None:
    fleet = ready_fleet(2)
    plan = Plan()
    shape = prompt(("shared", 40_000), ("b", 4_000))
    plan.put(of(0, fleet), believed(prompt(("shared", 40_000), ("a", 4_000))), 0)
    assert plan.put(of(1, fleet), believed(shape), 0) == of(1, fleet).prefill_s(11_000, 0)


def test_each_replica_that_it_is_meant_for_computes_a_new_prefix_once() -> None:
    fleet = ready_fleet(2)
    plan = Plan()
    shapes = [prompt(("shared", 40_000), (name, 4_000)) for name in "abcd"]
    times_s = [plan.put(of(at % 2, fleet), believed(shape), 0) for at, shape in enumerate(shapes)]
    assert times_s[0] == times_s[1] == of(0, fleet).prefill_s(11_000, 0)
    assert times_s[2] == times_s[3] == pytest.approx(of(0, fleet).prefill_s(11_000, 10_000), rel=0.1)


def test_a_prompt_for_which_engines_do_not_read_their_caches_neither_gains_nor_gives() -> None:
    replica = of(0, ready_fleet(1))
    plan = Plan()
    shape = prompt(("shared", 44_000))
    whole_s = replica.prefill_s(11_000, 0)
    unread = prompt(("shared", 44_000))
    unread.reads_cache = False
    assert [plan.put(replica, believed(s), 0) for s in (unread, shape, unread)] == [whole_s] * 3
    assert plan.put(replica, believed(shape), 0) < whole_s


def test_nothing_is_left_of_a_look_that_is_over() -> None:
    replica = of(0, ready_fleet(1))
    plan = Plan()
    shape = prompt(("shared", 44_000))
    plan.put(replica, believed(shape), 0)
    plan.clear()
    assert plan.replicas == []
    assert plan.put(replica, believed(shape), 0) == replica.prefill_s(11_000, 0)


def test_turns_that_wait_for_their_home_do_not_go_past_it_for_what_the_first_of_them_computes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def to_the_idle_replica() -> int:
        """Of eight turns with one new prefix that wait for their home, how many are computed elsewhere."""
        fleet = ready_fleet(2)
        queue = HoldQueue(fleet, HoldParameters())
        granted: list[Decision | RouterError] = []
        running = fleet.choose_and_reserve(prompt(("run", 40_000)), [None] * 78, 0.0)
        home = running.replica
        (other,) = [replica for replica in fleet.replicas.values() if replica is not home]
        blocked = fleet.reserve_on(other.id, prompt(("long", 100_000)), 0.0)
        assert home.incarnation is not None
        for name in "abcdefgh":
            shape = prompt(("known", 40_000), ("new", 40_000), (name, 4_000))
            records: Records = [((home.incarnation, 0.0),) if depth <= 40_000 else None for depth in GRID]
            answer = queue.offer(shape, records[: len(shape.rungs)], 0.5, granted.append)
            assert isinstance(answer, Ticket)
        fleet.started(blocked, 0.5)  # sooner than was expected
        queue.release(0.5, other)
        return len(granted)

    assert to_the_idle_replica() == 0
    monkeypatch.setattr(Plan, "put", whole)
    assert to_the_idle_replica() > 0, "each counted whole"


def whole(plan: Plan, replica: Replica, belief: Belief, overlap_tokens: int) -> float:
    plan.replicas.append(replica)
    return replica.prefill_s(belief.shape.prompt_tokens, overlap_tokens)
