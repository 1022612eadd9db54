"""A cached content stays warm: under pressure that evicts everything else, without its replica, without its router."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.processes import RouterProcess, SimProcess
from tests.support.redis_server import RedisServer
from tests.support.router_thread import wait_until

WORDS = 8_000
"""Some 10,000 tokens."""
CACHE_TOKENS = 50_000
RATIO = 0.3


def text(seed: int, words: int) -> str:
    rng = random.Random(seed)
    return " ".join(rng.choice(("red", "green", "blue", "grey", "dark", "pale")) for _ in range(words))


class World:
    """Two routers before two replicas, each a process that may be killed."""

    def __init__(self, stack: ExitStack, directory: Path) -> None:
        self.redis = stack.enter_context(RedisServer())
        engine = ("--speed", "10", "--cache-tokens", str(CACHE_TOKENS))
        self.sims = [stack.enter_context(SimProcess(1, *engine)) for _ in range(2)]
        settings = {
            "registry": self.redis.url,
            "replicas": [sim.urls[0] for sim in self.sims],
            "cached_contents": True,
            "keep_warm": {"budget_ratio": RATIO, "tenant_ratio": RATIO, "interval_s": 0.2},
            "health": {"probe_interval_s": 0.2},
        }
        path = directory / "router.yaml"
        path.write_text(json.dumps(settings))
        urls = [sim.urls[0] for sim in self.sims]
        starting = [RouterProcess(urls, "--config", str(path)) for _ in range(2)]
        self.routers = [stack.enter_context(router) for router in starting]
        self.prompts = 0

    @property
    def living(self) -> list[RouterProcess]:
        return [router for router in self.routers if router.process.poll() is None]

    def leaders(self) -> list[RouterProcess]:
        return [one for one in self.living if one.metrics().get("warmroute_keep_warm_leader") == 1]

    def figure(self, name: str) -> float:
        return sum(
            value for one in self.living for key, value in one.metrics().items() if key.startswith(name)
        )

    def ask(self, path: str, body: dict[str, Any]) -> tuple[dict[str, Any], str]:
        """The answer of the last router that lives, and which replica gave it."""

        async def one() -> tuple[dict[str, Any], str]:
            async with aiohttp.ClientSession() as session:
                url = f"http://127.0.0.1:{self.living[-1].port}{path}"
                async with session.post(url, json=body) as answer:
                    assert answer.status == 200, await answer.text()
                    return await answer.json(), answer.headers.get("x-warmroute-replica", "")

        return asyncio.run(one())

    def use(self, name: str) -> tuple[float, str]:
        """What share of the content an answer reports as cached, and whose answer that is."""
        body = {
            "contents": [{"parts": [{"text": f"question {random.random()}"}]}],
            "cachedContent": name,
            "generationConfig": {"maxOutputTokens": 2},
        }
        answer, replica = self.ask("/v1beta/models/sim:generateContent", body)
        usage = answer["usageMetadata"]
        return usage["cachedContentTokenCount"] / usage["promptTokenCount"], replica

    def press(self, prompts: int) -> None:
        """Fill the replicas' caches with prompts that nobody asks again."""

        async def lane(session: aiohttp.ClientSession, share: list[int]) -> None:
            for number in share:
                url = f"http://127.0.0.1:{self.living[number % len(self.living)].port}/v1/chat/completions"
                messages = [{"role": "user", "content": text(1_000 + number, 2_000)}]
                body = {"model": "sim", "max_tokens": 1, "messages": messages}
                async with session.post(url, json=body) as answer:
                    await answer.read()

        async def all_lanes() -> None:
            numbers = list(range(self.prompts, self.prompts + prompts))
            self.prompts += prompts
            async with aiohttp.ClientSession() as session:
                await asyncio.gather(*(lane(session, numbers[start::3]) for start in range(3)))

        asyncio.run(all_lanes())


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(stack, tmp_path)


def test_a_content_stays_warm_whatever_is_killed(world: World) -> None:
    wait_until(lambda: len(world.leaders()) == 1)
    content = {"model": "models/sim", "contents": [{"parts": [{"text": text(1, WORDS)}]}], "ttl": "600s"}
    made, _ = world.ask("/v1beta/cachedContents", content)
    name = made["name"]
    assert made["usageMetadata"]["totalTokenCount"] >= 9_000
    plain = {"model": "sim", "max_tokens": 1, "messages": [{"role": "user", "content": text(2, WORDS)}]}
    world.ask("/v1/chat/completions", plain)

    world.press(52)  # 125,000 tokens into caches of 100,000
    share, holder = world.use(name)
    assert share >= 0.95
    forgotten, _ = world.ask("/v1/chat/completions", plain)
    assert (
        forgotten["usage"]["prompt_tokens_details"]["cached_tokens"]
        < 0.5 * made["usageMetadata"]["totalTokenCount"]
    )
    assert world.figure('warmroute_keep_warm_prefills_total{why="refresh"}') >= 1

    copies = world.figure('warmroute_keep_warm_prefills_total{why="copy"}')
    (sim,) = [sim for sim in world.sims if holder.endswith(str(sim.ports[0]))]
    sim.process.kill()
    wait_until(lambda: world.figure('warmroute_keep_warm_prefills_total{why="copy"}') > copies)
    assert world.use(name)[0] >= 0.95
    world.press(25)
    assert world.use(name)[0] >= 0.95

    (leader,) = world.leaders()
    leader.process.kill()
    leader.process.wait()
    wait_until(lambda: len(world.leaders()) == 1)
    world.press(25)
    assert world.use(name)[0] >= 0.95
    assert world.figure("warmroute_keep_warm_given_up_total") == 0
