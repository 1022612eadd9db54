"""`make soak MINUTES=30`: mixed traffic for a long time, while replicas, the Redis and clients come and go.

Ends 1 if a request failed, if anything is left over, or if memory or descriptors kept growing: both are looked at every
ten seconds, and what they are at the end is compared with what they were once the first minutes were over.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import sys
import time

import aiohttp

from tests.chaos.load import Load
from tests.chaos.world import World

REMEMBERED = 8_192
"""Prefixes that a router remembers (`registry.max_entries`): as many as there are within the first minutes, so that
what is bounded is full when growth is looked for. The defaults of some 100,000 would fill for most of an hour."""

SETTLED_S = 300.0
"""Caches and learned tables fill up until here; a shorter soak compares its second half with its last part."""

LOOK_S = 10.0
MOST_GROWTH = 0.02
MOST_MORE_DESCRIPTORS = 20


async def soak(minutes: float, clients: int) -> list[str]:
    """What did not hold."""
    total_s = minutes * 60
    problems: list[str] = []
    looks: list[tuple[float, int, int]] = []
    with World(routers=2, replicas=3, settings=(f"registry.max_entries={REMEMBERED}",)) as world:
        async with Load(world.urls, clients, pause_s=0.2, leaving_ratio=0.1) as load:
            began_s = time.monotonic()
            slow = [asyncio.ensure_future(_slow_client(url, began_s + total_s)) for url in world.urls]
            events = itertools.cycle((_replica, _redis_restart, _redis_flush, _nothing))
            next_event_s = 20.0
            while (passed_s := time.monotonic() - began_s) < total_s:
                await asyncio.sleep(LOOK_S)
                looks.append((passed_s, world.resident_bytes(), world.descriptors()))
                print(
                    f"{passed_s:5.0f} s  {load.figures.answered} answered  {sum(load.figures.failed.values())} failed"
                    f"  {load.figures.broken} cut  {looks[-1][1] / 1e6:.1f} MB  {looks[-1][2]} descriptors",
                    flush=True,
                )
                if passed_s >= next_event_s:
                    next_event_s = passed_s + 20.0
                    await next(events)(world)
            for task in slow:
                await task
        figures = load.take()
        problems += [f"failed: {dict(figures.failed)}"] if figures.failed else []
        problems += [f"{figures.doubled} answers doubled"] if figures.doubled else []
        left = world.left_over()
        problems += [f"left over: {left}"] if left else []
        problems += world.tracebacks()
        problems += growth(looks)
        print(
            f"{figures.answered} answered, {figures.broken} cut with an error event, {figures.cached_ratio:.1%} cached"
        )
    return problems


def growth(looks: list[tuple[float, int, int]]) -> list[str]:
    """Whether memory or descriptors are more at the end than they were once all had settled."""
    settled_s = min(SETTLED_S, looks[-1][0] / 2)
    steady = [look for look in looks if look[0] >= settled_s]
    third = max(1, len(steady) // 3)
    first, last = steady[:third], steady[-third:]
    resident = [statistics.median(look[1] for look in part) for part in (first, last)]
    descriptors = [statistics.median(look[2] for look in part) for part in (first, last)]
    grown = resident[1] / resident[0] - 1
    print(
        f"memory {resident[0] / 1e6:.1f} -> {resident[1] / 1e6:.1f} MB ({grown:+.1%}), descriptors {descriptors}"
    )
    found = []
    if grown > MOST_GROWTH:
        found.append(f"memory grew by {grown:.1%}")
    if descriptors[1] > descriptors[0] + MOST_MORE_DESCRIPTORS:
        found.append(f"descriptors grew: {descriptors}")
    return found


async def _slow_client(url: str, until_s: float) -> None:
    """Reads its streams a few bytes at a time."""
    body = {
        "model": "sim",
        "max_tokens": 200,
        "stream": True,
        "messages": [{"role": "user", "content": "slowly"}],
    }
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < until_s:
            try:
                async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
                    while await answer.content.read(512):
                        await asyncio.sleep(0.05)
            except aiohttp.ClientError:
                await asyncio.sleep(0.5)


async def _replica(world: World) -> None:
    await asyncio.to_thread(world.sims[0].kill)
    await asyncio.sleep(1)
    await asyncio.to_thread(world.sims[0].start)


async def _redis_restart(world: World) -> None:
    await asyncio.to_thread(world.redis.kill)
    await asyncio.sleep(1)
    await asyncio.to_thread(world.redis.start)


async def _redis_flush(world: World) -> None:
    await asyncio.to_thread(world.redis.command, "FLUSHALL")


async def _nothing(_: World) -> None:
    return


def main() -> int:
    """Exit status."""
    arguments = argparse.ArgumentParser(prog="make soak", description=__doc__)
    arguments.add_argument("--minutes", type=float, default=30.0)
    arguments.add_argument("--clients", type=int, default=8)
    given = arguments.parse_args()
    problems = asyncio.run(soak(given.minutes, given.clients))
    for problem in problems:
        print(f"did not hold: {problem}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
