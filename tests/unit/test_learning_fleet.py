"""A fleet that learns: what is timed, what says nothing, and how far replicas are taken to differ."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

from warmroute.core.choice.cost import CostParameters
from warmroute.core.choice.policies import POLICIES
from warmroute.core.fleet.fleet import Decision, Fleet, ProbeSucceeded, ReplicaAdded, ReplicaRemoved
from warmroute.core.fleet.peer_load import PeerLoad
from warmroute.core.fleet.replica import Replica
from warmroute.core.fleet.report import replica_row
from warmroute.core.health.health import HealthParameters
from warmroute.core.learning.learner import MAX_MODELS, Learner, LearningParameters
from warmroute.core.learning.sample import ENOUGH_TOKENS
from warmroute.core.types import Incarnation, ReplicaId, RequestShape

PARAMETERS = CostParameters(attention_context_tokens=0.0)
PRIORS = (0.001, 0.01, 0.3, 1.0, 12.0, 1000.0)
"""Believed over true rates."""


class World:
    """Replicas that compute prompts one after the other at their own rates."""

    def __init__(
        self, *rates: float, models: tuple[str, ...] = ("m",), prior: float = 1.0, base_s: float = 0.02
    ) -> None:
        self.base_s = base_s
        self.learner = Learner(LearningParameters())
        parameters = replace(PARAMETERS, prefill_tokens_per_s=8000.0 * prior)
        self.fleet = Fleet(
            POLICIES["prefix-cost"](parameters),
            random.Random(1),
            parameters,
            HealthParameters(),
            learner=self.learner,
        )
        self.now_s = 1000.0
        self.rates: dict[Replica, float] = {}
        self.rng = random.Random(2)
        self.models = models
        for rate in rates:
            self.join(rate)

    def join(self, rate: float) -> Replica:
        return self.join_as(f"r{len(self.rates)}", rate)

    def join_as(self, name: str, rate: float) -> Replica:
        replica_id = ReplicaId(name)
        self.fleet.apply(ReplicaAdded(replica_id, "http://r"))
        incarnation = Incarnation(len(self.fleet.replicas) + 100)
        self.fleet.apply(ProbeSucceeded(replica_id, incarnation, self.models, 16, None, self.now_s))
        replica = self.fleet.replicas[replica_id]
        self.rates[replica] = rate
        return replica

    def send(self, replica: Replica, tokens: int, streams: bool = True, model: str = "m") -> Decision:
        shape = RequestShape(model, [], tokens * 4, tokens, streams=streams)
        decision = self.fleet.reserve_on(replica.id, shape, self.now_s)
        self.shape = shape
        return decision

    def answer(self, decision: Decision, usage: tuple[int, int | None, int] | None = None) -> None:
        """First byte and end at once, then what it teaches."""
        self.fleet.started(decision, self.now_s)
        self.fleet.settle(decision, self.now_s)
        if usage is None:
            self.fleet.learn(decision, self.shape, 0, None, None, 0)
        else:
            self.fleet.learn(decision, self.shape, *usage, usage[2])

    def serve(self, replica: Replica, count: int, cached: int | None = 0) -> None:
        for _ in range(count):
            tokens = int(min(self.rng.lognormvariate(7.5, 1.0), 20_000)) + 1
            decision = self.send(replica, tokens)
            self.now_s += self.base_s + tokens / self.rates[replica]
            self.answer(decision, (tokens, cached, 10))
            self.now_s += 0.5

    def tick(self) -> None:
        self.now_s += 1.5
        self.fleet.settle(
            self.fleet.choose_and_reserve(RequestShape("m", prompt_tokens=0), None, self.now_s), self.now_s
        )


@pytest.fixture
def world() -> Iterator[World]:
    world = World(8000.0, 8000.0, 8000.0)
    yield world
    world.fleet.validate()


def rate(replica: Replica) -> float:
    return replica.prefill_tokens_per_s


def test_a_replica_of_another_speed_is_found_by_a_dozen_requests(world: World) -> None:
    fast = world.join(16_000.0)
    slow = world.join(4000.0)
    for replica in world.rates:
        world.serve(replica, 12)
    world.tick()
    assert rate(fast) == pytest.approx(16_000, rel=0.15)
    assert rate(slow) == pytest.approx(4000, rel=0.15)
    others = [rate(r) for r, true in world.rates.items() if true == 8000.0]
    assert max(others) < 1.02 * min(others), "equals stay equal"
    assert fast.base_latency_s == pytest.approx(0.02, abs=0.01)
    row = replica_row(fast, world.now_s)
    assert row["speed_stretches"] == 12
    assert float(str(row["speed_confidence"])) > 0.5


def test_a_new_replica_is_believed_to_be_like_its_fellows(world: World) -> None:
    for replica in world.rates:
        world.rates[replica] = 2500.0
        world.serve(replica, 8)
    world.tick()
    new = world.join(2500.0)
    assert rate(new) == 8000.0
    world.serve(next(iter(world.rates)), 1)
    world.tick()
    assert rate(new) == pytest.approx(2500, rel=0.1)
    assert new.speed.confidence == 0.0


def test_fellows_serve_the_same_models() -> None:
    world = World(2000.0, 2000.0)
    world.models = ("other",)
    other = world.join(8000.0)
    for replica in list(world.rates)[:2]:
        world.serve(replica, 8)
    world.tick()
    assert rate(other) == 8000.0


def test_two_samples_are_not_believed(world: World) -> None:
    replica = next(iter(world.rates))
    world.rates[replica] = 800.0
    world.serve(replica, 2)
    world.tick()
    assert {rate(r) for r in world.rates} == {8000.0}


def test_after_a_restart_a_replica_is_like_its_fellows_until_it_has_shown_what_it_is(world: World) -> None:
    slow = world.join(4000.0)
    for replica in world.rates:
        world.serve(replica, 12)
    world.tick()
    assert rate(slow) == pytest.approx(4000, rel=0.2)
    world.fleet.apply(ProbeSucceeded(slow.id, Incarnation(99), ("m",), 16, None, world.now_s))
    world.tick()
    assert rate(slow) == pytest.approx(8000, rel=0.1)
    assert slow.speed.confidence == 0.0
    world.serve(slow, 6)
    world.tick()
    assert rate(slow) == pytest.approx(4000, rel=0.2)


def test_idle_time_forgets_nothing(world: World) -> None:
    slow = world.join(4000.0)
    for replica in world.rates:
        world.serve(replica, 12)
    world.tick()
    before = rate(slow), slow.speed.confidence
    world.now_s += 1e6
    world.tick()
    assert (rate(slow), slow.speed.confidence) == before


def test_an_answer_that_does_not_stream_says_nothing_of_its_replica_alone(world: World) -> None:
    replica = next(iter(world.rates))
    decision = world.send(replica, 1000, streams=False)
    world.now_s += 30.0
    world.answer(decision, (1000, 0, 500))
    assert replica.speed.count == 0
    assert decision.sample is None


def whole_answers(world: World, count: int, step_s: float = 0.02) -> None:
    """So many answers that come whole, from replicas in turn, each alone there: most of the time is decoding."""
    replicas = list(world.rates)
    for number in range(count):
        replica = replicas[number % len(replicas)]
        tokens = int(min(world.rng.lognormvariate(7.5, 1.0), 20_000)) + 1
        output_tokens = world.rng.randrange(20, 300)
        decision = world.send(replica, tokens, streams=False)
        took_s = world.base_s + tokens / world.rates[replica] + output_tokens * step_s
        world.now_s += took_s * world.rng.uniform(0.9, 1.1)
        world.answer(decision, (tokens, 0, output_tokens))


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("true_rate", [1000.0, 8000.0, 100_000.0])
def test_a_fleet_whose_answers_all_come_whole_learns_its_speed_from_them(
    prior: float, true_rate: float
) -> None:
    world = World(*[true_rate] * 4, prior=prior * true_rate / 8000.0)
    whole_answers(world, 200, step_s=160.0 / true_rate)
    world.tick()
    assert {round(rate(replica)) for replica in world.rates} == {round(rate(next(iter(world.rates))))}
    assert rate(next(iter(world.rates))) == pytest.approx(true_rate, rel=0.4)
    world.fleet.validate()


def test_what_whole_answers_leave_open_is_not_believed_to_cost_nothing() -> None:
    """Prompts and answers of one length each: what of their time was prefill nobody can say."""
    world = World(8000.0, 8000.0)
    replica = next(iter(world.rates))
    for _ in range(60):
        decision = world.send(replica, 400, streams=False)
        world.now_s += 0.05 + 0.16 * world.rng.uniform(0.8, 1.2)
        world.answer(decision, (400, 0, 8))
    world.tick()
    assert 1000.0 < rate(replica) < 40_000.0


def test_a_few_streams_tell_more_than_all_answers_that_came_whole(world: World) -> None:
    whole_answers(world, 100)
    for replica in world.rates:
        world.rates[replica] = 2000.0
        world.serve(replica, 4)
    world.tick()
    assert rate(next(iter(world.rates))) == pytest.approx(2000.0, rel=0.15)


def test_what_begins_before_its_end_though_it_does_not_stream_teaches_nothing(world: World) -> None:
    """A batch of prompts: its first byte comes when the first of them was prefilled."""
    replica = next(iter(world.rates))
    for _ in range(20):
        decision = world.send(replica, 16_000, streams=False)
        world.now_s += 0.2
        world.fleet.started(decision, world.now_s)
        world.now_s += 3.0
        world.fleet.settle(decision, world.now_s)
        world.fleet.learn(decision, world.shape, 16_000, 900, 16, 16)
    world.tick()
    assert rate(replica) == 8000.0


def test_an_answer_that_came_whole_without_usage_or_without_a_prefill_teaches_nothing(world: World) -> None:
    replica = next(iter(world.rates))
    for _ in range(20):
        decision = world.send(replica, 1000, streams=False)
        world.now_s += 30.0
        world.answer(decision)
        failed = world.send(replica, 1000, streams=False)
        world.now_s += 0.01
        world.fleet.started(failed, world.now_s, computed=False)
        world.fleet.settle(failed, world.now_s)
        world.fleet.learn(failed, world.shape, 1000, 0, 5, 5)
    world.tick()
    assert rate(replica) == 8000.0


def test_a_prompt_behind_one_that_does_not_stream_is_not_timed(world: World) -> None:
    replica = next(iter(world.rates))
    silent = world.send(replica, 8000, streams=False)
    world.now_s += 0.1
    heard = world.send(replica, 1000)
    world.now_s += 1.2
    world.answer(heard, (1000, 0, 5))
    world.answer(silent, (8000, 0, 5))
    assert replica.speed.count == 0
    world.serve(replica, 1)
    assert replica.speed.count == 1


@pytest.mark.parametrize("how", ["given up", "refused"])
def test_a_prompt_that_was_not_computed_spoils_its_sample_and_no_other(world: World, how: str) -> None:
    replica = next(iter(world.rates))
    first = world.send(replica, 1000)
    second = world.send(replica, 2000)
    if how == "refused":
        world.fleet.started(first, world.now_s + 0.01, computed=False)
    world.fleet.settle(first, world.now_s + 0.01)
    world.now_s += 0.3
    world.answer(second, (2000, 0, 5))
    assert replica.speed.count == 0
    world.serve(replica, 1)
    assert replica.speed.count == 1


def test_prompts_of_one_engine_step_are_timed_together(world: World) -> None:
    replica = next(iter(world.rates))
    for _ in range(4):
        decisions = [world.send(replica, 2000) for _ in range(3)]
        world.now_s += 0.02 + 6000 / 8000
        for decision in decisions:
            world.answer(decision, (2000, 0, 5))
            world.now_s += 0.001
    assert replica.speed.count == 4
    replica.speed.fit(None)
    assert 1 / replica.speed.token_s == pytest.approx(8000, rel=0.1)


def test_a_queue_that_never_empties_is_timed_in_parts(world: World) -> None:
    replica = next(iter(world.rates))
    waiting = [world.send(replica, ENOUGH_TOKENS) for _ in range(3)]
    for _ in range(10):
        waiting.append(world.send(replica, ENOUGH_TOKENS))
        world.now_s += ENOUGH_TOKENS / 4000
        world.answer(waiting.pop(0), (ENOUGH_TOKENS, 0, 5))
    assert replica.speed.count == 9
    replica.speed.fit(None)
    assert 1 / replica.speed.token_s == pytest.approx(4000, rel=0.1)


def test_other_routers_prompts_ahead_are_taken_into_account(world: World) -> None:
    replica = next(iter(world.rates))
    for _ in range(8):
        world.fleet.note_peer_load(replica, PeerLoad(0, 1, 4000, 4000, 4000, 0.0, 4000), world.now_s)
        decision = world.send(replica, 4000)
        world.now_s += 0.02 + 8000 / 8000
        world.fleet.note_peer_load(replica, PeerLoad(0, 1, 0, 0, 0, 0.0, 0), world.now_s)
        world.answer(decision, (4000, 0, 5))
    replica.speed.fit(None)
    assert 1 / replica.speed.token_s == pytest.approx(8000, rel=0.1)


def test_prompts_that_another_router_told_of_too_late_spoil_a_sample(world: World) -> None:
    replica = next(iter(world.rates))
    for late_s, counts in ((0.05, False), (0.3, True)):
        before = replica.speed.count
        decision = world.send(replica, 4000)
        world.now_s += late_s
        world.fleet.note_peer_load(replica, PeerLoad(0, 1, 4000, 4000, 4000, 0.0, 4000), world.now_s)
        world.now_s += 0.5
        world.answer(decision, (4000, 0, 5))
        world.fleet.note_peer_load(replica, PeerLoad(0, 0, 0, 0, 0, 0.0, 0), world.now_s)
        assert (replica.speed.count > before) is counts


def test_reported_tokens_replace_predicted_ones(world: World) -> None:
    replica = next(iter(world.rates))
    for _ in range(8):
        decision = world.send(replica, 8000)
        world.now_s += 0.02 + 2000 / 8000
        world.answer(decision, (8000, 6000, 5))
    replica.speed.fit(None)
    assert 1 / replica.speed.token_s == pytest.approx(8000, rel=0.1)


def test_a_clock_that_is_set_teaches_nothing(world: World) -> None:
    replica = next(iter(world.rates))
    for jump_s in (-50.0, 1e6):
        decision = world.send(replica, 1000)
        world.now_s += jump_s
        world.answer(decision, (1000, 0, 5))
    assert replica.speed.count == 0


def test_what_waits_is_counted_anew_when_the_rate_changes(world: World) -> None:
    replica = next(iter(world.rates))
    world.send(replica, 8000)
    world.send(replica, 4000)
    assert replica.wait_s(world.now_s) == pytest.approx(1.5)
    recent_load_s = replica.recent_load_s
    replica.change_rates(1 / 4000, 0.03, 0.0)
    assert replica.wait_s(world.now_s) == pytest.approx(3.0)
    assert recent_load_s > 0.0
    assert replica.recent_load_s == pytest.approx(2 * recent_load_s)
    world.fleet.validate()


def test_a_models_bytes_per_token_are_used_for_the_next_prompt(world: World) -> None:
    replica = next(iter(world.rates))
    assert world.fleet.bytes_per_token("m") == 4.0
    for _ in range(20):
        decision = world.send(replica, 1000)
        world.now_s += 0.2
        world.answer(decision, (2000, 0, 50))
    assert world.fleet.bytes_per_token("m") == pytest.approx(2.0, rel=0.2)
    assert world.fleet.bytes_per_token("n") == 4.0
    (row,) = world.fleet.model_rows()
    assert row["model"] == "m"
    assert row["answers"] == 20


def test_names_that_only_clients_know_are_not_remembered(world: World) -> None:
    replica = next(iter(world.rates))
    for number in range(3 * MAX_MODELS):
        decision = world.send(replica, 10, model=f"made-up-{number}")
        world.answer(decision, (10, 0, 5))
    assert world.learner.models == {}


def test_without_a_learner_rates_stay_as_configured() -> None:
    world = World(2000.0)
    world.fleet._learner = None
    replica = next(iter(world.rates))
    world.serve(replica, 20)
    world.tick()
    assert rate(replica) == 8000.0
    assert world.fleet.bytes_per_token("m") == 0.0
    assert world.fleet.model_rows() == []


def believed(world: World) -> list[tuple[float, float, float]]:
    return [(r.wait_token_s, r.base_latency_s, r.interference_s) for r in world.rates]


@pytest.mark.parametrize("samples", [(3, 0, 0), (1, 1, 1), (0, 2, 1), (12, 12, 12), (60, 1, 20)])
def test_no_prior_leaves_a_trace_in_what_is_believed(samples: tuple[int, ...]) -> None:
    seen = []
    for prior in PRIORS:
        world = World(2000.0, 8000.0, 9000.0, prior=prior)
        for replica, count in zip(world.rates, samples, strict=True):
            world.serve(replica, count)
        world.tick()
        seen.append(believed(world))
    for other in seen:
        for figures, expected in zip(other, seen[0], strict=True):
            assert figures == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("prior", [1 / 12, 1 / 1000, 100.0])
def test_the_first_replica_measured_is_not_the_only_one_believed_fast(prior: float) -> None:
    world = World(8000.0, 8000.0, 8000.0, 8000.0, prior=prior)
    first = next(iter(world.rates))
    world.serve(first, 2)
    world.tick()
    assert {rate(r) for r in world.rates} == {8000.0 * prior}, "nothing is believed of two"
    world.serve(first, 1)
    world.tick()
    rates = [rate(replica) for replica in world.rates]
    assert max(rates) == pytest.approx(min(rates), rel=0.02)
    assert rates[-1] == pytest.approx(8000.0, rel=0.25)


def serve_in_turn(world: World, turns: int, replicas: list[Replica] | None = None) -> None:
    for _ in range(turns):
        for replica in replicas or list(world.rates):
            world.serve(replica, 1)
    world.tick()


@pytest.mark.parametrize(("times", "after"), [(0.1, 50), (10.0, 50), (0.5, 32)])
def test_a_replica_that_changes_its_speed_is_followed(times: float, after: int) -> None:
    world = World(8000.0, 8000.0, 8000.0, 8000.0)
    serve_in_turn(world, 40)
    changed, *others = world.rates
    world.rates[changed] = 8000.0 * times
    for _ in range(after):
        world.serve(changed, 1)
        world.tick()
    assert rate(changed) == pytest.approx(8000.0 * times, rel=0.1)
    for other in others:
        assert rate(other) == pytest.approx(8000.0, rel=0.1)


def test_a_fleet_that_changes_its_speed_together_is_followed_together() -> None:
    world = World(8000.0, 8000.0, 8000.0)
    serve_in_turn(world, 40)
    for replica in world.rates:
        world.rates[replica] = 800.0
    for _ in range(50):
        serve_in_turn(world, 1)
    assert [rate(replica) for replica in world.rates] == pytest.approx([800.0] * 3, rel=0.1)


@pytest.mark.parametrize("scale", [1 / 8, 1.0, 12.5])
def test_an_uneven_fleet_is_believed_to_be_what_it_is(scale: float) -> None:
    true = [8000.0] * 3 + [4000.0] * 4 + [2000.0]
    world = World(*[rate * scale for rate in true], base_s=0.02 / scale)
    serve_in_turn(world, 40)
    assert [rate(replica) / scale for replica in world.rates] == pytest.approx(true, rel=0.1)


def test_a_replica_that_gets_nothing_is_believed_like_its_fellows_again_and_so_tried() -> None:
    world = World(8000.0, 8000.0, 8000.0, 400.0)
    serve_in_turn(world, 40)
    *others, slow = world.rates
    slow_rate = rate(slow)
    assert slow_rate == pytest.approx(400.0, rel=0.1)
    serve_in_turn(world, 10, others)
    assert rate(slow) == pytest.approx(slow_rate, rel=0.02), "7.5 of the mean replica's are too few"
    serve_in_turn(world, 34, others)
    assert rate(slow) == pytest.approx(8000.0, rel=0.1), "33 are enough"
    # Idle, it looks as good as the others do: somebody is sent there, and shows what it is.
    decisions = [
        world.fleet.choose_and_reserve(
            RequestShape("m", [], 4000, 1000, number << 58 | 1, number), None, world.now_s
        )
        for number in range(60)
    ]
    assert slow in {decision.replica for decision in decisions}
    for decision in decisions:
        world.fleet.settle(decision, world.now_s)
    world.serve(slow, 1)
    world.tick()
    assert rate(slow) == pytest.approx(400.0, rel=0.1), "what was seen before is believed again"


def test_those_who_come_and_go_do_not_make_a_replica_forgotten() -> None:
    world = World(8000.0, 8000.0, 2000.0)
    serve_in_turn(world, 40)
    first, second, slow = world.rates
    for gone in (first, second):
        world.fleet.apply(ReplicaRemoved(gone.id))
        del world.rates[gone]
    for number in range(4):
        world.join_as(f"new{number}", 8000.0)
    serve_in_turn(world, 4, [r for r in world.rates if r is not slow])
    assert rate(slow) == pytest.approx(2000.0, rel=0.1)


@pytest.mark.parametrize("bad", [{"bytes_per_token": 0.0}, {"answer_tokens": -1.0}])
def test_parameters_that_make_no_sense_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        LearningParameters(**bad)
