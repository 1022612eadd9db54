"""How often requests are tried again only to compare."""

from __future__ import annotations

from warmroute.core.health.retry_budget import BURST, PER_ANSWER, PER_SECOND, RetryBudget


def taken(budget: RetryBudget, answers: int, now_s: float, tries: int = 1000) -> int:
    return sum(budget.take(answers, now_s) for _ in range(tries))


def test_a_burst_then_a_share_of_the_traffic() -> None:
    budget = RetryBudget()
    assert taken(budget, 0, 0.0) == BURST
    assert taken(budget, 100, 0.0) == 100 * PER_ANSWER
    assert taken(budget, 100_000, 0.0) == BURST


def test_time_brings_some_too_and_a_clock_that_is_set_back_takes_none() -> None:
    budget = RetryBudget()
    taken(budget, 0, 100.0)
    assert taken(budget, 0, 103.0) == 3 * PER_SECOND
    assert taken(budget, 0, 50.0) == 0
    assert taken(budget, 0, 51.0) == PER_SECOND
