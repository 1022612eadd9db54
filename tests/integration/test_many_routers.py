"""Several routers over one Redis decide as one: the same workload finds the same share of its tokens cached."""

from __future__ import annotations

import contextlib
import json
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest

from tests.support.processes import SimProcess
from tests.support.redis_server import RedisServer
from tests.support.router_thread import RouterThread, wait_until
from warmroute.config.schema import Address, Config, FingerprintConfig, RegistryConfig, ReplicaConfig

CONVERSATIONS, TURNS = 24, 6
AT_ONCE = 4
"""As many as there are replicas. With more, homes are busy, and conversations leave them for load, not for want of
knowledge: one in twenty or so, by chance."""
SYSTEM_PROMPTS = 3
REPLICAS = 4
PAUSE_S = 0.2
"""Before each turn. People and tools take longer than the 100 ms in which routers hear of each other's load."""


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def replicas() -> Iterator[list[str]]:
    with SimProcess(3 * REPLICAS) as sim:
        yield sim.urls


def words(rng: Random, count: int) -> str:
    return " ".join(f"{rng.getrandbits(24):06x}" for _ in range(count))


class Converser:
    """Runs the workload against routers that are taken by chance, turn by turn."""

    def __init__(self, routers: Sequence[RouterThread], seed: int) -> None:
        self._routers = routers
        self._seed = seed
        rng = Random(seed)
        self._systems = [words(rng, 100) for _ in range(SYSTEM_PROMPTS)]
        self.prompt_tokens = self.cached_tokens = 0

    def run(self) -> float:
        """Share of the prompt tokens that the engines found cached."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(self._converse, range(CONVERSATIONS)))
        return self.cached_tokens / self.prompt_tokens

    def _converse(self, number: int) -> None:
        rng = Random(self._seed * 1000 + number)
        system = self._systems[number % SYSTEM_PROMPTS]
        messages = [{"role": "system", "content": system}]
        for _ in range(TURNS):
            time.sleep(PAUSE_S)
            messages.append({"role": "user", "content": words(rng, 200)})
            body = json.dumps({"model": "sim", "max_tokens": 8, "messages": messages}).encode()
            request = urllib.request.Request(
                rng.choice(self._routers).url + "/v1/chat/completions",
                data=body,
                headers={"Content-Type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=60) as answer:
                said = json.load(answer)
            messages.append(said["choices"][0]["message"])
            self.prompt_tokens += said["usage"]["prompt_tokens"]
            self.cached_tokens += said["usage"]["prompt_tokens_details"]["cached_tokens"]


def share(redis: RedisServer, replicas: list[str], routers: int, seed: int) -> tuple[float, list[int]]:
    """Cached-token share, and requests by replica."""
    redis.command("FLUSHALL")
    config = Config(
        listen=Address("127.0.0.1:0"),
        admin=Address("127.0.0.1:0"),
        replicas=tuple(ReplicaConfig(url=url, id=f"r{number}") for number, url in enumerate(replicas)),
        # All routers and clients share this process: a lookup must not be late because a thread is.
        registry=RegistryConfig(url=redis.url, lookup_deadline_s=1.0),
        # The same ring for all.
        fingerprint=FingerprintConfig(secret="sixteen characters"),
    )
    with contextlib.ExitStack() as stack:
        running = [stack.enter_context(RouterThread(config)) for _ in range(routers)]
        for router in running:
            router.wait_ready(REPLICAS)
        wait_until(lambda: all(router.worker.load_reports.routers == routers - 1 for router in running))
        found = Converser(running, seed).run()
        counts: dict[str, int] = {}
        for router in running:
            for (_, replica), place in router.worker.metrics.places.items():
                counts[replica] = counts.get(replica, 0) + place.requests
            router.assert_at_rest()
    return found, sorted(counts.values())


@pytest.mark.timeout(300)
def test_one_two_and_four_routers_find_the_same_share_cached(redis: RedisServer, replicas: list[str]) -> None:
    fleets = [replicas[start : start + REPLICAS] for start in range(0, len(replicas), REPLICAS)]
    found = {
        count: share(redis, fleet, count, seed=1) for count, fleet in zip((1, 2, 4), fleets, strict=True)
    }
    alone = found[1][0]
    assert alone > 0.5
    for ratio, requests in found.values():
        assert abs(ratio - alone) < 0.01, found
        assert sum(requests) == CONVERSATIONS * TURNS
        assert len(requests) == REPLICAS
