"""The cells are the grid that a policy must not lose: workloads, cache sizes and loads, with every rival in each.

This module decides which cells there are and what is compared: TTFT mean, p90 and p99 against the best rival of the
cell, and the geometric mean of TTFT means against each single rival. A cell's load is a share of the knee of
`KNEE_POLICY`, a rival, so that the loads do not depend on the policy under test. It runs nothing: `grid` does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import exp, log
from typing import Any

from warmroute_loadtest.simulate.metrics import Figures
from warmroute_loadtest.simulate.rivals import RIVALS
from warmroute_loadtest.simulate.simulation import FleetConfig
from warmroute_loadtest.simulate.sources import FIRST_SEED, Source, of_seed

KNEE_POLICY = "waiting+2x"
CACHES = (300_000, 1_000_000)
SHARES = (0.5, 0.9)
SIZES = {4: 0.8, 32: 0.8}
"""Other fleet sizes for the first workload, at this share of its knee, scaled by size."""

RATE_STEP = 3e-4
"""By how much the rates of a cell's draws differ: nothing to anybody, but another run. The order of two arrivals and an
answer's end decide where a conversation lives, and with it a p99."""

LOST_RATIO = 1.03
"""A cell is lost where TTFT is above this multiple of the best rival's."""

TIMES = ("ttft_mean_s", "ttft_p90_s", "ttft_p99_s")


@dataclass(frozen=True, slots=True)
class Cell:
    """One workload at one rate on one fleet, under one seed; `draw` counts runs that differ in nothing else."""

    name: str
    source: Source
    rate: float
    fleet: FleetConfig
    draw: int = 0
    knee: str = ""
    """Key of the knee that its rate is a share of."""
    routers: int = 1
    """In how many routers a policy of ours runs."""
    rivals: tuple[str, ...] = tuple(RIVALS)
    """Who is played beside."""


@dataclass(slots=True)
class Outcome:
    """A cell's figures by policy, and its bounds."""

    cell: Cell
    figures: dict[str, Figures]
    bounds: dict[str, float]

    def best(self, measure: str) -> tuple[float, str]:
        """The smallest value of any rival, and whose it is."""
        return min((float(getattr(self.figures[name], measure)), name) for name in self.cell.rivals)

    def ratios(self, policy: str) -> list[float]:
        """The policy's `TIMES` over the best rival's of this cell."""
        own = self.figures[policy]
        return [float(getattr(own, measure)) / max(self.best(measure)[0], 1e-9) for measure in TIMES]

    def lost(self, policy: str) -> bool:
        """Whether a rival is better by more than `LOST_RATIO` allows."""
        return max(self.ratios(policy)) > LOST_RATIO


def knee_key(workload: str, cache_tokens: int, seed: int) -> str:
    """Name of a knee in the file of known ones."""
    return f"{workload}|{cache_tokens}" + (f"|{seed}" if seed != FIRST_SEED else "")


def wanted_knees(
    sources: Mapping[str, Source], fleet: FleetConfig, seeds: Sequence[int]
) -> dict[str, tuple[Source, FleetConfig]]:
    """Every knee that the cells' rates are shares of, by key."""
    return {
        knee_key(name, cache_tokens, seed): (
            of_seed(source, seed),
            replace(fleet, cache_tokens=cache_tokens, seed=seed),
        )
        for name, source in sources.items()
        for cache_tokens in CACHES
        for seed in seeds
    }


def cells(
    sources: Mapping[str, Source], knees: Mapping[str, float], fleet: FleetConfig, seed: int
) -> Iterator[Cell]:
    """All cells under one seed; `knees` has every knee of `wanted_knees`."""
    for number, (name, first) in enumerate(sources.items()):
        source = of_seed(first, seed)
        for cache_tokens in CACHES:
            own = replace(fleet, cache_tokens=cache_tokens, seed=seed)
            key = knee_key(name, cache_tokens, seed)
            for share in SHARES:
                yield Cell(_label(name, own, share), source, knees[key] * share, own, knee=key)
        if number == 0:
            for replicas, share in SIZES.items():
                own = replace(fleet, cache_tokens=CACHES[-1], replicas=replicas, seed=seed)
                key = knee_key(name, CACHES[-1], seed)
                rate = knees[key] * share * replicas / fleet.replicas
                yield Cell(_label(name, own, share), source, rate, own, knee=key)


def draws(cell: Cell, count: int) -> Iterator[Cell]:
    """The cell at `count` rates, its own first, the others `RATE_STEP` and multiples of it above and below."""
    for draw in range(count):
        steps = (draw + 1) // 2 * (1 if draw % 2 else -1)
        yield replace(cell, rate=cell.rate * (1.0 + RATE_STEP * steps), draw=draw)


def _label(name: str, fleet: FleetConfig, share: float) -> str:
    return f"{name} {fleet.replicas}x{fleet.cache_tokens // 1000}k {share:.0%}"


def mean_outcomes(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """One outcome a cell: each figure's mean over seeds and draws."""
    by_name: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_name.setdefault(outcome.cell.name, []).append(outcome)
    return [_mean(same) for same in by_name.values()]


def _mean(outcomes: Sequence[Outcome]) -> Outcome:
    first = outcomes[0]
    if len(outcomes) == 1:
        return first
    count = len(outcomes)
    merged: dict[str, Figures] = {}
    for policy in first.figures:
        values: dict[str, Any] = {}
        for field in fields(Figures):
            if field.name != "policy":
                each = [getattr(o.figures[policy], field.name) for o in outcomes]
                if None in each:
                    values[field.name] = None  # no replica joined
                    continue
                mean = sum(each) / count
                values[field.name] = round(mean) if field.type == "int" else mean
        merged[policy] = Figures(policy=policy, **values)
    bounds = {name: sum(o.bounds[name] for o in outcomes) / count for name in first.bounds}
    cell = replace(first.cell, rate=sum(o.cell.rate for o in outcomes) / count)
    return Outcome(cell, merged, bounds)


def geometric_means(outcomes: Sequence[Outcome], policy: str) -> dict[str, float]:
    """Geometric mean over cells of the policy's TTFT mean over each rival's."""
    return {
        rival: geometric_mean(
            [o.figures[policy].ttft_mean_s / o.figures[rival].ttft_mean_s for o in outcomes]
        )
        for rival in RIVALS
    }


def geometric_mean(ratios: Sequence[float]) -> float:
    """Of at least one."""
    return exp(sum(log(ratio) for ratio in ratios) / len(ratios))
