"""The simulated engine under any arrivals: budgets hold, books agree, and bulk advance is step by step."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hypothesis import given
from hypothesis import strategies as st

from warmroute_replica.sim.engine import Engine, SimRequest, StepResult
from warmroute_replica.sim.engine_config import EngineConfig, SchedulingPolicy
from warmroute_replica.sim.step_time import StepTime

STEP_TIME = StepTime(prefill_tokens_per_s=1000.0, decode_step_s=0.01, base_s=0.001)


@dataclass
class Arrival:
    at_s: float
    request: SimRequest
    abort_after_steps: int | None


@st.composite
def configs(draw):
    block = draw(st.sampled_from([1, 2, 4, 16]))
    seats = draw(st.integers(1, 6))
    return EngineConfig(
        cache_tokens=block * draw(st.integers(12, 40)),
        block_tokens=block,
        max_num_batched_tokens=seats + draw(st.integers(0, 40)),
        max_num_seqs=seats,
        long_prefill_token_threshold=draw(st.sampled_from([0, 0, 1, 3, 10])),
        long_prefill_token_threshold_adaptive=draw(st.booleans()),
        scheduling_policy=draw(st.sampled_from(SchedulingPolicy)),
        step_time=STEP_TIME,
        chunk_store_tokens=draw(st.sampled_from([0, 0, 8, 64])),
        recompute_ratio=draw(st.sampled_from([0.0, 0.15, 1.0])),
    )


@st.composite
def workloads(draw):
    config = draw(configs())
    capacity = config.cache_blocks * config.block_tokens
    arrivals = []
    at_s = 0.0
    for index in range(draw(st.integers(1, 12))):
        at_s += draw(st.sampled_from([0.0, 0.003, 0.02, 0.3]))
        prompt = draw(st.integers(1, capacity // 2))
        output = draw(st.integers(1, min(capacity // 2, 60)))
        family = draw(st.integers(0, 2))
        shared = draw(st.integers(0, 12))
        keys = [
            (family, depth) if depth < shared else (family, depth, index)
            for depth in range(draw(st.sampled_from([prompt, prompt + output])) // config.block_tokens)
        ]
        abort_after = draw(st.sampled_from([None, None, None, 0, 3]))
        priority = draw(st.integers(-1, 1))
        reads = draw(st.sampled_from([True, True, True, False]))
        chunks = []
        at = draw(st.integers(0, prompt))
        for size in draw(st.lists(st.sampled_from([3, 5, 16]), max_size=4)):
            if at + size <= prompt:
                chunks.append(((draw(st.integers(0, 3)), size), at, at + size))
                at += size
        request = SimRequest(str(index), prompt, output, keys, priority, reads, chunks)
        arrivals.append(Arrival(at_s, request, abort_after))
    return config, arrivals


def check_step(engine: Engine, result: StepResult) -> None:
    engine.validate()
    assert result.steps == 1
    assert result.duration_s > 0
    config = engine.config
    # A sequence that ends its prompt computes at least one token of it, so prefill covers that token already.
    decoded = [state for state in result.tokens if state not in result.first]
    assert result.prefill_tokens <= config.max_num_batched_tokens
    assert len(decoded) <= config.max_num_batched_tokens
    assert len(result.tokens) <= config.max_num_seqs


@given(workloads())
def test_every_request_finishes_with_its_tokens_and_the_cache_is_whole_again(workload):
    config, arrivals = workload
    engine = Engine(config)
    now_s = 0.0
    pending = list(arrivals)
    finished: dict[str, int] = {}
    aborted: set[str] = set()
    steps = 0
    while pending or not engine.idle:
        if engine.idle:
            now_s = max(now_s, pending[0].at_s)
        while pending and pending[0].at_s <= now_s:
            engine.add(pending.pop(0).request, now_s)
        result = engine.step(now_s)
        check_step(engine, result)
        now_s = result.end_s
        finished.update({state.id: state.generated for state in result.finished})
        for arrival in arrivals:
            if arrival.abort_after_steps == steps and engine.abort(arrival.request.id):
                aborted.add(arrival.request.id)
                engine.validate()
        steps += 1
    expected = {a.request.id: a.request.output_tokens for a in arrivals if a.request.id not in aborted}
    assert finished == expected
    assert engine.cache.free_blocks == engine.cache.blocks
    assert engine.totals.hit_tokens <= engine.totals.queried_tokens
    assert engine.totals.aborted == len(aborted)
    assert engine.totals.hit_tokens + engine.totals.blended_tokens < max(1, engine.totals.queried_tokens)
    if engine.chunks is not None:
        assert engine.chunks.tokens <= engine.chunks.capacity_tokens


Trace = list[tuple[float, list[tuple[str, int]], list[str], list[str]]]


def drive(workload, *, bulk: bool) -> tuple[Trace, Engine]:
    """Events with a first or last token, as (when, tokens so far of all who gained since, first, finished)."""
    config, arrivals = workload
    engine = Engine(config)
    now_s = 0.0
    pending = list(arrivals)
    trace: Trace = []
    while pending or not engine.idle:
        if engine.idle:
            now_s = max(now_s, pending[0].at_s)
        while pending and pending[0].at_s <= now_s:
            engine.add(pending.pop(0).request, now_s)
        until_s = pending[0].at_s if pending else float("inf")
        result = engine.advance(now_s, until_s) if bulk else engine.step(now_s)
        now_s = result.end_s
        engine.validate()
        if result.first or result.finished:
            progress = sorted((state.id, state.generated) for state in engine.states())
            trace.append((now_s, progress, [s.id for s in result.first], [s.id for s in result.finished]))
    return trace, engine


@given(workloads())
def test_advancing_in_bulk_is_exactly_stepping(workload):
    stepped, one = drive(workload, bulk=False)
    jumped, other = drive(workload, bulk=True)
    assert jumped == stepped
    assert one.totals == other.totals
    for arrival in workload[1]:
        keys = arrival.request.block_keys
        assert one.overlap_tokens(keys, 10_000) == other.overlap_tokens(keys, 10_000)


@given(workloads())
def test_no_sequence_computes_more_in_a_step_than_its_cap(workload):
    config, arrivals = workload
    engine = Engine(config)
    states = [engine.add(arrival.request, 0.0) for arrival in arrivals]
    now_s = 0.0
    while not engine.idle:
        most = config.max_num_batched_tokens
        eligible = engine.running + engine.waiting
        threshold = config.long_prefill_token_threshold
        if threshold and eligible > 1:
            fair = most // eligible if config.long_prefill_token_threshold_adaptive else 0
            most = max(threshold, fair)
        before = [(state.computed, state.preemptions, state.admitted_s) for state in states]
        now_s = engine.step(now_s).end_s
        for state, (computed, preemptions, admitted_s) in zip(states, before, strict=True):
            if state.preemptions == preemptions and computed:
                assert 0 <= state.computed - computed <= most
            elif admitted_s is None and state.admitted_s is not None and not state.preemptions:
                assert state.computed - state.cached_tokens <= most


@given(workloads())
def test_among_equals_priority_is_the_order_of_arrival(workload):
    config, arrivals = workload
    equal = [replace(arrival, request=replace(arrival.request, priority=3)) for arrival in arrivals]
    traces = [
        drive((replace(config, scheduling_policy=policy), equal), bulk=True)[0] for policy in SchedulingPolicy
    ]
    assert traces[0] == traces[1]


@given(workloads())
def test_a_request_repeated_at_once_finds_all_its_whole_blocks_but_the_last_token(workload):
    config, arrivals = workload
    engine = Engine(config)
    request = arrivals[0].request
    whole = request.prompt_tokens // config.block_tokens
    keys = [("fixed", depth) for depth in range(whole)]
    now_s = 0.0
    for name in ("cold", "warm"):
        state = engine.add(SimRequest(name, request.prompt_tokens, 1, keys), now_s)
        while not engine.idle:
            now_s = engine.step(now_s).end_s
    expected = (request.prompt_tokens - 1) // config.block_tokens * config.block_tokens
    assert state.cached_tokens == expected
