"""Learning at work on simulated engines: small slices of what `tests.bench.learning` measures, with a margin."""

from __future__ import annotations

import pytest

from tests.bench.learning import (
    EVEN,
    FAST,
    FLEET,
    SLOW,
    Router,
    compare_on,
    found,
    geometric,
    measured,
    oracle,
    workload,
)
from warmroute_loadtest.simulate.rivals import RIVALS
from warmroute_loadtest.simulate.simulation import simulate

SEEDS = (0, 1)
REQUESTS = 500
RATE = 4.7
"""Of single turns that share nothing: 70 % of what four equal replicas can carry."""


def ratio(speeds: tuple[float, ...], one: Router, other: Router) -> float:
    """Mean TTFT of one router over the other's, after the first 200 requests, over some seeds."""
    ratios = []
    for seed in SEEDS:
        asked = workload("no-reuse", REQUESTS, seed, None).at_rate(RATE * sum(speeds) / len(speeds))
        ours, others = compare_on(asked, speeds, one, other)
        ratios.append(ours.mean_s / others.mean_s)
    return geometric(ratios)


def test_a_replica_twice_as_fast_is_found_and_used_within_a_hundred_requests() -> None:
    asked = workload("no-reuse", 250, 1, None).at_rate(RATE * 1.25)
    notes = {count: (rate, part) for count, rate, part in found(asked, FAST)}
    rate, _ = notes[100]
    assert rate == pytest.approx(16_000, rel=0.15)
    parts = [part for count, (_, part) in notes.items() if count > 50]
    assert sum(parts) / len(parts) > 0.32, "its fair part is 0.4, an equal's 0.25"


def test_one_replica_at_half_speed_costs_hardly_more_than_with_an_oracle() -> None:
    assert ratio(SLOW, Router(), oracle(SLOW)) < 1.10
    assert ratio(SLOW, Router(learns=False), oracle(SLOW)) > 1.15


@pytest.mark.parametrize("prior", [0.01, 0.25, 100.0])
def test_priors_however_far_off_are_outgrown(prior: float) -> None:
    assert ratio(EVEN, Router(prior=prior), Router()) < 1.05


@pytest.mark.parametrize("prior", [0.01, 1.0, 100.0])
def test_where_all_answers_come_whole_prompts_are_still_spread_by_what_is_left_of_them(prior: float) -> None:
    """The rival counts a prompt until its answer's end, though most of that time is decoding."""
    ratios = []
    for seed in SEEDS:
        asked = workload("no-reuse", REQUESTS, seed, None).at_rate(RATE).whole(1.0)
        ours = measured(simulate(asked, FLEET, Router(prior=prior).make))
        rival = measured(simulate(asked, FLEET, RIVALS["waiting+2x"]))
        ratios.append(ours.mean_s / rival.mean_s)
    assert geometric(ratios) < 0.9


def test_learning_costs_nothing_where_the_priors_are_right() -> None:
    assert ratio(EVEN, Router(), Router(learns=False)) < 1.05
