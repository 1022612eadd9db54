"""The window against a list of everything that was added: never more than the limit in any stretch as long as it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from warmroute.tenants.limits import CONCURRENT, NAMES, Grant, Limits, LocalLimits, Scope
from warmroute.tenants.window import PARTS, Window

SPAN_S = 60
START_S = 1_000_000.0


@given(
    st.lists(st.tuples(st.floats(0.0, 90.0), st.integers(1, 40)), min_size=1, max_size=60),
    st.integers(1, 100),
)
def test_no_stretch_of_the_windows_length_holds_more_than_the_limit(
    steps: list[tuple[float, int]], limit: int
) -> None:
    window = Window(SPAN_S)
    now_s = START_S
    taken: list[tuple[float, int]] = []
    for pause_s, amount in steps:
        now_s += pause_s
        wait_s = window.wait_s(amount, limit, now_s)
        if wait_s == 0.0:
            window.add(amount, int(now_s))
            taken.append((now_s, amount))
            assert sum(a for at, a in taken if at > now_s - SPAN_S) <= limit
        elif amount <= limit:
            assert 0.0 < wait_s <= SPAN_S + SPAN_S / PARTS
            # It is told neither too early nor much too late.
            assert Window.wait_s(_copy(window), amount, limit, now_s + wait_s) == 0.0
            used = sum(a for at, a in taken if at > now_s - SPAN_S - SPAN_S / PARTS)
            assert used + amount > limit


def _copy(window: Window) -> Window:
    other = Window(SPAN_S)
    other._part, other._counts, other.total = window._part, list(window._counts), window.total
    other._latest = window._latest
    return other


@given(st.lists(st.tuples(st.floats(0.0, 40.0), st.integers(1, 50), st.integers(0, 50)), max_size=40))
def test_what_is_given_back_is_given_back_where_it_was_taken(steps: list[tuple[float, int, int]]) -> None:
    window = Window(SPAN_S)
    now_s = START_S
    for pause_s, taken, used in steps:
        at_s = now_s
        window.add(taken, int(now_s))
        now_s += pause_s
        if used < taken:
            window.add(used - taken, int(now_s), int(at_s))
        else:
            window.add(used - taken, int(now_s))
        assert window.roll(int(now_s)) >= 0
        assert min(window.parts()) >= 0
        assert window.total == sum(window.parts())
    assert window.roll(int(now_s) + 2 * SPAN_S) == 0


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 50)), min_size=1, max_size=20),
    st.integers(1, 10**6),
)
def test_where_the_clock_was_set_back_nothing_stays_for_much_longer_than_the_window(
    steps: list[tuple[int, int]], back_s: int
) -> None:
    window = Window(SPAN_S)
    second = 10**7
    for pause_s, amount in steps:
        second += pause_s
        window.add(amount, second)
    used = window.roll(second)
    second -= back_s
    assert window.roll(second) == used, "a clock that is set back frees nothing"
    assert window.total == sum(window.parts())
    window.add(7, second)
    assert window.roll(second + 2 * SPAN_S + 2) == 0


def limits(**values: int) -> Limits:
    numbers = tuple(values.get(name, 0) for name in NAMES)
    return numbers  # type: ignore[return-value]


def test_a_request_takes_of_all_limits_or_of_none() -> None:
    local = LocalLimits()
    all_models = Scope("a", "", limits(tokens_per_minute=100))
    one_model = Scope("a", "m", limits(requests_per_minute=3))
    taken = [Grant([one_model, all_models], 40) for _ in range(4)]
    for grant in taken:
        local.take(grant, START_S)
    assert [grant.granted for grant in taken] == [True, True, False, False]
    refused = taken[2]
    assert (NAMES[refused.which], refused.whose) == ("tokens_per_minute", all_models)
    assert local.sums(one_model, START_S).used(START_S)[0] == 2  # nothing of the refused one
    assert taken[0].left_requests == 2
    local.settle(taken[0], 0, -40, START_S + 1, taken[0].at_s)
    again = Grant([one_model, all_models], 40)
    local.take(again, START_S + 1)
    assert again.granted


def test_requests_under_way_count_until_they_are_settled() -> None:
    local = LocalLimits()
    scope = Scope("a", "", limits(concurrent_requests=2))
    first, second, third = (Grant([scope], 0) for _ in range(3))
    for grant in (first, second, third):
        local.take(grant, START_S)
    assert [first.granted, second.granted, third.granted] == [True, True, False]
    assert third.which == CONCURRENT
    local.settle(first, 0, 0, START_S, first.at_s)
    fourth = Grant([scope], 0)
    local.take(fourth, START_S)
    assert fourth.granted


def test_alone_each_of_several_routers_has_its_share() -> None:
    local = LocalLimits()
    local.share = 3
    scope = Scope("a", "", limits(requests_per_minute=10))
    granted = 0
    for _ in range(10):
        grant = Grant([scope], 0)
        local.take(grant, START_S)
        granted += grant.granted
    assert granted == 3
