"""Promises of the ring and of bounded load, over any membership and key."""

from __future__ import annotations

import random
from collections import Counter
from math import ceil

from hypothesis import given, settings
from hypothesis import strategies as st

from warmroute.core.choice.bounded_load import BoundedLoad, capacity
from warmroute.core.choice.ring import Ring

KEYS = [(i * 0x9E3779B97F4A7C15) & ((1 << 64) - 1) for i in range(2000)]
names = st.sets(st.text(min_size=1, max_size=12), min_size=1, max_size=12)
key = st.integers(0, (1 << 64) - 1)


def ring_of(members: set[str]) -> Ring[str]:
    return Ring({name: name for name in members})


def change(ring: Ring[str], members: set[str]) -> None:
    for name in set(ring.members) - members:
        ring.drop(name)
    for name in members - set(ring.members):
        ring.put(name, name)


@given(names, key)
def test_rank_is_a_permutation_that_begins_with_the_first(members: set[str], key: int) -> None:
    ring = ring_of(members)
    order = list(ring.rank(key))
    assert sorted(order) == sorted(members)
    assert order[0] == ring.first(key)


@given(names, key, st.data())
def test_first_of_is_the_first_accepted_one_of_the_rank(
    members: set[str], key: int, data: st.DataObject
) -> None:
    ring = ring_of(members)
    accepted = data.draw(st.sets(st.sampled_from(sorted(members))))
    expected = next((name for name in ring.rank(key) if name in accepted), None)
    assert ring.first_of(key, accepted) == expected


@given(names, key, st.data(), st.integers(0, 13))
def test_the_preferred_are_the_first_accepted_ones_of_the_rank(
    members: set[str], key: int, data: st.DataObject, count: int
) -> None:
    ring = ring_of(members)
    accepted = data.draw(st.sets(st.sampled_from(sorted(members))))
    gone = data.draw(st.sets(st.sampled_from(sorted(members)), max_size=len(members) - 1))
    change(ring, members - gone)
    expected = [name for name in ring.rank(key) if name in accepted]
    assert ring.preferred(key, count, accepted) == expected[:count]


@settings(max_examples=25)
@given(names.filter(lambda m: len(m) > 1), st.data())
def test_a_removed_member_moves_only_its_own_share(members: set[str], data: st.DataObject) -> None:
    removed = data.draw(st.sampled_from(sorted(members)))
    before, after = ring_of(members), ring_of(members - {removed})
    for key in KEYS[:300]:
        owner = before.first(key)
        if owner != removed:
            assert after.first(key) == owner
        else:
            assert after.first(key) == list(before.rank(key))[1]


many = st.sets(st.integers(0, 40).map(str), max_size=41)


@settings(max_examples=50)
@given(many, many)
def test_a_ring_that_was_changed_prefers_as_a_new_one_does(old: set[str], new: set[str]) -> None:
    changed, fresh = ring_of(old), ring_of(new)
    change(changed, new)
    assert len(changed) == len(fresh)
    assert sorted(changed.members) == sorted(fresh.members)
    assert changed.points == sorted(changed.points)
    for key in KEYS[:50]:
        assert list(changed.rank(key)) == list(fresh.rank(key))


def test_a_ring_changed_many_times_in_small_steps_is_as_a_new_one() -> None:
    rng = random.Random(3)
    members = {f"r{i}" for i in range(50)}
    ring = ring_of(members)
    for step in range(60):
        members = (members - {rng.choice(sorted(members))}) | {f"new{step}"}
        change(ring, members)
        assert len(ring.slots) <= 51
    fresh = ring_of(members)
    assert len(ring.points) == len(fresh.points)
    assert [list(ring.rank(key)) for key in KEYS[:20]] == [list(fresh.rank(key)) for key in KEYS[:20]]


def test_shares_are_even_within_a_third_at_eight_members() -> None:
    ring = ring_of({f"10.0.0.{i}:8000" for i in range(8)})
    shares = Counter(ring.first(key) for key in KEYS)
    assert max(shares.values()) < 1.34 * len(KEYS) / 8
    assert min(shares.values()) > 0.66 * len(KEYS) / 8


loads = st.dictionaries(st.text(min_size=1, max_size=8), st.integers(0, 50), min_size=1, max_size=10)


@given(loads, key, st.floats(1.0, 3.0))
def test_bounded_load_gives_to_nobody_more_than_the_bound_and_keeps_the_order(
    load: dict[str, int], key: int, factor: float
) -> None:
    ring = ring_of(set(load))
    bounded = BoundedLoad(ring, factor, load.__getitem__)
    order = list(bounded.rank(key))
    assert sorted(order) == sorted(load)
    chosen = bounded.first(key)
    assert chosen == order[0]
    limit = ceil(factor * (sum(load.values()) + 1) / len(load))
    assert load[chosen] + 1 <= limit == capacity(sum(load.values()), len(load), factor)
    preferred = list(ring.rank(key))
    assert all(load[name] + 1 > limit for name in preferred[: preferred.index(chosen)])


@given(names, key)
def test_bounded_load_over_even_loads_is_the_order_itself(members: set[str], key: int) -> None:
    ring = ring_of(members)
    assert list(BoundedLoad(ring, 1.25, lambda _: 3).rank(key)) == list(ring.rank(key))


@settings(max_examples=20)
@given(st.integers(2, 10), st.lists(key, min_size=1, max_size=60))
def test_bounded_load_never_exceeds_factor_times_the_mean_as_load_builds_up(
    count: int, keys: list[int]
) -> None:
    load = {f"r{i}": 0 for i in range(count)}
    bounded = BoundedLoad(ring_of(set(load)), 1.25, load.__getitem__)
    for placed, key in enumerate(keys, start=1):
        load[bounded.first(key)] += 1
        assert max(load.values()) <= ceil(1.25 * placed / count)


def test_points_of_members_with_short_names_do_not_coincide() -> None:
    ring = ring_of({f"r{i}" for i in range(100)} | {str(i) for i in range(100)})
    uppers = [point >> 16 for point in ring.points]
    assert len(set(uppers)) == len(uppers)
