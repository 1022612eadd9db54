"""The virtual-time fleet: order of events, sessions, bounds, figures, knees, and that every policy serves everybody."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from warmroute.core.holding.parameters import HoldParameters
from warmroute_loadtest.simulate.bounds import (
    clairvoyant_ratio,
    infinite_ratio,
    pooled_lru_ratio,
    working_set_tokens,
)
from warmroute_loadtest.simulate.chooser import Chooser, Site
from warmroute_loadtest.simulate.explain import explain
from warmroute_loadtest.simulate.generators import (
    GENERATORS,
    agent_loops,
    multi_turn,
    no_reuse,
    shared_prompts,
)
from warmroute_loadtest.simulate.knee import knee_rate
from warmroute_loadtest.simulate.metrics import figures, quantile
from warmroute_loadtest.simulate.rivals import RIVALS
from warmroute_loadtest.simulate.routers import several
from warmroute_loadtest.simulate.simulation import HOP_S, FleetConfig, Join, simulate
from warmroute_loadtest.simulate.warm import warm
from warmroute_loadtest.simulate.workload import Session, Shaper, Turn, Workload
from warmroute_replica.sim.step_time import StepTime

SMALL = FleetConfig(replicas=3, cache_tokens=400_000)


def alone(*sessions: Session) -> Workload:
    return Workload("test", 512, list(sessions))


def test_one_request_takes_two_hops_and_one_step() -> None:
    run = simulate(alone(Session(1.0, [Turn("a", 800, 1, (1,))])), SMALL, RIVALS["round-robin"])
    (served,) = run.served
    step_s = StepTime().step_s(800, 800 * 400, 0, 0)
    assert served.ttft_s == pytest.approx(2 * HOP_S + step_s)


def test_the_next_turn_comes_a_pause_after_the_answer_and_finds_its_prefix() -> None:
    turns = [Turn("a", 1024, 3, (1, 2)), Turn("b", 2048, 3, (1, 2, 3, 4), pause_s=2.0)]
    run = simulate(alone(Session(0.0, turns)), SMALL, warm("prefix-cost"))
    first, second = run.served
    assert second.arrival_s == pytest.approx(first.end_s + 2.0)
    assert second.replica == first.replica
    assert second.cached_tokens == 1024


def test_a_prompt_shorter_than_a_block_has_the_same_place_on_the_ring_in_every_process() -> None:
    shape = Shaper(512).shape(Turn("session-1/0", 300, 3, ()))
    assert (shape.rungs, shape.ring_key) == ([], 12376873345919961267)


@pytest.mark.parametrize("name", [*RIVALS, "prefix-cost", "prefix-hash", "least-loaded"])
def test_every_policy_serves_every_request_once(name: str) -> None:
    workload = multi_turn(80)
    run = simulate(workload, SMALL, RIVALS.get(name) or warm(name))
    assert sorted(s.turn.id for s in run.served) == sorted(t.id for s in workload.sessions for t in s.turns)
    assert all(s.arrival_s <= s.dispatched_s < s.first_s <= s.end_s for s in run.served)
    assert all(engine.idle for engine in run.engines)
    for engine in run.engines:
        engine.validate()


@pytest.mark.parametrize("make", [warm("prefix-cost"), several("prefix-cost", 2)])
def test_replicas_that_join_are_used_from_then_on_and_the_minute_after_is_told(
    make: Callable[[Site], Chooser],
) -> None:
    workload = multi_turn(160).at_rate(8.0)
    fleet = FleetConfig(replicas=2, cache_tokens=400_000, joins=(Join(2, 6.0),))
    run = simulate(workload, fleet, make)
    assert len(run.served) == workload.requests
    newcomers = [s for s in run.served if s.replica >= 2]
    assert min(s.dispatched_s for s in newcomers) >= 6.0
    assert {s.replica for s in newcomers} == {2, 3}
    found = figures(run)
    assert found.joined_share_ratio is not None
    assert 0.1 < found.joined_share_ratio < 0.9
    alone = figures(simulate(workload, replace(fleet, joins=(Join(0, 6.0),)), make))
    assert alone.joined_share_ratio == 0.0
    assert alone.joined_ttft_p90_s is not None
    assert found.joined_ttft_p90_s is not None
    assert found.joined_ttft_p90_s < alone.joined_ttft_p90_s


def test_a_rule_for_fleets_that_stay_says_so_when_replicas_join() -> None:
    with pytest.raises(ValueError, match="round-robin cannot be given more replicas"):
        simulate(multi_turn(80), replace(SMALL, joins=(Join(1, 1.0),)), RIVALS["round-robin"])


def test_under_overload_nobody_is_forgotten_at_the_router() -> None:
    workload = no_reuse(300).at_rate(200.0)
    run = simulate(workload, SMALL, warm("prefix-cost"))
    assert len(run.served) == workload.requests
    assert max(s.dispatched_s - s.arrival_s for s in run.served) <= HoldParameters().max_hold_s + 5.0


def test_the_same_seed_gives_the_same_run() -> None:
    times = [
        [s.ttft_s for s in simulate(multi_turn(60), SMALL, warm("prefix-cost")).served] for _ in range(2)
    ]
    assert times[0] == times[1]


def test_a_warm_policy_beats_turns_on_conversations() -> None:
    workload = multi_turn(300).at_rate(4.0)
    ours = figures(simulate(workload, SMALL, warm("prefix-cost")))
    turns = figures(simulate(workload, SMALL, RIVALS["round-robin"]))
    assert ours.cached_ratio > 1.3 * turns.cached_ratio
    assert ours.ttft_mean_s < turns.ttft_mean_s


def test_no_cache_beats_the_one_that_knows_the_future() -> None:
    workload = agent_loops(60)
    total = 600_000
    lru, best = pooled_lru_ratio(workload, total), clairvoyant_ratio(workload, total)
    assert lru <= best <= infinite_ratio(workload) <= 1.0
    assert pooled_lru_ratio(workload, 10**9) == infinite_ratio(workload)
    assert working_set_tokens(workload) > 0


def test_a_slower_fleet_has_a_lower_knee() -> None:
    workload = shared_prompts(150)
    fast = knee_rate(workload, SMALL, RIVALS["least-loaded"])
    slow_step = StepTime(prefill_tokens_per_s=4000.0)
    slow = knee_rate(
        workload, FleetConfig(3, 400_000, step_time=slow_step), RIVALS["least-loaded"], start_rate=fast
    )
    assert 0.3 * fast < slow < 0.8 * fast


def test_rates_move_starts_and_slices_take_whole_sessions() -> None:
    workload = multi_turn(100)
    faster = workload.at_rate(workload.rate * 2)
    assert faster.rate == pytest.approx(workload.rate * 2)
    pauses = [[turn.pause_s for turn in session.turns] for session in workload.sessions]
    assert [[turn.pause_s for turn in session.turns] for session in faster.sessions] == pauses
    part = workload.slice(40, skip=20)
    assert 40 <= part.requests < 75
    assert part.sessions[0].start_s == 0.0


@pytest.mark.parametrize("name", list(GENERATORS))
def test_generated_turns_extend_their_session_and_fit_their_blocks(name: str) -> None:
    workload = GENERATORS[name](50)
    ids: set[str] = set()
    for session in workload.sessions:
        for before, turn in zip(session.turns, session.turns[1:], strict=False):
            shared = 1 if name in ("completions", "keystrokes", "tree-search") else len(before.keys)
            assert turn.keys[:shared] == before.keys[:shared], "in those, turns go back and begin anew"
            assert turn.pause_s > 0
        for turn in session.turns:
            ids.add(turn.id)
            assert len(turn.keys) * workload.block_tokens <= turn.prompt_tokens + turn.output_tokens
    assert len(ids) == workload.requests


def test_quantiles_lie_between_neighbours() -> None:
    assert quantile([], 0.5) == 0.0
    assert quantile([1.0, 2.0, 4.0], 0.5) == 2.0
    assert quantile([1.0, 2.0, 4.0], 0.75) == 3.0


def test_a_request_is_explained_by_every_candidates_terms() -> None:
    found = explain(multi_turn(30), SMALL, 20)
    candidates = found["candidates"]
    assert len(candidates) == 3
    assert all({"wait_s", "prefill_s", "eviction_s", "total_s"} <= set(row) for row in candidates)
    with pytest.raises(ValueError, match="from 1 to"):
        explain(multi_turn(30), SMALL, 10_000)
