"""Clients that leave: what their requests cost until then, and what goes on without them."""

from __future__ import annotations

from statistics import fmean

import pytest

from warmroute_loadtest.simulate.fresh import completions, keystrokes
from warmroute_loadtest.simulate.generators import multi_turn
from warmroute_loadtest.simulate.metrics import figures
from warmroute_loadtest.simulate.rivals import RIVALS
from warmroute_loadtest.simulate.routers import several
from warmroute_loadtest.simulate.simulation import FleetConfig, simulate
from warmroute_loadtest.simulate.warm import warm
from warmroute_loadtest.simulate.workload import Session, Turn, Workload

ONE = FleetConfig(replicas=1, cache_tokens=200_000)


def asked(*turns: tuple[float, float]) -> Workload:
    """Prompts of 16,000 tokens that share nothing, in sessions of their own: when each starts, and its patience."""
    sessions = [
        Session(
            start_s,
            [Turn(f"t{n}", 16_000, 20, tuple(range(1000 * n + 1, 1000 * n + 251)), patience_s=patience_s)],
        )
        for n, (start_s, patience_s) in enumerate(turns)
    ]
    return Workload("asked", 64, sessions)


def test_who_leaves_in_the_prefill_waited_until_then_and_spares_the_engine_the_rest() -> None:
    run = simulate(asked((0.0, 0.5), (0.1, float("inf"))), ONE, warm("prefix-cost", hold=None))
    left, stayed = run.served
    assert left.has_left
    assert left.in_vain
    assert left.ttft_s == left.end_s == 0.5
    assert not stayed.has_left
    (alone,) = simulate(asked((0.0, float("inf"))), ONE, warm("prefix-cost")).served
    assert 1.2 < stayed.ttft_s / alone.ttft_s < 1.6, "of the other's two steps one was computed"
    (engine,) = run.engines
    assert engine.totals.aborted == 1
    engine.validate()
    shown = figures(run)
    assert shown.in_vain_ratio == 0.5
    assert shown.requests == 2
    assert shown.uncached_tokens == 16_000, "nobody knows of the other"


def test_who_leaves_a_stream_has_had_the_first_token() -> None:
    run = simulate(asked((0.0, 2.6)), ONE, warm("prefix-cost"))
    (served,) = run.served
    assert not served.in_vain
    whole = simulate(asked((0.0, float("inf"))), ONE, warm("prefix-cost")).served[0]
    assert served.ttft_s == whole.ttft_s
    assert figures(run).in_vain_ratio == 0.0


def test_who_leaves_before_a_whole_answers_end_has_had_nothing() -> None:
    workload = asked((0.0, 2.6))
    workload.sessions[0].turns[0].streams = False
    (served,) = simulate(workload, ONE, warm("prefix-cost")).served
    assert served.in_vain
    assert served.ttft_s == 2.6


def test_what_was_predicted_of_a_stream_is_counted_though_its_client_left() -> None:
    workload = asked((0.0, float("inf")))
    turns = workload.sessions[0].turns
    turns.append(Turn("again", 16_064, 2000, (*turns[0].keys, 999_999), pause_s=1.0, patience_s=1.0))
    run = simulate(workload, ONE, warm("prefix-cost"))
    again = run.served[1]
    assert again.has_left
    assert not again.in_vain
    assert again.predicted_tokens > 12_000
    shown = figures(run)
    assert shown.predicted_ratio == pytest.approx(again.predicted_tokens / 32_064)


def test_who_leaves_after_the_answer_changes_nothing() -> None:
    (served,) = simulate(asked((0.0, 1000.0)), ONE, warm("prefix-cost")).served
    assert not served.has_left
    assert served.end_s < 100.0


def test_who_leaves_while_held_is_never_sent() -> None:
    run = simulate(asked((0.0, float("inf")), (0.1, 0.3), (0.2, float("inf"))), ONE, warm("prefix-cost"))
    gone = next(served for served in run.served if served.has_left)
    assert gone.replica == -1
    assert gone.end_s == pytest.approx(0.4)
    assert run.engines[0].totals.aborted == 0
    assert figures(run).uncached_tokens == 32_000


def test_the_next_turn_follows_after_the_client_has_left() -> None:
    workload = asked((0.0, 0.5))
    (session,) = workload.sessions
    session.turns.append(Turn("next", 16_100, 20, session.turns[0].keys, pause_s=0.2))
    first, second = simulate(workload, ONE, warm("prefix-cost")).served
    assert second.arrival_s == pytest.approx(first.end_s + 0.2)
    assert second.cached_tokens >= 8192, "the engine ended its step, and kept it"


@pytest.mark.parametrize("name", ["waiting+2x", "preble", "dynamo", "x4"])
def test_every_router_is_at_rest_when_all_have_left(name: str) -> None:
    make = several("prefix-cost", 4) if name == "x4" else RIVALS[name]
    workload = multi_turn(300, 3).at_rate(6.0)
    for session in workload.sessions:
        for turn in session.turns[::2]:
            turn.patience_s = 0.7
    run = simulate(workload, FleetConfig(replicas=2, cache_tokens=200_000), make)
    assert len(run.served) == workload.requests
    assert 0.05 < figures(run).in_vain_ratio < 0.5
    assert set(run.chooser.in_flight) == {0}
    assert all(engine.idle for engine in run.engines)


def test_six_of_ten_completions_are_broken_off_by_the_next_keystroke() -> None:
    workload, whole = keystrokes(4000, 3), completions(4000, 3)
    assert workload.requests == whole.requests
    patience_s = [turn.patience_s for session in workload.sessions for turn in session.turns]
    broken_off = [one for one in patience_s if one < 1000.0]
    assert 0.57 < len(broken_off) / len(patience_s) < 0.63
    assert 0.38 < fmean(broken_off) < 0.42
    assert workload.at_speed(2.0).sessions[0].turns[0].patience_s == patience_s[0] / 2.0


def test_a_typist_finds_more_cached_than_where_what_was_broken_off_is_forgotten() -> None:
    """What an engine had begun is kept there: where it was forgotten, 80 % of this traffic's tokens were cached."""
    run = simulate(
        keystrokes(2000).at_rate(35.0), FleetConfig(replicas=8, cache_tokens=400_000), warm("prefix-cost")
    )
    shown = figures(run)
    assert shown.cached_ratio > 0.84
    assert shown.in_vain_ratio < 0.19
