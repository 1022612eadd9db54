"""What a prior that is 12 times off costs, live: `python -m tests.bench.prior_live [--draws 6]`.

The fleets and the traffic of `tests/integration/test_wrong_prior.py`: 8 simulated replicas that prefill 100,000 tokens
a second behind a router with default settings, and as many behind one that is told the truth, at the same time on the
same machine. Each draw starts everything anew, and the two in turn. Prints a line of JSON a draw, and the ratios of the
means.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from contextlib import ExitStack
from statistics import fmean

from tests.integration.test_wrong_prior import BLOCK_TOKENS, REPLICAS, TRUE_TOKENS_PER_S, side_by_side
from tests.support.processes import RouterProcess, SimProcess
from tests.support.replay import Replay
from warmroute_loadtest.simulate.metrics import quantile

FIGURES = ("mean_ms", "p50_ms", "p90_ms")


def draw(number: int) -> tuple[dict[str, float], dict[str, float]]:
    """Figures of the router with the default prior, and of the one with the true one."""
    engine = ["--prefill-tokens-per-s", str(TRUE_TOKENS_PER_S), "--block-tokens", str(BLOCK_TOKENS)]
    told: list[list[str]] = [[], ["--set", f"policy.prefill_tokens_per_s={TRUE_TOKENS_PER_S}"]]
    if number % 2:
        told.reverse()
    with ExitStack() as stack:
        sims = [stack.enter_context(SimProcess(REPLICAS, *engine)) for _ in told]
        routers = [
            stack.enter_context(RouterProcess(sim.urls, *settings))
            for sim, settings in zip(sims, told, strict=True)
        ]
        found = asyncio.run(side_by_side([f"http://127.0.0.1:{router.port}" for router in routers]))
    if number % 2:
        found.reverse()
    return figures(found[0]), figures(found[1])


def figures(played: Replay) -> dict[str, float]:
    """Times to first token of one fleet."""
    assert played.failures == [], played.failures
    ttfts_s = sorted(sample.ttft_s for sample in played.samples)
    seconds = (fmean(ttfts_s), quantile(ttfts_s, 0.5), quantile(ttfts_s, 0.9))
    return {name: round(value * 1000, 1) for name, value in zip(FIGURES, seconds, strict=True)}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=6)
    draws = []
    for number in range(parser.parse_args().draws):
        default, right = draw(number)
        draws.append((default, right))
        print(json.dumps({"default": default, "right": right}), flush=True)
    ratios = {
        name: round(
            fmean(default[name] for default, _ in draws) / fmean(right[name] for _, right in draws), 3
        )
        for name in FIGURES
    }
    print(json.dumps({"ratio": ratios}))


if __name__ == "__main__":
    main()
