"""How often requests are tried again only to compare."""

from __future__ import annotations

from warmroute.core.health.retry_budget import (
    BURST,
    MOST_PAUSE_S,
    PER_ANSWER,
    PER_SECOND,
    WINDOW_S,
    ComparisonBudget,
    RetryBudget,
    pause_s,
)


def taken(budget: ComparisonBudget, answers: int, now_s: float, tries: int = 1000) -> int:
    return sum(budget.take(answers, now_s) for _ in range(tries))


def test_a_burst_then_a_share_of_the_traffic() -> None:
    budget = ComparisonBudget()
    assert taken(budget, 0, 0.0) == BURST
    assert taken(budget, 100, 0.0) == 100 * PER_ANSWER
    assert taken(budget, 100_000, 0.0) == BURST


def test_time_brings_some_too_and_a_clock_that_is_set_back_takes_none() -> None:
    budget = ComparisonBudget()
    taken(budget, 0, 100.0)
    assert taken(budget, 0, 103.0) == 3 * PER_SECOND
    assert taken(budget, 0, 50.0) == 0
    assert taken(budget, 0, 51.0) == PER_SECOND


def test_a_share_of_what_was_answered_lately_and_some_in_any_case() -> None:
    share = RetryBudget(0.2, 10)
    assert sum(share.take(0, 0.0) for _ in range(100)) == 10
    assert share.refused == 90
    assert share.used_ratio(0, 0.0) == 1.0
    assert sum(share.take(100, 1.0) for _ in range(100)) == 20
    assert share.used_ratio(200, 1.0) == 30 / 50


def test_what_was_spent_is_forgotten_with_its_window() -> None:
    share = RetryBudget(0.0, 10)
    assert sum(share.take(0, 0.0) for _ in range(20)) == 10
    assert not share.take(0, WINDOW_S + 1.0), "the window before still counts"
    assert share.take(0, 2.0 * WINDOW_S + 2.0)
    assert share.used_ratio(0, 1000.0) == 0.0
    assert share.take(0, 500.0), "a clock that is set back begins anew"


def test_pauses_grow_and_are_a_matter_of_chance() -> None:
    assert pause_s(0.05, 0, 0.9) == 0.0, "the first goes to another replica at once"
    assert pause_s(0.05, 1, 0.5) == 0.025
    assert pause_s(0.05, 3, 1.0) == 0.2
    assert pause_s(0.05, 90, 1.0) == MOST_PAUSE_S
    assert pause_s(0.0, 3, 1.0) == 0.0
