"""A registry as tests like to call it: answers awaited, waits for what shall be, a minute at most."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from warmroute.adapters.registry.redis.registry import RedisRegistry
from warmroute.core.types import FingerprintHash, Incarnation, Records, ReplicaId
from warmroute.ports import Registry

Holders = list[list[int] | None]

PATIENCE_S = 60.0

PATIENT_S = 30.0
"""As `lookup_deadline_s` where the deadline is not what is tested: on a busy machine Redis may take its time."""


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
    await asyncio.wait_for(ready.wait(), PATIENCE_S)
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
    return await asyncio.wait_for(answer, PATIENCE_S)


async def settled(registry: Registry) -> None:
    """Wait until everything noted and forgotten so far is written, where it is written at all."""
    if isinstance(registry, RedisRegistry):
        async with asyncio.timeout(PATIENCE_S):
            await registry._writes.wait_idle()


async def shows(registry: Registry, rungs: Sequence[FingerprintHash], expected: Holders) -> None:
    """Wait until the registry names just these holders."""
    found: Holders = []

    async def as_expected() -> bool:
        nonlocal found
        found = await holders(registry, rungs)
        return found == expected

    try:
        await wait_until(as_expected)
    except AssertionError:
        assert found == expected  # says more
        raise


async def is_up(registry: Registry) -> None:
    """Wait until the registry's servers are reached."""
    await wait_until(lambda: _holds(registry.healthy))


async def is_down(registry: Registry) -> None:
    """Wait until it is noticed that they are not."""
    await wait_until(lambda: _holds(not registry.healthy))


async def _holds(value: bool) -> bool:
    return value


async def wait_until(condition: Callable[[], Awaitable[bool]], timeout_s: float = PATIENCE_S) -> None:
    """Poll; fails when the condition did not come true in time."""
    until_s = time.monotonic() + timeout_s
    while not await condition():
        assert time.monotonic() < until_s, f"did not happen within {timeout_s} s"
        await asyncio.sleep(0.002)
