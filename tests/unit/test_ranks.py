"""Servers of several data-parallel ranks: what is the server's, what is each rank's, and ranks that come and go."""

from __future__ import annotations

from random import Random

from tests.support.wire import Wire
from warmroute.core.choice.cost import CostParameters
from warmroute.core.choice.policies import POLICIES
from warmroute.core.fleet.fleet import (
    CacheEmptied,
    DrainStarted,
    Fleet,
    ProbeFailed,
    ProbeSucceeded,
    RanksFound,
    ReplicaAdded,
    ReplicaRemoved,
    ReplicaState,
)
from warmroute.core.health.health import FailureReason, HealthParameters
from warmroute.core.ranks import rank_id, rank_incarnation, server_id_of
from warmroute.core.types import Incarnation, Record, ReplicaId, RequestShape

A, B = ReplicaId("a:1"), ReplicaId("b:1")
LIFE = Incarnation(1234)


def well(server: ReplicaId, life: int = LIFE, now_s: float = 1.0, process: int = 7) -> ProbeSucceeded:
    return ProbeSucceeded(
        server,
        Incarnation(life),
        ["m"],
        16,
        1000,
        now_s,
        True,
        Incarnation(process),
        (1000, 2000, 3000, 4000),
    )


def ranked(*servers: ReplicaId, ranks: int = 4, policy: str = "prefix-cost") -> Fleet:
    parameters = CostParameters()
    fleet = Fleet(POLICIES[policy](parameters), Random(1), parameters, HealthParameters())
    for index, server in enumerate(servers):
        fleet.apply(ReplicaAdded(server, f"http://{server}", ranks=ranks))
        fleet.apply(well(server, LIFE + index))
    return fleet


def states(fleet: Fleet) -> set[ReplicaState]:
    return {replica.state for replica in fleet.replicas.values()}


def test_each_rank_is_a_replica_with_a_cache_and_an_incarnation_of_its_own() -> None:
    fleet = ranked(A)
    assert list(fleet.replicas) == ["a:1#0", "a:1#1", "a:1#2", "a:1#3"]
    assert [replica.rank for replica in fleet.replicas.values()] == [0, 1, 2, 3]
    assert [replica.cache_tokens for replica in fleet.replicas.values()] == [1000, 2000, 3000, 4000]
    lives = [replica.incarnation for replica in fleet.replicas.values()]
    assert len(set(lives)) == 4
    assert lives == [r.incarnation for r in ranked(A).replicas.values()], "every router has the same"
    assert {replica.life(replica.incarnation) for replica in fleet.replicas.values()} == {
        (fleet.servers[A], LIFE)
    }
    fleet.validate()


def test_ids_of_ranks_lead_back_to_their_server() -> None:
    assert rank_id(A, 0, 1) == A
    assert server_id_of(rank_id(A, 3, 4)) == A
    assert server_id_of(A) == A
    assert server_id_of(ReplicaId("pod#x")) == "pod#x"
    assert rank_incarnation(rank_incarnation(LIFE, 3), 3) == LIFE


def test_a_request_goes_to_the_rank_that_holds_its_prefix() -> None:
    fleet = ranked(A, B)
    warm = fleet.replicas[ReplicaId("b:1#2")]
    assert warm.incarnation is not None
    shape = RequestShape(
        "m", rungs=[1, 2, 3, 4], prompt_bytes=2100, prompt_tokens=525, ring_key=3, head_key=3
    )  # type: ignore[list-item]
    record: Record = ((warm.incarnation, 1.0),)
    decision = fleet.choose_and_reserve(shape, [record] * 4, 1.5)
    assert decision.replica is warm
    assert warm.in_flight == 1 == warm.server.in_flight
    assert sum(replica.in_flight for replica in fleet.replicas.values()) == 1
    fleet.settle(decision, 2.0)
    fleet.validate()


def test_failures_probes_and_drain_are_the_servers() -> None:
    fleet = ranked(A, B)
    zero, one = fleet.replicas[ReplicaId("a:1#0")], fleet.replicas[ReplicaId("a:1#1")]
    for replica in (zero, one, zero):
        fleet.report_failure(replica, FailureReason.LOST, 1.0)
    assert {replica.state for replica in fleet.servers[A].replicas} == {ReplicaState.EJECTED}
    assert {replica.state for replica in fleet.servers[B].replicas} == {ReplicaState.READY}
    fleet.apply(ProbeFailed(B, FailureReason.TIMEOUT, 1.0))
    assert fleet.servers[B].health.probe_failures == 1, "one probe of four ranks is one"
    fleet.apply(DrainStarted(B))
    assert {replica.state for replica in fleet.servers[B].replicas} == {ReplicaState.DRAINING}
    fleet.validate()


def test_one_trial_at_a_time_for_all_ranks_together() -> None:
    fleet = ranked(A, B, policy="round-robin")
    fleet.report_failure(fleet.replicas[ReplicaId("a:1#0")], FailureReason.REFUSED, 1.0)
    decisions = [fleet.choose_and_reserve(RequestShape("m"), None, 3.0) for _ in range(16)]
    trials = [decision for decision in decisions if decision.replica.server.id == A]
    assert len(trials) == 1
    assert trials[0].trial
    fleet.started(trials[0], 3.1)
    assert states(fleet) == {ReplicaState.READY}
    for decision in decisions:
        fleet.settle(decision, 4.0)
    fleet.validate()


def test_a_retry_goes_to_another_server_not_to_another_rank() -> None:
    fleet = ranked(A, B, policy="round-robin")
    tried = fleet.replicas[ReplicaId("a:1#0")]
    for _ in range(8):
        assert fleet.choose_and_reserve(RequestShape("m"), None, 2.0, [tried]).replica.server.id == B
    assert fleet.has_other("m", [tried])
    alone = ranked(A)
    assert not alone.has_other("m", [alone.replicas[ReplicaId("a:1#0")]])


def test_a_server_that_tells_its_ranks_later_is_split_and_one_that_scales_keeps_the_rest() -> None:
    fleet = ranked(A, ranks=1)
    whole = fleet.replicas[A]
    under_way = fleet.choose_and_reserve(RequestShape("m"), None, 1.0)
    fleet.apply(RanksFound(A, 4))
    fleet.apply(well(A))
    assert whole.state is ReplicaState.GONE
    assert states(fleet) == {ReplicaState.READY}, "it was well, and is"
    fleet.settle(under_way, 2.0)
    kept = fleet.replicas[ReplicaId("a:1#1")]
    last = fleet.replicas[ReplicaId("a:1#3")]
    held = fleet.reserve_on(last.id, RequestShape("m"), 2.0)
    fleet.apply(RanksFound(A, 2))
    assert list(fleet.replicas) == ["a:1#0", "a:1#1"]
    assert fleet.replicas[ReplicaId("a:1#1")] is kept
    assert (last.state, kept.state) == (ReplicaState.GONE, ReplicaState.READY)
    assert fleet.reserve_on(last.id, RequestShape("m"), 2.0).replica.server.id == A, (
        "it still keeps the object"
    )
    fleet.settle(held, 3.0)
    fleet.apply(ReplicaRemoved(A))
    assert not fleet.replicas
    assert not fleet.servers
    fleet.validate()


def test_a_trial_on_a_rank_that_goes_away_does_not_count_on() -> None:
    fleet = ranked(A, B)
    fleet.report_failure(fleet.replicas[ReplicaId("a:1#3")], FailureReason.REFUSED, 1.0)
    trial = fleet.reserve_on(ReplicaId("a:1#3"), RequestShape("m"), 1.5)
    assert fleet.servers[A].health.trials == 1
    fleet.apply(RanksFound(A, 2))
    assert fleet.servers[A].health.trials == 0
    fleet.settle(trial, 2.0)
    assert fleet.servers[A].health.trials == 0
    fleet.validate()


def test_an_emptied_cache_voids_what_was_noted_and_nothing_else() -> None:
    fleet = ranked(A)
    replica = fleet.replicas[ReplicaId("a:1#2")]
    decision = fleet.choose_and_reserve(RequestShape("m"), None, 1.0)
    before, ejections = replica.incarnation, dict(replica.health.ejections)
    for event in (CacheEmptied(A, Incarnation(77)), well(A, 78, 3.0)):
        fleet.apply(event)
        assert replica.incarnation not in (before, None)
        assert not fleet.shown_dead(decision), "the process is the same"
        assert fleet.servers[A].restarts == 0
    assert replica.health.ejections == ejections
    fleet.apply(well(A, 79, 4.0, process=8))
    assert fleet.shown_dead(decision)
    assert fleet.servers[A].restarts == 1
    fleet.settle(decision, 5.0)
    fleet.validate()


def test_errors_of_other_ranks_of_a_server_are_its_own() -> None:
    fleet = ranked(A, B)
    for _ in range(3):
        suspect = False
        for rank in range(4):
            decision = fleet.reserve_on(ReplicaId(f"a:1#{rank}"), RequestShape("m"), 1.0)
            suspect = fleet.report_error(decision)
            fleet.settle(decision, 1.1)
    assert suspect
    assert fleet.servers[B].errors.errors == 0.0


def test_what_an_agent_says_of_a_server_with_ranks_is_forgotten_with_it() -> None:
    wire = Wire()
    worker = wire.worker
    server_id = wire.replicas[0].server.id
    worker.fleet.apply(RanksFound(server_id, 2))
    worker._agent_load(server_id, 1, 0)
    ranks = list(worker.fleet.replicas)
    worker._replica_removed(ranks[1])
    assert worker._agent_loads, "the server is still there"
    worker.fleet.apply(ReplicaRemoved(server_id))
    for rank in ranks:
        worker._replica_removed(rank)
    assert worker._agent_loads == {}
