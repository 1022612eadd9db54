"""Time of one choice and its reservation: `python -m tests.bench.choice [--replicas 1000] [--runs 4]`.

Every policy over replicas with requests under way, for prompts of which the registry knows 12 rungs with 3 holders
each. Prints a line of JSON a policy, in µs: of one run, and (`least`) of the same choices with the least time that any
of the runs took for each, which leaves out what else the machine did. Interpreted unless run from a compiled build; the
percentiles of one run hold on an otherwise idle core only.
"""

from __future__ import annotations

import argparse
import json
import time
from random import Random

from warmroute.core.choice.cost import CostParameters
from warmroute.core.choice.policies import POLICIES
from warmroute.core.fleet.fleet import Fleet, ProbeSucceeded, ReplicaAdded
from warmroute.core.health.health import HealthParameters
from warmroute.core.prompt.fingerprint import GRID
from warmroute.core.types import FingerprintHash, Incarnation, Record, ReplicaId, RequestShape

RUNGS, HOLDERS = 12, 3
UNDER_WAY = 4
"""Requests a replica, about."""


def choose(policy: str, replicas: int, choices: int) -> list[float]:
    """Seconds of each choice, in order: the same choices in every run."""
    rng = Random(3)
    parameters = CostParameters()
    fleet = Fleet(POLICIES[policy](parameters), rng, parameters, HealthParameters())
    for number in range(replicas):
        replica_id = ReplicaId(f"10.0.{number // 250}.{number % 250}:8000")
        fleet.apply(ReplicaAdded(replica_id, f"http://{replica_id}"))
        fleet.apply(ProbeSucceeded(replica_id, Incarnation(number + 1), ["m"], 16, 400_000, 0.0))
    open_requests = []
    times = []
    for number in range(choices + UNDER_WAY * replicas):
        now_s = number * 0.001
        rungs = [FingerprintHash(rng.getrandbits(64)) for _ in range(RUNGS)]
        key = rng.getrandbits(64)
        prompt_bytes = GRID[RUNGS - 1] + 300
        shape = RequestShape("m", rungs, prompt_bytes, prompt_bytes // 4, key, key)
        record: Record = tuple((Incarnation(rng.randrange(1, replicas + 1)), now_s) for _ in range(HOLDERS))
        records: list[Record | None] = [record] * RUNGS
        started = time.perf_counter()
        decision = fleet.choose_and_reserve(shape, records, now_s)
        if number >= UNDER_WAY * replicas:
            times.append(time.perf_counter() - started)
        open_requests.append(decision)
        if len(open_requests) > UNDER_WAY * replicas:
            done = open_requests.pop(rng.randrange(len(open_requests)))
            fleet.started(done, now_s)
            fleet.settle(done, now_s)
    return times


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicas", type=int, default=1000)
    parser.add_argument("--choices", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--policies", nargs="+", choices=list(POLICIES), default=list(POLICIES))
    given = parser.parse_args()
    for policy in given.policies:
        runs = [choose(policy, given.replicas, given.choices) for _ in range(given.runs)]
        times, least = sorted(runs[0]), sorted(map(min, zip(*runs, strict=True)))
        figures = {
            "policy": policy,
            "mean_us": round(sum(times) / len(times) * 1e6, 1),
            "p50_us": percentile_us(times, 50),
            "p99_us": percentile_us(times, 99),
            "least_p50_us": percentile_us(least, 50),
            "least_p99_us": percentile_us(least, 99),
        }
        print(json.dumps(figures), flush=True)


def percentile_us(times: list[float], percent: int) -> float:
    """Of sorted seconds."""
    return round(times[len(times) * percent // 100] * 1e6, 1)


if __name__ == "__main__":
    main()
