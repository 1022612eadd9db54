"""The ring's small print; its promises are in tests/property/test_ring_properties.py."""

from __future__ import annotations

import pytest

from warmroute.core.choice.ring import MAX_MEMBERS, VNODES, Ring


def ring_of(*names: str) -> Ring[str]:
    return Ring({name: name for name in names})


def test_one_member_is_preferred_by_every_key() -> None:
    ring = ring_of("a")
    assert [ring.first(key) for key in (0, 1, 1 << 63, (1 << 64) - 1)] == ["a"] * 4
    assert list(ring.rank(7)) == ["a"]
    assert len(ring.points) == VNODES


def test_placement_is_fixed_for_all_versions_since_routers_of_two_versions_must_agree() -> None:
    ring = ring_of("10.0.0.1:8000", "10.0.0.2:8000", "10.0.0.3:8000")
    keys = [0, 1 << 60, 1 << 61, 3 << 61, 1 << 63, (1 << 64) - 1]
    assert [ring.first(key).split(":")[0][-1] for key in keys] == ["2", "1", "1", "2", "1", "2"]


def test_first_of_an_empty_selection_is_none_and_of_one_is_that_one() -> None:
    ring = ring_of("a", "b", "c")
    assert ring.first_of(5, ()) is None
    assert {ring.first_of(key << 58, ("c",)) for key in range(64)} == {"c"}


def test_too_many_members_are_refused() -> None:
    with pytest.raises(ValueError, match="at most"):
        Ring({str(i): i for i in range(MAX_MEMBERS + 1)})


def test_an_empty_ring_ranks_nobody() -> None:
    assert list(Ring[str]({}).rank(1)) == []


def test_a_name_that_another_takes_over_keeps_its_place_and_one_unknown_is_not_missed() -> None:
    ring = ring_of("a", "b")
    before = ring.points
    ring.put("a", "other")
    ring.drop("nobody")
    assert ring.points == before
    assert {ring.first(key << 58) for key in range(64)} == {"other", "b"}


def test_a_change_makes_no_lists_that_a_garbage_collector_would_walk() -> None:
    ring = Ring({str(i): str(i) for i in range(100)})
    arcs = [id(arc) for arc in ring.arcs]
    for i in range(100):
        ring.drop(str(i))
        ring.put(f"new{i}", f"new{i}")
    assert [id(arc) for arc in ring.arcs] == arcs
    assert len(ring.slots) == 100
