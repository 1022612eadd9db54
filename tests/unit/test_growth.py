"""When it is said that a process keeps growing."""

from __future__ import annotations

from warmroute.service.growth import SETTLED_S, Growth


def test_each_doubling_is_said_once_and_only_after_it_has_settled() -> None:
    growth = Growth()
    assert not growth.doubled(10, 0.0)
    assert not growth.doubled(1000, SETTLED_S - 1)
    assert not growth.doubled(100, SETTLED_S)
    said = [
        growth.doubled(size, SETTLED_S + size) for size in (150, 199, 200, 201, 300, 399, 400, 100, 799, 900)
    ]
    assert said == [False, False, True, False, False, False, True, False, False, True]
    assert growth.first_bytes == 100


def test_a_system_that_does_not_tell_is_no_growth() -> None:
    growth = Growth()
    assert not any(growth.doubled(0, SETTLED_S + second) for second in range(10))
