"""What comes back, by age: half-octaves, fading, bounds."""

from __future__ import annotations

from math import exp, sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmroute.core.beliefs.returns import (
    BUCKETS,
    LEAST_AGE_S,
    MEMORY_REQUESTS,
    Returns,
)


def seen(prompts: int, tokens: int = 100) -> Returns:
    returns = Returns()
    for _ in range(prompts):
        returns.used(tokens)
    return returns


def test_before_anything_is_known_nothing_comes_back() -> None:
    returns = Returns()
    assert returns.ratio(0.0) == returns.ratio(1e6) == 0.0
    assert seen(12).ratio(60.0) == 0.0


def test_what_came_back_sooner_is_no_promise_for_what_is_older() -> None:
    returns = seen(16)
    # Of 1,600 tokens, 800 came back after 2 s and 400 after 64 s; beside one prompt of 100 that never did.
    returns.returned(800, 2.0)
    returns.returned(400, 64.0)
    # At half a second all 1,600 are still out, and 1,200 came back.
    assert returns.ratio(0.5) == pytest.approx(1200 / 1700, rel=0.01)
    # At 10 s those of 2 s have come back: 800 are out, of which 400 came back.
    assert returns.ratio(10.0) == pytest.approx(400 / 900, rel=0.01)
    # At 200 s all have come back that do.
    assert returns.ratio(200.0) == 0.0


def test_ages_are_counted_by_half_octaves_and_read_between_them() -> None:
    returns = seen(16)
    returns.returned(800, 4.0)
    # 4 s are 10 octaves, or 20 half-octaves, of 1/256 s: what is counted there came back between 4 and 5.66 s.
    assert LEAST_AGE_S * 2**10 == 4.0
    assert returns.ratio(3.99) == pytest.approx(800 / 1700, rel=0.01)
    assert returns.ratio(4.0) == pytest.approx(800 / 1700, rel=0.01)
    middle_s = 4.0 * sqrt(sqrt(2.0))
    assert returns.ratio(middle_s) == pytest.approx(400 / (1600 - 400 + 100), rel=0.01)
    assert returns.ratio(4.0 * sqrt(2.0)) == pytest.approx(0.0, abs=1e-9)
    other = seen(16)
    other.returned(800, 5.6)
    assert other.ratio(middle_s) == returns.ratio(middle_s)


def test_ages_beyond_the_ends_count_at_the_ends() -> None:
    returns = seen(16)
    returns.returned(800, -5.0)
    assert returns.ratio(-1.0) == returns.ratio(0.0) == returns.ratio(LEAST_AGE_S) > 0.4
    returns = seen(16)
    returns.returned(800, 1e12)
    last_s = LEAST_AGE_S * 2 ** ((BUCKETS - 1) / 2)
    assert returns.ratio(1e12) == returns.ratio(last_s) > 0.4


def test_old_lives_fade_with_requests() -> None:
    returns = Returns()
    for _ in range(20_000):
        returns.used(100)
        returns.returned(100, 8.0)
    # All came back, beside one prompt in the last 2,000.
    assert returns.ratio(1.0) == pytest.approx(MEMORY_REQUESTS / (MEMORY_REQUESTS + 1), rel=1e-4)
    for _ in range(int(MEMORY_REQUESTS)):
        returns.used(100)
    # Those of before count 37 %.
    assert returns.ratio(1.0) == pytest.approx(exp(-1.0), rel=0.01)


def test_a_million_requests_leave_the_figures_finite() -> None:
    returns = Returns()
    for number in range(60_000):
        returns.used(1000)
        if number % 2:
            returns.returned(1000, 8.0)
    # The unit is renewed at a thousand million, after some 41,000.
    assert returns.ratio(1.0) == pytest.approx(0.5, rel=0.01)
    assert returns._used < 1e16


ages = st.floats(-10.0, 1e8, allow_nan=False)
lives = st.lists(st.tuples(st.integers(0, 100_000), st.floats(0.0, 1.0), ages), max_size=60)


@given(lives, st.lists(ages, min_size=2, max_size=20))
def test_a_share_lies_between_none_and_all_whatever_comes(
    seen: list[tuple[int, float, float]], asked_s: list[float]
) -> None:
    returns = Returns()
    for tokens, part, age_s in seen:
        returns.used(tokens)
        returns.returned(int(tokens * part), age_s)
    for age_s in asked_s:
        assert 0.0 <= returns.ratio(age_s) < 1.0, "the price of what is pushed out stays finite"


@given(lives, ages, st.integers(1, 50_000), st.floats(0.01, 1e5))
def test_a_return_makes_the_younger_surer_and_the_older_less(
    seen: list[tuple[int, float, float]], age_s: float, tokens: int, returned_s: float
) -> None:
    one, other = Returns(), Returns()
    for returns in (one, other):
        for used_tokens, part, used_s in seen:
            returns.used(used_tokens)
            returns.returned(int(used_tokens * part * 0.5), used_s)
        returns.used(2 * tokens)
    other.returned(tokens, returned_s)
    if age_s < returned_s / 2:
        assert other.ratio(age_s) >= one.ratio(age_s) - 1e-12
