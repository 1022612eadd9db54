"""Whether the policy simulator tells the truth: one workload over live processes and over virtual time.

Run as `python -m tests.bench.honesty --mooncake conversation_trace.jsonl`. Live are `warmroute-replica sim` processes,
the real router and an HTTP client; simulated is `warmroute simulate`'s fleet with the same replicas, names and
settings. Shown are cached shares, TTFT, and how many requests went to the same replica on both sides.

Two things are held equal that are luck: the order of requests that a trace puts into the same instant (they are set
`GAP_S` apart), and the hashes that decide places on the ring (the simulation is given the shapes of the texts that were
sent). `--speed` makes replicas, arrivals and pauses faster on both sides: the faster, the more the real processes' own
time weighs. `late` tells whether this machine kept up.

Some policies are touchy: with round trips a few milliseconds longer a bounded-load hash spills elsewhere, and all that
follows differs. So the simulation is drawn `DRAWS` times with starts up to `JITTER_S` later and another seed; shown are
means, and the spread of the cached share, which one live run may show too.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

from tests.support.live_fleet import live
from tests.support.replay import Replay, Texts
from warmroute.config.schema import Config
from warmroute.core.choice.cost import CostParameters
from warmroute.core.learning.learner import Learner
from warmroute.core.prompt.fingerprint import Fingerprinter
from warmroute.core.types import Api, Records, RequestShape
from warmroute.dialects import parse
from warmroute_loadtest.simulate.chooser import Chooser, Site
from warmroute_loadtest.simulate.metrics import figures, quantile
from warmroute_loadtest.simulate.simulation import FleetConfig, Run, simulate
from warmroute_loadtest.simulate.sources import Source
from warmroute_loadtest.simulate.warm import HOLD, LEARNING, Warm
from warmroute_loadtest.simulate.workload import MODEL, Session, Turn, Workload, interleave
from warmroute_replica.sim.step_time import StepTime

POLICIES = ("prefix-cost", "prefix-hash", "least-loaded", "round-robin")
GAP_S = 0.05
JITTER_S = 0.01
DRAWS = 5
MOST_PAUSE_S = 20.0
"""Longer pauses are cut to this, so that it ends in minutes."""
SECRET = "the secret of this comparison"


def as_asked(workload: Workload, speed: float) -> Workload:
    """No two starts in the same instant, all times divided."""
    sessions: list[Session] = []
    before_s = -GAP_S
    for session in workload.sessions:
        before_s = start_s = max(session.start_s, before_s + GAP_S)
        turns = [replace(turn, pause_s=min(turn.pause_s, MOST_PAUSE_S) / speed) for turn in session.turns]
        sessions.append(Session(start_s / speed, turns))
    return replace(workload, sessions=sessions)


def jittered(workload: Workload, draw: int) -> Workload:
    """Starts and pauses a little longer; draw 0 is the workload itself."""
    rng = Random(draw)
    most_s = JITTER_S if draw else 0.0
    sessions = [
        Session(
            session.start_s + rng.uniform(0.0, most_s),
            [replace(turn, pause_s=turn.pause_s + rng.uniform(0.0, most_s)) for turn in session.turns],
        )
        for session in workload.sessions
    ]
    return replace(workload, sessions=interleave(sessions))


def parameters(fleet: FleetConfig) -> CostParameters:
    """Priors that are right, on both sides."""
    step = fleet.step_time
    return replace(
        CostParameters(),
        prefill_tokens_per_s=step.prefill_tokens_per_s * step.speed,
    )


def settings(policy: str, fleet: FleetConfig) -> dict[str, Any]:
    """The live router's, beside its replicas."""
    prior = parameters(fleet)
    return {
        "fingerprint": {"secret": SECRET},
        "policy": {
            "name": policy,
            "prefill_tokens_per_s": prior.prefill_tokens_per_s,
        },
    }


class AsLive(Warm):
    """The simulation's router, with the shapes that the live one made of the texts that were sent."""

    texts: Texts
    _fingerprinter = Fingerprinter(SECRET.encode())

    def ask(self, turn: Turn, now_s: float) -> tuple[RequestShape, Records]:
        """As the gateway does it."""
        body = json.dumps({"model": "sim", "prompt": self.texts.prompt(turn)}).encode()
        parsed = parse(Api.COMPLETIONS, body)
        shape = self._fingerprinter.shape(
            parsed.model,
            parsed.scope_salt,
            parsed.canonical,
            None,
            4.0,
            parsed.prompt_bytes,
            parsed.tokens_known,
        )
        shape.model = MODEL
        return shape, self.registry.lookup(shape.rungs, now_s)


def simulated(workload: Workload, fleet: FleetConfig, policy: str, texts: Texts) -> Run:
    """The same in virtual time."""
    hold = HOLD if policy == "prefix-cost" and Config().hold.enabled else None

    def make(site: Site) -> Chooser:
        chooser = AsLive(site, policy, parameters(fleet), hold, Learner(LEARNING))
        chooser.texts = texts
        return chooser

    return simulate(workload, fleet, make)


def compared(policy: str, theirs: Replay, runs: Sequence[Run]) -> dict[str, Any]:
    """Both sides' figures; simulated ones are means over the draws."""
    drawn = [figures(run) for run in runs]
    shares = [one.cached_ratio for one in drawn]
    times = sorted(sample.ttft_s for sample in theirs.samples)
    place = {served.turn.id: f"replica-{served.replica}:8000" for served in runs[0].served}
    same = sum(place.get(sample.turn.id) == sample.replica for sample in theirs.samples)
    return {
        "policy": policy,
        "requests": len(theirs.samples),
        "failed": len(theirs.failures),
        "cached_live_ratio": theirs.cached_ratio,
        "cached_simulated_ratio": fmean(shares),
        "cached_simulated_spread_ratio": max(shares) - min(shares),
        "ttft_p50_live_s": quantile(times, 0.5),
        "ttft_p50_simulated_s": fmean(one.ttft_p50_s for one in drawn),
        "ttft_mean_live_s": sum(times) / len(times),
        "ttft_mean_simulated_s": fmean(one.ttft_mean_s for one in drawn),
        "ttft_p90_live_s": quantile(times, 0.9),
        "ttft_p90_simulated_s": fmean(one.ttft_p90_s for one in drawn),
        "same_replica_ratio": same / len(theirs.samples),
        "late_p99_s": quantile(sorted(sample.late_s for sample in theirs.samples), 0.99),
    }


HEAD = (
    f"{'policy':14s} {'cached live':>12s} {'simulated':>10s} {'points':>7s} {'spread':>7s} "
    f"{'p50 live, s':>12s} {'simulated':>10s} {'ratio':>6s} {'mean':>6s} {'p90':>6s} "
    f"{'same place':>11s} {'late p99':>9s} {'failed':>7s}"
)


def line(row: dict[str, Any]) -> str:
    """One policy's row."""
    cached, virtual = row["cached_live_ratio"], row["cached_simulated_ratio"]
    ratios = [row[f"ttft_{name}_live_s"] / row[f"ttft_{name}_simulated_s"] for name in ("p50", "mean", "p90")]
    return (
        f"{row['policy']:14s} {cached:12.4f} {virtual:10.4f} {100 * (cached - virtual):+7.2f} "
        f"{100 * row['cached_simulated_spread_ratio']:7.2f} "
        f"{row['ttft_p50_live_s']:12.3f} {row['ttft_p50_simulated_s']:10.3f} {ratios[0]:6.3f} {ratios[1]:6.3f} "
        f"{ratios[2]:6.3f} {row['same_replica_ratio']:11.2f} {row['late_p99_s']:9.3f} {row['failed']:7d}"
    )


def add_workload(parser: argparse.ArgumentParser, *, requests: int, rate: float, cache_tokens: int) -> None:
    """The options of `wanted`, with these defaults."""
    parser.add_argument("--mooncake", type=Path, help="the Mooncake conversation trace (default: multi-turn)")
    parser.add_argument("--requests", type=int, default=requests)
    parser.add_argument("--rate", type=float, default=rate, help="requests a second at speed 1")
    parser.add_argument("--replicas", type=int, default=8)
    parser.add_argument("--cache-tokens", type=int, default=cache_tokens)
    parser.add_argument("--speed", type=float, default=1.0)


def wanted(asked: argparse.Namespace, *, spread: bool = False) -> tuple[Workload, FleetConfig]:
    """What to serve, and the replicas."""
    name = "mooncake" if asked.mooncake else "multi-turn"
    source = Source(name, asked.requests, asked.mooncake, spread=spread)
    workload = as_asked(source.load().at_rate(asked.rate), asked.speed)
    return workload, FleetConfig(asked.replicas, asked.cache_tokens, StepTime(speed=asked.speed))


def main(argv: Sequence[str] | None = None) -> None:
    """Compare, and print a row a policy."""
    parser = argparse.ArgumentParser(prog="tests.bench.honesty")
    add_workload(parser, requests=400, rate=1.0, cache_tokens=300_000)
    parser.add_argument("--processes", type=int, default=2, help="of the simulated replicas")
    parser.add_argument("--policy", action="append")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args(argv)
    workload, fleet = wanted(asked)
    print(
        f"{workload.name}: {workload.requests} requests at {asked.rate}/s, speed {asked.speed}, "
        f"{fleet.replicas} x {fleet.cache_tokens} tokens\n{HEAD}",
        flush=True,
    )
    rows = []
    for policy in asked.policy or POLICIES:
        texts = Texts(workload.block_tokens)
        theirs = live(workload, texts, fleet, settings(policy, fleet), processes=asked.processes)
        drawn = [
            simulated(jittered(workload, draw), replace(fleet, seed=fleet.seed + draw), policy, texts)
            for draw in range(DRAWS)
        ]
        rows.append(compared(policy, theirs, drawn))
        print(line(rows[-1]), flush=True)
        for failure in theirs.failures[:3]:
            print(f"  {failure}")
    if asked.json is not None:
        asked.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
