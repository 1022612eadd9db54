"""The sum of peer load under any notices: lost, late, twice, from strangers; and convergence once all are heard."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from warmroute.core.fleet.peer_load import Load, Notice, Peers

OWN = 0

counts = st.integers(0, 2**32 - 1)
loads = st.builds(
    Load,
    st.integers(0, 5),
    st.integers(0, 50),
    counts,
    st.integers(0, 9000),
    st.integers(0, 9),
    st.integers(0, 9),
    st.integers(0, 9),
)
notices = st.builds(
    Notice,
    router=st.integers(0, 4),
    number=st.integers(0, 6) | st.just(2**32 - 1),
    whole=st.booleans(),
    asking=st.booleans(),
    loads=st.lists(loads, max_size=6),
)
steps = st.lists(st.tuples(notices, st.floats(0, 0.8)), max_size=40)


@given(steps)
def test_any_notices_in_any_order_leave_sums_that_follow_from_what_was_said_last(
    said: list[tuple[Notice, float]],
) -> None:
    ledger = Peers(OWN, 1.0)
    now_s = 0.0
    for notice, pause_s in said:
        now_s += pause_s
        ledger.take(notice, now_s)
        ledger.validate()
        ledger.expire(now_s)
        ledger.validate()
        if notice.asking:
            ledger.collect(now_s)
            ledger.validate()
    ledger.expire(now_s + 1.001)
    assert ledger.routers == 0
    for peer_load in [ledger.of(key, now_s) for key in range(6)]:
        assert (
            peer_load.in_flight
            == peer_load.work_tokens
            == peer_load.head_tokens
            == peer_load.awaited_tokens
            == 0
        )


changes = st.lists(st.tuples(st.integers(1, 3), loads, st.booleans()), max_size=60)


@given(changes)
def test_after_losses_whole_notices_make_everything_right(
    events: list[tuple[int, Load, bool]],
) -> None:
    """Three routers tell changes, some of which get lost; then each tells everything once."""
    ledger = Peers(OWN, 1.0)
    truth: dict[int, dict[int, Load]] = {1: {}, 2: {}, 3: {}}
    numbers = dict.fromkeys(truth, 0)
    for router, load, lost in events:
        truth[router][load.key] = load
        numbers[router] += 1
        if not lost:
            ledger.take(Notice(router, numbers[router], False, False, [load]), 0.0)
    for router, own in truth.items():
        numbers[router] += 1
        ledger.take(Notice(router, numbers[router], True, False, list(own.values())), 0.0)
    assert not ledger.missing
    for key in range(6):
        expected = [own[key] for own in truth.values() if key in own]
        heard = ledger.of(key, 0.0)
        assert heard.in_flight == sum(load.in_flight for load in expected)
        assert heard.work_tokens == sum(load.work_tokens for load in expected)
        assert heard.awaited_tokens == sum(load.awaited_tokens for load in expected)
        assert heard.head_tokens == max(
            [load.head_tokens for load in expected if load.work_tokens], default=0
        )
