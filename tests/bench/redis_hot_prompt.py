"""How a Redis Cluster shares the work of one hot system prompt: `python -m tests.bench.redis_hot_prompt`.

Three nodes, one router. Every request has the same system prompt and then text of its own, so that the rungs of the
prompt are read by all. Prints JSON: what each node was asked and what it took, and how many slots those rungs are in.
"""

from __future__ import annotations

import argparse
import json
import time
from random import Random

import uvloop

from tests.support.redis_cluster import redis_cluster
from tests.support.redis_server import RedisServer
from tests.support.registry_calls import PATIENT_S, is_up, look, settled
from warmroute.adapters.registry.redis.registry import RedisRegistry
from warmroute.adapters.resp.commands import key_slot
from warmroute.core.types import FingerprintHash, Incarnation

REPLICAS = 8


async def ask(url: str, hot: list[FingerprintHash], own: int, requests: int) -> None:
    """Look up and place, as a router does."""
    rng = Random(2)
    registry = RedisRegistry(url, lookup_deadline_s=PATIENT_S)
    await registry.start(lambda _: None)
    await is_up(registry)
    for _ in range(requests):
        rungs = [*hot, *(FingerprintHash(rng.getrandbits(64)) for _ in range(own))]
        await look(registry, rungs)
        registry.touch(rungs, Incarnation(rng.randrange(1, REPLICAS + 1)), time.time())
    await settled(registry)
    await registry.stop()


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--hot", type=int, default=18, help="rungs of the system prompt; 18 are 16 KB")
    parser.add_argument("--own", type=int, default=4, help="rungs of a request's own text")
    given = parser.parse_args()
    rng = Random(1)
    hot = [FingerprintHash(rng.getrandbits(64)) for _ in range(given.hot)]

    def spent(server: RedisServer, name: str, what: str) -> int:
        return int(server.command("INFO", "commandstats").get(f"cmdstat_{name}", {}).get(what, 0))

    with redis_cluster() as servers:
        for server in servers:
            server.command("CONFIG", "RESETSTAT")
        uvloop.run(ask(f"redis+cluster://127.0.0.1:{servers[0].port}", hot, given.own, given.requests))
        figures = {
            "slots_of_hot_rungs": len({key_slot(b"w:" + rung.to_bytes(8, "big")) for rung in hot}),
            "gets_a_request": [round(spent(s, "get", "calls") / given.requests, 2) for s in servers],
            "writes_a_request": [round(spent(s, "evalsha", "calls") / given.requests, 2) for s in servers],
            "us_a_request": [
                round((spent(s, "get", "usec") + spent(s, "evalsha", "usec")) / given.requests, 1)
                for s in servers
            ],
        }
    print(json.dumps({**vars(given), **figures}))


if __name__ == "__main__":
    main()
