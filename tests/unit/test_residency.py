"""The estimate of what a replica's cache still holds."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmroute.core.beliefs.cache_event import ABANDONED, ADDED, BEGUN, COMPUTED, LOST, CacheEvent
from warmroute.core.beliefs.residency import MAX_BUCKETS, MOST_FOLLOWED, MOST_TOLD, Residency


def residency(tokens: int) -> Residency:
    """One in which exactly so many tokens fit."""
    one = Residency()
    one.resize(tokens)
    return one


def serve(one: Residency, tokens: int, at_s: float, *parts: tuple[int, float]) -> None:
    """A request that is over at once; `parts`: how deep its prompt was used before, and when, deepest first."""
    counted = one.begin(tokens, [depth for depth, _ in parts], [used_s for _, used_s in parts], at_s)
    one.end(counted, at_s, at_s, computed=True)


def test_nothing_is_believed_evicted_while_the_cache_size_is_unknown() -> None:
    one = Residency()
    for second in range(100):
        serve(one, 1_000_000, float(second))
    assert one.horizon_s == -inf
    assert one.resident_ratio(0.0) == 1.0


def test_what_was_used_longest_ago_goes_first_and_in_part() -> None:
    one = residency(1000)
    for second in range(4):
        serve(one, 400, float(second))
    assert [one.resident_ratio(float(second)) for second in range(4)] == [0.0, 0.5, 1.0, 1.0]
    assert one.tokens == 1000
    assert one.horizon_s == 1.0


def test_what_is_used_again_does_not_count_twice() -> None:
    one = residency(1000)
    serve(one, 900, 0.5)
    for second in range(1, 50):
        serve(one, 950, second + 0.5, (950, second - 0.5))
    assert one.tokens == 950
    assert one.horizon_s == -inf


def test_what_two_prompts_begin_with_counts_once_and_as_last_used() -> None:
    one = residency(1000)
    serve(one, 500, 1.0)
    serve(one, 500, 2.0, (300, 1.0))
    assert one.tokens == 700
    serve(one, 600, 3.0, (500, 1.0), (300, 2.0))
    assert one.tokens == 800, "the first one's end, the second one's end, and what is new"
    serve(one, 400, 4.0)
    assert one.resident_ratio(2.0) == 0.0
    assert one.resident_ratio(3.0) == 1.0


def test_what_is_in_use_is_never_evicted_and_leaves_less_room() -> None:
    one = residency(1000)
    counted = one.begin(600, [], [], 0.0)
    serve(one, 300, 1.0)
    serve(one, 300, 2.0)
    assert one.resident_ratio(0.0) == 1.0
    assert one.resident_ratio(1.0) == pytest.approx(1 / 3)
    one.end(counted, 0.0, 3.0, computed=True)
    assert one.pinned_tokens == 0
    serve(one, 300, 4.0)
    assert one.resident_ratio(2.0) == pytest.approx(1 / 3), (
        "older than the end of the one that was sent before it"
    )
    assert one.resident_ratio(0.0) == 1.0


def test_what_many_under_way_share_counts_once_whoever_ends_first() -> None:
    one = residency(10_000)
    counted = [one.begin(500, [], [], 0.0)]
    counted += [one.begin(400, [300], [0.0], 1.0 + number) for number in range(5)]
    assert one.pinned_tokens == 500 + 5 * 100
    one.end(counted.pop(2), 2.0, 7.0, computed=True)
    assert (one.pinned_tokens, one.tokens) == (900, 100)
    one.end(counted.pop(0), 0.0, 8.0, computed=True)
    assert (one.pinned_tokens, one.tokens) == (400, 600)


def test_a_hot_beginning_does_not_fill_the_cache_by_being_used() -> None:
    """Ten requests a second with one beginning of 8,000 tokens, each under way for 5 s; noted every other second."""
    one = residency(1_000_000)
    under_way: list[tuple[float, tuple[int, int]]] = []
    for number in range(1000):
        now_s = number / 10
        while under_way and under_way[0][0] + 5.0 <= now_s:
            begun_s, counted = under_way.pop(0)
            one.end(counted, begun_s, now_s, computed=True)
        under_way.append((now_s, one.begin(8100, [8000] if number else [], [now_s // 2 * 2], now_s)))
        assert 0 <= one.pinned_tokens <= 8000 + 51 * 8100
    assert one.tokens + one.pinned_tokens < 3 * (8000 + 1000 * 100)
    assert one.horizon_s == -inf


def test_what_was_never_computed_is_not_there_and_what_it_would_have_used_still_is() -> None:
    one = residency(1000)
    serve(one, 400, 0.0)
    counted = one.begin(500, [400], [0.0], 1.0)
    assert (one.pinned_tokens, one.tokens) == (500, 0)
    one.end(counted, 1.0, 2.0, computed=False)
    assert (one.pinned_tokens, one.tokens) == (0, 400)


def test_a_prompt_that_does_not_fit_pushes_nothing_out() -> None:
    one = residency(1000)
    serve(one, 900, 0.0)
    one.end(one.begin(3000, [], [], 1.0), 1.0, 2.0, computed=True)
    assert (one.pinned_tokens, one.resident_ratio(0.0)) == (0, 1.0)


def test_what_begins_before_the_size_is_known_leaves_nothing_pinned() -> None:
    one = Residency()
    early = one.begin(500, [], [], 0.0)
    one.resize(1000)
    late = one.begin(100, [], [], 0.5)
    one.end(early, 0.0, 1.0, computed=True)
    one.end(late, 0.5, 1.5, computed=True)
    assert one.pinned_tokens == 0


def test_what_other_routers_have_used_since_leaves_the_sum_right() -> None:
    one = residency(1_000_000)
    for second in range(40):
        serve(one, 100, float(second))
    for second in range(100, 140):
        serve(one, 100, float(second), (100, 45.0))
    assert one.tokens == 4000


def test_a_clock_set_back_begins_anew() -> None:
    one = residency(1000)
    serve(one, 900, 5000.0)
    serve(one, 900, 5001.0)
    serve(one, 300, 10.0)
    assert (one.tokens, one.resident_ratio(10.0)) == (300, 1.0)


def test_a_clock_set_back_empties_it_once_though_others_are_followed() -> None:
    one = residency(1000)
    serve(one, 600, 5000.0)
    counted = one.begin(100, [], [], 1000.0)
    one.follow(1, CacheEvent(ADDED, 0, 200, 0.0), 1001.0)
    one.end(counted, 1000.0, 1002.0, computed=True)
    serve(one, 300, 1003.0)
    assert one.tokens == 600
    serve(one, 600, 1004.0)
    assert [one.resident_ratio(at_s) for at_s in (1001.0, 1000.0, 1003.0)] == [0.0, 1.0, 1.0]
    assert one.tokens == 1000


def test_a_restart_forgets_everything() -> None:
    one = residency(100)
    serve(one, 500, 0.0)
    one.begin(50, [], [], 1.0)
    one.clear()
    assert (one.tokens, one.pinned_tokens, one.horizon_s, one.resident_ratio(0.0)) == (0, 0, -inf, 1.0)


@pytest.mark.parametrize("begun_s", [0.0, 1_800_000_000.03125])
def test_moments_become_longer_without_losing_the_one_that_made_it_so(begun_s: float) -> None:
    """At Unix times it raised, in the end of a request, whenever moments became longer."""
    one = residency(10**9)
    for number in range(1, 5 * MAX_BUCKETS):
        one.touch(500, begun_s + number / 16)
        assert one.tokens == sum(one._buckets.values()) == 500 * number
        assert len(one._buckets) <= MAX_BUCKETS


REQUESTS = st.lists(
    st.tuples(st.integers(1, 5000), st.floats(0, 3000), st.floats(0, 50), st.booleans(), st.booleans()),
    max_size=60,
)


@given(REQUESTS)
def test_whatever_comes_it_stays_bounded_and_its_sums_right(
    requests: list[tuple[int, float, float, bool, bool]],
) -> None:
    one = residency(10_000)
    events: list[tuple[float, int, int]] = []
    for number, (_, at_s, lasts_s, _, _) in enumerate(requests):
        events += [(at_s, 0, number), (at_s + lasts_s, 1, number)]
    before_s = 0.0
    sent = 0
    counted: dict[int, tuple[int, int, int]] = {}
    for at_s, over, number in sorted(events):
        tokens, begun_s, _, shares, computed = requests[number]
        if over:
            one.end(counted.pop(number), begun_s, at_s, computed)
        else:
            depths = [tokens // 2, tokens // 4] if shares else []
            counted[number] = one.begin(tokens, depths, [before_s, begun_s][: len(depths)], at_s)
            before_s = at_s
            sent += tokens
        one.reuse(100, at_s - 3, at_s)
        assert len(one._buckets) <= MAX_BUCKETS
        assert len(one._ended) <= MAX_BUCKETS
        assert one.tokens == sum(one._buckets.values())
        assert one.pinned_tokens == sum(own for own, _, _ in counted.values())
        assert 0 <= one.tokens + one.pinned_tokens <= sent
        assert all(0.0 <= one.resident_ratio(at_s - age_s) <= 1.0 for age_s in (0, 1, 5, 100))
    assert not one._under_way


STEPS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.sampled_from(["begin", "end", "abandon", "answer", "reuse"]),
        st.integers(1, 4000),
        st.floats(0, 20),
        st.booleans(),
    ),
    max_size=60,
)


@given(STEPS)
def test_routers_that_follow_each_other_have_the_picture_that_one_would_have(
    steps: list[tuple[int, str, int, float, bool]],
) -> None:
    alone = residency(10_000)
    routers = [residency(10_000) for _ in range(3)]
    for one in routers:
        one.told = []
    under_way: list[tuple[int, float, tuple[int, int, int], tuple[int, int, int]]] = []
    now_s = before_s = 0.0
    for router, what, tokens, pause_s, shares in steps:
        now_s += pause_s
        one = routers[router]
        if what == "begin":
            depths, times_s = ([tokens // 2, tokens // 4], [before_s, now_s - 1.0]) if shares else ([], [])
            own = one.begin(tokens, depths, times_s, now_s)
            under_way.append((router, now_s, own, alone.begin(tokens, depths, times_s, now_s)))
            before_s = now_s
        elif what in ("end", "abandon") and under_way:
            router, begun_s, own, counted = under_way.pop(tokens % len(under_way))
            one = routers[router]
            one.end(own, begun_s, now_s, computed=what == "end")
            alone.end(counted, begun_s, now_s, computed=what == "end")
        elif what == "answer":
            one.touch(tokens, now_s)
            alone.touch(tokens, now_s)
        elif what == "reuse":
            one.reuse(tokens, before_s, now_s)
            alone.reuse(tokens, before_s, now_s)
        assert one.told is not None
        for use in one.told:
            for other in routers:
                if other is not one:
                    other.follow(router, use, 0.0)
        one.told.clear()
        for each in routers:
            assert (each.tokens, each.pinned_tokens) == (alone.tokens, alone.pinned_tokens)
            assert (each.horizon_s, each._buckets) == (alone.horizon_s, alone._buckets)
            assert (each._under_way, each._ended) == (alone._under_way, alone._ended)


def test_what_is_followed_is_not_told_again() -> None:
    one = residency(1000)
    one.told = []
    one.follow(2, CacheEvent(BEGUN, 1, 300, 0.0), 5.0)
    one.follow(2, CacheEvent(ADDED, 0, 20, 0.5), 5.0)
    one.follow(2, CacheEvent(COMPUTED, 1, 0, 1.0), 5.0)
    assert one.told == []
    assert (one.tokens, one.pinned_tokens) == (320, 0)


def test_requests_of_a_router_that_is_not_heard_any_more_are_taken_for_over() -> None:
    one = residency(1000)
    one.follow(2, CacheEvent(BEGUN, 1, 300, 0.0), 5.0)
    one.follow(3, CacheEvent(BEGUN, 1, 200, 0.0), 5.0)
    one.follow(2, CacheEvent(LOST, 0, 0, 0.0), 9.0)
    assert (one.tokens, one.pinned_tokens) == (300, 200)
    one.follow(2, CacheEvent(COMPUTED, 1, 0, 0.0), 9.5)
    assert (one.tokens, one.pinned_tokens) == (300, 200), "an end of what is not known is nothing"
    one.follow(3, CacheEvent(ABANDONED, 1, 0, 0.0), 9.5)
    assert (one.tokens, one.pinned_tokens) == (300, 0)


def test_a_request_that_begins_twice_or_one_too_many_ends_what_was_under_way_before() -> None:
    one = residency(10**9)
    for serial in [*range(1, MOST_FOLLOWED + 1), 5, 5]:
        one.follow(2, CacheEvent(BEGUN, serial, 10, 0.0), 5.0)
    assert (one.tokens, one.pinned_tokens) == (10 * (MOST_FOLLOWED + 1), 10)


def test_what_is_told_late_happened_at_the_latest_moment_known() -> None:
    one = residency(1000)
    serve(one, 400, 100.0)
    one.follow(2, CacheEvent(BEGUN, 1, 300, -50.0), 100.5)
    one.follow(2, CacheEvent(COMPUTED, 1, 0, -49.0), 100.5)
    assert one.tokens == 700, "a clock set back would have emptied it"
    serve(one, 400, 101.0)
    assert one.resident_ratio(100.0) < 1.0


def test_a_restart_is_not_told_of_and_ends_what_was_followed() -> None:
    one = residency(1000)
    one.told = []
    one.follow(2, CacheEvent(BEGUN, 1, 300, 0.0), 5.0)
    one.begin(100, [], [], 5.0)
    one.clear()
    assert [use.kind for use in one.told] == [LOST], "others take what it had under way for over"
    one.follow(2, CacheEvent(COMPUTED, 1, 0, 0.0), 6.0)
    assert (one.tokens, one.pinned_tokens) == (0, 0)


def test_whoever_has_too_much_to_tell_says_that_it_is_lost() -> None:
    one, other = residency(10**9), residency(10**9)
    one.told = []
    first = one.begin(50, [], [], 1.0)
    for use in one.told:
        other.follow(2, use, 0.0)
    one.told.clear()
    one.end(first, 1.0, 1.5, computed=True)
    for _ in range(MOST_TOLD):
        one.touch(1, 2.0)
    assert len(one.told) <= MOST_TOLD
    for use in one.told:
        other.follow(2, use, 0.0)
    assert other.pinned_tokens == 0, "its end was not told, and nobody waits for it"
