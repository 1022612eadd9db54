"""What no router can be faster than: times to the first token if nobody waited and one cache held what all of them do.

    python -m tests.bench.ttft_bound CASE [--mooncake-file FILE] [--ragpulse-dir DIR] [--lmcache-file FILE]

Plays the workloads of a case of the simulator's axes ("plain", "replicas 32") one prompt at a time, in order of
arrival, on one idle engine whose cache is as large as those of all replicas together. Prints TTFT mean, p90 and p99 of
each, in seconds; hold them against those of `simulate --cells axes --only CASE --json FILE`. Virtual time: depends on
no machine.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from tests.bench.overload import at
from warmroute_loadtest.simulate.axes import axis_cells
from warmroute_loadtest.simulate.bounds import arrival_order
from warmroute_loadtest.simulate.cells import Cell
from warmroute_loadtest.simulate.command import axes_sources
from warmroute_loadtest.simulate.simulation import FleetConfig
from warmroute_loadtest.simulate.sources import FIRST_SEED
from warmroute_replica.sim.engine import SimRequest

KNEES = Path("docs/simulator-knees.json")


def times_s(cell: Cell) -> list[float]:
    """Times to the first token of all requests."""
    workload = cell.source.load()
    fleet = replace(cell.fleet, replicas=1, cache_tokens=cell.fleet.cache_tokens * cell.fleet.replicas)
    engine = fleet.engines(workload.block_tokens)[0]
    now_s = 0.0
    times = []
    for turn in arrival_order(workload):
        began_s = now_s
        first_s = -1.0
        request = SimRequest(
            turn.id, turn.prompt_tokens, turn.output_tokens, turn.keys, 0, turn.reads_cache, turn.chunks
        )
        engine.add(request, now_s)
        while not engine.idle:
            result = engine.advance(now_s, now_s + 1e9)
            now_s = result.end_s
            if result.first and first_s < 0.0:
                first_s = now_s
        times.append(first_s - began_s + 2 * fleet.hop_s)
    return times


def main() -> None:
    """Play and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case")
    for name in ("--mooncake-file", "--ragpulse-dir", "--lmcache-file"):
        parser.add_argument(name, type=Path)
    arguments = parser.parse_args()
    sources = axes_sources(
        arguments.mooncake_file, arguments.ragpulse_dir, arguments.lmcache_file, requests=None
    )
    knees = json.loads(KNEES.read_text())
    for cell in axis_cells(sources, knees, FleetConfig(), FIRST_SEED):
        if cell.name.startswith(f"{arguments.case}: "):
            times = times_s(cell)
            mean_s = sum(times) / len(times)
            print(f"{cell.name}: {mean_s:.4f} {at(times, 0.9):.4f} {at(times, 0.99):.4f}", flush=True)


if __name__ == "__main__":
    main()
