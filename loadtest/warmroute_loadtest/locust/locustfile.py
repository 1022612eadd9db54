"""This is locust's side: user classes, statistics, the web interface's tab, and what master and workers tell.

    locust -f loadtest/warmroute_loadtest/locust/locustfile.py AgentLoops --host http://127.0.0.1:8000

This module decides neither what is asked nor what the figures are. With `--rate` requests come by the clock: the first
user of each process plays that process's share of the arrivals, and further users stay idle. Without it every user is
one client that waits for its answers. Each request counts in three of locust's rows: its API (end to end), `TTFT` and
`ITL`.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import uuid
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, ClassVar

import gevent
from gevent.pool import Group
from locust import User, events, task
from locust.runners import MasterRunner, WorkerRunner

from warmroute_loadtest.locust import replay, samples
from warmroute_loadtest.locust.arrivals import Arrival, Share, Source, poisson, recorded
from warmroute_loadtest.locust.bodies import Dialogue, Form
from warmroute_loadtest.locust.models import choose
from warmroute_loadtest.locust.player import Player
from warmroute_loadtest.locust.recorder import Recorder
from warmroute_loadtest.locust.samples import Sample
from warmroute_loadtest.locust.scenarios import Generated
from warmroute_loadtest.locust.settings import ACCESS_LOG, API_NAMES, TRACE
from warmroute_loadtest.locust.talks import Talk
from warmroute_loadtest.locust.tape import Tape
from warmroute_loadtest.locust.thresholds import SettingError
from warmroute_loadtest.locust.watched import WatchedWire
from warmroute_loadtest.locust.wire import WireError
from warmroute_loadtest.simulate.traces import TraceError

LAG_INTERVAL_S = 0.02
START_S = 0.5
"""Time from the start signal to second 0 of the schedule, in seconds."""
SHARE, DONE = "loadtest-share", "loadtest-done"
API_KEY = "LOADTEST_API_KEY"
"""Environment variable with the API key; a flag would show the key to every user of the machine."""

MARK = "loadtest: "
"""Lines for people begin with this, so that they can be told from locust's own."""

_log = logging.getLogger(__name__)


@events.init_command_line_parser.add_listener
def _add_options(parser: Any) -> None:
    add = parser.add_argument
    hidden: dict[str, Any] = {"include_in_web_ui": False}
    add("--scenario", default="", help="scenario, instead of a user class's name", **hidden)
    add(
        "--rate",
        type=float,
        default=0.0,
        help="requests a second by the clock; 0: users wait for their answers",
    )
    add(
        "--duration-s",
        type=float,
        default=0.0,
        help="seconds of arrivals; 0: all of a trace, an hour otherwise",
    )
    add("--model", default="", help="model; empty: the first that is listed")
    add("--api", default="chat", choices=API_NAMES, help="endpoint")
    add("--seed", type=int, default=1, help="another seed, other requests")
    add("--salt", default="", help="enters every text; empty: a new one each run, so that caches are cold")
    add("--lengths", type=float, default=1.0, help="factor of all lengths")
    add("--speed", type=float, default=1.0, help="divisor of all pauses")
    add("--goodput-ttft-s", type=float, default=2.0, help="time to first token that counts as in time")
    add("--goodput-itl-s", type=float, default=0.0, help="inter-token latency that does; 0: not looked at")
    add("--bytes-per-token", type=float, default=4.0, help="bytes of text taken for a token")
    add("--trace", default="", help="Mooncake-format trace, for the class Trace")
    add("--access-log", default="", help="access log with fingerprints, for the class AccessLog")
    add("--trace-requests", type=int, default=0, help="the first so many; 0: all", **hidden)
    add("--spread", action="store_true", help="move apart what a trace sends at one moment", **hidden)
    add("--open-loop", action="store_true", help="ignore a trace's sessions", **hidden)
    add("--by-users", action="store_true", help="play a trace by users that wait, not by its clock", **hidden)
    add("--no-ignore-eos", action="store_true", help="leave out vLLM's field `ignore_eos`", **hidden)
    add("--timeout-s", type=float, default=120.0, help="silence after which a request has failed", **hidden)
    add("--insecure", action="store_true", help="accept any TLS certificate", **hidden)
    add("--results", default="", help="folder for samples.jsonl and generators.json", **hidden)
    add("--progress-s", type=float, default=0.0, help="print a line that often; 0: never", **hidden)


class Run:
    """One test run in one process."""

    def __init__(self, environment: Any, share: Share) -> None:
        """Look at what is to be asked; the only request sent is one for the list of models.

        Raises:
            WireError: The router cannot be reached.
            SettingError: The router does not serve the model, or a setting is wrong.
            TraceError: A file is not what it is said to be.
        """
        options: Namespace = environment.parsed_options
        self.environment = environment
        self.options = options
        self.share = share
        self.recorder = Recorder(options.goodput_ttft_s, options.goodput_itl_s or None)
        self.start_s = perf_counter() + START_S
        self.ended = False
        self.in_flight: dict[str, int] = {}
        """Number of requests in flight of each worker, by the worker's name."""
        self.done: set[str] = set()
        self._lags: list[float] = []
        self._cpu_s = process_time()
        self._claimed: set[str] = set()
        self._numbers: dict[str, Iterator[int]] = {}
        self._recorded: dict[str, list[Arrival]] = {}
        self.tape: Tape | None = None
        self.player: Player | None = None

    def open(self, salt: str) -> None:
        """Get ready to play; raises what `__init__` raises."""
        options = self.options
        if not self.environment.host:
            raise SettingError("no router to test: --host http://HOST:PORT")
        try:
            wire = WatchedWire(self.environment.host, timeout_s=options.timeout_s, insecure=options.insecure)
        except ValueError as error:
            raise SettingError(str(error)) from error
        key = os.environ.get(API_KEY, "")
        headers = {"Authorization": f"Bearer {key}", "x-api-key": key} if key else {}
        self.form = Form(choose(wire, headers, options.model), not options.no_ignore_eos)
        self.tape = Tape(salt, options.bytes_per_token)
        self.player = Player(wire, headers, self.start_s, gevent.sleep)
        self.player.on_cut_off = self.add  # type: ignore[method-assign]
        for name, path in ((TRACE, options.trace), (ACCESS_LOG, options.access_log)):
            if path:
                self._recorded[name] = replay.arrivals(self._recording(name, path), self._say)

    def _recording(self, name: str, path: str) -> replay.Recording:
        options = self.options
        return replay.Recording(
            Path(path),
            name == ACCESS_LOG,
            options.trace_requests or None,
            options.rate or None,
            options.speed,
            options.spread,
            options.open_loop,
            options.lengths,
            options.api,
        )

    def _say(self, line: str) -> None:
        # With `--progress-s` the launcher runs this; it has read the file before, and reported what is wrong with it.
        if self.share.index == 0 and not self.options.progress_s:
            tell(line)

    def is_by_clock(self, scenario: str) -> bool:
        """Return whether the scenario's requests come by the clock."""
        return bool(self.options.rate) or (scenario in self._recorded and not self.options.by_users)

    def claim(self, scenario: str) -> bool:
        """Return whether this process's arrivals of a scenario are still to be played; the first user to ask gets True
        and plays them."""
        is_first = scenario not in self._claimed
        self._claimed.add(scenario)
        return is_first

    def source(self, scenario: str) -> Source:
        """Return the source of a scenario's talks."""
        options = self.options
        if scenario in (TRACE, ACCESS_LOG):
            if scenario not in self._recorded:
                raise SettingError(f"the scenario {scenario} needs --{scenario} FILE")
            return replay.Played(self._recorded[scenario])
        return Generated(scenario, options.seed, options.lengths, options.speed, options.api)

    def arrivals(self, scenario: str) -> Iterator[Arrival]:
        """Yield this process's share of a scenario's talks, each with its time."""
        options = self.options
        if scenario in self._recorded:
            return recorded(self._recorded[scenario], options.duration_s or None, self.share)
        duration_s = options.duration_s or 3600.0
        return poisson(self.source(scenario), options.rate, options.seed, duration_s, self.share)

    def next_number(self, scenario: str) -> int:
        """Return the number of the next talk that this process plays."""
        return next(self._numbers.setdefault(scenario, self.share.numbers()))

    def dialogue(self, talk: Talk) -> Dialogue:
        """Return the dialogue that makes a talk's bodies."""
        assert self.tape is not None
        return Dialogue(talk, self.tape, self.form)

    def add(self, sample: Sample) -> None:
        """Record a sample, and report it to locust."""
        self.recorder.add(sample)
        error = WireError(sample.error) if sample.error else None
        fire = self.environment.events.request.fire
        common = {"name": sample.name, "context": {}}
        fire(
            request_type=sample.api,
            response_time=sample.e2e_s * 1000.0,
            response_length=0,
            exception=error,
            **common,
        )
        for kind, seconds in (("TTFT", sample.ttft_s), ("ITL", sample.itl_s)):
            if seconds is not None and error is None:
                fire(
                    request_type=kind,
                    response_time=seconds * 1000.0,
                    response_length=0,
                    exception=None,
                    **common,
                )

    def watch(self) -> None:
        """Measure how late timers are, until the run has ended."""
        while not self.ended:
            due_s = perf_counter() + LAG_INTERVAL_S
            gevent.sleep(LAG_INTERVAL_S)
            self._lags.append(round(perf_counter() - due_s, 5))

    def fared(self) -> tuple[float, list[float]]:
        """Return the share of a core that the process used so far, and the timers' lateness since the last call."""
        lags, self._lags = self._lags, []
        elapsed_s = max(perf_counter() - self.start_s + START_S, 1e-3)
        return (process_time() - self._cpu_s) / elapsed_s, lags

    def tell_progress(self) -> None:
        """Print how far the run is, again and again, until it has ended."""
        while not self.ended:
            gevent.sleep(self.options.progress_s)
            under_way = sum(self.in_flight.values())
            if self.player is not None and not self.in_flight:
                under_way = self.player.in_flight
            tell(self.recorder.progress(perf_counter() - self.start_s, under_way))

    def write(self) -> None:
        """Write everything to the folder for results, if there is one."""
        if not self.options.results:
            return
        folder = Path(self.options.results)
        folder.mkdir(parents=True, exist_ok=True)
        samples.write(folder / "samples.jsonl", self.recorder.samples)
        generators = {
            who: {"cpu_ratio": each.cpu_ratio, "lags": each.lags}
            for who, each in self.recorder.generators.items()
        }
        (folder / "generators.json").write_text(json.dumps(generators))


def tell(line: str) -> None:
    """Print a line for people; `launch` reads it from here."""
    sys.stderr.write(f"{MARK}{line}\n")
    sys.stderr.flush()


_run: Run | None = None
_share = Share()
_salt = ""


class LoadUser(User):
    """A client; its class says which scenario it plays."""

    abstract = True
    scenario: ClassVar[str] = ""

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self._number = self._turn = 0
        self._talk: Talk | None = None
        self._dialogue: Dialogue | None = None
        self._due_s = 0.0

    def wait_time(self) -> float:
        """Return the time until the client's next request, in seconds."""
        return max(0.0, self._due_s - perf_counter())

    @task
    def play(self) -> None:
        """Play one request or, with `--rate`, all arrivals of this process."""
        run = _run
        if run is None or run.player is None:
            gevent.sleep(0.1)
        elif not run.is_by_clock(self.scenario):
            self._next(run)
        elif run.claim(self.scenario):
            self._arrivals(run)
            _finished(run)
        else:
            gevent.sleep(3600.0)

    def _next(self, run: Run) -> None:
        assert run.player is not None
        if self._talk is None:
            self._number = run.next_number(self.scenario)
            self._talk, self._turn = run.source(self.scenario).talk(self._number), 0
            self._dialogue = run.dialogue(self._talk)
            self._due_s = max(self._due_s, perf_counter())
        talk, dialogue, turn = self._talk, self._dialogue, self._turn
        assert dialogue is not None
        sample, text = run.player.play(talk, dialogue, self._number, turn, due_s=self._due_s)
        run.add(sample)
        self._turn += 1
        if self._turn == len(talk.asks) or (sample.error and talk.grows):
            self._talk = None
            # The next client comes after a pause as long as one within a talk.
            pause_s = sum(ask.pause_s for ask in talk.asks) / max(len(talk.asks) - 1, 1)
        else:
            dialogue.answered(text)
            pause_s = talk.asks[self._turn].pause_s
        self._due_s = perf_counter() + pause_s

    def _arrivals(self, run: Run) -> None:
        talks = Group()
        try:
            for arrival in run.arrivals(self.scenario):
                gevent.sleep(max(0.0, run.start_s + arrival.at_s - perf_counter()))
                talks.spawn(_talk, run, arrival)
            talks.join()
        finally:
            talks.kill()


def _talk(run: Run, arrival: Arrival) -> None:
    """Play all requests of one talk by the clock."""
    assert run.player is not None
    talk = arrival.talk
    dialogue = run.dialogue(talk)
    free_s = 0.0
    for turn, ask in enumerate(talk.asks):
        planned_s = run.start_s + arrival.at_s + ask.at_s
        due_s = max(planned_s, free_s)
        if due_s > perf_counter():
            gevent.sleep(due_s - perf_counter())
        waited_s = due_s - planned_s
        sample, text = run.player.play(talk, dialogue, arrival.number, turn, due_s=due_s, waited_s=waited_s)
        free_s = perf_counter()
        run.add(sample)
        if sample.error and talk.grows:
            return
        dialogue.answered(text)


class SharedPrompts(LoadUser):
    """A client that asks single questions under shared system prompts."""

    scenario = "shared-prompts"


class MultiTurn(LoadUser):
    """A client that holds conversations."""

    scenario = "multi-turn"


class Rag(LoadUser):
    """A client that asks questions over retrieved passages."""

    scenario = "rag"


class AgentLoops(LoadUser):
    """A coding agent whose context grows to 100,000 tokens."""

    scenario = "agent-loops"


class NoReuse(LoadUser):
    """A client that asks questions which share nothing."""

    scenario = "no-reuse"


class Embeddings(LoadUser):
    """A client that asks for embeddings."""

    scenario = "embeddings"


class Hostile(LoadUser):
    """A client that is broken or means ill in half of its talks."""

    scenario = "hostile"


class Mixed(LoadUser):
    """A client whose talks are of the first five scenarios, a fifth of each."""

    scenario = "mixed"


class Trace(LoadUser):
    """A client that replays a trace in Mooncake's format (`--trace FILE`)."""

    scenario = TRACE


class AccessLog(LoadUser):
    """A client that replays the router's access log (`--access-log FILE`)."""

    scenario = ACCESS_LOG


def _finished(run: Run) -> None:
    """Report that this process has played its share."""
    runner = run.environment.runner
    if isinstance(runner, WorkerRunner):
        # Statistics are sent now, since the master may end the run before the next regular report.
        runner._send_stats()  # noqa: SLF001
        runner.send_message(DONE, {"who": runner.client_id})
    else:
        _end(run)


def _end(run: Run) -> None:
    """End the run, since everything is played."""
    runner = run.environment.runner
    gevent.spawn(runner.stop if run.environment.web_ui is not None else runner.quit)


@events.init.add_listener
def _prepare(environment: Any, **_: Any) -> None:
    options, runner = environment.parsed_options, environment.runner
    named = options.scenario or ("" if options.user_classes or options.class_picker else "mixed")
    if named and not isinstance(runner, WorkerRunner):
        chosen = [each for each in environment.user_classes if each.scenario == named]
        if not chosen:
            _log.error(
                "no scenario %r; there are %s",
                named,
                ", ".join(each.scenario for each in environment.user_classes),
            )
            sys.exit(2)
        environment.user_classes[:] = chosen
    if isinstance(runner, WorkerRunner):
        runner.register_message(SHARE, _take_share)
    elif isinstance(runner, MasterRunner):
        runner.register_message(DONE, _worker_done)
    if environment.web_ui is not None:
        # Imported here, since it needs Flask, which locust loads only with its web interface.
        from warmroute_loadtest.locust.web import extend

        extend(environment, lambda: _run)


def _take_share(environment: Any, msg: Any, **_: Any) -> None:
    global _share, _salt
    _share, _salt = Share(msg.data["index"], msg.data["count"]), msg.data["salt"]


def _worker_done(environment: Any, msg: Any, **_: Any) -> None:
    run = _run
    if run is not None:
        run.done.add(msg.data["who"])
        if len(run.done) >= run.share.count:
            _end(run)


@events.test_start.add_listener
def _begin(environment: Any, **_: Any) -> None:
    global _run
    runner, options = environment.runner, environment.parsed_options
    salt = options.salt or uuid.uuid4().hex
    if isinstance(runner, WorkerRunner):
        _run = Run(environment, _share)
        salt = _salt
    elif isinstance(runner, MasterRunner):
        workers = [client.id for client in runner.clients.ready]
        for index, worker in enumerate(workers):
            share = {"index": index, "count": len(workers), "salt": salt}
            runner.send_message(SHARE, share, client_id=worker)
        _run = Run(environment, Share(0, len(workers)))
    else:
        _run = Run(environment, Share())
    if not isinstance(runner, MasterRunner):
        try:
            _run.open(salt)
        except (OSError, SettingError, TraceError, WireError) as error:
            tell(str(error))
            environment.process_exit_code = 2
            gevent.spawn(runner.quit)
            return
        gevent.spawn(_run.watch)
    if options.progress_s and not isinstance(runner, WorkerRunner):
        gevent.spawn(_run.tell_progress)


@events.test_stop.add_listener
def _stop(environment: Any, **_: Any) -> None:
    run = _run
    if run is None:
        return
    run.ended = True
    if not isinstance(environment.runner, (MasterRunner, WorkerRunner)):
        run.recorder.fared("locust", *run.fared())
        run.write()


@events.quit.add_listener
def _write(**_: Any) -> None:
    run = _run
    if run is not None and not isinstance(run.environment.runner, WorkerRunner):
        run.write()


@events.report_to_master.add_listener
def _report(client_id: str, data: dict[str, Any]) -> None:
    run = _run
    if run is not None and run.player is not None:
        cpu_ratio, lags = run.fared()
        data["loadtest"] = {
            "samples": run.recorder.news(),
            "cpu_ratio": cpu_ratio,
            "lags": lags,
            "in_flight": run.player.in_flight,
        }


@events.worker_report.add_listener
def _take_report(client_id: str, data: dict[str, Any]) -> None:
    run = _run
    told = data.get("loadtest")
    if run is not None and told is not None:
        run.recorder.take(told["samples"])
        run.recorder.fared(client_id, told["cpu_ratio"], told["lags"])
        run.in_flight[client_id] = told["in_flight"]
