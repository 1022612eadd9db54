"""Whether several routers decide as one, live: `python -m tests.bench.many_routers --mooncake TRACE`.

For each number of routers, processes of their own over one Redis, the same workload is served from empty caches by
simulated replicas, each request through any of the routers. Printed are cached-token share, TTFT and uncached work
(largest replica over the mean). Requests of one instant are set apart as in `tests.bench.honesty`. `late` tells whether
this machine kept up: above some 20 ms the times say little.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tests.bench.honesty import add_workload, settings, wanted
from tests.support.live_fleet import live
from tests.support.redis_server import RedisServer
from tests.support.replay import Replay, Texts
from warmroute_loadtest.simulate.metrics import quantile


def line(routers: int, found: Replay) -> str:
    """One row."""
    times = sorted(sample.ttft_s for sample in found.samples)
    work: dict[str, int] = {}
    for sample in found.samples:
        work[sample.replica] = work.get(sample.replica, 0) + sample.prompt_tokens - sample.cached_tokens
    late_s = quantile(sorted(sample.late_s for sample in found.samples), 0.99)
    return (
        f"{routers:7d} {found.cached_ratio:8.4f} {sum(times) / len(times):8.3f} {quantile(times, 0.5):8.3f} "
        f"{quantile(times, 0.9):8.3f} {quantile(times, 0.99):8.3f} "
        f"{max(work.values()) * len(work) / sum(work.values()):9.2f} {late_s:8.3f} {len(found.failures):7d}"
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Serve, and print a row for each number of routers."""
    parser = argparse.ArgumentParser(prog="tests.bench.many_routers")
    add_workload(parser, requests=600, rate=1.5, cache_tokens=1_000_000)
    parser.add_argument("--routers", default="1,2,4,8")
    asked = parser.parse_args(argv)
    workload, fleet = wanted(asked, spread=True)
    print("routers   cached  TTFT, s      p50      p90      p99 imbalance late p99  failed", flush=True)
    for routers in [int(part) for part in asked.routers.split(",")]:
        with RedisServer() as redis:
            live_settings = {**settings("prefix-cost", fleet), "registry": {"url": redis.url}}
            texts = Texts(workload.block_tokens)
            found = live(workload, texts, fleet, live_settings, processes=2, routers=routers)
        print(line(routers, found), flush=True)
        for failure in found.failures[:3]:
            print(f"  {failure}")


if __name__ == "__main__":
    main()
