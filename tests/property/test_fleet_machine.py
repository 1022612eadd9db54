"""Any order of requests and events: nothing raises but refusals, and every counter adds up at each step."""

from __future__ import annotations

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from warmroute.core.choice.cost import CostParameters
from warmroute.core.choice.policies import POLICIES
from warmroute.core.errors import NotFoundError, OverloadError
from warmroute.core.fleet.fleet import (
    CacheEmptied,
    Decision,
    DrainStarted,
    Fleet,
    ProbeFailed,
    ProbeSucceeded,
    RanksFound,
    ReplicaAdded,
    ReplicaRemoved,
    ReplicaState,
)
from warmroute.core.fleet.peer_load import PeerLoad
from warmroute.core.health.health import FailureReason, HealthParameters
from warmroute.core.learning.learner import Learner, LearningParameters
from warmroute.core.types import Incarnation, Record, ReplicaId, RequestShape

GRID = tuple(512 * (i + 1) for i in range(8))
IDS = [ReplicaId(f"r{i}") for i in range(5)]
MODELS = ["llama", "qwen"]

ids = st.sampled_from(IDS)
incarnations = st.integers(1, 9).map(Incarnation)
records = st.lists(
    st.none() | st.lists(st.tuples(incarnations, st.just(1.0)), min_size=1, max_size=3).map(tuple), max_size=8
)
shapes = st.builds(
    lambda model, blocks, key, streams: RequestShape(
        model=model,
        rungs=list(range(blocks)),
        prompt_bytes=blocks * 512 + 100,
        prompt_tokens=blocks * 128 + 25,
        ring_key=key,
        head_key=key,
        streams=streams,
    ),
    st.sampled_from([*MODELS, "", "unheard-of"]),
    st.integers(0, 8),
    st.integers(0, (1 << 64) - 1),
    st.booleans(),
)


class FleetMachine(RuleBasedStateMachine):
    policy = "prefix-cost"

    decisions = Bundle("decisions")

    def __init__(self) -> None:
        super().__init__()
        parameters = CostParameters()
        self.now_s = 1000.0
        self.fleet = Fleet(
            POLICIES[self.policy](parameters),
            random.Random(1),
            parameters,
            HealthParameters(),
            GRID,
            Learner(LearningParameters()),
        )
        self.open: list[Decision] = []

    @initialize(ready=st.integers(0, 4))
    def some_are_ready(self, ready: int) -> None:
        for i in range(ready):
            self.fleet.apply(ReplicaAdded(IDS[i], "http://a"))
            self.fleet.apply(ProbeSucceeded(IDS[i], Incarnation(i + 1), MODELS, None, None, self.now_s))

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.5, 1.5, 40.0, 5000.0, -3.0, -9000.0]))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds

    @rule(target=decisions, shape=shapes, records=records, tried=st.lists(ids, max_size=2))
    def request(
        self, shape: RequestShape, records: list[Record | None], tried: list[ReplicaId]
    ) -> Decision | None:
        known = self.fleet.replicas
        passed = [known[i] for i in tried if i in known]
        ranking = None
        records = records[: len(shape.rungs)]
        try:
            if not passed:
                ranking = self.fleet.rank(shape, records, self.now_s)
            decision = self.fleet.choose_and_reserve(shape, records, self.now_s, passed)
        except NotFoundError:
            assert shape.model != ""
            assert not any(shape.model in r.models for r in known.values())
            return None
        except OverloadError:
            usable = {ReplicaState.READY, ReplicaState.EJECTED, ReplicaState.PROBING}
            serving = [r for r in known.values() if shape.model in r.models or shape.model == ""]
            servers = [r.server for r in passed]
            assert not [r for r in serving if r.state in usable and r.server not in servers]
            return None
        replica = decision.replica
        assert replica.server not in [r.server for r in passed]
        assert known[replica.id] is replica
        assert shape.model == "" or not replica.models_known or shape.model in replica.models
        assert replica.state in (ReplicaState.READY, ReplicaState.PROBING)
        assert decision.predicted_tokens + decision.uncached_tokens == shape.prompt_tokens
        assert decision.predicted_tokens == 0 or decision.uncached_tokens > 0
        if ranking is not None:
            assert ranking.choice.replica is replica
            assert ranking.choice.kind is decision.kind
            ranked = [candidate.replica for candidate in ranking.candidates]
            assert len(set(ranked)) == len(ranked)
        self.open.append(decision)
        return decision

    @rule(target=decisions, replica_id=ids, shape=shapes)
    def pinned_request(self, replica_id: ReplicaId, shape: RequestShape) -> Decision | None:
        try:
            decision = self.fleet.reserve_on(replica_id, shape, self.now_s)
        except NotFoundError:
            assert replica_id not in self.fleet.servers
            return None
        except OverloadError:
            assert self.fleet.servers[replica_id].health.state is ReplicaState.STARTING
            return None
        self.open.append(decision)
        return decision

    @rule(replica_id=ids, ranks=st.integers(0, 4))
    def ranks_found(self, replica_id: ReplicaId, ranks: int) -> None:
        self.fleet.apply(RanksFound(replica_id, ranks))

    @rule(replica_id=ids, incarnation=incarnations)
    def cache_emptied(self, replica_id: ReplicaId, incarnation: Incarnation) -> None:
        self.fleet.apply(CacheEmptied(replica_id, incarnation))

    @rule(decision=decisions)
    def first_byte(self, decision: Decision | None) -> None:
        if decision is not None:
            self.fleet.started(decision, self.now_s)

    @rule(decision=decisions)
    def request_ends(self, decision: Decision | None) -> None:
        if decision is not None:
            self.fleet.settle(decision, self.now_s)
            if decision in self.open:
                self.open.remove(decision)

    @rule(
        decision=decisions,
        shape=shapes,
        prompt_tokens=st.integers(0, 5000),
        cached_tokens=st.none() | st.integers(0, 9000),
    )
    def answer_tells(
        self, decision: Decision | None, shape: RequestShape, prompt_tokens: int, cached_tokens: int | None
    ) -> None:
        if decision is not None:
            self.fleet.learn(decision, shape, prompt_tokens, cached_tokens, 10, 10)

    @rule(
        replica_id=ids,
        tokens=st.integers(0, 50_000),
        given=st.integers(0, 50_000),
        age_s=st.sampled_from([0.0, 0.4, 70.0]),
    )
    def others_tell(self, replica_id: ReplicaId, tokens: int, given: int, age_s: float) -> None:
        replica = self.fleet.replicas.get(replica_id)
        if replica is not None:
            peer_load = PeerLoad(0, int(tokens > 0), given, tokens, tokens // 2, age_s, tokens // 3)
            self.fleet.note_peer_load(replica, peer_load, self.now_s)

    @rule(decision=decisions, reason=st.sampled_from(list(FailureReason)))
    def request_fails(self, decision: Decision | None, reason: FailureReason) -> None:
        if decision is not None:
            self.fleet.report_failure(decision.replica, reason, self.now_s)

    @rule(decision=decisions)
    def request_succeeds(self, decision: Decision | None) -> None:
        if decision is not None:
            self.fleet.report_success(decision, self.now_s)

    @rule(overdue=st.lists(ids, max_size=3))
    def passed_over(self, overdue: list[ReplicaId]) -> None:
        self.fleet.pass_over([self.fleet.replicas[name] for name in overdue if name in self.fleet.replicas])

    @rule(replica_id=ids, url=st.sampled_from(["http://a", "http://a", "http://b"]))
    def added(self, replica_id: ReplicaId, url: str) -> None:
        self.fleet.apply(ReplicaAdded(replica_id, url))

    @rule(replica_id=ids)
    def removed(self, replica_id: ReplicaId) -> None:
        self.fleet.apply(ReplicaRemoved(replica_id))
        assert replica_id not in self.fleet.replicas

    @rule(replica_id=ids)
    def drains(self, replica_id: ReplicaId) -> None:
        self.fleet.apply(DrainStarted(replica_id))

    @rule(
        replica_id=ids,
        incarnation=st.none() | incarnations,
        models=st.none() | st.just(MODELS) | st.lists(st.sampled_from(MODELS), max_size=2),
        block_tokens=st.sampled_from([None, 0, 16, 128]),
    )
    def probed(
        self,
        replica_id: ReplicaId,
        incarnation: Incarnation | None,
        models: list[str] | None,
        block_tokens: int,
    ) -> None:
        self.fleet.apply(ProbeSucceeded(replica_id, incarnation, models, block_tokens, 10_000, self.now_s))

    @rule(replica_id=ids)
    def probe_fails(self, replica_id: ReplicaId) -> None:
        self.fleet.apply(ProbeFailed(replica_id, "timeout", self.now_s))

    @rule()
    def looked_at(self) -> None:
        rows = self.fleet.snapshot(self.now_s)
        assert [row["id"] for row in rows] == list(self.fleet.replicas)
        assert self.fleet.routable() == sum(replica.routable for replica in self.fleet.replicas.values())
        assert set(self.fleet.model_cards()) == self.fleet.models()

    @invariant()
    def everything_adds_up(self) -> None:
        self.fleet.validate()
        assert all(998 <= r.prefill_tokens_per_s <= 64_100 for r in self.fleet.replicas.values())
        for replica in self.fleet.replicas.values():
            mine = [d for d in self.open if d.replica is replica]
            assert replica.in_flight == len(mine)
            assert replica.waiting == sum(d.phase == 0 for d in mine)
            assert replica.waiting_tokens == sum(d.uncached_tokens for d in mine if d.phase == 0)

    def teardown(self) -> None:
        touched = {d.replica for d in self.open} | set(self.fleet.replicas.values())
        random.Random(len(self.open)).shuffle(self.open)
        for decision in self.open:
            self.fleet.settle(decision, self.now_s)
            self.fleet.settle(decision, self.now_s)
        for replica in touched:
            assert (replica.in_flight, replica.waiting, replica.waiting_tokens, replica.trials) == (
                0,
                0,
                0,
                0,
            )
        self.fleet.validate()


@pytest.mark.parametrize("name", list(POLICIES))
def test_any_order_of_requests_and_events_adds_up(name: str) -> None:
    machine = type("Machine", (FleetMachine,), {"policy": name})
    machine.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
    machine.TestCase("runTest").runTest()
