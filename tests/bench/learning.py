"""What learning is worth, in virtual time: against an oracle that knows the true speeds, and with wrong priors.

    python -m tests.bench.learning [--requests 3000] [--seeds 3] [--mooncake FILE] [--case slow ...]

Deterministic: the figures do not depend on the machine. Each line compares two runs of one workload, by the requests
after the first 200 to arrive.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from loadtest.simulate.chooser import Chooser, Site
from loadtest.simulate.generators import multi_turn, no_reuse
from loadtest.simulate.metrics import quantile
from loadtest.simulate.simulation import FleetConfig, Run, simulate
from loadtest.simulate.traces import mooncake
from loadtest.simulate.warm import HOLD, Warm, warm
from loadtest.simulate.workload import Workload
from router.core.cost import CostParameters

WARM_UP = 200
REPLICAS = 4
FLEET = FleetConfig(replicas=REPLICAS, cache_tokens=1_000_000)
KNEES = {"no-reuse": 6.7, "multi-turn": 22.6, "conversation": 1.37}
"""Requests a second at the knee of `REPLICAS` replicas: half of what docs/simulator-knees.json has for 8."""
SHARES = (0.7, 0.9)
"""Of the knee, times the fleet's true speed."""


def oracle(speeds: tuple[float, ...]) -> Callable[[Site], Chooser]:
    """The policy with each replica's true rates and without learning."""
    parameters = CostParameters()

    def make(site: Site) -> Chooser:
        chooser = Warm(site, "prefix-cost", parameters, HOLD)
        for one, speed in zip(chooser.fleet.replicas.values(), speeds, strict=True):
            one.set_rates(parameters.prefill_tokens_per_s * speed, parameters.base_latency_s)
        return chooser

    return make


@dataclass(frozen=True, slots=True)
class Figures:
    """TTFT of the requests after the warm-up."""

    mean_s: float
    p90_s: float


def measured(run: Run) -> Figures:
    """Of one run."""
    times = sorted(s.ttft_s for s in sorted(run.served, key=lambda s: s.arrival_s)[WARM_UP:])
    return Figures(sum(times) / len(times), quantile(times, 0.9))


def wrong(factor: float) -> CostParameters:
    """Priors that are all too high by this factor: rates, and the time of a cached prompt."""
    right = CostParameters()
    return replace(
        right,
        prefill_tokens_per_s=right.prefill_tokens_per_s * factor,
        base_latency_s=right.base_latency_s / factor,
    )


def pairs(
    case: str,
) -> Iterator[tuple[str, tuple[float, ...], Callable[[Site], Chooser], Callable[[Site], Chooser]]]:
    """Name, the replicas' speeds, what is compared, and with what."""
    even = (1.0,) * REPLICAS
    ours = warm("prefix-cost")
    if case in ("slow", "all"):
        speeds = (1.0, 1.0, 1.0, 0.5)
        yield "one at half speed / oracle", speeds, ours, oracle(speeds)
        yield "  without learning / oracle", speeds, warm("prefix-cost", learning=None), oracle(speeds)
    if case in ("fast", "all"):
        speeds = (1.0, 1.0, 1.0, 2.0)
        yield "one at twice the speed / oracle", speeds, ours, oracle(speeds)
        yield "  without learning / oracle", speeds, warm("prefix-cost", learning=None), oracle(speeds)
    if case in ("priors", "all"):
        for factor in (0.25, 4.0):
            yield f"priors x{factor} / right", even, warm("prefix-cost", wrong(factor)), ours
            yield (
                "  without learning / right",
                even,
                warm("prefix-cost", wrong(factor), learning=None),
                warm("prefix-cost", learning=None),
            )
    if case in ("even", "all"):
        yield "learning / not", even, ours, warm("prefix-cost", learning=None)


def workloads(requests: int, seed: int, trace: Path | None) -> dict[str, Workload]:
    """By the names of `KNEES`."""
    found = {
        "no-reuse": no_reuse(requests, seed),
        "multi-turn": multi_turn(requests, seed),
    }
    if trace is not None:
        found["conversation"] = mooncake(trace).slice(requests, seed * requests)
    return found


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--mooncake", type=Path)
    parser.add_argument("--case", default="all", choices=["slow", "fast", "priors", "even", "all"])
    arguments = parser.parse_args()
    print(f"{'case':34s} {'workload':13s} load  {'mean s':>8s} {'ratio':>6s} {'p90 s':>8s} {'ratio':>6s}")
    known: dict[tuple[object, ...], Figures] = {}
    for name, speeds, ours, other in pairs(arguments.case):
        for seed in range(arguments.seeds):
            for label, workload in workloads(arguments.requests, seed, arguments.mooncake).items():
                for share in SHARES:
                    rate = KNEES[label] * share * sum(speeds) / REPLICAS
                    at_rate = workload.at_rate(rate)
                    fleet = replace(FLEET, speeds=speeds)
                    one = measured(simulate(at_rate, fleet, ours))
                    key = (id(other), label, share, seed)
                    if key not in known:
                        known[key] = measured(simulate(at_rate, fleet, other))
                    base = known[key]
                    print(
                        f"{name:34s} {label:11s}{seed:2d} {share:4.0%}"
                        f" {one.mean_s:8.3f} {one.mean_s / base.mean_s:6.3f}"
                        f" {one.p90_s:8.3f} {one.p90_s / base.p90_s:6.3f}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
