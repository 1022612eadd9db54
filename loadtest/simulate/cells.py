"""The grid of cells that a policy must not lose: workloads, cache sizes and loads, every rival in each.

Decides which cells there are and what is compared: TTFT mean, p90 and p99 against the best rival of the cell, and the
geometric mean of TTFT means against each single rival. A cell's load is a share of the knee of `KNEE_POLICY`, a rival,
so that the loads do not depend on the policy under test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import exp, log

from loadtest.simulate.chooser import Chooser, Site
from loadtest.simulate.knee import knee_rate
from loadtest.simulate.metrics import Figures, figures
from loadtest.simulate.rivals import RIVALS
from loadtest.simulate.simulation import FleetConfig, simulate
from loadtest.simulate.workload import Workload

KNEE_POLICY = "waiting+2x"
CACHES = (300_000, 1_000_000)
SHARES = (0.5, 0.9)
SIZES = {4: 0.8, 32: 0.8}
"""Other fleet sizes for the first workload, at this share of its knee, scaled by size."""

TIMES = ("ttft_mean_s", "ttft_p90_s", "ttft_p99_s")


@dataclass(frozen=True, slots=True)
class Cell:
    """One workload at one rate on one fleet."""

    name: str
    workload: Workload
    rate: float
    fleet: FleetConfig


@dataclass(slots=True)
class Outcome:
    """A cell's figures by policy."""

    cell: Cell
    figures: dict[str, Figures]

    def best(self, measure: str) -> tuple[float, str]:
        """The smallest value of any rival, and whose it is."""
        return min((float(getattr(self.figures[name], measure)), name) for name in RIVALS)

    def ratios(self, policy: str) -> list[float]:
        """The policy's `TIMES` over the best rival's of this cell."""
        own = self.figures[policy]
        return [float(getattr(own, measure)) / max(self.best(measure)[0], 1e-9) for measure in TIMES]


def cells(workloads: Mapping[str, Workload], knees: dict[str, float], fleet: FleetConfig) -> Iterator[Cell]:
    """All cells. Knees that `knees` lacks (`<workload>|<cache tokens>`) are found, and put there."""
    for number, (name, workload) in enumerate(workloads.items()):
        for cache_tokens in CACHES:
            own = replace(fleet, cache_tokens=cache_tokens)
            key = f"{name}|{cache_tokens}"
            if key not in knees:
                knees[key] = knee_rate(workload, own, RIVALS[KNEE_POLICY])
            for share in SHARES:
                label = f"{name} {own.replicas}x{cache_tokens // 1000}k {share:.0%}"
                yield Cell(label, workload, knees[key] * share, own)
        if number == 0:
            for replicas, share in SIZES.items():
                own = replace(fleet, cache_tokens=CACHES[-1], replicas=replicas)
                rate = knees[f"{name}|{CACHES[-1]}"] * share * replicas / fleet.replicas
                yield Cell(f"{name} {replicas}x{CACHES[-1] // 1000}k {share:.0%}", workload, rate, own)


def play(cell: Cell, policies: Mapping[str, Callable[[Site], Chooser]]) -> Outcome:
    """Every policy, and every rival, in one cell."""
    makers = {**RIVALS, **policies}
    workload = cell.workload.at_rate(cell.rate)
    return Outcome(
        cell, {name: figures(simulate(workload, cell.fleet, make)) for name, make in makers.items()}
    )


def geometric_means(outcomes: list[Outcome], policy: str) -> dict[str, float]:
    """Geometric mean over cells of the policy's TTFT mean over each rival's."""
    return {
        rival: exp(
            sum(log(o.figures[policy].ttft_mean_s / o.figures[rival].ttft_mean_s) for o in outcomes)
            / len(outcomes)
        )
        for rival in RIVALS
    }
