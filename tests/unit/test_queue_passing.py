"""Short prompts that are sent past a long one, where the engine shares its steps."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest

from tests.support.fleet_simulation import ready_fleet
from warmroute.core.choice.cost import CostParameters
from warmroute.core.fleet.fleet import Decision
from warmroute.core.fleet.hold_terms import HoldTerms
from warmroute.core.holding.parameters import HoldParameters
from warmroute.core.holding.queue import HoldQueue
from warmroute.core.holding.ticket import Ticket
from warmroute.core.types import FingerprintHash, Incarnation, Records, ReplicaId, RequestShape
from warmroute_loadtest.simulate.simulation import FleetConfig, simulate
from warmroute_loadtest.simulate.warm import Warm, warm
from warmroute_loadtest.simulate.workload import Session, Turn, Workload
from warmroute_replica.sim.engine_config import SchedulingPolicy

SHARING = CostParameters(attention_context_tokens=0.0, shared_step_tokens=1024.0)
ALONE = replace(SHARING, shared_step_tokens=0.0)


def prompt(tokens: int, rungs: int = 0) -> RequestShape:
    return RequestShape("m", [FingerprintHash(n + 1) for n in range(rungs)], tokens * 4, tokens, 1, 1, True)


BEGUN_S = 100.0


class World:
    """One replica of 8,000 tokens a second that computes a prompt of 80,000, and a queue before it."""

    def __init__(self, parameters: CostParameters, rungs: int = 0) -> None:
        self.fleet = ready_fleet(1, parameters=parameters)
        self.replica = self.fleet.replicas[ReplicaId("r0")]
        self.queue = HoldQueue(self.fleet, HoldParameters())
        self.granted: list[object] = []
        records: Records = [None] * rungs
        assert isinstance(self.offer(80_000, BEGUN_S, records), Decision)

    def offer(self, tokens: int, now_s: float, records: Records | None = None) -> Decision | Ticket:
        shape = prompt(tokens, len(records) if records else 0)
        return self.queue.offer(shape, records, now_s, self.granted.append)


def test_a_short_prompt_passes_a_long_one_only_where_the_engine_shares_its_steps() -> None:
    assert isinstance(World(SHARING).offer(800, BEGUN_S + 1.0), Decision)
    assert isinstance(World(ALONE).offer(800, BEGUN_S + 1.0), Ticket)


def test_one_short_prompt_passes_at_a_time() -> None:
    world = World(SHARING)
    first = world.offer(800, BEGUN_S + 1.0)
    assert isinstance(first, Decision)
    assert isinstance(world.offer(800, BEGUN_S + 1.0), Ticket), "800 tokens are ahead besides the long prompt"
    world.fleet.started(first, BEGUN_S + 1.4)
    world.queue.release(BEGUN_S + 1.4, world.replica)
    assert len(world.granted) == 1


def test_a_prompt_that_is_hardly_shorter_than_what_is_left_does_not_pass() -> None:
    # 9.5 s on, 4,000 of the 80,000 tokens are left. Long is what has as many left, and a part of a step.
    world = World(SHARING)
    assert isinstance(world.offer(2_900, BEGUN_S + 9.5), Decision)
    assert isinstance(World(SHARING).offer(3_000, BEGUN_S + 9.5), Ticket)


def test_what_may_still_be_computed_is_waited_for() -> None:
    for used_s, goes in ((-5.0, True), (0.0, False), (-0.25, False), (0.9, True)):
        records: Records = [((Incarnation(1), BEGUN_S + used_s),)] * 4
        answer = World(SHARING, rungs=4).offer(800, BEGUN_S + 1.0, records)
        assert isinstance(answer, Decision) == goes, "registries note a use anew after a quarter of a second"


def test_what_begins_otherwise_is_not_waited_for_whenever_it_was_sent() -> None:
    for used_s in (-5.0, 0.0, -0.25, 0.9):
        records: Records = [((Incarnation(1), BEGUN_S + used_s),)] * 4
        assert isinstance(World(SHARING).offer(800, BEGUN_S + 1.0, records), Decision)


def test_what_is_ahead_costs_a_short_prompt_no_more_than_its_own_length_or_a_part_of_a_step() -> None:
    replica = World(SHARING).replica
    assert replica.wait_for_s(BEGUN_S + 1.0, 0.5) == pytest.approx(0.5)
    assert replica.wait_for_s(BEGUN_S + 1.0, 0.01) == pytest.approx(1024 / 8000)
    assert replica.wait_for_s(BEGUN_S + 1.0, 60.0) == pytest.approx(9.0)
    assert World(ALONE).replica.wait_for_s(BEGUN_S + 1.0, 0.5) == pytest.approx(9.0)
    assert not World(ALONE).replica.lets_pass(HoldTerms(BEGUN_S + 1.0, 512.0), 0.0, -inf)


def talks_beside_long_prompts(talks: int) -> Workload:
    """Conversations of 40 turns every second, and a prompt of 60,000 tokens every 12 s."""

    def turn(talk: int, number: int) -> Turn:
        keys = tuple(range(1000 * talk + 1, 1000 * talk + 9 + number))
        return Turn(f"t{talk}.{number}", 2048 + 256 * number, 8, keys, 1.0, 99 + talk)

    warm_sessions = [Session(0.1 * talk, [turn(talk, n) for n in range(40)]) for talk in range(talks)]
    long = [Session(2.0 + 12.0 * n, [Turn(f"l{n}", 60_000, 8, (), 0.0, -2 - n)]) for n in range(4)]
    return Workload("w", 256, [*warm_sessions, *long])


def test_an_engine_that_orders_by_priority_has_nothing_to_order_where_requests_are_held(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def ttfts_s(policy: SchedulingPolicy) -> list[float]:
        fleet = FleetConfig(1, 1_500_000, scheduling_policy=policy.value)
        run = simulate(talks_beside_long_prompts(3), fleet, warm("prefix-cost"))
        return [served.ttft_s for served in run.served]

    by_arrival = ttfts_s(SchedulingPolicy.FCFS)
    monkeypatch.setattr(Warm, "priority", lambda self, turn: turn.prompt_tokens - self.predicted_tokens(turn))
    assert ttfts_s(SchedulingPolicy.PRIORITY) == by_arrival


def test_in_an_engine_that_shares_its_steps_warm_turns_do_not_wait_for_long_prompts() -> None:
    def warm_turns_s(shared_step_tokens: float, talks: int = 1) -> tuple[float, float]:
        fleet = FleetConfig(
            1,
            500_000,
            max_num_batched_tokens=2048,
            long_prefill_token_threshold=1024,
            long_prefill_token_threshold_adaptive=True,
        )
        parameters = CostParameters(shared_step_tokens=shared_step_tokens)
        run = simulate(talks_beside_long_prompts(talks), fleet, warm("prefix-cost", parameters))
        turns = [s.ttft_s for s in run.served if s.turn.id.startswith("t")]
        cold = [s.ttft_s for s in run.served if s.turn.id.startswith("l")]
        return (sum(turns) / len(turns) if talks == 1 else max(turns)), max(cold)

    held_s, alone_s = warm_turns_s(0.0)
    passing_s, passed_s = warm_turns_s(1024.0)
    assert passing_s < 0.6 * held_s
    assert passed_s < 1.5 * alone_s
    # Of several conversations none waits for a whole long prompt, whenever its last turn was sent.
    assert warm_turns_s(0.0, talks=3)[0] > 10.0
    assert warm_turns_s(1024.0, talks=3)[0] < 5.0
