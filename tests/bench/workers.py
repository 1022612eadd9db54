"""What two workers carry, against one: `python -m tests.bench.workers [--rounds 3] [--seconds 4]`.

The load generator (wrk) and the replicas take CPU of the same cores, so that requests a second on a small machine say
little. What is compared is the workers' own CPU time a request, by the kernel's account: with a core each, N workers
carry N divided by it.

- `capacity_ratio`: two workers over one whose neighbour core is as busy: over one of two routers that share nothing (a
  registry namespace each), loaded in the same way at the same time. It holds all that being workers costs: the shared
  port, the load reports, the shared registry.
- `over_one_alone`: two workers over one that has the machine to itself. It holds besides what any two busy processes
  cost each other there in caches and cores, and what one worker gains by finding the load generator on the other core.
- `machine_ratio`: what two processes carry over one where neither does anything but count: 2.0 where cores are whole
  ones, less where they are threads of one or are shared with other machines.

Rounds take turns, so that what else the machine does hits all; each ratio is the median of the rounds' own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.bench.processes import replicas
from tests.support.processes import RouterProcess, cpu_s
from tests.support.redis_server import RedisServer

LUA = """
local systems, n = {}, 0
for i = 1, 16 do systems[i] = string.rep("You are assistant number " .. i .. ", terse and kind. ", KB * 16) end
wrk.method, wrk.headers["Content-Type"] = "POST", "application/json"
request = function()
  n = n + 1
  return wrk.format(nil, "/v1/chat/completions", nil, '{"model":"m","max_tokens":16,"messages":[' ..
    '{"role":"system","content":"' .. systems[n % 16 + 1] .. '"},{"role":"user","content":"question ' .. n .. '"}]}')
end
"""


ONE, WORKERS, ROUTERS = "one worker", "two workers", "two routers"


def run(kind: str, urls: list[str], redis: str, script: Path, seconds: int) -> dict[str, float]:
    """CPU time a request, over all workers, each with 32 connections."""
    with contextlib.ExitStack() as stack:
        routers = []
        for number in range(2 if kind == ROUTERS else 1):
            flags = ["--registry", redis, "--set", f"registry.namespace=w{number}"]
            router = RouterProcess(urls, *flags, workers=2 if kind == WORKERS else 1)
            routers.append(stack.enter_context(router))
        pids = [pid for router in routers for pid in router.worker_pids().values() or [router.process.pid]]
        ports = [router.port for router in routers] * (len(pids) // len(routers))
        _load(ports, script, 2)
        before = [cpu_s(pid) for pid in pids]
        requests = _load(ports, script, seconds)
        used = [cpu_s(pid) - start for pid, start in zip(pids, before, strict=True)]
        return {
            "requests_per_s": requests / seconds,
            "cpu_us": sum(used) / requests * 1e6,
            "least_share": min(used) / sum(used),
        }


SPIN = """
import time
start = time.process_time()
table = {}
for i in range(8_000_000):
    table[i & 65535] = i
print(time.process_time() - start)
"""


def spin_s(copies: int) -> float:
    """CPU time of one of so many processes that count at the same time."""
    spinning = [
        subprocess.Popen([sys.executable, "-c", SPIN], stdout=subprocess.PIPE, text=True)
        for _ in range(copies)
    ]
    return statistics.fmean(float(process.communicate()[0]) for process in spinning)


def _load(ports: list[int], script: Path, seconds: int) -> int:
    """Requests that one wrk for each of these ports got answered."""
    loads = [
        subprocess.Popen(
            ["wrk", "-t1", "-c32", f"-d{seconds}", "-s", str(script), f"http://127.0.0.1:{port}"],
            stdout=subprocess.PIPE,
            text=True,
        )
        for port in ports
    ]
    requests = 0
    for load in loads:
        output = load.communicate()[0]
        found = re.search(r"(\d+) requests in", output)
        assert found is not None, output
        assert "Non-2xx" not in output, output
        requests += int(found[1])
    return requests


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--kb", type=int, default=1)
    given = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {ONE: [], WORKERS: [], ROUTERS: []}
    spins: list[float] = []
    with RedisServer() as redis, replicas(4) as ports, tempfile.TemporaryDirectory() as directory:
        script = Path(directory) / "post.lua"
        script.write_text(LUA.replace("KB", str(given.kb)))
        urls = [f"http://127.0.0.1:{port}" for port in ports]
        for _ in range(given.rounds):
            spins.append(2 * spin_s(1) / spin_s(2))
            for kind, rows in found.items():
                rows.append(run(kind, urls, redis.url, script, given.seconds))
                print(kind, {key: round(value, 2) for key, value in rows[-1].items()}, flush=True)
    cost = {kind: [row["cpu_us"] for row in rows] for kind, rows in found.items()}
    figures = {f"cpu_us {kind}": round(statistics.median(values), 1) for kind, values in cost.items()}

    def over(kind: str) -> float:
        pairs = zip(cost[kind], cost[WORKERS], strict=True)
        return round(statistics.median(2 * alone / shared for alone, shared in pairs), 2)

    ratios = {
        "capacity_ratio": over(ROUTERS),
        "over_one_alone": over(ONE),
        "machine_ratio": round(statistics.median(spins), 2),
    }
    print(json.dumps({**figures, **ratios}))


if __name__ == "__main__":
    main()
