"""What is done about a promised prefix, copy by copy, and what it may cost."""

from __future__ import annotations

from math import inf

import pytest

from warmroute.caching.budget import WINDOW_S, PrefillBudget
from warmroute.caching.promise import (
    BEHIND_RATIO,
    FIRST_PAUSE_S,
    LEAST_PAUSE_S,
    MOST_PAUSE_S,
    Copy,
    Pace,
    Step,
    copies_deserved,
    idle_since,
    lost,
    next_steps,
)
from warmroute.core.types import ReplicaId


def copy(
    name: str, held: float = 1.0, idle_s: float = 0.0, lifetime_s: float = inf, behind: float = 0.0
) -> Copy:
    return Copy(ReplicaId(name), held, idle_s, lifetime_s, behind)


def steps(*copies: Copy, deserved: int = 1, pace: Pace | None = None) -> list[tuple[str, bool]]:
    return [(step.replica, step.refresh) for step in next_steps(copies, deserved, pace or Pace())]


def test_a_missing_copy_is_made_where_the_next_request_would_go() -> None:
    assert steps(copy("a", 0.0, inf), copy("b", 0.0, inf)) == [("a", False)]
    assert steps(copy("a", 0.5, inf), copy("b", 1.0)) == []
    assert steps(copy("a", 0.0, inf), copy("b", 1.0), copy("c", 0.0, inf), deserved=2) == [("a", False)]
    assert steps(copy("a", 0.0, inf), deserved=3) == [("a", False)]


def test_a_copy_is_refreshed_at_half_of_what_is_known_of_its_life() -> None:
    assert steps(copy("a", idle_s=4.9, lifetime_s=10.0)) == []
    assert steps(copy("a", idle_s=5.0, lifetime_s=10.0)) == [("a", True)]
    assert steps(copy("a", idle_s=FIRST_PAUSE_S - 1)) == []
    assert steps(copy("a", idle_s=FIRST_PAUSE_S)) == [("a", True)]


def test_a_copy_is_refreshed_before_what_was_used_since_fills_the_cache() -> None:
    assert steps(copy("a", idle_s=0.1, behind=BEHIND_RATIO - 0.01)) == []
    assert steps(copy("a", idle_s=0.1, behind=BEHIND_RATIO)) == [("a", True)]


def test_only_as_many_copies_as_use_deserves_are_refreshed_those_used_last() -> None:
    old, older = copy("a", idle_s=200.0), copy("b", idle_s=300.0)
    assert steps(older, old) == [("a", True)]
    assert steps(older, old, deserved=2) == [("a", True), ("b", True)]


def test_what_is_about_to_be_lost_comes_before_what_is_missing() -> None:
    old = copy("b", idle_s=FIRST_PAUSE_S)
    assert steps(copy("a", 0.0, inf), old, deserved=2) == [("b", True), ("a", False)]


def test_a_refresh_that_finds_its_copy_lost_makes_the_next_ones_come_sooner() -> None:
    pace = Pace()
    pace.refreshed(20.0, lost=True)
    assert pace.pause_s == 10.0
    assert pace.due(copy("a", idle_s=10.0))
    pace.refreshed(10.0, lost=False)
    assert pace.pause_s == 12.5
    for _ in range(40):
        pace.refreshed(1.0, lost=True)
    assert pace.pause_s == LEAST_PAUSE_S
    for _ in range(40):
        pace.refreshed(1.0, lost=False)
    assert pace.pause_s == MOST_PAUSE_S


def test_what_a_refresh_reports_as_lost() -> None:
    assert not lost(10_000, 9_984, 16)
    assert not lost(40, 32, 16)
    assert lost(10_000, 9_000, 16)
    assert lost(40, 0, 16)


def test_use_decides_how_many_copies_there_are() -> None:
    assert copies_deserved(0.0, 2.0, 4) == 1
    assert copies_deserved(2.1, 2.0, 4) == 2
    assert copies_deserved(100.0, 2.0, 4) == 4


def test_ages() -> None:
    assert idle_since(-inf, 5.0) == inf
    assert idle_since(6.0, 5.0) == 0.0
    assert Step(ReplicaId("a"), True) == Step(ReplicaId("a"), True)


def test_the_budget_is_a_share_of_the_fleets_prefill_and_never_more() -> None:
    budget = PrefillBudget(0.1, 0.1)
    now_s = 100.0
    spent_s = 0.0
    for second in range(600):
        while budget.take("t", 0.25, 4, now_s + second):
            spent_s += 0.25
    assert spent_s <= 0.1 * 4 * (600 + WINDOW_S)
    assert spent_s >= 0.1 * 4 * 600
    assert budget.spent_s == pytest.approx(spent_s)
    assert budget.refused > 0


def test_what_took_longer_than_expected_is_paid_back_first() -> None:
    budget = PrefillBudget(0.1, 0.1)
    assert budget.take("t", 1.0, 1, 0.0)
    budget.settle("t", 1.0, 8.0)
    assert budget.spent_s == 8.0
    assert not budget.take("t", 0.5, 1, 0.0)
    assert not budget.take("t", 0.5, 1, 24.0)
    assert budget.take("t", 0.5, 1, 26.0)


def test_what_was_cached_after_all_is_given_back() -> None:
    budget = PrefillBudget(0.1, 0.1)
    assert budget.take("t", 6.0, 1, 0.0)
    assert not budget.take("t", 0.1, 1, 0.0)
    budget.settle("t", 6.0, 0.0)
    assert budget.take("t", 6.0, 1, 0.0)


def test_one_tenant_does_not_take_the_others_share() -> None:
    budget = PrefillBudget(0.1, 0.05)
    assert budget.take("greedy", 3.0, 1, 0.0)
    assert not budget.take("greedy", 0.5, 1, 0.0)
    assert budget.take("modest", 3.0, 1, 0.0)
    assert not budget.take("third", 0.5, 1, 0.0)
