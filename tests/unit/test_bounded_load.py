"""The bound's arithmetic; its promises are in tests/property/test_ring_properties.py."""

from __future__ import annotations

import pytest

from warmroute.core.choice.bounded_load import BoundedLoad, capacity
from warmroute.core.choice.ring import Ring


def test_an_idle_fleet_has_room_for_one_everywhere() -> None:
    assert capacity(0, 8, 1.25) == 1


def test_capacity_is_the_factor_times_the_mean_rounded_up() -> None:
    assert capacity(79, 8, 1.25) == 13
    assert capacity(79, 8, 1.0) == 10


def test_a_full_member_gives_way_to_the_next_in_order_and_comes_last() -> None:
    ring = Ring({name: name for name in "abcd"})
    order = list(ring.rank(42))
    load = dict.fromkeys("abcd", 0)
    load[order[0]] = 5
    assert list(BoundedLoad(ring, 1.25, load.__getitem__).rank(42)) == [*order[1:], order[0]]


def test_a_factor_below_one_is_refused_since_nobody_might_have_room() -> None:
    with pytest.raises(ValueError, match="factor"):
        BoundedLoad(Ring({"a": "a"}), 0.99, lambda _: 0)


def test_nobody_is_ranked_among_no_members() -> None:
    assert list(BoundedLoad(Ring[str]({}), 1.25, lambda _: 0).rank(1)) == []
