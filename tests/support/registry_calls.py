"""A registry as tests like to call it: answers awaited, waits bounded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from router.core.types import FingerprintHash, Incarnation, ReplicaId
from router.ports import Records, Registry

Holders = list[list[int] | None]


def rungs_of(*numbers: int) -> list[FingerprintHash]:
    """Rungs by number."""
    return [FingerprintHash(number) for number in numbers]


def life(number: int) -> Incarnation:
    """An incarnation by number."""
    return Incarnation(number)


async def look(registry: Registry, rungs: Sequence[FingerprintHash]) -> Records:
    """Records of rungs, however the registry chooses to answer; fails when it answers other than once."""
    answers: list[Records] = []
    ready = asyncio.Event()

    def done(records: Records) -> None:
        answers.append(records)
        ready.set()

    at_once = registry.lookup(rungs, done)
    if at_once is not None:
        await asyncio.sleep(0)
        assert not answers, "answered both ways"
        return at_once
    await asyncio.wait_for(ready.wait(), 1.0)
    await asyncio.sleep(0)
    assert len(answers) == 1
    return answers[0]


async def holders(registry: Registry, rungs: Sequence[FingerprintHash]) -> Holders:
    """Who holds each rung, least recent first."""
    return [None if record is None else [at[0] for at in record] for record in await look(registry, rungs)]


async def find(registry: Registry, response_id: str) -> ReplicaId | None:
    """The replica that made a response."""
    answer: asyncio.Future[ReplicaId | None] = asyncio.get_running_loop().create_future()
    registry.find_response(response_id, answer.set_result)
    return await asyncio.wait_for(answer, 1.0)


async def wait_until(condition: Callable[[], Awaitable[bool]], timeout_s: float) -> float:
    """Seconds until the condition held; fails when it did not in time."""
    started_s = time.monotonic()
    while not await condition():
        assert time.monotonic() - started_s < timeout_s, f"did not happen within {timeout_s} s"
        await asyncio.sleep(0.002)
    return time.monotonic() - started_s
