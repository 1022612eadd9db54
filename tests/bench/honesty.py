"""Whether the policy simulator tells the truth: one workload over live processes and over virtual time.

Run as `python -m tests.bench.honesty --mooncake conversation_trace.jsonl`. Live are `warmroute-replica sim` processes,
the real router and an HTTP client; simulated is `warmroute simulate`'s fleet with the same replicas, names, rates and
settings. Shown are cached shares and TTFT of both. `--speed` makes replicas, arrivals and pauses faster on both sides:
the faster, the more the real processes' own time weighs. On a busy machine the live side is late (`late`), and says so.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from loadtest.simulate.chooser import Chooser, Site
from loadtest.simulate.metrics import Figures, figures, quantile
from loadtest.simulate.simulation import FleetConfig, simulate
from loadtest.simulate.sources import Source
from loadtest.simulate.warm import Warm
from loadtest.simulate.workload import Session, Workload
from replica.sim.step_time import StepTime
from router.core.cost import CostParameters
from tests.support.live_fleet import live

POLICIES = ("prefix-cost", "prefix-hash", "least-loaded", "round-robin")


def faster(workload: Workload, speed: float) -> Workload:
    """The same with all times divided."""
    sessions = [
        Session(s.start_s / speed, [replace(t, pause_s=t.pause_s / speed) for t in s.turns])
        for s in workload.sessions
    ]
    return replace(workload, sessions=sessions)


def parameters(fleet: FleetConfig) -> CostParameters:
    """Priors that are right, on both sides."""
    step = fleet.step_time
    return replace(
        CostParameters(),
        prefill_tokens_per_s=step.prefill_tokens_per_s * step.speed,
        base_latency_s=CostParameters().base_latency_s / step.speed,
    )


def settings(policy: str, fleet: FleetConfig) -> dict[str, Any]:
    """The live router's, beside its replicas."""
    prior = parameters(fleet)
    return {
        "policy": {
            "name": policy,
            "prefill_tokens_per_s": prior.prefill_tokens_per_s,
            "base_latency_s": prior.base_latency_s,
        }
    }


def simulated(workload: Workload, fleet: FleetConfig, policy: str) -> Figures:
    """The same in virtual time."""

    def make(site: Site) -> Chooser:
        return Warm(site, policy, parameters(fleet), hold=None)

    return figures(simulate(workload, fleet, make))


def main() -> None:
    """Compare, and print a row a policy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mooncake", type=Path, help="the Mooncake conversation trace (default: multi-turn)")
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--rate", type=float, default=2.0, help="requests a second at speed 1 (default 2)")
    parser.add_argument("--replicas", type=int, default=8)
    parser.add_argument("--cache-tokens", type=int, default=300_000)
    parser.add_argument("--speed", type=float, default=1.0)
    parser.add_argument("--processes", type=int, default=2, help="of the simulated replicas")
    parser.add_argument("--policy", action="append")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    kind = "mooncake" if arguments.mooncake else "multi-turn"
    source = Source(kind, arguments.requests, arguments.mooncake)
    workload = faster(source.load().at_rate(arguments.rate), arguments.speed)
    fleet = FleetConfig(arguments.replicas, arguments.cache_tokens, StepTime(speed=arguments.speed))
    print(f"{workload.name}: {workload.requests} requests, {fleet.replicas} x {fleet.cache_tokens} tokens")
    print(f"{'policy':14s} {'cached live':>12s} {'simulated':>10s} {'points':>7s} {'p50 live':>9s} "
          f"{'simulated':>10s} {'ratio':>6s} {'mean':>6s} {'p90':>6s} {'late p99':>9s} {'failed':>7s}")  # fmt: skip
    rows = []
    for policy in arguments.policy or POLICIES:
        theirs = live(workload, fleet, settings(policy, fleet), processes=arguments.processes)
        ours = simulated(workload, fleet, policy)
        times = sorted(s.ttft_s for s in theirs.samples)
        late = quantile(sorted(s.late_s for s in theirs.samples), 0.99)
        row = {
            "policy": policy,
            "cached_live": theirs.cached_ratio,
            "cached_simulated": ours.cached_ratio,
            "p50_live_s": quantile(times, 0.5),
            "p50_simulated_s": ours.ttft_p50_s,
            "mean_live_s": sum(times) / len(times),
            "mean_simulated_s": ours.ttft_mean_s,
            "p90_live_s": quantile(times, 0.9),
            "p90_simulated_s": ours.ttft_p90_s,
            "late_p99_s": late,
            "failed": len(theirs.failures),
        }
        rows.append(row)
        points = 100 * (theirs.cached_ratio - ours.cached_ratio)
        print(f"{policy:14s} {theirs.cached_ratio:12.4f} {ours.cached_ratio:10.4f} {points:+7.2f} "
              f"{row['p50_live_s']:9.3f} {ours.ttft_p50_s:10.3f} {row['p50_live_s'] / ours.ttft_p50_s:6.3f} "
              f"{row['mean_live_s'] / ours.ttft_mean_s:6.3f} {row['p90_live_s'] / ours.ttft_p90_s:6.3f} "
              f"{late:9.3f} {len(theirs.failures):7d}", flush=True)  # fmt: skip
        for failure in theirs.failures[:3]:
            print(f"  {failure}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
