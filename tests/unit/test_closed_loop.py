"""What answers report of the cache, and what the fleet makes of it."""

from __future__ import annotations

import pytest

from router.core.fleet import Decision, Fleet, ProbeSucceeded
from router.core.types import Incarnation, Record, ReplicaId, RequestShape
from tests.support.fleet_simulation import prompt, ready_fleet

SHAPE = prompt(("hello", 8000))
LIFE = Incarnation(1)


def records(shape: RequestShape, *parts: tuple[int, float]) -> list[Record | None]:
    """Rungs noted for the first replica: so many, last used at that time."""
    found: list[Record | None] = []
    for count, at_s in parts:
        record: Record = ((LIFE, at_s),)
        found += [record] * count
    return found + [None] * (len(shape.rungs) - len(found))


def one() -> Fleet:
    fleet = ready_fleet(1)
    assert next(iter(fleet.replicas.values())).incarnation == LIFE
    return fleet


def ask(fleet: Fleet, now_s: float, *parts: tuple[int, float]) -> Decision:
    decision = fleet.choose_and_reserve(SHAPE, records(SHAPE, *parts), now_s)
    fleet.settle(decision, now_s)
    return decision


def test_what_is_not_found_counts_for_less_from_then_on() -> None:
    fleet = one()
    first = ask(fleet, 100.0, (8, 40.0))
    assert first.predicted_tokens > 0
    fleet.confirm(first, 0, 5, 101.0)
    assert ask(fleet, 200.0, (8, 140.0)).predicted_tokens == 0
    assert ask(fleet, 200.0, (8, 199.0)).predicted_tokens == first.predicted_tokens, (
        "younger is another matter"
    )


def test_what_is_found_is_counted_on() -> None:
    fleet = one()
    first = ask(fleet, 100.0, (8, 40.0))
    fleet.confirm(first, first.predicted_tokens, 5, 101.0)
    assert ask(fleet, 200.0, (8, 140.0)).predicted_tokens == first.predicted_tokens


def test_where_nothing_is_reported_nothing_changes() -> None:
    fleet = one()
    first = ask(fleet, 100.0, (8, 40.0))
    fleet.confirm(first, None, None, 101.0)
    assert ask(fleet, 200.0, (8, 140.0)).predicted_tokens == first.predicted_tokens
    assert first.replica.survival.certain


def test_a_fresh_beginning_says_nothing_of_an_old_end() -> None:
    fleet = one()
    fresh = ask(fleet, 100.0, (4, 99.0)).predicted_tokens
    for turn in range(20):
        at_s = 100.0 + 100 * turn
        decision = ask(fleet, at_s, (4, at_s - 1), (4, at_s - 60))
        fleet.confirm(decision, fresh, 5, at_s + 1)
    decision = ask(fleet, 9000.0, (4, 8999.0), (4, 8940.0))
    assert decision.predicted_tokens == fresh, "the beginning is there, the end is not"


def test_what_was_given_up_and_is_found_is_learnt_too() -> None:
    fleet = one()
    replica = next(iter(fleet.replicas.values()))
    replica.residency.resize(4000)
    for second in range(10):
        ask(fleet, 1000.0 + second)
    decision = ask(fleet, 1020.0, (8, 900.0))
    assert decision.predicted_tokens == 0
    assert decision.remembered_tokens > 0
    before = replica.residency.optimism_ratio
    fleet.confirm(decision, decision.remembered_tokens, 0, 1021.0)
    assert replica.residency.optimism_ratio > before
    assert replica.survival.found_age_s() >= 120


def test_an_answer_of_an_earlier_life_teaches_nothing() -> None:
    fleet = one()
    decision = ask(fleet, 100.0, (8, 40.0))
    fleet.apply(ProbeSucceeded(ReplicaId("r0"), Incarnation(99), ["m"], None, None, 100.5))
    fleet.confirm(decision, 0, 5, 101.0)
    assert decision.replica.survival.certain


def test_a_restart_forgets_what_was_learnt() -> None:
    fleet = one()
    decision = ask(fleet, 100.0, (8, 40.0))
    fleet.confirm(decision, 0, 5, 101.0)
    assert decision.replica.as_row(101.0)["cache_lifetime_s"] == pytest.approx(32.0)
    fleet.apply(ProbeSucceeded(ReplicaId("r0"), Incarnation(99), ["m"], None, None, 100.5))
    assert decision.replica.as_row(101.0)["cache_lifetime_s"] is None
