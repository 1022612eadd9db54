"""Reservations, eligibility, retries and explanations of one fleet, case by case."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from tests.support.fleet_simulation import GRID, forget_recent_load, prompt, ready_fleet
from warmroute.core.choice.cost import CostParameters
from warmroute.core.choice.policies import POLICIES
from warmroute.core.errors import NotFoundError, OverloadError
from warmroute.core.fleet.fleet import (
    MOST_UNIT,
    Decision,
    DrainStarted,
    Fleet,
    ProbeFailed,
    ProbeSucceeded,
    ReplicaAdded,
    ReplicaRemoved,
    ReplicaState,
)
from warmroute.core.fleet.peer_load import PeerLoad
from warmroute.core.health.health import FailureReason, HealthParameters
from warmroute.core.types import DecisionKind, Incarnation, ReplicaId, RequestShape

SHAPE = prompt(("hello", 2000))
ANY = RequestShape(model="")


def ids(*names: str) -> list[ReplicaId]:
    return [ReplicaId(name) for name in names]


def test_a_replica_gets_nothing_until_a_probe_succeeded() -> None:
    fleet = ready_fleet(0)
    fleet.apply(ReplicaAdded(ReplicaId("r0"), "http://r0"))
    with pytest.raises(OverloadError) as refused:
        fleet.choose_and_reserve(SHAPE, None, 1.0)
    assert (refused.value.status, refused.value.code) == (503, "no_replica")
    fleet.apply(ProbeSucceeded(ReplicaId("r0"), None, ["m"], None, None, 1.0))
    assert fleet.choose_and_reserve(SHAPE, None, 1.0).replica.id == "r0"


def test_a_model_that_nobody_serves_is_not_found() -> None:
    fleet = ready_fleet(2)
    with pytest.raises(NotFoundError) as refused:
        fleet.choose_and_reserve(RequestShape("other"), None, 1.0)
    assert (refused.value.status, refused.value.code, refused.value.param) == (
        404,
        "model_not_found",
        "model",
    )


def test_names_that_only_clients_know_leave_nothing_behind() -> None:
    fleet = ready_fleet(2)
    fleet.apply(ReplicaAdded(ReplicaId("silent"), "http://s"))
    fleet.apply(ProbeSucceeded(ReplicaId("silent"), None, None, None, None, 1.0))
    for i in range(1000):
        fleet.settle(fleet.choose_and_reserve(RequestShape(f"model-{i}"), None, 1.0), 1.0)
    fleet.validate()
    assert len(fleet._eligibility._views) <= 3


def test_a_working_replica_that_never_tells_its_models_serves_any() -> None:
    fleet = ready_fleet(1)
    fleet.apply(ReplicaAdded(ReplicaId("silent"), "http://s"))
    fleet.apply(ProbeSucceeded(ReplicaId("silent"), None, None, None, None, 1.0))
    assert fleet.choose_and_reserve(RequestShape("other"), None, 1.0).replica.id == "silent"


def test_a_fleet_without_a_replica_does_not_speak_of_those_it_has() -> None:
    fleet = ready_fleet(1)
    (name,) = fleet.replicas
    fleet.apply(ReplicaRemoved(name))
    with pytest.raises(OverloadError, match="No replica is known: the settings name none") as refused:
        fleet.choose_and_reserve(SHAPE, None, 1.0)
    assert "reachable" not in refused.value.message


def test_a_fleet_that_was_never_reachable_says_so_instead_of_asking_for_patience() -> None:
    fleet = ready_fleet(0)
    for name in ids("r0", "r1"):
        fleet.apply(ReplicaAdded(name, f"http://{name}"))
        fleet.apply(
            ProbeFailed(name, FailureReason.REFUSED, 1.0, detail=f"http://{name}/health: connection refused")
        )
    assert not fleet.ever_reachable()
    with pytest.raises(OverloadError) as refused:
        fleet.choose_and_reserve(SHAPE, None, 1.0)
    assert refused.value.message.startswith("No replica of this fleet (2 known) has been reachable since")
    assert "try again" not in refused.value.message
    assert "connection refused" not in refused.value.message, "addresses are the operator's"
    fleet.apply(ProbeSucceeded(ReplicaId("r0"), None, ["m"], None, None, 2.0))
    for _ in range(2):
        fleet.apply(ProbeFailed(ReplicaId("r0"), FailureReason.REFUSED, 3.0))
    assert fleet.ever_reachable()
    with pytest.raises(OverloadError, match="try again shortly"):
        fleet.choose_and_reserve(RequestShape("m"), None, 3.0, list(fleet.replicas.values()))


def test_ejections_are_counted_by_reason_and_restarts_for_good() -> None:
    fleet = ready_fleet(1)
    (replica,) = fleet.replicas.values()
    first = replica.incarnation
    fleet.report_failure(replica, FailureReason.REFUSED, 1.0)
    fleet.report_failure(replica, FailureReason.REFUSED, 1.1)
    assert replica.health.ejections == {FailureReason.REFUSED: 1}, "it was out of use already"
    fleet.apply(ProbeSucceeded(replica.id, first, None, None, None, 2.0))
    for _ in range(2):
        fleet.apply(ProbeFailed(replica.id, FailureReason.STATUS, 3.0))
    assert (replica.state, replica.server.restarts) == (ReplicaState.EJECTED, 0)
    fleet.apply(ProbeSucceeded(replica.id, Incarnation(99), None, None, None, 4.0))
    row = fleet.snapshot(5.0)[0]
    assert (row["ejections_total"], row["restarts_total"]) == ({"refused": 1, "probe": 1}, 1)


def test_the_last_failure_says_what_happened_until_the_engine_is_another() -> None:
    fleet = ready_fleet(1)
    (replica,) = fleet.replicas.values()
    row = fleet.snapshot(1.0)[0]
    assert row["last_failure"] is None
    fleet.apply(ProbeFailed(replica.id, FailureReason.STATUS, 1.0, detail="http://r0/health answered 503"))
    assert fleet.snapshot(1.0)[0]["last_failure"] == "status: http://r0/health answered 503"
    fleet.report_failure(replica, FailureReason.LOST, 2.0, "a request: the replica closed the connection")
    assert fleet.snapshot(2.0)[0]["last_failure"] == "lost: a request: the replica closed the connection"
    fleet.report_failure(replica, FailureReason.BUSY, 2.5, "it answered 503")
    assert fleet.snapshot(2.5)[0]["last_failure"] == "lost: a request: the replica closed the connection"
    fleet.report_failure(replica, FailureReason.TIMEOUT, 3.0)
    assert fleet.snapshot(3.0)[0]["last_failure"] == "timeout"
    fleet.apply(ProbeSucceeded(replica.id, replica.incarnation, None, None, None, 4.0))
    assert fleet.snapshot(4.0)[0]["last_failure"] == "timeout", "kept to be read afterwards"
    fleet.apply(ProbeSucceeded(replica.id, Incarnation(99), None, None, None, 5.0))
    assert fleet.snapshot(5.0)[0]["last_failure"] is None


def test_a_fleet_that_has_told_no_models_yet_is_busy_rather_than_without_the_model() -> None:
    fleet = ready_fleet(0)
    fleet.apply(ReplicaAdded(ReplicaId("r0"), "http://r0"))
    with pytest.raises(OverloadError):
        fleet.choose_and_reserve(RequestShape("m"), None, 1.0)
    with pytest.raises(OverloadError):
        ready_fleet(0).choose_and_reserve(RequestShape("m"), None, 1.0)


def test_requests_go_only_to_replicas_that_serve_the_model() -> None:
    fleet = ready_fleet(3)
    fleet.apply(ProbeSucceeded(ReplicaId("r2"), None, ["m", "lora"], None, None, 1.0))
    for key in range(50):
        decision = fleet.choose_and_reserve(RequestShape("lora", ring_key=key << 58), None, 1.0)
        assert decision.replica.id == "r2"
    assert fleet.models() == {"m", "lora"}


def test_a_request_without_model_may_go_anywhere_and_spreads() -> None:
    fleet = ready_fleet(4)
    counts = Counter(fleet.choose_and_reserve(ANY, None, 1.0).replica.id for _ in range(80))
    assert set(counts) == {"r0", "r1", "r2", "r3"}
    assert max(counts.values()) <= 25


def test_counters_follow_a_request_through_its_life() -> None:
    fleet = ready_fleet(1)
    decision = fleet.choose_and_reserve(SHAPE, None, 1.0)
    replica = decision.replica
    assert (replica.in_flight, replica.waiting, replica.waiting_tokens) == (1, 1, 500)
    fleet.started(decision, 2.0)
    fleet.started(decision, 2.0)
    assert (replica.in_flight, replica.waiting, replica.waiting_tokens) == (1, 0, 0)
    fleet.settle(decision, 3.0)
    fleet.settle(decision, 3.0)
    fleet.started(decision, 3.0)
    assert (replica.in_flight, replica.waiting, replica.waiting_tokens) == (0, 0, 0)
    fleet.validate()


def test_a_request_that_outlives_its_replica_settles_in_peace() -> None:
    fleet = ready_fleet(1)
    decision = fleet.choose_and_reserve(SHAPE, None, 1.0)
    fleet.apply(ReplicaRemoved(ReplicaId("r0")))
    assert decision.replica.state is ReplicaState.GONE
    fleet.report_failure(decision.replica, FailureReason.LOST, 1.0)
    fleet.settle(decision, 2.0)
    assert decision.replica.in_flight == 0
    assert fleet.replicas == {}


def test_a_retry_goes_where_the_ranking_said_and_never_back() -> None:
    fleet = ready_fleet(4)
    ranked = [candidate.replica for candidate in fleet.rank(SHAPE, None, 1.0).candidates]
    tried = []
    for expected in ranked:
        decision = fleet.choose_and_reserve(SHAPE, None, 1.0, tried)
        fleet.settle(decision, 1.0)
        # The retries of one request are under way one after the other, but their crowding stays.
        forget_recent_load(decision.replica)
        assert decision.replica is expected
        assert decision.kind is (DecisionKind.RETRY if tried else DecisionKind.RING)
        tried.append(decision.replica)
    with pytest.raises(OverloadError):
        fleet.choose_and_reserve(SHAPE, None, 1.0, tried)


def test_a_warm_replica_is_chosen_and_the_prediction_is_in_whole_blocks() -> None:
    fleet = ready_fleet(4)
    record = ((Incarnation(3), 1.0),)
    decision = fleet.choose_and_reserve(SHAPE, [record, record, None], 1.0)
    assert decision.replica.id == "r2"
    assert decision.kind is DecisionKind.WARM
    assert (decision.predicted_tokens, decision.uncached_tokens) == (256, 244)


def test_a_restarted_replica_is_no_longer_warm() -> None:
    fleet = ready_fleet(4)
    fleet.apply(ProbeSucceeded(ReplicaId("r2"), Incarnation(77), None, None, None, 1.0))
    record = ((Incarnation(3), 1.0),)
    decision = fleet.choose_and_reserve(SHAPE, [record, record], 1.0)
    assert decision.kind is DecisionKind.RING
    assert decision.predicted_tokens == 0
    renewed = ((Incarnation(77), 1.0),)
    assert fleet.rank(SHAPE, [renewed], 1.0).choice.replica.id == "r2"


def test_an_ejected_replica_is_passed_over_until_its_backoff_ends_and_then_gets_one_trial() -> None:
    fleet = ready_fleet(2)
    bad = fleet.replicas[ReplicaId("r0")]
    warm = [((Incarnation(1), 1.0),)] * 3
    fleet.report_failure(bad, FailureReason.REFUSED, 10.0)
    assert fleet.routable() == 1
    assert fleet.choose_and_reserve(SHAPE, warm, 10.9).replica is not bad
    trial = fleet.choose_and_reserve(SHAPE, warm, 11.0)
    assert trial.replica is bad
    assert bad.state is ReplicaState.PROBING
    assert fleet.choose_and_reserve(SHAPE, warm, 11.0).replica is not bad
    fleet.started(trial, 11.5)
    assert bad.state is ReplicaState.READY
    assert fleet.choose_and_reserve(SHAPE, warm, 11.5).replica is bad


def test_a_trial_that_ends_without_a_verdict_leaves_room_for_the_next() -> None:
    fleet = ready_fleet(2)
    bad = fleet.replicas[ReplicaId("r0")]
    warm = [((Incarnation(1), 1.0),)] * 3
    fleet.report_failure(bad, FailureReason.REFUSED, 10.0)
    trial = fleet.choose_and_reserve(SHAPE, warm, 11.0)
    assert fleet.choose_and_reserve(SHAPE, warm, 11.0).replica is not bad
    fleet.settle(trial, 11.1)
    fleet.validate()
    assert bad.state is ReplicaState.PROBING
    assert fleet.choose_and_reserve(SHAPE, warm, 11.2).replica is bad


@pytest.mark.parametrize("reason", [FailureReason.ERROR, FailureReason.TIMEOUT])
def test_a_trial_that_begins_without_showing_anything_leaves_room_at_once_for_the_next(
    reason: FailureReason,
) -> None:
    fleet = ready_fleet(2)
    bad = fleet.replicas[ReplicaId("r0")]
    warm = [((Incarnation(1), 1.0),)] * 3
    for _ in range(3):
        fleet.report_failure(bad, reason, 10.0)
    trial = fleet.choose_and_reserve(SHAPE, warm, 11.0)
    assert trial.replica is bad
    fleet.started(trial, 11.1, computed=False)  # a WebSocket, which may last for hours
    fleet.validate()
    assert bad.state is ReplicaState.PROBING
    assert fleet.choose_and_reserve(SHAPE, warm, 11.2).replica is bad
    fleet.settle(trial, 9999.0)
    fleet.validate()


def silent_replica() -> tuple[Fleet, Decision, Decision]:
    """One that is on trial for having been silent, with a request from before and the trial."""
    fleet = ready_fleet(2)
    bad = fleet.replicas[ReplicaId("r0")]
    warm = [((Incarnation(1), 1.0),)] * 3
    before = fleet.choose_and_reserve(SHAPE, warm, 9.0)
    fleet.started(before, 9.1)
    for _ in range(3):
        fleet.report_failure(bad, FailureReason.TIMEOUT, 10.0)
    trial = fleet.choose_and_reserve(RequestShape("m", needs_engine=False), None, 11.0)
    if trial.replica is not bad:
        trial = fleet.choose_and_reserve(RequestShape("m", needs_engine=False), None, 11.0, [trial.replica])
    assert before.replica is trial.replica is bad
    return fleet, before, trial


def test_what_needed_no_engine_or_began_before_does_not_bring_a_silent_replica_back() -> None:
    fleet, before, trial = silent_replica()
    bad = before.replica
    fleet.report_success(before, 11.1)
    assert bad.state is ReplicaState.PROBING, "its first byte came before the silence"
    fleet.started(trial, 11.2)
    fleet.report_success(trial, 11.2)
    assert bad.state is ReplicaState.PROBING, "no engine had to do anything for it"
    fleet.report_refusal(bad, 11.3)
    assert bad.state is ReplicaState.PROBING, "nor to refuse a request"
    warm = [((Incarnation(1), 1.0),)] * 3
    other = fleet.choose_and_reserve(SHAPE, warm, 11.4)
    assert other.replica is bad
    fleet.started(other, 11.5)
    assert bad.state is ReplicaState.READY


def test_a_clock_set_back_does_not_keep_a_silent_replica_out() -> None:
    fleet, _, trial = silent_replica()
    bad = trial.replica
    fleet.settle(trial, 3.0)
    other = fleet.choose_and_reserve(SHAPE, [((Incarnation(1), 1.0),)] * 3, 3.1)
    assert other.replica is bad
    fleet.started(other, 3.2)
    assert bad.state is ReplicaState.READY


def test_streams_from_before_do_not_start_the_count_of_silent_requests_anew() -> None:
    fleet = ready_fleet(2)
    bad = fleet.replicas[ReplicaId("r0")]
    warm = [((Incarnation(1), 1.0),)] * 3
    for at_s in (10.0, 11.0, 12.0):
        before = fleet.choose_and_reserve(SHAPE, warm, 9.0)
        assert before.replica is bad
        fleet.started(before, 9.1)
        fleet.report_failure(bad, FailureReason.TIMEOUT, at_s)
        fleet.report_success(before, at_s + 0.5)
    assert bad.state is ReplicaState.EJECTED


def test_overdue_replicas_are_passed_over_while_they_are_few() -> None:
    fleet = ready_fleet(8)
    all_of_them = list(fleet.replicas.values())
    first, second, third, *others = all_of_them
    assert list(fleet.view("m").members) == all_of_them
    fleet.pass_over([first, second])
    assert list(fleet.view("m").members) == [third, *others]
    assert fleet.reserve_on(first.id, SHAPE, 1.0).replica is first, "what only it keeps"
    fleet.validate()
    fleet.pass_over([first, second, third])
    assert list(fleet.view("m").members) == all_of_them, "it is the predictions that are wrong"
    fleet.validate()
    fleet.pass_over([first])
    fleet.pass_over([])
    assert list(fleet.view("m").members) == all_of_them
    fleet.validate()


def test_an_overdue_replica_without_fellows_is_not_passed_over() -> None:
    fleet = ready_fleet(2)
    first, second = fleet.replicas.values()
    fleet.pass_over([first])
    assert fleet.choose_and_reserve(SHAPE, None, 1.0).replica is second
    fleet.report_failure(second, FailureReason.REFUSED, 1.0)
    assert fleet.choose_and_reserve(SHAPE, None, 1.1).replica is first
    fleet.validate()


def test_when_all_are_ejected_the_least_recently_ejected_is_tried() -> None:
    fleet = ready_fleet(3)
    for at_s, name in ((3.0, "r1"), (3.2, "r0"), (3.4, "r2")):
        fleet.report_failure(fleet.replicas[ReplicaId(name)], FailureReason.REFUSED, at_s)
    assert fleet.routable() == 0
    chosen = []
    for at_s in (3.5, 3.6, 3.7, 3.8):
        decision = fleet.choose_and_reserve(SHAPE, None, at_s)
        fleet.report_failure(decision.replica, FailureReason.REFUSED, at_s)
        fleet.settle(decision, at_s)
        fleet.validate()
        chosen.append(decision.replica.id)
    assert chosen == ids("r1", "r0", "r2", "r1")


def test_a_retry_falls_back_on_an_ejected_replica_once_the_routable_are_used_up() -> None:
    fleet = ready_fleet(2)
    good, bad = (fleet.replicas[name] for name in ids("r0", "r1"))
    fleet.report_failure(bad, FailureReason.REFUSED, 3.0)
    assert fleet.choose_and_reserve(SHAPE, None, 3.1, [good]).replica is bad


def test_a_lone_replica_that_fails_is_still_tried() -> None:
    fleet = ready_fleet(1)
    fleet.apply(ProbeFailed(ReplicaId("r0"), "timeout", 1.0))
    fleet.apply(ProbeFailed(ReplicaId("r0"), "timeout", 2.0))
    assert fleet.routable() == 0
    decision = fleet.choose_and_reserve(SHAPE, None, 2.5)
    fleet.started(decision, 2.6)
    assert fleet.routable() == 1


def test_a_draining_replica_gets_nothing_new_but_what_only_it_keeps() -> None:
    fleet = ready_fleet(1)
    fleet.apply(DrainStarted(ReplicaId("r0")))
    with pytest.raises(OverloadError):
        fleet.choose_and_reserve(SHAPE, None, 1.0)
    decision = fleet.reserve_on(ReplicaId("r0"), ANY, 1.0)
    assert decision.kind is DecisionKind.PINNED
    assert decision.replica.in_flight == 1


def test_discovery_that_names_a_draining_replica_again_makes_it_prove_itself() -> None:
    fleet = ready_fleet(1)
    fleet.apply(DrainStarted(ReplicaId("r0")))
    fleet.apply(ReplicaAdded(ReplicaId("r0"), "http://r0"))
    assert fleet.replicas[ReplicaId("r0")].state is ReplicaState.STARTING


def test_a_replica_that_moved_to_another_url_is_a_new_one() -> None:
    fleet = ready_fleet(1)
    old = fleet.replicas[ReplicaId("r0")]
    fleet.apply(ReplicaAdded(ReplicaId("r0"), "http://elsewhere"))
    new = fleet.replicas[ReplicaId("r0")]
    assert new is not old
    assert (old.state, new.state, new.url) == (ReplicaState.GONE, ReplicaState.STARTING, "http://elsewhere")


def test_an_object_of_a_replica_that_left_is_not_found() -> None:
    fleet = ready_fleet(1)
    with pytest.raises(NotFoundError):
        fleet.reserve_on(ReplicaId("r9"), ANY, 1.0)


def test_a_clock_set_back_does_not_stretch_a_backoff() -> None:
    fleet = ready_fleet(2)
    bad = fleet.replicas[ReplicaId("r0")]
    fleet.choose_and_reserve(SHAPE, None, 10_000.0)
    fleet.report_failure(bad, FailureReason.REFUSED, 10_000.0)
    fleet.choose_and_reserve(SHAPE, None, 5.0)
    assert bad.state is ReplicaState.PROBING


def crowding_s(fleet: Fleet, now_s: float = 100.0) -> dict[str, float]:
    return {row.replica.id: row.terms.crowding_s for row in fleet.rank(SHAPE, None, now_s).candidates}


def give(fleet: Fleet, name: str, tokens: int, count: int = 1) -> None:
    for _ in range(count):
        shape = RequestShape("m", prompt_tokens=tokens)
        fleet.settle(fleet.reserve_on(ReplicaId(name), shape, 100.0), 100.0)


def crowded(replicas: int = 2, requests: float = 10.0) -> Fleet:
    return ready_fleet(replicas, parameters=CostParameters(crowd_requests=requests, crowd_weight=0.05))


def test_crowding_fades_with_requests_and_not_with_time() -> None:
    fleet = crowded()
    give(fleet, "r0", 500)
    # 500 tokens at 8,000 a second, a twentieth of that; one of 10 requests for each of two replicas has gone by.
    assert crowding_s(fleet)["r0"] == pytest.approx(0.003125 / 1.05)
    assert crowding_s(fleet)["r1"] == 0.0
    assert crowding_s(fleet, 1e7) == crowding_s(fleet)
    give(fleet, "r1", 16, count=20)
    assert crowding_s(fleet)["r0"] == pytest.approx(0.003125 / 2.7860, rel=1e-4)  # 1.05 ** 21
    assert crowding_s(fleet)["r1"] == pytest.approx(0.0001 * 12.462 / 1.0, rel=1e-4)  # 16 tokens: 0.0001 s
    fleet.validate()


def test_requests_without_a_prompt_crowd_nobody() -> None:
    fleet = crowded()
    give(fleet, "r0", 500)
    before = crowding_s(fleet)
    give(fleet, "r1", 0, count=50)
    assert crowding_s(fleet) == before


def test_a_restarted_engine_is_not_crowded() -> None:
    fleet = crowded()
    give(fleet, "r0", 500)
    fleet.apply(ProbeSucceeded(ReplicaId("r0"), Incarnation(99), None, None, None, 110.0))
    assert crowding_s(fleet, 110.0)["r0"] == 0.0
    fleet.validate()


def test_crowding_is_the_same_share_of_a_prefill_at_any_speed() -> None:
    seen = []
    for rate in (1000.0, 8000.0, 100_000.0):
        fleet = ready_fleet(2, parameters=CostParameters(prefill_tokens_per_s=rate))
        give(fleet, "r0", 500, count=3)
        seen.append(crowding_s(fleet)["r0"] * rate)
    assert seen == pytest.approx([seen[0]] * 3)


def test_the_unit_of_crowding_is_renewed_without_a_trace() -> None:
    fleet = crowded(requests=1.0)
    usual = crowded(requests=1.0)
    give(fleet, "r0", 4000)
    # Each request makes the unit half as large again: 35 of them are more than the most.
    give(fleet, "r1", 1000, count=40)
    assert 1.5**35 > MOST_UNIT
    assert 1.0 <= fleet._recent_load_unit <= MOST_UNIT
    give(usual, "r0", 4000)
    give(usual, "r1", 1000, count=20)
    # After so many only the last ones count: a unit of 2 / 3 + 4 / 9 + … = 2 tokens each.
    assert crowding_s(fleet)["r1"] == pytest.approx(2000 / 8000 * 0.05, rel=1e-6)
    assert crowding_s(usual)["r1"] == pytest.approx(2000 / 8000 * 0.05, rel=1e-3)
    assert crowding_s(fleet)["r0"] == pytest.approx(4000 / 8000 * 0.05 / 1.5**41, rel=1e-6)
    fleet.validate()


def test_no_number_of_requests_in_a_second_makes_crowding_endless() -> None:
    fleet = crowded(replicas=1, requests=1.0)
    give(fleet, "r0", 1000, count=3000)
    assert crowding_s(fleet)["r0"] == pytest.approx(1000 / 8000 * 0.05, rel=1e-6)  # 1 / 2 + 1 / 4 + … = 1


def test_what_other_routers_gave_crowds_and_fades_alike() -> None:
    fleet = crowded()
    give(fleet, "r0", 500)
    (work_tokens, before) = (fleet.work_tokens, crowding_s(fleet)["r0"])
    # Three times the mean work of a prompt: taken for three requests.
    told = int(3 * work_tokens)
    fleet.note_peer_load(fleet.replicas[ReplicaId("r1")], PeerLoad(0, 1, told, 0, 0, 0.0, 0), 100.0)
    assert crowding_s(fleet)["r0"] == pytest.approx(before / 1.15, rel=1e-2)
    assert crowding_s(fleet)["r1"] == pytest.approx(told / 8000 * 0.05 / 1.15, rel=1e-2)
    between = crowding_s(fleet)["r0"]
    fleet.note_peer_load(fleet.replicas[ReplicaId("r1")], PeerLoad(0, 1, 10 * told, 0, 0, 0.0, 0), 100.0)
    assert crowding_s(fleet)["r0"] == pytest.approx(between / (1 + 30 / 20), rel=1e-2)


def test_a_replica_that_has_left_may_still_be_told_of() -> None:
    fleet = crowded(replicas=1)
    replica = fleet.replicas[ReplicaId("r0")]
    fleet.apply(ReplicaRemoved(ReplicaId("r0")))
    fleet.note_peer_load(replica, PeerLoad(0, 1, 5000, 0, 0, 0.0, 0), 100.0)
    assert fleet.replicas == {}


def test_ranking_tells_every_term_and_reserves_nothing() -> None:
    fleet = ready_fleet(12)
    before = fleet.snapshot(1.0)
    ranking = fleet.rank(SHAPE, [((Incarnation(5), 1.0),)] * 3, 1.0)
    assert fleet.snapshot(1.0) == before
    explained = ranking.as_dict()
    assert explained["replica"] == "r4"
    assert explained["decision"] == "warm"
    rows = explained["candidates"]
    assert isinstance(rows, list)
    assert {row["replica"] for row in rows} == set(fleet.replicas)
    parts = ("base_s", "wait_s", "running_s", "crowding_s", "prefill_s", "miss_s", "queued_s", "eviction_s")
    for row in rows:
        assert row["total_s"] == pytest.approx(sum(row[part] for part in parts), abs=1e-5)


def test_model_cards_are_what_engines_say_and_minimal_where_they_say_nothing() -> None:
    fleet = ready_fleet(1)
    card = {"id": "lora", "object": "model", "parent": "m"}
    fleet.apply(ReplicaAdded(ReplicaId("r9"), "http://r9"))
    fleet.apply(ProbeSucceeded(ReplicaId("r9"), None, {"lora": card}, None, None, 1.0))
    cards = fleet.model_cards()
    assert cards["lora"] is card
    assert cards["m"] == {"id": "m", "object": "model", "created": 0, "owned_by": "warmroute"}


def test_two_replicas_that_claim_one_incarnation_do_no_harm() -> None:
    fleet = ready_fleet(2)
    for name in ids("r0", "r1"):
        fleet.apply(ProbeSucceeded(name, Incarnation(7), None, None, None, 1.0))
    decision = fleet.choose_and_reserve(SHAPE, [((Incarnation(7), 1.0),)] * 3, 1.0)
    assert decision.kind is DecisionKind.WARM
    fleet.apply(ReplicaRemoved(decision.replica.id))
    assert fleet.choose_and_reserve(SHAPE, [((Incarnation(7), 1.0),)] * 3, 1.0).kind is DecisionKind.WARM
    fleet.validate()


def test_turns_survive_changes_of_health() -> None:
    fleet = ready_fleet(3, policy="round-robin")
    served = []
    for i in range(9):
        fleet.apply(ProbeSucceeded(ReplicaId("r0"), Incarnation(100 + i), None, None, None, 1.0))
        served.append(fleet.choose_and_reserve(SHAPE, None, 1.0).replica.id)
    assert served == ids("r0", "r1", "r2") * 3


@pytest.mark.parametrize("name", list(POLICIES))
def test_the_same_seed_makes_the_same_choices(name: str) -> None:
    def choices() -> list[str]:
        parameters = CostParameters()
        fleet = Fleet(POLICIES[name](parameters), random.Random(3), parameters, HealthParameters(), GRID)
        for i in range(40):
            fleet.apply(ReplicaAdded(ReplicaId(f"r{i}"), f"http://r{i}"))
            fleet.apply(ProbeSucceeded(ReplicaId(f"r{i}"), Incarnation(i), ["m"], None, None, 0.0))
        return [fleet.choose_and_reserve(prompt((f"p{i}", 900)), None, 1.0).replica.id for i in range(60)]

    assert choices() == choices()
