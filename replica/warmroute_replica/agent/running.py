"""This module runs an agent, alone or around an engine that it started, from start to withdrawal.

An agent ends in this order: it tells routers (`draining`), waits until the requests under way finish or the grace is
over, stops the engine if it started it, and withdraws the replica (`gone`). A second signal ends the waiting. If an
engine that the agent started ends by itself, the agent ends with the engine's status.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import signal
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

from aiohttp import web

from warmroute_replica.agent.agent import Agent
from warmroute_replica.agent.announcer import Announcer
from warmroute_replica.agent.child import Child
from warmroute_replica.agent.engine import Engine
from warmroute_replica.agent.logs import fields
from warmroute_replica.agent.server import build_server
from warmroute_replica.agent.settings import Settings

log = logging.getLogger(__name__)

STOP_S = 30.0
"""An engine that the agent started has this long to end after it was drained; then it is killed. vLLM 0.32 takes more
than 5 s, since it waits for its workers before it tells them to end."""

RESTART_S = 1.0

_FORWARDED = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def run(settings: Settings, command: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT, or until the engine that was started with `command` ends. Return the exit
    status."""
    return asyncio.run(_run(settings, command))


async def _run(settings: Settings, command: list[str] | None) -> int:
    rng = random.SystemRandom()
    name = f"{time.time_ns() // 1_000_000:013d}-{rng.getrandbits(32):08x}"
    engine = Engine(settings.engine, settings.engine_api_key)
    agent: Agent
    announcer = Announcer(settings.redis, settings.namespace, lambda: agent.record(), rng)
    agent = Agent(settings, engine, name, changed=announcer.changed, told=announcer.has_told)
    runner = web.AppRunner(build_server(agent, announcer), handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        host, port = settings.listen
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            log.error(
                "cannot_listen",
                extra=fields(listen=f"{host}:{port}", error=error, hint="name another --listen"),
            )
            return 1
        bound = runner.addresses[0]
        log.info(
            "agent_started",
            extra=fields(
                id=settings.replica_id,
                engine=settings.engine,
                advertise=settings.advertise,
                redis=settings.redis.label,
                listen=f"{bound[0]}:{bound[1]}",
            ),
        )
        children: list[Child] = []
        with _signals(agent, children if command is not None else None) as stop:
            if command is not None:
                try:
                    children.append(await Child.start(command))
                except OSError as error:
                    log.error("cannot_start_engine", extra=fields(command=command[0], error=error))
                    return 127 if isinstance(error, FileNotFoundError) else 126
            return await _serve(agent, announcer, children[0] if children else None, stop)
    finally:
        await engine.close()
        await runner.cleanup()


async def _serve(agent: Agent, announcer: Announcer, child: Child | None, stop: asyncio.Event) -> int:
    loop = asyncio.get_running_loop()
    watching = loop.create_task(_supervised(agent.watch), name="watch")
    announcing = loop.create_task(_supervised(announcer.run), name="announce")
    stopping = loop.create_task(stop.wait(), name="stop")
    ended = [loop.create_task(child.wait(), name="engine")] if child is not None else []
    try:
        await asyncio.wait([stopping, *ended], return_when=asyncio.FIRST_COMPLETED)
        if not any(task.done() for task in ended):
            await asyncio.wait([agent.drain(), *ended], return_when=asyncio.FIRST_COMPLETED)
    finally:
        watching.cancel()  # the engine's end, which follows, must not be reported as an outage
        status = await child.stop(STOP_S) if child is not None else 0
        await _end(watching, announcing, stopping)
    agent.gone = True
    await announcer.withdraw()
    if child is not None:
        log.info("engine_ended", extra=fields(status=status))
    return status


async def _end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel the tasks again and again until all have ended, since a library may swallow a cancellation that comes
    together with a timeout."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=1.0)


async def _supervised(make: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run the coroutine, and again whenever it ends or crashes, since a bug of the agent must not end an engine."""
    while True:
        try:
            await make()
        except Exception:
            log.exception("task_crashed", extra=fields(restart_in_s=RESTART_S))
        await asyncio.sleep(RESTART_S)


@contextlib.contextmanager
def _signals(agent: Agent, children: Sequence[Child] | None) -> Iterator[asyncio.Event]:
    """Yield the event that a signal to end sets; a second such signal hurries the drain. An agent that started its
    engine passes other signals on to it."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def end() -> None:
        if stop.is_set():
            agent.hurry()
        stop.set()

    def forward(number: signal.Signals) -> None:
        for child in children or ():
            child.signal(number)

    handled = [signal.SIGTERM, signal.SIGINT]
    for number in handled:
        loop.add_signal_handler(number, end)
    if children is not None:
        for number in _FORWARDED:
            loop.add_signal_handler(number, forward, number)
        handled += _FORWARDED
    try:
        yield stop
    finally:
        for number in handled:
            loop.remove_signal_handler(number)
