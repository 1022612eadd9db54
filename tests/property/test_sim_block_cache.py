"""The simulated block cache against a plain model of vLLM's rules, under any order of use."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmroute_replica.sim.block_cache import BlockCache

CHAINS = st.lists(st.integers(0, 2), min_size=1, max_size=6)
"""Block contents over a tiny alphabet, so that prefixes are shared often."""
PLANS = st.lists(st.tuples(CHAINS, st.integers(0, 5)), min_size=1, max_size=30)
"""Sequences to admit, and which of the live ones to end after each."""


def keys_of(contents: list[int]) -> list[tuple[int, ...]]:
    return [tuple(contents[: index + 1]) for index in range(len(contents))]


def admit(cache: BlockCache, keys: list[tuple[int, ...]]) -> tuple[int, list[int]] | None:
    hits = cache.match(keys, len(keys))
    if len(keys) - len(hits) + cache.unused(hits) > cache.free_blocks:
        return None
    cache.take(hits)
    blocks = hits + cache.allocate(len(keys) - len(hits))
    for block, key in zip(blocks[len(hits) :], keys[len(hits) :], strict=True):
        cache.store(block, key)
    return len(hits), blocks


@given(st.integers(1, 12), PLANS)
def test_any_use_keeps_the_books_straight_and_never_exceeds_the_capacity(size, plan):
    cache = BlockCache(size)
    live: list[list[int]] = []
    for contents, ending in plan:
        admitted = admit(cache, keys_of(contents))
        if admitted is not None:
            live.append(admitted[1])
        used = set(itertools.chain.from_iterable(live))
        assert size - cache.free_blocks == len(used) <= size
        assert cache.cached_blocks <= size
        cache.validate()
        if live:
            cache.release(live.pop(ending % len(live)))
            cache.validate()
    for blocks in live:
        cache.release(blocks)
    assert cache.free_blocks == size


@given(CHAINS, CHAINS)
def test_a_hit_is_the_longest_common_prefix_of_all_that_fits(first, second):
    cache = BlockCache(len(first) + len(second))
    _hits, blocks = admit(cache, keys_of(first)) or (0, [])
    cache.release(blocks)
    common = len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False))))
    found = cache.match(keys_of(second), len(second))
    assert found == blocks[:common]


@given(PLANS, CHAINS)
def test_a_longer_prompt_never_hits_less_than_its_own_prefix(plan, contents):
    cache = BlockCache(8)
    for earlier, _ending in plan:
        admitted = admit(cache, keys_of(earlier))
        if admitted is not None:
            cache.release(admitted[1])
    keys = keys_of(contents)
    depths = [len(cache.match(keys[:length], length)) for length in range(len(keys) + 1)]
    assert depths == sorted(depths)
    assert all(depth <= length for length, depth in enumerate(depths))


@given(st.integers(1, 10), st.integers(0, 10))
def test_eviction_takes_the_tail_of_the_sequence_freed_first(length, wanted):
    cache = BlockCache(length)
    keys = keys_of([7] * length)
    _hits, blocks = admit(cache, keys) or (0, [])
    cache.release(blocks)
    wanted = min(wanted, length)
    assert cache.allocate(wanted) == blocks[::-1][:wanted]
    assert len(cache.match(keys, length)) == length - wanted


def test_a_touched_prefix_outlives_an_untouched_one_of_the_same_age():
    cache = BlockCache(4)
    old, touched = keys_of([1, 1]), keys_of([2, 2])
    for keys in (old, touched):
        _hits, blocks = admit(cache, keys) or (0, [])
        cache.release(blocks)
    hits = cache.match(old, 2)
    cache.take(hits)
    cache.release(hits)
    cache.allocate(2)
    assert len(cache.match(old, 2)) == 2
    assert cache.match(touched, 2) == []


def test_the_second_copy_of_a_block_is_found_once_the_first_is_evicted():
    cache = BlockCache(2)
    first, second = cache.allocate(2)
    cache.store(first, "k")
    cache.store(second, "k")
    assert cache.match(["k"], 1) == [first]
    cache.release([first])
    assert cache.allocate(1) == [first]
    cache.validate()
    assert cache.match(["k"], 1) == [second]


def test_too_large_an_allocation_changes_nothing():
    cache = BlockCache(3)
    cache.allocate(1)
    with pytest.raises(ValueError, match="3 blocks wanted, 2 free"):
        cache.allocate(3)
    assert cache.free_blocks == 2
    cache.validate()


def test_clearing_forgets_content_and_keeps_users():
    cache = BlockCache(3)
    _hits, blocks = admit(cache, keys_of([1, 2])) or (0, [])
    cache.clear()
    cache.validate()
    assert cache.match(keys_of([1, 2]), 2) == []
    assert cache.free_blocks == 1
    cache.release(blocks)
    assert cache.free_blocks == 3


def test_releasing_twice_is_an_error():
    cache = BlockCache(1)
    blocks = cache.allocate(1)
    cache.release(blocks)
    with pytest.raises(ValueError, match="more often than taken"):
        cache.release(blocks)
