"""Holding requests at the router must cost no throughput, however wrong the believed rates are: in virtual time."""

from __future__ import annotations

from random import Random

import pytest

from warmroute.core.choice.cost import CostParameters
from warmroute.core.holding.parameters import HoldParameters
from warmroute_loadtest.simulate.simulation import FleetConfig, simulate
from warmroute_loadtest.simulate.warm import warm
from warmroute_loadtest.simulate.workload import KeyMaker, Session, Turn, Workload

FOR_EVER = HoldParameters(max_held=1_000_000, max_hold_s=1e9)
"""Nobody goes because too many wait, or for too long."""


def burst(requests: int, shortest: int, longest: int, output: int) -> Workload:
    """Prompts that all come within a second, none like another."""
    rng = Random(5)
    keys = KeyMaker()
    sessions = []
    for number in range(requests):
        prompt = rng.randint(shortest, longest)
        turn = Turn(f"q{number}", prompt, rng.randint(2, output), keys.fresh(prompt // 16), user_key=-number)
        sessions.append(Session(number / requests, [turn]))
    return Workload("burst", 16, sessions)


def answered_s(workload: Workload, replicas: int, prior: float, hold: HoldParameters | None) -> float:
    """When nine in ten answers were complete: the last ones depend on luck."""
    parameters = CostParameters(prefill_tokens_per_s=8000.0 * prior)
    run = simulate(workload, FleetConfig(replicas, 300_000), warm("prefix-cost", parameters, hold))
    assert len(run.served) == workload.requests
    return sorted(s.end_s for s in run.served)[len(run.served) * 9 // 10]


@pytest.mark.parametrize("prior", [0.25, 1.0, 4.0])
@pytest.mark.parametrize(
    ("requests", "shortest", "longest", "output", "replicas"),
    [(1200, 10, 60, 60, 2), (600, 40, 400, 100, 2), (120, 2000, 12_000, 300, 2), (300, 40, 2000, 100, 1)],
)
def test_as_much_is_answered_with_holding_as_without(
    prior: float, requests: int, shortest: int, longest: int, output: int, replicas: int
) -> None:
    workload = burst(requests, shortest, longest, output)
    without_s = answered_s(workload, replicas, prior, None)
    with_s = answered_s(workload, replicas, prior, FOR_EVER)
    assert with_s <= 1.04 * without_s
