"""A simulated engine that reuses chunks wherever they stand, against schedules computed by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from warmroute_replica.sim.chunk_store import ChunkStore
from warmroute_replica.sim.engine import Engine, RunState, SimRequest
from warmroute_replica.sim.engine_config import EngineConfig
from warmroute_replica.sim.step_time import StepTime
from warmroute_replica.sim.tokens import chunks_of

# 1 ms a prefilled token or a step, nothing else.
PLAIN = StepTime(
    prefill_tokens_per_s=1000.0,
    decode_step_s=0.001,
    base_s=0.0,
    attention_context_tokens=0.0,
    decode_sequence_s=0.0,
    decode_context_s=0.0,
)


def engine(store: int = 1000, recompute: float = 0.25, **limits: int) -> Engine:
    settings = {"cache_tokens": 4096, "block_tokens": 4, "max_num_batched_tokens": 1000, **limits}
    return Engine(
        EngineConfig(**settings, step_time=PLAIN, chunk_store_tokens=store, recompute_ratio=recompute)  # type: ignore[arg-type]
    )


def request(name: str, *chunks: tuple[str, int], head: int = 8, **more: object) -> SimRequest:
    """A prompt with a head of its own, these chunks, and one token behind them."""
    at = head
    placed = []
    for chunk, tokens in chunks:
        placed.append((chunk, at, at + tokens))
        at += tokens
    keys = [(name, depth) for depth in range((at + 1) // 4)]
    return SimRequest(name, at + 1, 1, keys, chunks=placed, **more)  # type: ignore[arg-type]


def serve(machine: Engine, asked: SimRequest) -> tuple[RunState, float]:
    state = machine.add(asked, 0.0)
    computed = 0.0
    while not machine.idle:
        computed += machine.step(0.0).prefill_tokens
        machine.validate()
    return state, computed


def test_chunks_in_another_order_are_found_and_a_share_of_them_computed() -> None:
    machine = engine()
    _, all_tokens = serve(machine, request("first", ("a", 40), ("b", 60), ("c", 100)))
    state, computed = serve(machine, request("second", ("c", 100), ("new", 20), ("a", 40)))
    assert all_tokens == 209
    assert state.cached_tokens == 105
    assert computed == 169 - 105
    assert machine.totals.blended_tokens == 105
    assert machine.totals.hit_tokens == 0


def test_an_engine_without_a_store_computes_them_anew() -> None:
    machine = engine(store=0)
    serve(machine, request("first", ("a", 40)))
    state, computed = serve(machine, request("second", ("a", 40)))
    assert (state.cached_tokens, computed) == (0, 49)


def test_what_the_prefix_covers_is_no_longer_found_in_chunks() -> None:
    machine = engine()
    asked = request("same", ("a", 40), ("b", 40))
    serve(machine, asked)
    state, computed = serve(machine, asked)
    assert (state.cached_tokens, computed) == (88, 1)
    assert machine.totals.blended_tokens == 0


def test_blocks_are_found_by_others_only_as_far_as_they_are_computed() -> None:
    machine = engine(max_num_batched_tokens=16, max_num_seqs=4)
    serve(machine, request("first", ("a", 40)))
    under_way = request("second", ("x", 40), ("a", 40))
    state = machine.add(under_way, 0.0)
    machine.step(0.0)
    assert state.computed == 30 + 16
    assert len(machine.cache.match(under_way.block_keys, 100)) == 4, "what is computed: the first 16 tokens"
    while not machine.idle:
        machine.step(0.0)
    assert len(machine.cache.match(under_way.block_keys, 100)) == 22


def test_whoever_reads_no_cache_finds_no_chunks_and_leaves_its_own() -> None:
    machine = engine()
    state, computed = serve(machine, request("blind", ("a", 40), reads_cache=False))
    assert (state.cached_tokens, computed) == (0, 49)
    assert serve(machine, request("next", ("a", 40)))[0].cached_tokens == 30


def test_a_preempted_sequence_finds_its_chunks_again() -> None:
    machine = engine(cache_tokens=128, max_num_batched_tokens=128, max_num_seqs=8)
    serve(machine, request("first", ("a", 40)))
    long = machine.add(SimRequest("long", 60, 60), 0.0)
    one = machine.add(replace(request("one", ("a", 40)), output_tokens=20), 0.0)
    while not machine.idle:
        machine.step(0.0)
        machine.validate()
    assert (one.preemptions, one.cached_tokens, one.blended) == (1, 30, 30)
    assert (one.generated, long.generated) == (20, 60)


def test_chunks_that_were_not_used_for_longest_go_first() -> None:
    store = ChunkStore(100, 0.0)
    store.keep([("a", 0, 40), ("b", 40, 80)])
    assert store.reuse([("a", 8, 48)], 0) == 40
    store.keep([("c", 0, 40)])
    assert (store.reuse([("b", 0, 40)], 0), store.reuse([("a", 0, 40), ("c", 40, 80)], 0)) == (0, 80)
    assert store.tokens == 80
    store.clear()
    assert (store.tokens, store.reuse([("a", 0, 40)], 0)) == (0, 0)


def test_a_store_needs_room() -> None:
    with pytest.raises(ValueError, match="chunk store needs room"):
        ChunkStore(0, 0.1)
    with pytest.raises(ValueError, match="must not be negative"):
        EngineConfig(chunk_store_tokens=-1)


def test_text_is_cut_at_the_separator_and_known_wherever_it_stands() -> None:
    a, b = b"a" * 40, b"b" * 40
    one = chunks_of(b"head # # " + a + b" # # " + b, b" # # ", 8, b"m")
    two = chunks_of(b"another head # # " + b + b" # # tiny # # " + a, b" # # ", 8, b"m")
    assert [key for key, _, _ in one] == [key for key, _, _ in reversed(two)]
    assert [(first, end) for _, first, end in one] == [(3, 12), (14, 23)]
    assert chunks_of(b"head" * 40, b" # # ", 8, b"m") == []
    assert chunks_of(b"head # # " + a, b" # # ", 8, b"other")[0][0] != one[0][0]
