"""Ejection, backoff, trials: the table of warmroute.core.health.health walked through the cases that happen."""

from __future__ import annotations

from math import inf

import pytest

from warmroute.core.health.health import (
    TRANSITIONS,
    FailureReason,
    Health,
    HealthParameters,
    ReplicaState,
    Signal,
)

S = ReplicaState


def ready() -> Health:
    health = Health(HealthParameters())
    health.probe_succeeded(False, 0.0)
    assert health.state is S.READY
    return health


def ejected(reason: FailureReason = FailureReason.REFUSED, now_s: float = 10.0) -> Health:
    health = ready()
    while health.state is S.READY:
        health.failed(reason, now_s)
    return health


def test_the_table_has_a_row_for_every_signal_and_state() -> None:
    assert set(TRANSITIONS) == set(Signal)
    assert all(set(row) == set(ReplicaState) for row in TRANSITIONS.values())


def test_nothing_brings_a_removed_replica_back() -> None:
    assert all(row[S.GONE] is S.GONE for row in TRANSITIONS.values())


def test_only_readmission_ends_a_drain() -> None:
    left = {signal for signal, row in TRANSITIONS.items() if row[S.DRAINING] is not S.DRAINING}
    assert left == {Signal.READMIT, Signal.REMOVE}


@pytest.mark.parametrize("reason", [FailureReason.REFUSED, FailureReason.DRAINING])
def test_one_certain_failure_ejects(reason: FailureReason) -> None:
    health = ready()
    assert health.failed(reason, 10.0)
    assert health.state is S.EJECTED
    assert health.until_s == 11.0


@pytest.mark.parametrize(
    "reason", [FailureReason.LOST, FailureReason.TIMEOUT, FailureReason.STATUS, FailureReason.CONNECT]
)
def test_three_doubtful_failures_in_a_row_eject(reason: FailureReason) -> None:
    health = ready()
    assert [health.failed(reason, t) for t in (1.0, 2.0, 3.0)] == [False, False, True]
    assert health.state is S.EJECTED


def test_a_success_in_between_starts_the_count_anew() -> None:
    health = ready()
    for _ in range(5):
        health.failed(FailureReason.LOST, 1.0)
        health.failed(FailureReason.LOST, 1.0)
        health.succeeded(1.0)
    assert health.state is S.READY
    assert not health.tainted


def test_a_full_queue_is_no_sign_of_ill_health() -> None:
    health = ready()
    assert not any(health.failed(FailureReason.BUSY, 1.0) for _ in range(10))
    assert health.state is S.READY
    assert not health.tainted


def test_backoff_doubles_with_each_failed_trial_up_to_the_maximum() -> None:
    health = ejected(now_s=0.0)
    now_s, waits = 0.0, []
    for _ in range(8):
        waits.append(health.until_s - now_s)
        now_s = health.until_s
        assert health.signalled(Signal.BACKOFF_OVER, now_s)
        assert health.state is S.PROBING
        assert health.failed(FailureReason.LOST, now_s)
        assert health.state is S.EJECTED
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30]


def test_a_probe_alone_does_not_shorten_the_next_backoff_but_a_request_does() -> None:
    health = ejected(now_s=0.0)
    health.signalled(Signal.BACKOFF_OVER, 1.0)
    assert health.probe_succeeded(False, 1.0)
    assert health.state is S.READY
    health.failed(FailureReason.REFUSED, 2.0)
    assert health.until_s == 4.0
    health.signalled(Signal.BACKOFF_OVER, 4.0)
    assert health.succeeded(4.0)
    health.failed(FailureReason.REFUSED, 5.0)
    assert health.until_s == 6.0


def test_failures_of_requests_sent_before_the_ejection_do_not_lengthen_the_backoff() -> None:
    health = ejected(now_s=10.0)
    for _ in range(50):
        assert health.failed(FailureReason.LOST, 10.5)
    assert health.until_s == 11.5
    assert health.ejected_s == 10.5


def test_a_success_of_a_request_sent_before_the_ejection_does_not_end_it() -> None:
    health = ejected()
    assert not health.succeeded(10.5)
    assert health.state is S.EJECTED
    assert health.until_s == 11.0


def test_a_probe_ends_an_ejection_it_can_tell_about() -> None:
    health = ejected(FailureReason.REFUSED)
    assert health.probe_succeeded(False, 10.1)
    assert health.state is S.READY


@pytest.mark.parametrize("reason", [FailureReason.STATUS, FailureReason.DRAINING])
def test_a_probe_does_not_end_an_ejection_that_only_requests_can_tell_about(reason: FailureReason) -> None:
    health = ejected(reason)
    assert not health.probe_succeeded(False, 10.1)
    assert health.state is S.EJECTED
    health.signalled(Signal.BACKOFF_OVER, 11.0)
    assert health.probe_succeeded(False, 11.1)
    assert health.state is S.READY


def test_two_failed_probes_in_a_row_eject_until_a_probe_succeeds() -> None:
    health = ready()
    assert not health.probe_failed(1.0)
    health.probe_succeeded(False, 2.0)
    assert not health.probe_failed(3.0)
    assert health.probe_failed(4.0)
    assert health.state is S.EJECTED
    assert health.until_s == inf
    assert health.probe_succeeded(False, 60.0)
    assert health.state is S.READY


def test_failed_probes_after_failed_requests_eject_until_a_probe_succeeds_and_a_trial_follows() -> None:
    health = ejected(FailureReason.STATUS)
    health.probe_failed(10.2)
    health.probe_failed(10.4)
    assert health.until_s == inf
    assert health.probe_succeeded(False, 20.0)
    assert health.state is S.PROBING


def test_one_failed_probe_ends_a_trial() -> None:
    health = ejected()
    health.signalled(Signal.BACKOFF_OVER, 11.0)
    assert health.probe_failed(11.1)
    assert health.state is S.EJECTED


@pytest.mark.parametrize("reason", list(FailureReason))
def test_a_restart_forgets_everything(reason: FailureReason) -> None:
    health = ready() if reason is FailureReason.BUSY else ejected(reason)
    health.probe_succeeded(True, 10.1)
    assert health.state is S.READY
    assert (health.failures, health.probe_failures, health.strikes, health.reason) == (0, 0, 0, None)
    assert not health.tainted


def test_a_starting_replica_stays_so_through_failures_until_something_succeeds() -> None:
    health = Health(HealthParameters())
    health.probe_failed(0.0)
    health.probe_failed(0.0)
    health.failed(FailureReason.REFUSED, 0.0)
    assert health.state is S.STARTING
    assert health.succeeded(1.0)
    assert health.state is S.READY


def test_one_probe_that_finds_the_engine_asleep_ejects_and_one_that_finds_it_awake_brings_it_back() -> None:
    health = ready()
    assert health.probe_failed(1.0, FailureReason.ASLEEP)
    assert health.state is S.EJECTED
    assert health.reason is FailureReason.ASLEEP
    assert not health.probe_failed(2.0, FailureReason.ASLEEP)
    assert health.probe_succeeded(False, 3.0)
    assert health.state is S.READY


@pytest.mark.parametrize("reason", [FailureReason.PAUSED, FailureReason.SCALING])
def test_a_pause_ejects_at_once_and_its_backoff_does_not_grow(reason: FailureReason) -> None:
    health = Health(HealthParameters(backoff_s=1.0))
    health.probe_succeeded(True, 0.0)
    now_s = 10.0
    for _ in range(5):
        assert health.failed(reason, now_s)
        assert (health.state, health.until_s, health.failures) == (ReplicaState.EJECTED, now_s + 1.0, 0)
        assert not health.probe_succeeded(False, now_s + 0.5), "whose /health is fine whatever it does"
        now_s += 1.0
        health.signalled(Signal.BACKOFF_OVER, now_s)
        health.validate()
    assert health.succeeded(now_s)
    assert health.state is ReplicaState.READY
    health.failed(FailureReason.REFUSED, now_s)
    assert health.until_s == now_s + 1.0, "as at the first failure"


@pytest.mark.parametrize("reason", [FailureReason.PAUSED, FailureReason.SCALING])
def test_a_pause_that_a_probe_has_seen_ends_when_a_probe_sees_its_end(reason: FailureReason) -> None:
    health = Health(HealthParameters())
    health.probe_succeeded(True, 0.0)
    health.failed(reason, 1.0)
    assert health.probe_failed(1.1, reason)
    assert (health.state, health.until_s) == (ReplicaState.EJECTED, inf)
    assert health.probe_succeeded(False, 2.0)
    assert health.state is ReplicaState.READY
    health.validate()
