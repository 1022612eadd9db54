"""`make chaos`: every scenario on real processes, as a table in Markdown. Ends 1 if anything did not hold."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from tests.chaos import scenarios
from tests.chaos.load import Figures, Load
from tests.chaos.scenarios import Result, Scenario
from tests.chaos.world import World
from tests.support.tcp_proxy import TcpProxy

TABLE = Path(".cache/chaos.md")

HEAD = """| what happens | requests | failed | cut, said so | refused | doubled | cached share | TTFT p50, p99 ms | |
|---|---|---|---|---|---|---|---|---|"""


async def play(world: World, chosen: list[Scenario], clients: int = 12) -> tuple[list[Result], list[str]]:
    """Each scenario in turn under one load, and what was wrong at the end."""
    results: list[Result] = []
    async with Load(world.urls, clients) as load:
        await load.for_a_while(3.0, least=100)
        for scenario in chosen:
            results.append(await scenario(world, load))
            print(row(results[-1]), flush=True)
    return results, wrong(world, results)


def wrong(world: World, results: list[Result]) -> list[str]:
    """What did not hold, in words."""
    found = [f"{one.name}: {fault}" for one in results for fault in one.faults(results[0].figures)]
    left = world.left_over()
    return [*found, *([f"left over: {left}"] if left else []), *world.tracebacks()]


def row(result: Result) -> str:
    """A row of the table."""
    f: Figures = result.figures
    return (
        f"| {result.name} | {f.asked} | {sum(f.failed.values())} | {f.broken} | {f.refused} | {f.doubled} "
        f"| {f.cached_ratio:.1%} | {f.ttft_ms(0.5):.0f}, {f.ttft_ms(0.99):.0f} | {result.note} |"
    )


async def main() -> int:
    """Exit status."""
    began_s = time.monotonic()
    print(HEAD)
    with World() as world:
        results, problems = await play(world, scenarios.SHARED)
    with World(routers=3, replicas=2, workers=2) as world:
        more, further = await play(world, scenarios.WORKERS)
    results, problems = results + more, problems + further
    # The proxy shares this process with the clients: 5 ms are too little for it.
    world = World(routers=1, replicas=2, settings=("registry.lookup_deadline_s=0.1",))
    with world.redis:
        async with TcpProxy(world.redis.port) as proxy:
            world.registry = f"redis://127.0.0.1:{proxy.port}"
            await asyncio.to_thread(world.__enter__)
            try:
                async with Load(world.urls) as load:
                    slow = await scenarios.redis_slow(world, load, proxy)
                print(row(slow))
                problems += await asyncio.to_thread(wrong, world, [slow])
                results.append(slow)
            finally:
                await asyncio.to_thread(world.__exit__)
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text("\n".join([HEAD, *map(row, results), ""]))
    print(f"\n{len(results)} scenarios in {time.monotonic() - began_s:.0f} s; the table is in {TABLE}")
    for problem in problems:
        print(f"did not hold: {problem}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
