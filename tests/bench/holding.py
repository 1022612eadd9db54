"""What holding requests in the router brings and costs, with believed rates that are right and that are not.

    python -m tests.bench.holding [--requests 3000] [--learning]

Virtual time on 8 replicas of 1M tokens at 90 % of the knee, so the figures do not depend on the machine. Without
`--learning` the rates stay wrong all the time, which no router's do; `done` is when nine in ten answers are complete.
"""

from __future__ import annotations

import argparse

from warmroute.core.choice.cost import CostParameters
from warmroute.core.holding.parameters import HoldParameters
from warmroute_loadtest.simulate.generators import GENERATORS
from warmroute_loadtest.simulate.metrics import figures
from warmroute_loadtest.simulate.simulation import FleetConfig, simulate
from warmroute_loadtest.simulate.warm import LEARNING, warm

LOADS = {"no-reuse": 12.05, "multi-turn": 40.74, "hot-keys": 25.02}
"""Requests a second by session starts."""
PRIORS = (0.25, 1.0, 4.0)
"""Believed over true prefill rate."""


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=3000)
    parser.add_argument("--learning", action="store_true")
    arguments = parser.parse_args()
    learning = LEARNING if arguments.learning else None
    print("| workload | believed rate | hold | TTFT mean, s | p90 | p99 | goodput | done, s |")
    print("|---|---|---|---|---|---|---|---|")
    for name, rate in LOADS.items():
        workload = GENERATORS[name](arguments.requests).at_rate(rate)
        for prior in PRIORS:
            parameters = CostParameters(prefill_tokens_per_s=8000.0 * prior)
            for hold in (None, HoldParameters()):
                run = simulate(workload, FleetConfig(), warm("prefix-cost", parameters, hold, learning))
                row = figures(run)
                ends = sorted(s.end_s for s in run.served)
                print(
                    f"| {name} | {prior:g} | {'on' if hold else 'off'} | {row.ttft_mean_s:.3f} |"
                    f" {row.ttft_p90_s:.2f} | {row.ttft_p99_s:.2f} | {row.goodput_ratio:.3f} |"
                    f" {ends[len(ends) * 9 // 10]:.1f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
