"""What learning is worth, in virtual time: against an oracle that knows the true speeds, and with wrong priors.

    python -m tests.bench.learning [--requests 3000] [--seeds 3] [--mooncake FILE] [--case slow] [--processes 2]

Deterministic: the figures do not depend on the machine. Each line compares two runs of one workload by the TTFT of the
requests after the first 200 to arrive. Conversations stay where they went at first, and one placement more or less
moves a run's tail: `even nudged` (two oracles whose rates differ by one percent) says how much of a ratio is that.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from math import exp, log
from pathlib import Path

from warmroute.core.choice.cost import CostParameters
from warmroute.core.learning.learner import Learner
from warmroute_loadtest.simulate.chooser import Chooser, Site
from warmroute_loadtest.simulate.generators import multi_turn, no_reuse
from warmroute_loadtest.simulate.metrics import quantile
from warmroute_loadtest.simulate.simulation import FleetConfig, Run, simulate
from warmroute_loadtest.simulate.traces import mooncake
from warmroute_loadtest.simulate.warm import HOLD, LEARNING, Warm
from warmroute_loadtest.simulate.workload import Turn, Workload

WARM_UP = 200
REPLICAS = 4
FLEET = FleetConfig(replicas=REPLICAS, cache_tokens=1_000_000)
KNEES = {"no-reuse": 6.7, "multi-turn": 22.6, "conversation": 1.37}
"""Requests a second at the knee of `REPLICAS` replicas: half of what docs/simulator-knees.json has for 8."""
SHARES = (0.7, 0.9)
"""Of the knee, times the fleet's true speed."""

EVEN = (1.0,) * REPLICAS
SLOW = (1.0, 1.0, 1.0, 0.5)
FAST = (1.0, 1.0, 1.0, 2.0)


@dataclass(frozen=True, slots=True)
class Router:
    """How one router of a comparison is set up."""

    learns: bool = True
    prior: float = 1.0
    """Its prior rates over the true ones of a replica of speed 1."""
    told: tuple[float, ...] = ()
    """True speeds that an oracle is told; it does not learn."""

    def make(self, site: Site) -> Chooser:
        """The policy, set up so."""
        right = CostParameters()
        parameters = replace(
            right,
            prefill_tokens_per_s=right.prefill_tokens_per_s * self.prior,
        )
        chooser = Warm(site, "prefix-cost", parameters, HOLD, Learner(LEARNING) if self.learns else None)
        for one, speed in zip(chooser.fleet.replicas.values(), self.told, strict=False):
            one.set_rates(parameters.prefill_tokens_per_s * speed, 0.03)
        return chooser


def oracle(speeds: tuple[float, ...], nudge: float = 1.0) -> Router:
    """Told the truth, times `nudge`."""
    return Router(learns=False, told=tuple(speed * nudge for speed in speeds))


CASES: dict[str, tuple[tuple[float, ...], Router, Router]] = {
    "half speed / oracle": (SLOW, Router(), oracle(SLOW)),
    "half speed, off / oracle": (SLOW, Router(learns=False), oracle(SLOW)),
    "half speed nudged": (SLOW, oracle(SLOW, 1.01), oracle(SLOW)),
    "twice the speed / oracle": (FAST, Router(), oracle(FAST)),
    "twice the speed, off / oracle": (FAST, Router(learns=False), oracle(FAST)),
    "priors x0.25 / right": (EVEN, Router(prior=0.25), Router()),
    "priors x0.25, off / right": (EVEN, Router(False, 0.25), Router(learns=False)),
    "priors x4 / right": (EVEN, Router(prior=4.0), Router()),
    "priors x4, off / right": (EVEN, Router(False, 4.0), Router(learns=False)),
    "even, learning / not": (EVEN, Router(), Router(learns=False)),
    "even nudged": (EVEN, oracle(EVEN, 1.01), oracle(EVEN)),
}


@dataclass(frozen=True, slots=True)
class Figures:
    """TTFT of the requests after the warm-up."""

    mean_s: float
    p90_s: float


def measured(run: Run) -> Figures:
    """Of one run."""
    times = sorted(s.ttft_s for s in sorted(run.served, key=lambda s: s.arrival_s)[WARM_UP:])
    return Figures(sum(times) / len(times), quantile(times, 0.9))


def workload(name: str, requests: int, seed: int, trace: Path | None) -> Workload:
    """One of `KNEES`."""
    if name == "conversation":
        assert trace is not None
        return mooncake(trace).slice(requests, seed * requests)
    return (no_reuse if name == "no-reuse" else multi_turn)(requests, seed)


Place = tuple[str, int, float]
"""Workload, seed, share of the knee."""


def compare(case: str, requests: int, trace: Path | None, place: Place) -> tuple[Figures, Figures]:
    """Figures of both routers of a case."""
    name, seed, share = place
    speeds, one, other = CASES[case]
    asked = workload(name, requests, seed, trace).at_rate(KNEES[name] * share * sum(speeds) / REPLICAS)
    return compare_on(asked, speeds, one, other)


def compare_on(
    asked: Workload, speeds: tuple[float, ...], one: Router, other: Router
) -> tuple[Figures, Figures]:
    """Figures of both routers on one workload."""
    fleet = replace(FLEET, speeds=speeds)
    return measured(simulate(asked, fleet, one.make)), measured(simulate(asked, fleet, other.make))


class Found(Warm):
    """Notes what is believed of the last replica, and its part of the work, as requests come."""

    def __init__(self, site: Site, every: int, notes: list[tuple[int, float, float]]) -> None:
        super().__init__(site, "prefix-cost", None, HOLD, Learner(LEARNING))
        self._every = every
        self._notes = notes
        self._asked = 0
        self._given = [0.0] * REPLICAS

    def choose(self, turn: Turn, now_s: float) -> int | None:
        self._asked += 1
        if self._asked % self._every == 0:
            replicas = list(self.fleet.replicas.values())
            given = [float(replica.given_tokens) for replica in replicas]
            work = [now - before for now, before in zip(given, self._given, strict=True)]
            self._given = given
            self._notes.append((self._asked, replicas[-1].prefill_tokens_per_s, work[-1] / sum(work)))
        return super().choose(turn, now_s)


def found(asked: Workload, speeds: tuple[float, ...], every: int = 50) -> list[tuple[int, float, float]]:
    """After each so many requests: the last replica's believed rate, and its part of the work since."""
    notes: list[tuple[int, float, float]] = []
    simulate(asked, replace(FLEET, speeds=speeds), lambda site: Found(site, every, notes))
    return notes


def geometric(values: Sequence[float]) -> float:
    """Their mean."""
    return exp(sum(map(log, values)) / len(values))


def places(seeds: int, trace: Path | None) -> Iterator[Place]:
    """All of them."""
    for name in KNEES:
        if name != "conversation" or trace is not None:
            yield from ((name, seed, share) for seed in range(seeds) for share in SHARES)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--mooncake", type=Path, help="adds the conversation trace")
    parser.add_argument("--case", action="append", choices=[*CASES, "found"], help="repeatable; default: all")
    parser.add_argument("--processes", type=int, default=1)
    arguments = parser.parse_args()
    all_places = list(places(arguments.seeds, arguments.mooncake))
    cases = arguments.case or ["found", *CASES]
    if "found" in cases:
        cases.remove("found")
        for name, seed, share in all_places[:: len(SHARES)]:
            asked = workload(name, 400, seed, arguments.mooncake).at_rate(KNEES[name] * share * 1.25)
            for count, rate, part in found(asked, FAST):
                if count in (50, 100, 200):
                    print(
                        f"twice the speed, {name} seed {seed}: after {count} requests"
                        f" believed {rate / 8000:.2f}, part of the last 50 requests' work {part:.2f}"
                    )
    with ProcessPoolExecutor(arguments.processes) as pool:
        for case in cases:
            ratios: list[tuple[float, float]] = []
            one_case = partial(compare, case, arguments.requests, arguments.mooncake)
            for (name, seed, share), (one, other) in zip(
                all_places, pool.map(one_case, all_places), strict=True
            ):
                ratios.append((one.mean_s / other.mean_s, one.p90_s / other.p90_s))
                print(
                    f"{case:30s} {name:12s} seed {seed} {share:4.0%}"
                    f"  mean {one.mean_s:7.3f} s {ratios[-1][0]:6.3f}  p90 {one.p90_s:7.3f} s {ratios[-1][1]:6.3f}",
                    flush=True,
                )
            mean, p90 = (geometric([ratio[index] for ratio in ratios]) for index in (0, 1))
            print(f"{case:30s} geometric mean: mean {mean:.3f}  p90 {p90:.3f}", flush=True)


if __name__ == "__main__":
    main()
