"""Schedules of the simulated engine, against ones computed by hand."""

from __future__ import annotations

import pytest

from warmroute_replica.sim.engine import Engine, RunState, SimRequest, StepResult
from warmroute_replica.sim.engine_config import EngineConfig, SchedulingPolicy
from warmroute_replica.sim.step_time import StepTime

# 1 ms a prefilled token, 10 ms the shortest step, nothing else: every duration below is mental arithmetic.
PLAIN = StepTime(
    prefill_tokens_per_s=1000.0,
    decode_step_s=0.010,
    base_s=0.0,
    attention_context_tokens=0.0,
    decode_sequence_s=0.0,
    decode_context_s=0.0,
)


def engine(**limits) -> Engine:
    defaults = {"cache_tokens": 4096, "block_tokens": 4, "max_num_batched_tokens": 100, "max_num_seqs": 8}
    return Engine(EngineConfig(**{**defaults, **limits}, step_time=PLAIN))


def keys(family: str, blocks: int) -> list[tuple[str, int]]:
    return [(family, depth) for depth in range(blocks)]


def names(states: list[RunState]) -> list[str]:
    return [state.id for state in states]


def run(machine: Engine, now_s: float = 0.0) -> list[StepResult]:
    results = []
    while not machine.idle:
        results.append(machine.step(now_s))
        now_s = results[-1].end_s
    return results


def test_a_request_that_reads_no_cache_computes_all_and_leaves_it_to_others():
    machine = engine()
    machine.add(SimRequest("first", 40, 1, keys("p", 10)), 0.0)
    run(machine)
    blind = machine.add(SimRequest("blind", 40, 1, keys("p", 10), reads_cache=False), 1.0)
    (step,) = run(machine, 1.0)
    assert (blind.cached_tokens, step.prefill_tokens) == (0, 40)
    other = machine.add(SimRequest("unseen", 40, 1, keys("q", 10), reads_cache=False), 2.0)
    run(machine, 2.0)
    again = machine.add(SimRequest("again", 40, 1, keys("q", 10)), 3.0)
    run(machine, 3.0)
    assert (other.cached_tokens, again.cached_tokens) == (0, 36)
    assert machine.totals.queried_tokens == 80, "of the two that looked"
    machine.validate()


def test_a_prompt_is_chunked_by_the_budget_and_then_decodes_one_token_a_step():
    machine = engine()
    state = machine.add(SimRequest("a", prompt_tokens=250, output_tokens=3), 5.0)
    results = run(machine, 5.0)
    assert [r.prefill_tokens for r in results] == [100, 100, 50, 0, 0]
    assert [r.duration_s for r in results] == pytest.approx([0.1, 0.1, 0.05, 0.01, 0.01])
    assert [names(r.tokens) for r in results] == [[], [], ["a"], ["a"], ["a"]]
    assert [names(r.first) for r in results] == [[], [], ["a"], [], []]
    assert [names(r.finished) for r in results] == [[], [], [], [], ["a"]]
    assert state.admitted_s == 5.0
    assert state.first_token_s == pytest.approx(5.25)


def test_decoding_goes_before_prefill_and_shares_the_budget_with_it():
    machine = engine()
    machine.add(SimRequest("old", 10, 5), 0.0)
    first = machine.step(0.0)
    machine.add(SimRequest("new", 150, 1), first.end_s)
    second = machine.step(first.end_s)
    assert names(second.tokens) == ["old"]
    assert second.prefill_tokens == 99
    third = machine.step(second.end_s)
    assert third.prefill_tokens == 51
    assert names(third.tokens) == ["old", "new"]


def test_two_prompts_share_one_step_and_the_second_gets_what_the_first_leaves():
    machine = engine()
    machine.add(SimRequest("a", 70, 1), 0.0)
    machine.add(SimRequest("b", 70, 1), 0.0)
    first = machine.step(0.0)
    assert (first.prefill_tokens, names(first.finished)) == (100, ["a"])
    second = machine.step(first.end_s)
    assert (second.prefill_tokens, names(second.finished)) == (40, ["b"])


def test_seats_are_limited_and_given_in_order_of_arrival():
    machine = engine(max_num_seqs=2)
    for name in "abc":
        machine.add(SimRequest(name, 10, 2), 0.0)
    first = machine.step(0.0)
    assert names(first.tokens) == ["a", "b"]
    assert (machine.running, machine.waiting) == (2, 1)
    second = machine.step(first.end_s)
    assert names(second.finished) == ["a", "b"]
    assert names(machine.step(second.end_s).tokens) == ["c"]


def test_the_same_prompt_in_the_same_step_is_computed_once():
    machine = engine()
    one = machine.add(SimRequest("a", 41, 1, keys("p", 10)), 0.0)
    two = machine.add(SimRequest("b", 41, 1, keys("p", 10)), 0.0)
    result = machine.step(0.0)
    assert (one.cached_tokens, two.cached_tokens) == (0, 40)
    assert result.prefill_tokens == 42


def test_the_last_prompt_token_is_computed_even_if_its_block_is_cached():
    machine = engine()
    machine.add(SimRequest("a", 40, 1, keys("p", 10)), 0.0)
    run(machine)
    again = machine.add(SimRequest("b", 40, 1, keys("p", 10)), 1.0)
    result = machine.step(1.0)
    assert again.cached_tokens == 36
    assert result.prefill_tokens == 4
    assert machine.totals.queried_tokens == 80
    assert machine.totals.hit_tokens == 36


def test_blocks_filled_while_decoding_serve_the_next_turn_except_the_newest_token():
    machine = engine()
    machine.add(SimRequest("turn-1", 8, 9, keys("chat", 6)), 0.0)
    run(machine)
    # 8 + 9 tokens, of which the last was never computed: 16 tokens, 4 blocks.
    assert machine.overlap_tokens(keys("chat", 6), 100) == 16


def test_a_prompt_waits_until_all_of_it_fits_and_holds_up_those_behind_it():
    machine = engine(cache_tokens=100, max_num_batched_tokens=64)
    machine.add(SimRequest("runs", 60, 2), 0.0)
    machine.add(SimRequest("large", 60, 2), 0.0)
    machine.add(SimRequest("small", 4, 2), 0.0)
    first = machine.step(0.0)
    assert names(first.tokens) == ["runs"]
    assert (machine.running, machine.waiting) == (1, 2)
    second = machine.step(first.end_s)
    assert names(second.finished) == ["runs"]
    third = machine.step(second.end_s)
    assert names(third.tokens) == ["large", "small"]


def test_without_a_free_block_the_sequence_admitted_last_is_preempted_and_recomputed():
    machine = engine(cache_tokens=16)
    first = machine.add(SimRequest("first", 4, 8, keys("f", 3)), 0.0)
    last = machine.add(SimRequest("last", 8, 3, keys("l", 2)), 0.0)
    results = run(machine)
    assert (first.preemptions, last.preemptions) == (0, 1)
    assert sum(r.preempted for r in results) == 1
    assert machine.totals.preemptions == 1
    order = [name for r in results for name in names(r.finished)]
    assert order == ["first", "last"]
    assert last.cached_tokens == 0
    machine.validate()


def test_aborting_frees_seat_and_blocks_whether_waiting_or_running():
    machine = engine(max_num_seqs=1)
    machine.add(SimRequest("runs", 50, 50), 0.0)
    machine.add(SimRequest("waits", 50, 50), 0.0)
    machine.step(0.0)
    assert machine.usage_ratio > 0
    assert machine.abort("waits")
    assert machine.abort("runs")
    assert not machine.abort("runs")
    assert machine.idle
    assert machine.usage_ratio == 0.0
    assert machine.step(1.0).steps == 0
    machine.validate()


def test_advance_jumps_to_the_next_first_or_last_token_or_to_the_given_time():
    machine = engine()
    machine.add(SimRequest("a", 100, 1000), 0.0)
    first = machine.advance(0.0, 100.0)
    assert (first.steps, names(first.first)) == (1, ["a"])
    part = machine.advance(first.end_s, first.end_s + 0.095)
    assert part.steps == 10
    assert part.generated_tokens == 10
    assert part.duration_s == pytest.approx(0.1)
    assert names(part.tokens) == ["a"]
    rest = machine.advance(part.end_s, 1e9)
    assert rest.steps == 989
    assert names(rest.finished) == ["a"]
    assert machine.advance(rest.end_s, 1e9).steps == 0


def test_step_time_adds_what_its_formula_says():
    times = StepTime(
        prefill_tokens_per_s=1000.0,
        decode_step_s=0.010,
        base_s=0.002,
        attention_context_tokens=500.0,
        decode_sequence_s=0.001,
        decode_context_s=0.0001,
    )
    assert times.step_s(0, 0.0, 1, 100) == pytest.approx(0.002 + 0.010 + 0.001 + 0.010)
    assert times.step_s(5, 0.0, 0, 0) == pytest.approx(0.002 + 0.010)
    assert times.step_s(100, 100 * 50.0, 0, 0) == pytest.approx(0.002 + 0.100 + 0.010)
    fast = StepTime(1000.0, 0.010, 0.002, 500.0, 0.001, 0.0001, speed=10.0)
    assert fast.step_s(100, 5000.0, 2, 7) == pytest.approx(times.step_s(100, 5000.0, 2, 7) / 10)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (SimRequest("x", 0, 1), "at least one prompt token"),
        (SimRequest("x", 1, 0), "at least one prompt token"),
        (SimRequest("x", 4096, 1), "would not fit"),
        (SimRequest("here", 1, 1), "in use"),
    ],
)
def test_requests_that_could_never_finish_are_refused(request_, message):
    machine = engine()
    machine.add(SimRequest("here", 1, 1), 0.0)
    with pytest.raises(ValueError, match=message):
        machine.add(request_, 0.0)


@pytest.mark.parametrize(
    "limits",
    [{"cache_tokens": 3}, {"block_tokens": 0}, {"max_num_seqs": 0}, {"max_num_seqs": 101}],
)
def test_contradictory_limits_are_refused(limits):
    with pytest.raises(ValueError, match="must be at least"):
        engine(**limits)


def scheduled(machine: Engine, now_s: float, *states: RunState) -> tuple[list[int], StepResult]:
    """What one step computes of each, hits not counted, and its result."""
    before = [state.computed for state in states]
    result = machine.step(now_s)
    machine.validate()
    return [state.computed - was for state, was in zip(states, before, strict=True)], result


def test_a_long_prompt_is_capped_only_while_somebody_else_is_there():
    machine = engine(long_prefill_token_threshold=30)
    long = machine.add(SimRequest("long", 250, 1), 0.0)
    assert scheduled(machine, 0.0, long)[0] == [100]
    short = machine.add(SimRequest("short", 20, 1), 0.0)
    computed, second = scheduled(machine, 0.1, long, short)
    assert computed == [30, 20]
    assert (names(second.finished), second.duration_s) == (["short"], pytest.approx(0.05))
    assert [r.prefill_tokens for r in run(machine, 0.15)] == [100, 20]


def test_without_a_cap_the_short_one_behind_a_long_prompt_waits_for_all_of_it():
    machine = engine()
    machine.add(SimRequest("long", 250, 1), 0.0)
    machine.step(0.0)
    machine.add(SimRequest("short", 20, 1), 0.0)
    assert [names(r.finished) for r in run(machine, 0.1)] == [[], ["long", "short"]]


def test_capped_prompts_share_a_step_in_order_of_arrival_as_far_as_it_goes():
    machine = engine(long_prefill_token_threshold=30)
    states = [machine.add(SimRequest(name, 60, 1), 0.0) for name in "abcd"]
    assert scheduled(machine, 0.0, *states)[0] == [30, 30, 30, 10]
    computed, second = scheduled(machine, 0.1, *states)
    assert computed == [30, 30, 30, 10]
    assert names(second.finished) == ["a", "b", "c"]
    assert scheduled(machine, 0.2, states[3])[0] == [40]


@pytest.mark.parametrize(("others", "most"), [(1, 50), (2, 33), (3, 30), (5, 30)])
def test_the_adaptive_cap_is_never_below_a_fair_share(others: int, most: int):
    machine = engine(long_prefill_token_threshold=30, long_prefill_token_threshold_adaptive=True)
    long = machine.add(SimRequest("long", 300, 1), 0.0)
    for number in range(others):
        machine.add(SimRequest(str(number), 10, 1), 0.0)
    assert scheduled(machine, 0.0, long)[0] == [most]


def test_a_cap_leaves_decoding_and_short_prompts_alone():
    machine = engine(long_prefill_token_threshold=1)
    machine.add(SimRequest("old", 1, 4), 0.0)
    machine.add(SimRequest("new", 3, 1), 0.0)
    assert [(r.prefill_tokens, names(r.tokens)) for r in run(machine)] == [
        (2, ["old"]), (1, ["old"]), (1, ["old", "new"]), (0, ["old"]),
    ]  # fmt: skip


@pytest.mark.parametrize(("policy", "order"), [("fcfs", "abcd"), ("priority", "dbac")])
def test_the_smaller_priority_is_admitted_first_and_among_equals_the_first_come(policy: str, order: str):
    machine = engine(max_num_seqs=1, scheduling_policy=SchedulingPolicy(policy))
    machine.add(SimRequest("runs", 10, 2), 0.0)
    machine.step(0.0)
    for name, priority in (("a", 5), ("b", 0), ("c", 5), ("d", -1)):
        machine.add(SimRequest(name, 10, 1, priority=priority), 0.01)
    finished = [name for result in run(machine, 0.01) for name in names(result.finished)]
    assert finished == ["runs", *order]


def test_priority_takes_no_budget_from_what_runs_but_a_cap_does():
    for threshold, expected in ((0, [100, 0]), (40, [40, 10])):
        machine = engine(scheduling_policy=SchedulingPolicy.PRIORITY, long_prefill_token_threshold=threshold)
        long = machine.add(SimRequest("long", 500, 1, priority=9), 0.0)
        machine.step(0.0)
        urgent = machine.add(SimRequest("urgent", 10, 1), 0.1)
        assert scheduled(machine, 0.1, long, urgent)[0] == expected


def test_one_that_fits_and_is_more_urgent_passes_one_that_does_not():
    for policy, passes in (("fcfs", False), ("priority", True)):
        machine = engine(cache_tokens=40, scheduling_policy=SchedulingPolicy(policy))
        machine.add(SimRequest("runs", 20, 12), 0.0)
        machine.add(SimRequest("large", 30, 1), 0.0)
        machine.step(0.0)
        machine.add(SimRequest("urgent", 4, 1, priority=-1), 0.0)
        assert ("urgent" in names(machine.step(0.0).finished)) == passes


def test_by_priority_the_least_urgent_is_preempted_and_waits_in_its_place():
    # Six blocks: with the fourth block that the first needs for its 13th token there is no more room for both.
    for policy, victim in (("fcfs", "vip"), ("priority", "low")):
        machine = engine(cache_tokens=24, scheduling_policy=SchedulingPolicy(policy))
        low = machine.add(SimRequest("low", 8, 8, priority=9), 0.0)
        vip = machine.add(SimRequest("vip", 8, 8), 0.0)
        for step in range(5):
            assert machine.step(float(step)).preempted == 0
        machine.add(SimRequest("later", 4, 1, priority=5), 5.0)
        result = machine.step(5.0)
        machine.validate()
        assert result.preempted == 1
        assert [low.preemptions, vip.preemptions] == ([1, 0] if victim == "low" else [0, 1])
        assert names(result.tokens) == [{"low": "vip", "vip": "low"}[victim]]
        rest = [name for r in run(machine, 6.0) for name in names(r.finished)]
        # By arrival `vip` is the next to be admitted, and `later` in the same step, which is all that it needs.
        assert rest == (["later", "vip", "low"] if victim == "low" else ["low", "later", "vip"])


def test_what_a_preempted_sequence_was_to_compute_is_given_back_and_not_found():
    machine = engine(
        cache_tokens=32,
        max_num_batched_tokens=12,
        long_prefill_token_threshold=8,
        scheduling_policy=SchedulingPolicy.PRIORITY,
    )
    low = machine.add(SimRequest("low", 28, 4, keys("l", 7), priority=1), 0.0)
    assert scheduled(machine, 0.0, low)[0] == [12]
    vip = machine.add(SimRequest("vip", 4, 4), 1.0)
    assert scheduled(machine, 1.0, low, vip)[0] == [8, 4]
    # Now `low` is to fill its last two blocks of seven; then `vip` needs a second one, and there is one in all.
    result = machine.step(2.0)
    machine.validate()
    assert (result.preempted, result.prefill_tokens, names(result.tokens)) == (1, 0, ["vip"])
    assert (low.generated, low.blocks, low.computed, vip.generated) == (0, [], 0, 2)
    assert machine.overlap_tokens(keys("l", 7), 100) == 20
    results = run(machine, 3.0)
    assert [name for r in results for name in names(r.finished)] == ["vip", "low"]
    assert low.cached_tokens == 0


def test_a_cap_below_zero_is_refused():
    with pytest.raises(ValueError, match="long_prefill_token_threshold"):
        engine(long_prefill_token_threshold=-1)
