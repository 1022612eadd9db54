"""When a slow Redis is no longer waited for, and when again."""

from __future__ import annotations

from warmroute.adapters.resp.breaker import CLOSES_AFTER, OPENS_AFTER_S, OPENS_AT, Breaker


def test_it_opens_once_when_late_answers_outweigh_those_in_time_for_long_enough() -> None:
    breaker = Breaker()
    for number in range(OPENS_AT * 3):
        assert not breaker.missed(10.0 + number * OPENS_AFTER_S / (OPENS_AT * 3))
    assert breaker.missed(10.0 + OPENS_AFTER_S)
    assert breaker.open
    assert not breaker.missed(20.0)


def test_as_many_in_time_as_late_never_open_it() -> None:
    breaker = Breaker()
    for number in range(1000):
        assert not breaker.missed(float(number))
        breaker.answered()
    assert not breaker.open
    assert breaker.late == 0


def test_trials_in_a_row_close_it_and_it_starts_anew() -> None:
    breaker = Breaker()
    while not breaker.open:
        breaker.missed(breaker.late * 1.0)
    for _ in range(CLOSES_AFTER - 1):
        assert not breaker.tried(in_time=True)
    assert not breaker.tried(in_time=False)
    assert [breaker.tried(in_time=True) for _ in range(CLOSES_AFTER)] == [False] * (CLOSES_AFTER - 1) + [True]
    assert not breaker.open
    assert not breaker.missed(99.0)
