"""One demo runs from nothing to its table: replicas, round robin over them, emptied caches, the router over them.

This module decides the order and what is compared: the same conversations at the same times over the same replicas,
from empty caches; only `--policy` differs. Round robin goes first, so that the router's caches are warm for whoever
tries it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from warmroute_loadtest.demo import client, display, figures
from warmroute_loadtest.demo.children import Children, DemoError
from warmroute_loadtest.demo.display import Screen
from warmroute_loadtest.demo.fleet import Fleet, start_simulated, start_vllm
from warmroute_loadtest.demo.routing import ADMIN_PORT, DATA_PORT, Router, served_model, start_router
from warmroute_loadtest.demo.workload import Conversation, Workload, conversations, count_turns, duration_s

BEFORE, AFTER = "round-robin", "prefix-cost"
TICK_S = 0.25
NEXT_QUESTION = "Thank you. And in one sentence?"


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line asked for."""

    engine: str
    workload: Workload
    stay: bool
    """Whether everything stays up after the table."""


@dataclass(slots=True)
class _Stage:
    """What the runs of both sides share."""

    screen: Screen
    children: Children
    session: aiohttp.ClientSession
    fleet: Fleet
    talks: Sequence[Conversation]

    async def run_side(self, router: Router) -> tuple[client.Measurements, list[client.Message], str]:
        """Send the workload through a router and show progress. Return the measurements, a conversation and the
        model."""
        model = await served_model(self.session, router)
        measured = client.Measurements()
        total = count_turns(self.talks)
        try:
            async with asyncio.TaskGroup() as tasks:
                ticker = tasks.create_task(self._tick(router.policy, measured, total))
                longest = await client.send(router.url, model, self.talks, measured)
                ticker.cancel()
        except BaseExceptionGroup as group:
            raise _only(group) from group
        self.screen.progress(display.progress_line(router.policy, measured, total), last=True)
        if not measured.samples:
            raise DemoError(f"no request was answered: {measured.failures[0]}")
        return measured, longest, model

    async def _tick(self, name: str, measured: client.Measurements, total: int) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self.children.check()
            self.screen.progress(display.progress_line(name, measured, total))


async def run(settings: Settings, screen: Screen, work_dir: Path) -> dict[str, object]:
    """Run the whole demo, and return both sides' figures once everything is taken down.

    Args:
        settings: What to run.
        screen: Where to print.
        work_dir: Directory for logs and for the body to try; the caller keeps it for as long as this runs.
    Raises:
        DemoError: Something did not start, or ended by itself. Nothing is left running.
    """
    workload = settings.workload
    talks = conversations(workload)
    async with Children(work_dir) as children, aiohttp.ClientSession() as session:
        screen.say(f"Starting replicas (logs in {work_dir})")
        if settings.engine == "vllm":
            fleet = await start_vllm(children, session, screen.say)
        else:
            fleet = await start_simulated(children, session, workload.speed)
        stage = _Stage(screen, children, session, fleet, talks)
        _describe(screen, fleet, workload, talks)

        router = await start_router(children, session, BEFORE, fleet.urls)
        measured_before, _, _ = await stage.run_side(router)
        await children.stop(router.child)

        await fleet.reset(session)
        router = await start_router(children, session, AFTER, fleet.urls, default_ports=True)
        measured_after, messages, model = await stage.run_side(router)

        before = figures.side(BEFORE, measured_before, router.replicas)
        after = figures.side(AFTER, measured_after, router.replicas)
        working_set = figures.working_set_tokens(measured_after.samples)
        _report(screen, fleet, workload, before, after, working_set)
        for failure in (measured_before.failures + measured_after.failures)[:3]:
            screen.say(f"FAILED: {failure}")
        if settings.stay:
            body_file = _write_body(work_dir, model, messages)
            await _stay(stage, router, body_file)
    return {
        "engine": settings.engine,
        "replicas": len(fleet.urls),
        "speed": workload.speed,
        "conversations": len(talks),
        "requests": count_turns(talks),
        "cache_tokens": fleet.cache_tokens,
        "working_set_tokens": working_set,
        "round_robin": before.as_dict(),
        "warmroute": after.as_dict(),
    }


def _only(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the error that came first."""
    first = group.exceptions[0]
    return _only(first) if isinstance(first, BaseExceptionGroup) else first


def _describe(screen: Screen, fleet: Fleet, workload: Workload, talks: Sequence[Conversation]) -> None:
    speed = f", {workload.speed:g} times as fast as the machine they model" if workload.speed != 1 else ""
    screen.say(f"{fleet.description}{speed}; {fleet.cache_tokens:,} tokens of KV cache in all")
    screen.say(
        f"{len(talks)} conversations over {workload.applications} system prompts, {count_turns(talks)} requests in"
        f" {duration_s(talks):.0f} s; the same ones at the same times for both policies, caches empty at the start"
    )


def _report(
    screen: Screen,
    fleet: Fleet,
    workload: Workload,
    before: figures.Side,
    after: figures.Side,
    working_set: int,
) -> None:
    screen.say()
    head, *rows = display.table(before, after)
    screen.say(head, strong=True)
    for row in rows:
        screen.say(row)
    screen.say()
    screen.say(display.saving(before, after), strong=True)
    screen.say(
        f"Working set {working_set:,} tokens at its peak: {working_set / fleet.cache_tokens:.2f} of the fleet's"
        f" caches, {working_set / fleet.cache_tokens * len(fleet.urls):.1f} of one replica's."
    )
    if workload.speed != 1:
        screen.say(f"Times are as measured, with replicas and think times {workload.speed:g} times sped up.")
    if before.late_requests or after.late_requests:
        screen.say(
            f"Sent late, since the answer before was still under way: {before.late_requests} with {before.policy},"
            f" {after.late_requests} with {after.policy}."
        )


def _write_body(work_dir: Path, model: str, messages: list[client.Message]) -> Path:
    path = work_dir / "next-turn.json"
    question = {"role": "user", "content": NEXT_QUESTION}
    path.write_text(json.dumps({"model": model, "messages": [*messages, question], "max_tokens": 16}))
    return path


async def _stay(stage: _Stage, router: Router, body_file: Path) -> None:
    """Wait until cancelled, or until the router ends."""
    screen = stage.screen
    screen.say()
    default = router.url.endswith(f":{DATA_PORT}") and router.admin_url.endswith(f":{ADMIN_PORT}")
    other = "" if default else f" (port {DATA_PORT} or {ADMIN_PORT} is taken: free ones are used)"
    screen.say(f"The router is up: {router.url}, admin port {router.admin_url}{other}", strong=True)
    replicas = stage.fleet.children
    pids = [(child.name, child.process.pid) for child in replicas] if len(replicas) > 1 else []
    for line in display.closing(router.url, router.admin_url, str(body_file), pids):
        screen.say(line)
    screen.say()
    screen.say("Ctrl-C ends everything.")
    told: set[str] = set()
    try:
        while True:
            await asyncio.sleep(TICK_S)
            router.child.check()
            for child in replicas:
                if child.has_ended and child.name not in told:
                    told.add(child.name)
                    screen.say(f"{child.name} has ended; requests go to the others.")
    except asyncio.CancelledError:
        screen.say()
        screen.say("Ending.")
