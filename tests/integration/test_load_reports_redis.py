"""Load reports between processes, over a real Redis: every change is seen, and a killed router's load goes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from random import Random

from tests.support.load_speaker import Speaker
from tests.support.processes import Program
from tests.support.redis_server import RedisServer

CHANGES = 100


def test_every_change_is_seen_by_another_process_and_a_killed_router_leaves_nothing() -> None:
    seen_s: list[float] = []

    async def watch(url: str, other: Program) -> None:
        """Note when each change is seen; then kill the other, and wait until its load is gone."""
        async with Speaker(url, router=1) as speaker:
            replica = speaker.replicas[0]
            async with asyncio.timeout(90):
                while len(seen_s) < CHANGES:
                    await asyncio.sleep(0.001)
                    while len(seen_s) < replica.peer_in_flight:
                        seen_s.append(time.monotonic())
            await until(lambda: replica.peer_work_s > 0.0)
            other.process.kill()
            await until(lambda: replica.peer_in_flight == 0)
            assert replica.peer_work_s == 0.0

    with (
        RedisServer() as server,
        Program("tests.support.load_speaker", server.url, str(CHANGES), "2") as other,
    ):
        asyncio.run(watch(server.url, other))
        made_s = [float(line) for line in other.output.split()]
    assert [seen < made for made, seen in zip(made_s, seen_s, strict=True)] == [False] * CHANGES


def test_without_redis_peer_load_fades_and_comes_back_by_itself() -> None:
    async def run(server: RedisServer) -> None:
        async with Speaker(server.url, router=1) as one, Speaker(server.url, router=2) as two:
            one.send(one.replicas[0], 500)
            here = two.replicas[0]
            await until(lambda: here.peer_work_s > 0.05)
            await asyncio.to_thread(server.kill)
            await until(lambda: here.peer_in_flight == 0)
            await asyncio.to_thread(server.start)
            await until(lambda: here.peer_work_s > 0.05)
            assert one.replicas[0].peer_in_flight == 0

    with RedisServer() as server:
        asyncio.run(run(server))


def test_many_routers_with_load_going_up_and_down_agree_in_the_end() -> None:
    async def run(url: str) -> None:
        rng = Random(3)
        speakers = [Speaker(url, number, replicas=5) for number in range(1, 9)]
        for speaker in speakers:
            await speaker.__aenter__()
        try:
            under_way = [
                (speaker, speaker.send(rng.choice(speaker.replicas), rng.randrange(1000)))
                for speaker in speakers
                for _ in range(20)
            ]
            rng.shuffle(under_way)
            for count, (speaker, decision) in enumerate(under_way[:120]):
                speaker.fleet.settle(decision, 0.0)
                if not count % 10:
                    await asyncio.sleep(0.02)
            for index in range(5):
                whole = sum(speaker.replicas[index].in_flight for speaker in speakers)
                for speaker in speakers:
                    replica = speaker.replicas[index]
                    await until(lambda r=replica, w=whole: r.in_flight + r.peer_in_flight == w)
        finally:
            for speaker in speakers:
                await speaker.__aexit__()

    with RedisServer() as server:
        asyncio.run(run(server.url))


async def until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.002)
