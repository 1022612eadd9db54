"""What answers report of the cache, and what the fleet makes of it."""

from __future__ import annotations

import random

import pytest

from tests.support.fleet_simulation import prompt, ready_fleet
from warmroute.core.fleet.fleet import Decision, Fleet, ProbeSucceeded
from warmroute.core.fleet.report import replica_row
from warmroute.core.types import Incarnation, Record, ReplicaId, RequestShape

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
    fleet.started(decision, now_s)
    fleet.settle(decision, now_s)
    return decision


def test_what_is_not_found_counts_for_less_from_then_on() -> None:
    fleet = one()
    first = ask(fleet, 100.0, (8, 40.0))
    assert first.predicted_tokens == 1024
    fleet.confirm(first, 0, 5, 101.0)
    # One lesson beside 16 of what was believed: 1024 x 16 / 17, in whole blocks.
    assert ask(fleet, 200.0, (8, 140.0)).predicted_tokens == 960
    for _ in range(150):
        fleet.confirm(ask(fleet, 200.0, (8, 140.0)), 0, 5, 201.0)
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
    for turn in range(200):
        at_s = 100.0 + 10 * turn
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
    fleet.confirm(decision, decision.remembered_tokens, 0, 1021.0)
    assert replica.survival.found_age_s() >= 120


def test_what_is_found_beyond_the_deepest_common_rung_is_counted_on_too() -> None:
    fleet = one()
    first = ask(fleet, 100.0, (8, 90.0))
    assert first.predicted_tokens == first.expected_tokens == 1024, "as the eighth rung says"
    fleet.confirm(first, 1024 + 64, 5, 101.0)
    second = ask(fleet, 200.0, (8, 190.0))
    assert (second.predicted_tokens, second.expected_tokens) == (1024, 1024 + 64), "choices go by the rung"
    assert ask(fleet, 200.0, (4, 190.0)).expected_tokens == 512 + 64, "half of the way to the next one"
    assert ask(fleet, 200.0, (15, 190.0)).expected_tokens == 1920 + 40, "or to the end"
    assert ask(fleet, 200.0).expected_tokens == 0


def test_what_lies_beyond_is_taken_to_be_there_as_far_as_the_rest_is() -> None:
    fleet = one()
    first = ask(fleet, 100.0, (8, 40.0))
    fleet.confirm(first, 1024 + 64, 5, 101.0)
    for _ in range(2):
        fleet.confirm(ask(fleet, 200.0, (8, 140.0)), 0, 5, 201.0)
    assert ask(fleet, 300.0, (8, 240.0)).expected_tokens == pytest.approx((1024 + 64) * 17 / 19, abs=16)


def test_a_prefix_that_was_not_found_whole_says_nothing_of_what_lies_beyond() -> None:
    fleet = one()
    for at_s in (100.0, 200.0):
        decision = ask(fleet, at_s, (8, at_s - 60))
        fleet.confirm(decision, 600, 5, at_s + 1)
    assert ask(fleet, 300.0, (8, 299.0)).expected_tokens == 1024


def test_never_the_whole_prompt_is_predicted() -> None:
    fleet = one()
    first = ask(fleet, 100.0, (15, 90.0))
    fleet.confirm(first, 2000, 5, 101.0)
    decision = ask(fleet, 200.0, (15, 190.0))
    assert decision.expected_tokens == 1999


def test_predictions_are_right_in_the_mean_wherever_prompts_part() -> None:
    dice = random.Random(1)
    fleet = one()
    predicted = delivered = 0
    for turn in range(600):
        at_s = 100.0 + 10 * turn
        shared_bytes = dice.randrange(600, 7500)
        decision = ask(fleet, at_s, (shared_bytes // 512, at_s - 2))
        cached_tokens = shared_bytes // 4 // 16 * 16
        fleet.confirm(decision, cached_tokens, 5, at_s + 1)
        if turn >= 100:
            predicted += decision.expected_tokens
            delivered += cached_tokens
    assert predicted == pytest.approx(delivered, rel=0.02)


def test_an_answer_of_an_earlier_life_teaches_nothing() -> None:
    fleet = one()
    decision = ask(fleet, 100.0, (8, 40.0))
    fleet.apply(ProbeSucceeded(ReplicaId("r0"), Incarnation(99), ["m"], None, None, 100.5))
    fleet.confirm(decision, 0, 5, 101.0)
    assert decision.replica.survival.certain


def test_a_restart_forgets_what_was_learnt() -> None:
    fleet = one()
    for _ in range(20):
        decision = ask(fleet, 100.0, (8, 40.0))
        fleet.confirm(decision, 0, 5, 101.0)
    assert replica_row(decision.replica, 101.0)["cache_lifetime_s"] == pytest.approx(32.0)
    fleet.apply(ProbeSucceeded(ReplicaId("r0"), Incarnation(99), ["m"], None, None, 100.5))
    assert replica_row(decision.replica, 101.0)["cache_lifetime_s"] is None
