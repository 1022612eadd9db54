"""What load reports cost one router, and Redis, in a large deployment: `python -m tests.bench.load_reports_scale`.

Starts a Redis and one router's load reports over many replicas, and posts what the other routers would post: each
takes on, starts and ends requests all over the fleet, at the given rate in all. Prints JSON: CPU of the router's
loop, bytes a router writes and reads a second, time of Redis for one notice written and for one reading, calls of
both. Load that changes on a replica is one entry of 28 bytes a notice; three changes a request (sent, first byte,
end).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from random import Random

from tests.support.load_speaker import Speaker
from tests.support.redis_server import RedisServer
from warmroute.adapters.resp.commands import pack
from warmroute.core.types import ReplicaId
from warmroute.service.load_reports import LEAST_PAUSE_S, ROUTER_PAUSE_S
from warmroute.wire.load_notice import pack_notice, replica_key

INTERVAL_S = 0.05


def pace_s(routers: int, requests_per_s: float) -> float:
    """Between two notices of a router whose every request moves enough to be told at once."""
    least_s = min(INTERVAL_S / 2, max(LEAST_PAUSE_S, ROUTER_PAUSE_S * routers))
    return min(INTERVAL_S, max(least_s, routers / (3 * requests_per_s)))


async def post(port: int, routers: int, replicas: int, requests_per_s: float) -> None:
    """Write the notices of `routers` routers until killed: one batch a millisecond, each router at its pace."""
    rng = Random(1)
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    keys = [replica_key(ReplicaId(f"10.0.0.1:{number}")) for number in range(replicas)]
    numbers = [0] * routers
    interval_s = pace_s(routers, requests_per_s)
    changes = max(1, round(requests_per_s * 3 / routers * interval_s))
    started_s = time.monotonic()
    sent = 0
    while True:
        due = int((time.monotonic() - started_s) / interval_s * routers)
        batch = []
        while sent < due:
            router = sent % routers
            sent += 1
            numbers[router] += 1
            loads = [
                (rng.choice(keys), rng.randrange(4), sent, sent, rng.randrange(9000), 500, 40, 500)
                for _ in range(changes)
            ]
            notice = pack_notice(
                1000 + router, numbers[router], loads, whole=numbers[router] == 1, asking=False
            )
            batch.append(pack("XADD", "w:load", "MAXLEN", "~", 4096, "*", "l", notice))
        writer.write(b"".join(batch))
        await writer.drain()
        await asyncio.sleep(0.001)


async def measure(
    server: RedisServer, replicas: int, seconds: float, requests_per_s: float
) -> dict[str, float]:
    """One router's share, own requests included."""
    rng = Random(2)
    async with Speaker(server.url, 1, replicas) as speaker:
        await asyncio.sleep(2.0)
        board = speaker.board
        before = time.process_time(), board.sent_bytes, board.read_bytes
        started_s = time.monotonic()
        open_requests = []
        while (elapsed_s := time.monotonic() - started_s) < seconds:
            while len(open_requests) < elapsed_s * requests_per_s:
                open_requests.append(speaker.send(rng.choice(speaker.replicas), 1000))
            await asyncio.sleep(0.01)
        return {
            "router_cpu_ratio": round((time.process_time() - before[0]) / elapsed_s, 4),
            "router_written_bytes_per_s": round((board.sent_bytes - before[1]) / elapsed_s),
            "router_read_bytes_per_s": round((board.read_bytes - before[2]) / elapsed_s),
            "routers_heard": speaker.load_reports.routers,
        }


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--routers", type=int, default=100)
    parser.add_argument("--replicas", type=int, default=1000)
    parser.add_argument("--requests", type=float, default=20_000.0, help="a second, all routers together")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--post", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.post:
        asyncio.run(post(given.post, given.routers - 1, given.replicas, given.requests))
    with RedisServer() as server:
        words = [f"--{name}={getattr(given, name)}" for name in ("routers", "replicas", "requests")]
        posting = [sys.executable, "-m", "tests.bench.load_reports_scale", f"--post={server.port}", *words]
        with subprocess.Popen(posting) as others:
            time.sleep(2.0)
            server.command("CONFIG", "RESETSTAT")
            figures = asyncio.run(
                measure(server, given.replicas, given.seconds, given.requests / given.routers)
            )
            spent = server.command("INFO", "commandstats")
            memory = int(server.command("MEMORY", "USAGE", "w:load"))
            others.kill()
    for name in ("xadd", "xread"):
        figures[f"redis_{name}_us"] = spent[f"cmdstat_{name}"]["usec_per_call"]
        figures[f"redis_{name}_calls"] = spent[f"cmdstat_{name}"]["calls"]
    figures["redis_stream_bytes"] = memory
    print(json.dumps({**vars(given), **figures}))


if __name__ == "__main__":
    main()
