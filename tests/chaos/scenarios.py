"""What is done to a fleet under load, and what may come of it. Each scenario leaves the world as it found it."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.chaos.load import Figures, Load
from tests.chaos.world import World
from tests.support.tcp_proxy import TcpProxy

BACK_S = 2.0
"""A Redis that is back must be in use by then; what asking the routers takes comes on top."""


@dataclass
class Result:
    """What came of one."""

    name: str
    figures: Figures
    seconds: float
    note: str = ""
    may_break: bool = False
    """Streams may be cut, with an error event."""
    may_fail: int = 0
    """Requests that may be lost with their router."""
    may_refuse: bool = False
    """Connections may be refused: another router takes them."""
    problems: tuple[str, ...] = ()

    def faults(self, baseline: Figures) -> list[str]:
        """What did not hold."""
        figures = self.figures
        found = list(self.problems)
        if sum(figures.failed.values()) > self.may_fail:
            found.append(f"failed: {dict(figures.failed)}")
        if figures.broken and not self.may_break:
            found.append(f"{figures.broken} streams cut")
        if figures.refused and not self.may_refuse:
            found.append(f"{figures.refused} connections refused")
        if figures.doubled:
            found.append(f"{figures.doubled} answers doubled")
        return found


Scenario = Callable[[World, Load], Awaitable[Result]]


async def nothing(world: World, load: Load) -> Result:
    return await _during("nothing happens", load, asyncio.sleep(3))


async def replicas_killed(world: World, load: Load) -> Result:
    async def kill() -> None:
        for sim in world.sims[:2]:
            await asyncio.to_thread(sim.kill)
            await asyncio.sleep(1.5)
            await asyncio.to_thread(sim.start)
            await asyncio.sleep(1.5)

    return await _during("two replicas killed (SIGKILL) and restarted in turn", load, kill(), may_break=True)


async def replica_stopped(world: World, load: Load) -> Result:
    async def stop() -> None:
        world.sims[0].signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(4)
        finally:
            world.sims[0].signal(signal.SIGCONT)

    return await _during("a replica stopped for 4 s (SIGSTOP) in the middle of streams", load, stop())


async def redis_killed(world: World, load: Load) -> Result:
    async def restart() -> None:
        await asyncio.to_thread(world.redis.kill)
        await world.until(lambda: world.registries(up=False))
        await asyncio.sleep(2)
        await asyncio.to_thread(world.redis.start)

    return await _redis("Redis killed and restarted empty", world, load, restart())


async def redis_paused(world: World, load: Load) -> Result:
    async def pause() -> None:
        world.redis.command("CLIENT", "PAUSE", 5000, "ALL")
        await asyncio.sleep(5)

    return await _redis("Redis paused for 5 s (CLIENT PAUSE)", world, load, pause())


async def redis_hangs(world: World, load: Load) -> Result:
    async def hang() -> None:
        world.redis.pause()
        await asyncio.sleep(4)
        world.redis.resume()

    return await _redis("Redis stopped for 4 s (SIGSTOP)", world, load, hang())


async def redis_full(world: World, load: Load) -> Result:
    async def fill() -> None:
        world.redis.command("CONFIG", "SET", "maxmemory", "1")
        await asyncio.sleep(3)
        world.redis.command("CONFIG", "SET", "maxmemory", "0")

    return await _redis("Redis full for 3 s (OOM)", world, load, fill())


async def redis_read_only(world: World, load: Load) -> Result:
    async def demote() -> None:
        world.redis.command("REPLICAOF", "127.0.0.1", "1")
        await asyncio.sleep(3)
        world.redis.command("REPLICAOF", "NO", "ONE")

    return await _redis("Redis read-only for 3 s, as after a failover", world, load, demote())


async def redis_flushed(world: World, load: Load) -> Result:
    async def flush() -> None:
        world.redis.command("FLUSHALL")
        await asyncio.sleep(2)

    return await _redis("FLUSHALL", world, load, flush())


async def redis_connections_cut(world: World, load: Load) -> Result:
    async def cut() -> None:
        for _ in range(6):
            world.redis.command("CLIENT", "KILL", "TYPE", "normal")
            await asyncio.sleep(0.4)

    return await _redis("connections to Redis cut six times", world, load, cut())


async def router_killed(world: World, load: Load) -> Result:
    async def kill() -> None:
        await asyncio.to_thread(world.restart, 0, kill=True)

    return await _during(
        "a router killed (SIGKILL) and restarted", load, kill(), may_fail=12, may_refuse=True,
        note="what it had is lost with it",
    )  # fmt: skip


async def routers_restarted(world: World, load: Load) -> Result:
    async def restart() -> None:
        for number in range(len(world.routers)):
            await asyncio.to_thread(world.restart, number)

    return await _during("rolling restart of all routers (SIGTERM)", load, restart(), may_refuse=True)


async def restarted_in_place(world: World, load: Load) -> Result:
    async def renew() -> None:
        for router in world.routers:
            before = router.output.count("worker_left")
            router.process.send_signal(signal.SIGUSR2)
            await world.until(lambda: router.output.count("worker_left") == before + 2)  # noqa: B023 - awaited here

    name = "one router" if len(world.routers) == 1 else "all routers in turn"
    return await _during(f"{name} restarted in place (SIGUSR2)", load, renew())


async def worker_killed(world: World, load: Load) -> Result:
    async def kill() -> None:
        router = world.routers[0]
        before = router.output.count(" listening ")
        os.kill(router.worker_pids()[0], signal.SIGKILL)
        await world.until(lambda: router.output.count(" listening ") > before)

    return await _during(
        "a worker killed (SIGKILL)", load, kill(), may_fail=12, note="what it had is lost with it"
    )


async def worker_hangs(world: World, load: Load) -> Result:
    async def hang() -> None:
        router = world.routers[0]
        before = router.output.count(" listening ")
        os.kill(router.worker_pids()[1], signal.SIGSTOP)
        await world.until(lambda: router.output.count(" listening ") > before)

    return await _during(
        "a worker hangs (SIGSTOP) and is replaced",
        load,
        hang(),
        may_fail=24,
        note="what it had is lost with it",
    )


async def redis_slow(world: World, load: Load, proxy: TcpProxy) -> Result:
    async def slow() -> None:
        proxy.delay_s = 0.3
        await world.until(lambda: all(r.metrics()["warmroute_registry_breaker_open"] for r in world.routers))
        await asyncio.sleep(3)
        proxy.delay_s = 0.0

    return await _redis("Redis 300 ms slow for 3 s", world, load, slow())


async def _during(
    name: str,
    load: Load,
    event: Awaitable[None],
    *,
    note: str = "",
    may_break: bool = False,
    may_fail: int = 0,
    may_refuse: bool = False,
) -> Result:
    await load.for_a_while(0.5)
    load.take()
    began_s = time.monotonic()
    await event
    await load.for_a_while(1.0)
    took_s = time.monotonic() - began_s
    return Result(name, load.take(), took_s, note, may_break, may_fail, may_refuse)


async def _redis(name: str, world: World, load: Load, event: Awaitable[None]) -> Result:
    back_s = 0.0

    async def and_back() -> None:
        nonlocal back_s
        await event
        back_s = await world.until(lambda: world.registries(up=True))

    result = await _during(name, load, and_back())
    result.note = f"back in {back_s:.1f} s"
    return result


SHARED: list[Scenario] = [
    nothing,
    replicas_killed,
    replica_stopped,
    redis_killed,
    redis_paused,
    redis_hangs,
    redis_full,
    redis_read_only,
    redis_flushed,
    redis_connections_cut,
    router_killed,
    routers_restarted,
]
"""On one world of three routers."""

WORKERS: list[Scenario] = [nothing, restarted_in_place, worker_killed, worker_hangs]
"""On a world of one router with two workers."""

SHORT: list[Scenario] = [nothing, replicas_killed, redis_killed, redis_flushed, routers_restarted]
"""Of the first, what the normal tests run."""
