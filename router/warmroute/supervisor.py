"""The supervisor runs several workers on one port: it starts them, starts dead ones again, and ends them all in order.

It serves no request itself. Workers share the data port by SO_REUSEPORT: the kernel gives each new connection to one of
them. The supervisor holds the port's name without listening, answers the admin port (`control.front`), and passes
SIGTERM on. When it dies itself, the workers see their standard input end, and drain. Each worker is a fresh Python
process, which is given the checked settings as they are. At SIGHUP the supervisor reads the settings again, leaves what
changed in a file of its own directory, and tells the workers by the same signal, so that all have the same settings or
none has new ones. One more process waits with everything loaded and nothing opened, so that a dead worker's place is
filled within a moment. Each worker gives a sign of life from its event loop every second over a pipe; one that stops
giving it is killed and replaced.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from warmroute.config.errors import ConfigError
from warmroute.config.reload import reloaded
from warmroute.config.schema import Address, Config, split_address
from warmroute.control.front import AdminFront
from warmroute.service.tls import listening_tls, upstream_tls
from warmroute.telemetry import catalogue
from warmroute.telemetry.access_log import check_path
from warmroute.telemetry.logs import fields, set_up

log = logging.getLogger(__name__)

SERVING = ".serving"
"""Ends the name of the file that a worker makes when it takes connections."""

SETTINGS = "settings"
"""Name of the file that has the settings of the last reload, beside the workers' sockets."""

OPERATED = "operated"
"""Name of the file in which workers keep what operators changed of the fleet, in the same place."""

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 10.0
NO_ROOM_PAUSE_S = 1.0
"""From one attempt at a worker's process that the system has no room for to the next; a spare's come less often."""

STEADY_S = 10.0
"""A worker that lived this long is started again without the pauses that earlier deaths had added up to."""

BEAT_S = 1.0
"""Between two signs of life of a worker, and between two looks for them."""

HUNG_BEATS = 10
"""Looks, `BEAT_S` apart, at which a worker has given no sign of life since the look before: then it
is taken for hung, killed and replaced. Counted in looks, so that a supervisor that was itself suspended kills nobody.
"""

FIRST_BEATS = 60
"""Looks until the first sign of life, which comes when it serves."""

END_S = 5.0
"""Time beyond the drain's grace that a worker has to end."""

_BOOT = """
import signal
signal.signal(signal.SIGHUP, signal.SIG_IGN)
import pickle, sys
sys.path[:] = pickle.load(sys.stdin.buffer)
from warmroute.supervisor import work
sys.exit(work())
"""

SPARE_PAUSE_S = 2.0
"""Time from a worker's start to that of the next spare: loading it takes CPU that the worker needs first."""


class _Process:
    """A Python process that has loaded the router, or is about to, and waits for settings.

    Raises:
        OSError: The system has no room for it.
    """

    def __init__(self) -> None:
        self._beats, beating = os.pipe()
        os.set_blocking(self._beats, False)
        os.set_blocking(beating, False)
        self._beating = beating
        try:
            self._popen = subprocess.Popen(
                [sys.executable, "-P", "-c", _BOOT], stdin=subprocess.PIPE, pass_fds=[beating]
            )
        except OSError:
            os.close(self._beats)
            raise
        finally:
            os.close(beating)
        self.pid = self._popen.pid
        self._missed = HUNG_BEATS - FIRST_BEATS
        """Looks in a row without a sign of life; negative, the more there may be, before the first."""
        self._tell(sys.path)

    def serve(self, config: Config, socket_path: str) -> None:
        """Let it begin."""
        self._tell((config, socket_path, self._beating))

    def hung(self) -> bool:
        """Look for signs of life; whether there were none for too long."""
        try:
            seen = len(os.read(self._beats, 4096)) > 0
        except BlockingIOError:
            seen = False
        self._missed = 0 if seen else self._missed + 1
        return self._missed >= HUNG_BEATS

    def poll(self) -> int | None:
        """Exit status if it has ended."""
        return self._popen.poll()

    def hang_up(self) -> None:
        """Have it read the settings again; one that does not serve yet reads them when it does."""
        self._popen.send_signal(signal.SIGHUP)

    def end(self) -> None:
        """Ask it to drain and end."""
        self._popen.terminate()

    def kill(self) -> None:
        """End it at once."""
        self._popen.kill()
        self._popen.wait()

    def close(self) -> None:
        """Let go of one that has ended. Once."""
        os.close(self._beats)
        if self._popen.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._popen.stdin.close()

    def _tell(self, value: object) -> None:
        pipe = self._popen.stdin
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):  # it died already, and is found dead
                pipe.write(pickle.dumps(value))
                pipe.flush()


def _new_process(pause_s: float) -> _Process | None:
    """A process, if the system has room for one; otherwise the next attempt is `pause_s` away."""
    try:
        return _Process()
    except OSError as error:
        log.error("no_process", extra=fields(error=error, again_in_s=pause_s))
        return None


class _Worker:
    """One place among the workers, and the process that fills it."""

    def __init__(self, number: int, directory: str) -> None:
        self.number = number
        self.name = str(number)
        self.socket_path = os.path.join(directory, f"{number}.sock")
        self._mark_path = self.socket_path + SERVING
        self.process: _Process | None = None
        self.started_s = 0.0
        self.deaths = 0
        """In a row, each soon after its start."""
        self.due_s = 0.0
        """When to start it; of no meaning while it lives."""

    @property
    def has_served(self) -> bool:
        """Whether any process in this place has got as far as taking connections."""
        return os.path.exists(self._mark_path)

    def start(self, process: _Process, config: Config) -> None:
        """Fill the place."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.socket_path)
        self.process = process
        self.started_s = time.monotonic()
        process.serve(config, self.socket_path)
        log.info("worker_started", extra=fields(worker=self.number, pid=process.pid))


class Supervisor:
    """Runs `config.workers` workers until a signal ends them.

    Args:
        reload: Reads the settings again, or raises `ConfigError`.
    """

    def __init__(self, config: Config, reload: Callable[[], Config]) -> None:
        self._config = config
        self._reload = reload
        self._directory = tempfile.mkdtemp(prefix="warmroute-")
        self._workers = [_Worker(number, self._directory) for number in range(config.workers)]
        self._front = AdminFront(self._sockets, self._metrics)
        self._spare: _Process | None = None
        self._spare_due_s = 0.0
        self._restarts = 0
        self._looked_s = 0.0
        self._wake = asyncio.Event()
        self._ended = False
        self._hung_up = False
        self._settings_current = True

    async def run(self) -> int:
        """Exit status: 0 after a drain."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        loop.add_signal_handler(signal.SIGCHLD, self._wake.set)
        try:
            with contextlib.ExitStack() as held:
                try:
                    host, port = held.enter_context(reserve(*split_address(self._config.listen)))
                    admin_port = await self._front.start(*split_address(self._config.admin))
                except OSError as error:
                    log.error("cannot_start", extra=fields(error=error))
                    return 1
                config = dataclasses.replace(self._config, listen=Address(f"{host}:{port}"))
                log.info(
                    "supervising", extra=fields(workers=config.workers, data=config.listen, admin=admin_port)
                )
                try:
                    return await self._keep(config)
                finally:
                    await self._stop()
        finally:
            await self._front.stop()
            shutil.rmtree(self._directory, ignore_errors=True)

    async def _keep(self, config: Config) -> int:
        while not self._ended:
            now_s = time.monotonic()
            if self._hung_up:
                self._hung_up = False
                config = self._reloaded(config)
            self._kill_hung(now_s)
            for worker in self._workers:
                status = self._reap(worker, now_s)
                if status is not None and status > 0 and not any(w.has_served for w in self._workers):
                    # Its settings or its machine cannot be served with; starting it again would hide that.
                    return status
                if worker.process is None and worker.due_s <= now_s:
                    process = self._take_spare() or _new_process(NO_ROOM_PAUSE_S)
                    if process is None:
                        worker.due_s = now_s + NO_ROOM_PAUSE_S
                        continue
                    worker.start(process, config)
                    self._spare_due_s = now_s + SPARE_PAUSE_S
            due_s = self._keep_spare(now_s)
            due_s += [worker.due_s for worker in self._workers if worker.process is None]
            await self._sleep(max(min([*due_s, self._looked_s + BEAT_S]) - now_s, 0.0))
        return 0

    def _reloaded(self, config: Config) -> Config:
        """The settings to run with from now on, also told to the workers; these where there is a fault in the new."""
        try:
            following, changed, waiting = reloaded(self._config, self._reload())
            _check_files(following)
        except ConfigError as error:
            self._settings_current = False
            for message in error.messages:
                log.error("reload_failed", extra=fields(error=message))
        else:
            self._settings_current = True
            self._config = following
            if "log_level" in changed:
                set_up(self._config.log_level)
            log.info(
                "reloaded",
                extra=fields(changed=",".join(changed) or "none", needs_restart=",".join(waiting) or "none"),
            )
            config = dataclasses.replace(self._config, listen=config.listen)
            path = os.path.join(self._directory, SETTINGS)
            Path(path + ".new").write_bytes(pickle.dumps(config))
            os.replace(path + ".new", path)
        for worker in self._workers:  # in any case: they open moved logs anew
            if worker.process is not None:
                worker.process.hang_up()
        return config

    def _kill_hung(self, now_s: float) -> None:
        """Kill whoever is silent; that they are dead is found as of any other."""
        if now_s - self._looked_s < BEAT_S:
            return
        self._looked_s = now_s
        for worker in self._workers:
            process = worker.process
            if process is not None and process.hung():
                log.error("worker_hung", extra=fields(worker=worker.number, pid=process.pid))
                process.kill()

    def _take_spare(self) -> _Process | None:
        spare, self._spare = self._spare, None
        if spare is not None and spare.poll() is not None:
            spare.close()
            return None
        return spare

    def _keep_spare(self, now_s: float) -> list[float]:
        """Have one once it is due; when that will be, while there is none."""
        if self._spare is not None and self._spare.poll() is not None:
            self._spare.close()
            self._spare = None
            self._spare_due_s = now_s + LONGEST_PAUSE_S
        if self._spare is None and self._spare_due_s <= now_s:
            self._spare = _new_process(LONGEST_PAUSE_S)
            if self._spare is None:
                self._spare_due_s = now_s + LONGEST_PAUSE_S
        return [] if self._spare is not None else [self._spare_due_s]

    def _reap(self, worker: _Worker, now_s: float) -> int | None:
        """The exit status if the worker has died; then it is due again."""
        process = worker.process
        if process is None or (status := process.poll()) is None:
            return None
        process.close()
        worker.process = None
        self._front.merger.ended(worker.name)
        self._restarts += 1
        worker.deaths = 0 if now_s - worker.started_s >= STEADY_S else worker.deaths + 1
        pause_s = min(FIRST_PAUSE_S * 2 ** max(worker.deaths - 1, 0), LONGEST_PAUSE_S)
        worker.due_s = now_s + pause_s
        log.error(
            "worker_died",
            extra=fields(worker=worker.number, pid=process.pid, status=status, restart_in_s=pause_s),
        )
        return status

    async def _stop(self) -> None:
        """Pass the signal on, wait for the drain, kill who does not end."""
        processes = [worker.process for worker in self._workers if worker.process is not None]
        if self._spare is not None:
            self._spare.kill()
            self._spare.close()
        for process in processes:
            process.end()
        until_s = time.monotonic() + self._config.drain_grace_s + END_S
        while left := [process for process in processes if process.poll() is None]:
            if time.monotonic() >= until_s:
                for process in left:
                    log.error("worker_killed", extra=fields(pid=process.pid))
                    process.kill()
                break
            await self._sleep(0.5)
        for process in processes:
            process.close()
        log.info("stopped")

    async def _sleep(self, seconds: float) -> None:
        """Until a child ends, a signal comes, or the time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        self._wake.clear()

    def _hang_up(self) -> None:
        self._hung_up = True
        self._wake.set()

    def _end(self) -> None:
        self._ended = True
        self._wake.set()

    def _sockets(self) -> dict[str, str]:
        return {w.name: w.socket_path for w in self._workers if w.process is not None}

    def _metrics(self) -> str:
        figures = (
            (catalogue.WORKER_RESTARTS, self._restarts),
            (catalogue.SETTINGS_CURRENT, int(self._settings_current)),
        )
        lines = [
            f"# HELP {metric.name} {metric.help}\n# TYPE {metric.name} {metric.kind}\n{metric.name} {value}\n"
            for metric, value in figures
        ]
        return "".join(lines)


@contextlib.contextmanager
def reserve(host: str, port: int) -> Iterator[tuple[str, int]]:
    """Hold an address that workers will share, without listening; a port of 0 becomes a free one.

    Raises:
        OSError: Somebody else listens there, or the address is not this machine's.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    with socket.socket(family, kind, protocol) as probe:
        # Without SO_REUSEPORT, so that another router's shared port is not silently joined.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
        probe.listen(1)
    with socket.socket(family, kind, protocol) as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(address)
        yield f"[{host}]" if ":" in host else host, held.getsockname()[1]


def _check_files(config: Config) -> None:
    """Load what workers will load: one that started with settings that they refused would never come up.

    Raises:
        ConfigError: A file cannot be used.
    """
    listening_tls(config)
    upstream_tls(config)
    if config.access_log.enabled:
        try:
            check_path(config.access_log.path)
        except OSError as error:
            raise ConfigError("", "access_log.path", f"{error.filename!r}: {error.strerror}") from error


def run(config: Config, reload: Callable[[], Config]) -> int:
    """Serve with several workers until SIGTERM or SIGINT. Returns the exit status."""
    set_up(config.log_level)
    return asyncio.run(_run(config, reload))


async def _run(config: Config, reload: Callable[[], Config]) -> int:
    return await Supervisor(config, reload).run()


def _beat(loop: asyncio.AbstractEventLoop, beating: int) -> None:
    with contextlib.suppress(OSError):  # nobody listens any more, or not fast enough
        os.write(beating, b".")
    loop.call_later(BEAT_S, _beat, loop, beating)


def _mark(socket_path: str) -> None:
    with contextlib.suppress(OSError):  # the supervisor has ended, and taken its directory along
        Path(socket_path + SERVING).touch()


def work() -> int:
    """A worker process: loads everything, waits for settings on standard input, and serves until told to end."""
    from warmroute.running import run as serve

    try:
        config, socket_path, beating = pickle.load(sys.stdin.buffer)
    except EOFError:
        return 0  # A spare that was never needed.

    def serving() -> None:
        _mark(socket_path)
        _beat(asyncio.get_running_loop(), beating)

    def reload() -> Config | None:
        try:
            data = Path(socket_path).with_name(SETTINGS).read_bytes()
        except OSError:
            return None  # nothing was changed since the start, or the supervisor has ended
        settings: Config = pickle.loads(data)
        return settings

    try:
        return serve(
            config,
            control_socket=socket_path,
            on_serving=serving,
            reload=reload,
            shared_file=str(Path(socket_path).with_name(OPERATED)),
        )
    except ConfigError as error:  # a file that cannot be loaded, for one
        log.error("cannot_start", extra=fields(error=error))
        return 2
