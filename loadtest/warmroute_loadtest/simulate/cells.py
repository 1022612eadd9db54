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
"""Other fleet sizes for the first workload: number of replicas, and the share of the knee, which is scaled by size."""

RATE_STEP = 3e-4
"""The rates of a cell's draws differ by this ratio, and multiples of it. No user would notice the difference, but it
makes another run: the order of two arrivals and of an answer's end decides on which replica a conversation stays, and
with it a p99."""

LOST_RATIO = 1.03
"""A policy has lost a cell where its TTFT is more than this multiple of the best rival's."""

TIMES = ("ttft_mean_s", "ttft_p90_s", "ttft_p99_s")


@dataclass(frozen=True, slots=True)
class Cell:
    """One workload at one rate on one fleet, under one seed; `draw` counts runs that differ only by `RATE_STEP`."""

    name: str
    source: Source
    rate: float
    fleet: FleetConfig
    draw: int = 0
    knee: str = ""
    """The key of the knee that the cell's rate is a share of; empty where the rate is given."""
    routers: int = 1
    """The number of routers that run a policy of ours."""
    rivals: tuple[str, ...] = tuple(RIVALS)
    """The rivals that are played in the cell besides the policy under test."""


@dataclass(slots=True)
class Outcome:
    """The figures of a cell by policy, and its bounds."""

    cell: Cell
    figures: dict[str, Figures]
    bounds: dict[str, float]

    def best(self, measure: str) -> tuple[float, str]:
        """Return the smallest value that any rival has, and the rival's name."""
        return min((float(getattr(self.figures[name], measure)), name) for name in self.cell.rivals)

    def ratios(self, policy: str) -> list[float]:
        """Return the policy's `TIMES` over those of the cell's best rival, each time over its own best."""
        own = self.figures[policy]
        return [float(getattr(own, measure)) / max(self.best(measure)[0], 1e-9) for measure in TIMES]

    def lost(self, policy: str) -> bool:
        """Return whether some rival's time is better by more than `LOST_RATIO` allows."""
        return max(self.ratios(policy)) > LOST_RATIO


def knee_key(workload: str, cache_tokens: int, seed: int) -> str:
    """Return a knee's key in the file of known knees."""
    return f"{workload}|{cache_tokens}" + (f"|{seed}" if seed != FIRST_SEED else "")


def wanted_knees(
    sources: Mapping[str, Source], fleet: FleetConfig, seeds: Sequence[int]
) -> dict[str, tuple[Source, FleetConfig]]:
    """Return, by key, every knee that the cells' rates are shares of."""
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
    """Yield all cells under one seed; `knees` must have every knee of `wanted_knees`."""
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
    """Yield the cell at `count` rates: first its own, then rates that are multiples of `RATE_STEP` above and below
    it."""
    for draw in range(count):
        steps = (draw + 1) // 2 * (1 if draw % 2 else -1)
        yield replace(cell, rate=cell.rate * (1.0 + RATE_STEP * steps), draw=draw)


def _label(name: str, fleet: FleetConfig, share: float) -> str:
    return f"{name} {fleet.replicas}x{fleet.cache_tokens // 1000}k {share:.0%}"


def mean_outcomes(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return one outcome for each cell; each figure is the mean over seeds and draws."""
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
                    values[field.name] = None  # the value is of requests after a join, and no replica joined
                    continue
                mean = sum(each) / count
                values[field.name] = round(mean) if field.type == "int" else mean
        merged[policy] = Figures(policy=policy, **values)
    bounds = {name: sum(o.bounds[name] for o in outcomes) / count for name in first.bounds}
    cell = replace(first.cell, rate=sum(o.cell.rate for o in outcomes) / count)
    return Outcome(cell, merged, bounds)


def geometric_means(outcomes: Sequence[Outcome], policy: str) -> dict[str, float]:
    """For each rival that was played in all cells, return the geometric mean of the policy's TTFT mean over the
    rival's."""
    return {
        rival: geometric_mean(
            [o.figures[policy].ttft_mean_s / o.figures[rival].ttft_mean_s for o in outcomes]
        )
        for rival in RIVALS
        if all(rival in o.figures for o in outcomes)
    }


def geometric_mean(ratios: Sequence[float]) -> float:
    """Return the geometric mean of one ratio or more."""
    return exp(sum(log(ratio) for ratio in ratios) / len(ratios))
