"""The estimate of what a replica's cache still holds."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.core.residency import MAX_BUCKETS, MOST_OPTIMISM_RATIO, OPTIMISM_RATIO, Residency


def residency(tokens: int) -> Residency:
    one = Residency()
    one.resize(tokens)
    return one


def test_nothing_is_believed_evicted_while_the_cache_size_is_unknown() -> None:
    one = Residency()
    for second in range(100):
        one.touch(1_000_000, float(second))
    assert one.horizon_s == -inf
    assert one.eviction_ratio(100.0, 60.0) == 0.0


def test_what_was_used_longest_ago_goes_first() -> None:
    one = residency(1000)
    for second in range(5):
        one.touch(500, float(second))
    assert one.tokens <= 1000 * OPTIMISM_RATIO
    assert one.full_s == 3.0
    assert one.horizon_s == 3.0


def test_what_is_used_again_does_not_count_twice() -> None:
    one = residency(1000)
    one.touch(900, 0.5)
    for second in range(1, 50):
        one.reuse(900, second - 0.5)
        one.touch(950, second + 0.5)
        one.touch(-50, second + 0.5)
    assert one.tokens == 900
    assert one.horizon_s == -inf


def test_evicting_fresh_things_is_worth_more_than_evicting_old_ones() -> None:
    one = residency(100)
    one.touch(100, 0.0)
    one.touch(100, 1.0)
    assert one.eviction_ratio(1.0, 60.0) == pytest.approx(1.0)
    assert one.eviction_ratio(61.0, 60.0) == pytest.approx(0.3679, abs=1e-3)


def test_answers_teach_how_long_prefixes_last() -> None:
    one = residency(100)
    for _ in range(200):
        one.learn(there=False)
    low = one.optimism_ratio
    for _ in range(200):
        one.learn(there=True)
    assert 0 < low < OPTIMISM_RATIO < one.optimism_ratio <= MOST_OPTIMISM_RATIO


def test_a_restart_forgets_everything() -> None:
    one = residency(100)
    one.touch(500, 0.0)
    one.touch(500, 1.0)
    one.clear()
    assert (one.tokens, one.horizon_s) == (0, -inf)


@given(st.lists(st.tuples(st.integers(-500, 5000), st.floats(0, 5000)), max_size=60))
def test_whatever_comes_it_stays_bounded_and_its_sum_right(touches: list[tuple[int, float]]) -> None:
    one = residency(10_000)
    for tokens, at_s in touches:
        one.reuse(100, at_s - 3)
        one.touch(tokens, at_s)
        assert len(one._buckets) <= MAX_BUCKETS
        assert one.tokens == sum(one._buckets.values())
        assert one.fresh_tokens == sum(one._buckets[bucket] for bucket in one._fresh)
        assert one.fresh_tokens <= one.cache_tokens or len(one._fresh) == 1
