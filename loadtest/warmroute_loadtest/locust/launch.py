"""The launcher runs locust against one router or several, and makes the report. It does all of `make loadtest` but to
read arguments.

This module decides the order. What can be wrong is looked at before anything is started. Without a URL, a router and
simulated replicas are started. Routers are compared one after the other unless they are to be compared at the same
moments; each is sent texts that are new to its caches, or starts from emptied caches.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import sys
import uuid
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import aiohttp

from warmroute_loadtest.demo.children import Child, Children
from warmroute_loadtest.demo.fleet import Fleet, start_simulated
from warmroute_loadtest.demo.routing import start_router
from warmroute_loadtest.locust import baseline, replay, samples, thresholds
from warmroute_loadtest.locust.arrivals import Arrival, poisson, recorded
from warmroute_loadtest.locust.figures import figures
from warmroute_loadtest.locust.models import choose
from warmroute_loadtest.locust.recorder import Generator
from warmroute_loadtest.locust.report import Report, Side, table, write
from warmroute_loadtest.locust.report import notes as notes_of
from warmroute_loadtest.locust.scenarios import Generated
from warmroute_loadtest.locust.settings import OWN_SPEED, Settings, Target
from warmroute_loadtest.locust.wire import Wire
from warmroute_replica.ports import free_ports

LOCUSTFILE = Path(__file__).with_name("locustfile.py")
API_KEY = "LOADTEST_API_KEY"
MARK = "loadtest: "
PROGRESS_S = 5.0
POLL_S = 0.25
RAMP_S = 10.0
"""Time within which all users have started, in seconds."""
WORKERS_WAIT_S = 300

Say = Callable[[str], None]


class RunError(Exception):
    """A run ended without what a report needs; the message says why."""


@dataclass(frozen=True, slots=True)
class _Played:
    """One router's run, as files."""

    target: Target
    url: str
    folder: Path


async def run(settings: Settings, say: Say) -> int:
    """Run the whole load test. Return the exit status: 0, or 1 where a threshold was missed or nothing was answered.

    Raises:
        SettingError: A setting does not fit the router or the file.
        WireError: A router cannot be reached.
        TraceError: A file is not what it is said to be.
        DemoError: A router or replica that is started here did not come up.
        RunError: locust ended early.
        OSError: A file cannot be read or written.
    """
    before = baseline.load(settings.baseline) if settings.baseline is not None else None
    arrivals = await asyncio.to_thread(_recorded, settings, say)
    for target in settings.targets:
        if target.url is not None:
            await asyncio.to_thread(_look, settings, target.url)
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    folder = settings.out / f"{settings.scenario}-{stamp}"
    folder.mkdir(parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        children = await stack.enter_async_context(Children(folder))
        stage = _Stage(settings, say, children, folder, arrivals)
        played = await stage.own(stack) if settings.starts_fleet else await stage.given()
        facts = {**_facts(settings), **stage.facts}
    return _report(settings, say, folder, played, facts, before, stage.notes, arrivals)


def _recorded(settings: Settings, say: Say) -> list[Arrival] | None:
    path = settings.trace or settings.access_log
    if path is None:
        return None
    recording = replay.Recording(
        path,
        settings.access_log is not None,
        settings.requests,
        settings.rate,
        settings.pace,
        settings.spread,
        settings.open_loop,
        settings.lengths,
        settings.api,
    )
    return replay.arrivals(recording, say)


def _look(settings: Settings, url: str) -> None:
    key = os.environ.get(API_KEY, "")
    headers = {"Authorization": f"Bearer {key}", "x-api-key": key} if key else {}
    wire = Wire(url, timeout_s=min(settings.timeout_s, 10.0), insecure=settings.insecure)
    try:
        choose(wire, headers, settings.model or "")
    finally:
        wire.close()


@dataclass(slots=True)
class _Stage:
    """What all routers' runs share."""

    settings: Settings
    say: Say
    children: Children
    folder: Path
    arrivals: list[Arrival] | None
    notes: list[str] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)

    fresh_salt: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def salt(self) -> str:
        """The salt, which enters every text."""
        return self.settings.salt or self.fresh_salt

    async def given(self) -> list[_Played]:
        """Run against the URLs that were given."""
        targets = [(target, target.url) for target in self.settings.targets if target.url is not None]
        if self.settings.together:
            runs = [self._play(target, url, f"{self.salt}-{target.name}") for target, url in targets]
            return await asyncio.gather(*runs)
        # Routers may share replicas, so what one run left in their caches must not help the next run.
        return [await self._play(target, url, f"{self.salt}-{target.name}") for target, url in targets]

    async def own(self, stack: AsyncExitStack) -> list[_Played]:
        """Run against routers that are started here, one after the other over the same replicas."""
        session = await stack.enter_async_context(aiohttp.ClientSession())
        self.say("No URL given: starting simulated replicas and a router before them.")
        fleet: Fleet = await start_simulated(self.children, session, speed=OWN_SPEED)
        self.facts["fleet"] = (
            f"{fleet.description}, {OWN_SPEED:g} times as fast as modelled,"
            f" {fleet.cache_tokens:,} tokens of KV cache in all"
        )
        played: list[_Played] = []
        for target in self.settings.targets:
            router = await start_router(self.children, session, target.name, fleet.urls)
            await asyncio.to_thread(_look, self.settings, router.url)
            played.append(await self._play(target, router.url, self.salt))
            await self.children.stop(router.child)
            await fleet.reset(session)
        return played

    async def _play(self, target: Target, url: str, salt: str) -> _Played:
        """Run locust once, to its end."""
        settings = self.settings
        folder = self.folder / target.name if len(settings.targets) > 1 else self.folder
        folder.mkdir(parents=True, exist_ok=True)
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        }
        command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), *arguments(settings, self.arrivals)]
        command += ["--host", url, "--salt", salt, "--results", str(folder)]
        if settings.workers:
            # locust's own port may be taken: by another run, or by the other side of this one.
            (port,) = map(str, free_ports(1))
            command += ["--master-bind-host", "127.0.0.1", "--master-bind-port", port, "--master-port", port]
        self.say(f"{settings.scenario} against {target.name}, {url}")
        if settings.web is not None:
            self.say(f"Web interface: http://127.0.0.1:{settings.web} (Ctrl-C ends it and makes the report)")
        child = await self.children.start(f"locust {target.name}", command, environment)
        prefix = f"{target.name}: " if settings.together else ""
        try:
            await _follow(child, lambda line: self.say(prefix + line))
        except asyncio.CancelledError:
            self.say("Ending.")
            await self.children.stop(child)
            if settings.web is None:
                self.notes.append("The run was interrupted.")
            if not (folder / "samples.jsonl").exists():
                raise
        if child.process.returncode not in (0, None, -15) and not (folder / "samples.jsonl").exists():
            raise RunError(
                f"locust ended with status {child.process.returncode}; its last lines:\n{child.log_tail()}"
            )
        return _Played(target, url, folder)


async def _follow(child: Child, say: Say) -> None:
    """Repeat the lines that the process prints for people, until it ends."""
    told = 0
    while True:
        has_ended = child.has_ended
        lines = child.log_path.read_text(errors="replace").split("\n")[:-1]
        for line in lines[told:]:
            if line.startswith(MARK):
                say(line.removeprefix(MARK))
        told = len(lines)
        if has_ended:
            return
        await asyncio.sleep(POLL_S)


def arguments(settings: Settings, arrivals: Sequence[Arrival] | None) -> list[str]:
    """Return locust's arguments, but for the router and the run's salt."""
    processes = settings.workers or settings.external_workers
    made = ["--scenario", settings.scenario, "--api", settings.api, "--seed", str(settings.seed)]
    made += ["--lengths", f"{settings.lengths:g}", "--speed", f"{settings.pace:g}"]
    made += ["--bytes-per-token", f"{settings.bytes_per_token:g}", "--timeout-s", f"{settings.timeout_s:g}"]
    made += ["--goodput-ttft-s", f"{settings.target_s:g}"]
    made += [
        "--goodput-itl-s",
        f"{settings.goodput_itl_s or 0:g}",
        "--exit-code-on-error",
        "0",
        "--only-summary",
    ]
    for flag, path in (("--trace", settings.trace), ("--access-log", settings.access_log)):
        made += [flag, str(path.resolve())] if path is not None else []
    made += ["--trace-requests", str(settings.requests)] if settings.requests is not None else []
    made += ["--model", settings.model] if settings.model is not None else []
    for flag, is_set in (
        ("--spread", settings.spread),
        ("--open-loop", settings.open_loop),
        ("--insecure", settings.insecure),
        ("--no-ignore-eos", not settings.ignore_eos),
    ):
        made += [flag] if is_set else []
    made += ["--rate", f"{settings.rate:g}"] if settings.rate is not None else []
    made += ["--duration-s", f"{settings.duration_s:g}"] if settings.duration_s is not None else []
    if settings.users is not None:
        made += [
            "--users",
            str(settings.users),
            "--spawn-rate",
            f"{max(1.0, settings.users / RAMP_S):g}",
            "--by-users",
        ]
    else:
        made += ["--users", str(max(1, processes)), "--spawn-rate", "100"]
    if settings.workers:
        made += ["--processes", str(settings.workers)]
    elif settings.external_workers:
        made += ["--master", "--expect-workers", str(settings.external_workers)]
        made += ["--expect-workers-max-wait", str(WORKERS_WAIT_S)]
    if settings.web is not None:
        return [*made, "--web-host", "127.0.0.1", "--web-port", str(settings.web)]
    made += ["--headless", "--progress-s", f"{PROGRESS_S:g}"]
    grace_s = math.ceil(settings.grace_s)
    if settings.users is not None:
        return [
            *made,
            "--run-time",
            f"{math.ceil(settings.duration_s or 0)}s",
            "--stop-timeout",
            str(grace_s),
        ]
    return [*made, "--run-time", f"{math.ceil(_last_s(settings, arrivals)) + grace_s}s"]


def _last_s(settings: Settings, arrivals: Sequence[Arrival] | None) -> float:
    """Return the planned time of the last request, in seconds."""
    ends = [each.at_s + each.talk.asks[-1].at_s for each in arrivals or ()]
    last_s = max(ends, default=math.inf)
    return min(last_s, settings.duration_s if settings.duration_s is not None else last_s)


def _planned(settings: Settings, arrivals: Sequence[Arrival] | None) -> int | None:
    """Return how many requests were to be sent; None where users, or people at the web interface, decide that."""
    if settings.users is not None or settings.web is not None:
        return None
    if arrivals is not None:
        return sum(len(each.talk.asks) for each in recorded(arrivals, settings.duration_s))
    assert settings.rate is not None
    assert settings.duration_s is not None
    source = Generated(settings.scenario, settings.seed, settings.lengths, settings.pace, settings.api)
    planned = poisson(source, settings.rate, settings.seed, settings.duration_s)
    return sum(len(each.talk.asks) for each in planned)


def _facts(settings: Settings) -> dict[str, str]:
    """Return what was asked, in words for people."""
    load = f"{settings.users} users" if settings.users is not None else "the record's own times"
    if settings.rate is not None:
        load = f"{settings.rate:g} requests a second, by the clock"
    facts = {"scenario": settings.scenario, "load": load, "API": settings.api, "seed": str(settings.seed)}
    if settings.duration_s is not None:
        facts["sending for"] = f"{settings.duration_s:g} s"
    file = settings.trace or settings.access_log
    if file is not None:
        facts["file"] = file.name
    for name, value in (("lengths", settings.lengths), ("speed", settings.pace)):
        if value != 1.0:
            facts[name] = f"× {value:g}"
    in_time = f"first token within {settings.target_s:g} s"
    if settings.goodput_itl_s is not None:
        in_time += f", tokens within {settings.goodput_itl_s * 1000:g} ms"
    return {**facts, "in time": in_time}


def _side(settings: Settings, played: _Played) -> Side:
    path = played.folder / "samples.jsonl"
    if not path.exists():
        raise RunError(f"{played.target.name}: locust wrote no samples; its log is in {played.folder}")
    sampled = samples.read(path)
    told = json.loads((played.folder / "generators.json").read_text())
    generators = {who: Generator(each["cpu_ratio"], each["lags"]) for who, each in told.items()}
    done = figures(sampled, generators, ttft_target_s=settings.target_s, itl_target_s=settings.goodput_itl_s)
    return Side(played.target.name, played.url, done, sampled)


def _report(
    settings: Settings,
    say: Say,
    folder: Path,
    played: Sequence[_Played],
    facts: dict[str, str],
    before: baseline.Baseline | None,
    notes: list[str],
    arrivals: Sequence[Arrival] | None,
) -> int:
    """Write the report, print it and judge the thresholds; return the exit status."""
    sides = [_side(settings, each) for each in played]
    verdicts = [
        (side.name, verdict)
        for side in sides
        for verdict in thresholds.judge(list(settings.thresholds), side.figures)
    ]
    if before is not None:
        unlike = baseline.differences(before.settings, settings.asked())
        notes += [f"The baseline was made otherwise: {line}" for line in unlike]
    count = _planned(settings, arrivals)
    for side in sides:
        if count is not None and len(side.samples) < count:
            notes.append(
                f"{side.name}: {count - len(side.samples):,} of {count:,} planned requests were not sent, since the"
                " answers before them had failed or were not complete when the run ended."
            )
    report = Report(f"Load test: {settings.scenario}", facts, sides, before, verdicts, notes)
    write(folder, report)
    (folder / "figures.json").write_text(
        json.dumps({side.name: side.figures.as_dict() for side in sides}, indent=1)
    )
    if settings.save is not None:
        baseline.save(settings.save, settings.asked(), sides[0].figures)
    say("")
    for line in printed(*table(report)):
        say(line)
    said = notes_of(report)
    for line in ["", *said] if said else []:
        say(line)
    for side in sides:
        cores = ", ".join(f"{ratio:.0%}" for ratio in side.figures.cpu_ratios)
        say(f"\nThe generator took {cores or 'an unknown part'} of a core ({side.name}).")
    for name, verdict in verdicts:
        say((f"{name}: " if len(sides) > 1 else "") + verdict.text())
    say(f"\nReport: {folder / 'report.html'} and report.md; every request: samples.jsonl")
    if settings.save is not None:
        say(f"Saved as a baseline: {settings.save}")
    answered = all(side.figures.total.requests > side.figures.total.failed for side in sides)
    return 0 if answered and all(verdict.is_met for _, verdict in verdicts) else 1


def printed(head: list[str], rows: list[list[str]]) -> list[str]:
    """Return a table for a terminal."""
    widths = [max(len(row[place]) for row in [head, *rows]) for place in range(len(head))]

    def line(row: list[str]) -> str:
        cells = [
            row[0].ljust(widths[0]),
            *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)),
        ]
        return "  ".join(cells).rstrip()

    return [line(head), "-" * len(line(head)), *(line(row) for row in rows)]
