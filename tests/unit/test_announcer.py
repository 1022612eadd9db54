"""The agent's announcements, with a Redis that is a few lines long."""

from __future__ import annotations

import asyncio
import random
from typing import Any, cast

from warmroute_replica.agent.announcer import Announcer
from warmroute_replica.agent.record import Record, State
from warmroute_replica.agent.redis_url import parse_redis_url


class SwallowingClient:
    """Takes the cancellation of whoever waits for its answer for nothing, once, and answers."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def execute_command(self, *words: object) -> Any:
        if not self.asked.is_set():
            self.asked.set()
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                return [1, b""]
        return [1, b""]


class FakeConnection:
    def __init__(self) -> None:
        self.client = SwallowingClient()

    async def close(self) -> None:
        pass


def test_an_announcer_ends_when_it_is_cancelled_though_its_library_swallows_that() -> None:
    async def scenario() -> None:
        record = Record(
            id="a",
            url="http://a:1",
            agent="1-a",
            state=State.READY,
            interval_s=0.2,
            models=("m",),
            adapters=(),
        )
        announcer = Announcer(parse_redis_url("redis://127.0.0.1:1"), "w", lambda: record, random.Random(1))
        connection = FakeConnection()
        announcer._connection = cast(Any, connection)
        task = asyncio.create_task(announcer.run())
        await connection.client.asked.wait()
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=2)
        assert done
        assert task.cancelled()

    asyncio.run(scenario())
