"""What a prior that is 12 times off costs, live: `python -m tests.bench.prior_live [--draws 6] [--whole 1]`.

The fleets and the traffic of `tests/integration/test_wrong_prior.py`: 8 simulated replicas that prefill 100,000 tokens
a second behind a router with default settings, and as many behind one that is told the truth, at the same time on the
same machine. Each draw starts everything anew, and the two in turn. Prints a line of JSON a draw, and the ratios of the
means. `--whole` is the share of the answers that do not stream; their times are those to the whole answer.
"""

from __future__ import annotations

import argparse
import json
from statistics import fmean

from tests.integration.test_wrong_prior import DEFAULT, TRUTH, played
from tests.support.replay import Replay
from warmroute_loadtest.simulate.metrics import quantile

FIGURES = ("mean_ms", "p50_ms", "p90_ms")


def draw(number: int, whole_ratio: float) -> tuple[dict[str, float], dict[str, float]]:
    """Figures of the router with the default prior, and of the one with the true one."""
    if number % 2:
        right, default = played(TRUTH, DEFAULT, whole_ratio=whole_ratio)
    else:
        default, right = played(DEFAULT, TRUTH, whole_ratio=whole_ratio)
    return figures(default), figures(right)


def figures(replay: Replay) -> dict[str, float]:
    """Times to first token of one fleet."""
    assert replay.failures == [], replay.failures
    ttfts_s = sorted(sample.ttft_s for sample in replay.samples)
    seconds = (fmean(ttfts_s), quantile(ttfts_s, 0.5), quantile(ttfts_s, 0.9))
    return {name: round(value * 1000, 1) for name, value in zip(FIGURES, seconds, strict=True)}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=6)
    parser.add_argument("--whole", type=float, default=0.0, metavar="SHARE")
    arguments = parser.parse_args()
    draws = []
    for number in range(arguments.draws):
        default, right = draw(number, arguments.whole)
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
