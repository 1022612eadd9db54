"""The supervisor runs several workers on one port: it starts them, starts dead ones again, and ends them all in order.

It serves no request itself. Workers share the data port by SO_REUSEPORT: the kernel gives each new connection to one
of their sockets. The supervisor opened these and keeps them open, so that what comes while a worker is replaced waits
for the next one instead of being reset. It answers the admin port (`control.front`), and passes SIGTERM on. When it
dies itself, the workers see their standard input end, and drain. Each worker is a fresh Python process, which is given
the checked settings as they are. At SIGHUP the supervisor reads the settings again, leaves what changed in a file of
its own directory, and tells the workers by the same signal, so that all have the same settings or none has new ones.
One more process waits with everything loaded and nothing opened, so that a dead worker's place is filled within a
moment. Each worker gives a sign of life from its event loop every second over a pipe; one that stops giving it is
killed and replaced.

At SIGUSR2 the supervisor becomes a new one, by `exec`: new code and new settings, the same process, sockets and
children. It fills one place after the other with a new worker, and drains the old one when the new one serves. A worker
whose memory passes a limit is replaced in the same way.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import math
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from warmroute.config.errors import ConfigError
from warmroute.config.exposure import exposures
from warmroute.config.reload import reloaded
from warmroute.config.schema import Address, Config, split_address
from warmroute.control.front import AdminFront
from warmroute.control.tokens import AdminAuth
from warmroute.service import listeners
from warmroute.service.listeners import HandOver, Left
from warmroute.service.tls import listening_tls, upstream_tls
from warmroute.service.worker_processes import BOOT, SERVING, Inherited, Place, Process, new_process
from warmroute.telemetry import catalogue
from warmroute.telemetry.access_log import check_path
from warmroute.telemetry.logs import fields, set_up

log = logging.getLogger(__name__)

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

END_S = 5.0
"""Time beyond the drain's grace that a worker has to end."""

CHANGE_S = 0.05
"""Between two looks whether a new worker serves, so that the old one may drain."""

SPARE_PAUSE_S = 2.0
"""Time from a worker's start to that of the next spare: loading it takes CPU that the worker needs first."""


LOAD_S = 60.0
"""Time that the router's code has to load before a supervisor becomes it."""


class Supervisor:
    """Runs `config.workers` workers until a signal ends them.

    Args:
        reload: Reads the settings again, or raises `ConfigError`.
        passed: Sockets of the data port that somebody else listens on for us; empty: they are opened.
    """

    def __init__(
        self, config: Config, reload: Callable[[], Config], passed: Sequence[socket.socket] = ()
    ) -> None:
        self._config = config
        self._reload = reload
        self._directory = tempfile.mkdtemp(prefix="warmroute-")
        self._workers = [Place(number, self._directory) for number in range(config.workers)]
        self._data = list(passed)
        self._before = listeners.taken_over(os.environ)
        self._leaving: list[Inherited] = []
        """Workers of a supervisor before that have no place any more."""
        auth = config.admin_auth
        self._auth = AdminAuth(auth.operator_tokens, auth.read_tokens, open_metrics=auth.open_metrics)
        self._front = AdminFront(self._sockets, self._metrics, self._draining, self._auth)
        self._spare: Process | None = None
        self._spare_due_s = 0.0
        self._restarts = 0
        self._looked_s = 0.0
        self._wake = asyncio.Event()
        self._ended = False
        self._hung_up = False
        self._renewed = False
        self._settings_current = True

    async def run(self) -> int:
        """Exit status: 0 after a drain."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        loop.add_signal_handler(signal.SIGUSR2, self._renew)
        loop.add_signal_handler(signal.SIGCHLD, self._wake.set)
        try:
            try:
                admin_port = await self._open()
            except OSError as error:
                log.error("cannot_start", extra=fields(error=error))
                await self._stop()
                return 1
            host, port = listeners.address_of(self._data[0])
            config = dataclasses.replace(self._config, listen=Address(f"{host}:{port}"))
            for exposure in exposures(config, listeners.addresses_of(self._data)):
                log.warning("open_to_everybody", extra=fields(what=exposure))
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

    async def _open(self) -> int:
        """Open what is to be listened on, or take over what is open. Returns the admin port."""
        before = self._before
        admin: list[socket.socket] = []
        if before is not None:
            for left in before.workers:
                place = self._workers[left.number % len(self._workers)]
                inherited = Inherited(left)
                if place.outgoing is None:
                    place.outgoing, place.outgoing_path = inherited, left.socket_path
                else:  # there are fewer places now
                    self._leaving.append(inherited)
            self._data = [socket.socket(fileno=descriptor) for descriptor in before.data]
            admin = [socket.socket(fileno=descriptor) for descriptor in before.admin]
        if not self._data:
            address = split_address(self._config.listen)
            self._data = listeners.bind_shared(*address, len(self._workers))
        descriptors = [one.fileno() for one in self._data]
        for worker in self._workers:
            shares = listeners.share(len(descriptors), len(self._workers), worker.number)
            worker.data = [descriptors[index] for index in shares]
        return await self._front.start(*split_address(self._config.admin), admin)

    async def _keep(self, config: Config) -> int:
        while not self._ended:
            now_s = time.monotonic()
            if self._hung_up:
                self._hung_up = False
                config = self._reloaded(config)
            if self._renewed:
                self._renewed = False
                await self._become_new()
            self._look(now_s)
            self._let_go(now_s)
            for worker in self._workers:
                status = self._reap(worker, now_s)
                if status is not None and status > 0 and not any(w.has_served for w in self._workers):
                    # Its settings or its machine cannot be served with; starting it again would hide that.
                    return status
                if worker.process is None and worker.due_s <= now_s:
                    if worker.changing and any(w.changing and w.process is not None for w in self._workers):
                        continue  # one after the other: together they would take the CPU from those that serve
                    process = self._take_spare() or new_process(self._descriptors(), NO_ROOM_PAUSE_S)
                    if process is None:
                        worker.due_s = now_s + NO_ROOM_PAUSE_S
                        continue
                    worker.start(process, config)
                    self._spare_due_s = now_s + SPARE_PAUSE_S
            due_s = self._keep_spare(now_s)
            due_s += [
                worker.due_s for worker in self._workers if worker.process is None and not worker.changing
            ]
            if any(worker.changing for worker in self._workers):
                due_s.append(now_s + CHANGE_S)
            await self._sleep(max(min([*due_s, self._looked_s + BEAT_S]) - now_s, 0.0))
        return 0

    def _descriptors(self) -> list[int]:
        return [one.fileno() for one in self._data]

    def _let_go(self, now_s: float) -> None:
        """Have those drain whose place is filled again, and see them end."""
        for worker in self._workers:
            outgoing = worker.outgoing
            if outgoing is None:
                continue
            if outgoing.poll() is not None:
                log.info("worker_left", extra=fields(worker=worker.number, pid=outgoing.pid))
                outgoing.close()
                self._front.merger.ended(worker.draining_name)
                worker.outgoing, worker.outgoing_until_s = None, math.inf
            elif worker.changing and worker.process is not None and worker.serves:
                self._front.merger.renamed(worker.name, worker.draining_name)
                outgoing.end()
                worker.outgoing_until_s = now_s + self._config.drain_grace_s + END_S
            elif now_s >= worker.outgoing_until_s:
                log.error("worker_killed", extra=fields(pid=outgoing.pid))
                outgoing.kill()
        if self._leaving and not any(worker.changing for worker in self._workers):
            for one in self._leaving:
                one.end()
        for one in [one for one in self._leaving if one.poll() is not None]:
            one.close()
            self._leaving.remove(one)
        before = self._before
        if before is not None and not self._leaving and not any(w.outgoing for w in self._workers):
            shutil.rmtree(before.directory, ignore_errors=True)
            self._before = None

    async def _become_new(self) -> None:
        """Become a new supervisor in this process, if what it would be can be loaded; returns where it cannot."""
        refusal = await self._refusal()
        if refusal is not None:
            log.error("not_renewed", extra=fields(error=refusal))
            return
        if self._ended:
            return  # told to end while it was found out: a new supervisor would never hear of it
        if self._spare is not None:
            self._spare.kill()
            self._spare.close()
            self._spare = None
        workers = [
            Left(worker.number, worker.process.pid, worker.process.stdin, worker.socket_path)
            for worker in self._workers
            if worker.process is not None
        ]
        hand_over = HandOver(
            tuple(self._descriptors()),
            tuple(self._front.descriptors()),
            self._directory,
            tuple(workers),
        )
        log.info("renewing", extra=fields(workers=len(workers)))
        hand_over.leave(os.environ)
        for number in (signal.SIGHUP, signal.SIGUSR2):  # until their handlers are there again
            signal.signal(number, signal.SIG_IGN)
        try:
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
        except OSError as error:
            hand_over.take_back(os.environ)
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGHUP, self._hang_up)
            loop.add_signal_handler(signal.SIGUSR2, self._renew)
            log.error("not_renewed", extra=fields(error=error))

    async def _refusal(self) -> str | None:
        """Why this supervisor cannot become a new one now."""
        if any(worker.outgoing is not None for worker in self._workers) or self._leaving:
            return "workers that were replaced still drain: try again when they have ended"
        try:
            following = self._reload()
            _check_files(following)
        except ConfigError as error:
            return "; ".join(error.messages)
        if (following.listen, following.admin) != (self._config.listen, self._config.admin):
            return "listen and admin have changed: their sockets cannot be taken over; restart the router"
        command = [sys.executable, "-P", "-c", BOOT]
        try:
            loaded = await asyncio.to_thread(_load, command)
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        if loaded.returncode:
            return f"the program does not load: {loaded.stderr.strip()[-500:].decode(errors='replace')}"
        return None

    def _reloaded(self, config: Config) -> Config:
        """The settings to run with from now on, also told to the workers; these where there is a fault in the new."""
        try:
            following, changed, waiting = reloaded(self._config, self._reload())
            _check_files(following)
            self._leave(dataclasses.replace(following, listen=config.listen))
        except ConfigError as error:
            self._settings_current = False
            for message in error.messages:
                log.error("reload_failed", extra=fields(error=message))
        except OSError as error:
            self._settings_current = False
            log.error("reload_failed", extra=fields(error=f"workers cannot be told of the settings: {error}"))
        else:
            self._settings_current = True
            self._config = following
            auth = following.admin_auth
            self._auth.use(auth.operator_tokens, auth.read_tokens, open_metrics=auth.open_metrics)
            if "log_level" in changed:
                set_up(self._config.log_level)
            log.info(
                "reloaded",
                extra=fields(changed=",".join(changed) or "none", needs_restart=",".join(waiting) or "none"),
            )
            config = dataclasses.replace(self._config, listen=config.listen)
        for worker in self._workers:  # in any case: they open moved logs anew
            if worker.process is not None:
                worker.process.hang_up()
        return config

    def _leave(self, config: Config) -> None:
        """Leave settings where the workers find them.

        Raises:
            OSError: They cannot be written there.
        """
        path = os.path.join(self._directory, SETTINGS)
        Path(path + ".new").write_bytes(pickle.dumps(config))
        os.replace(path + ".new", path)

    def _look(self, now_s: float) -> None:
        """Kill whoever is silent, which is found as of any other that died; replace who takes too much memory."""
        if now_s - self._looked_s < BEAT_S:
            return
        self._looked_s = now_s
        for worker in self._workers:
            worker.note_serving()
            process = worker.process
            if process is not None and process.hung():
                log.error("worker_hung", extra=fields(worker=worker.number, pid=process.pid))
                process.kill()
            elif process is not None:
                self._weigh(worker, process, now_s)

    def _weigh(self, worker: Place, process: Process, now_s: float) -> None:
        resident_bytes = process.resident_bytes()
        if process.growth.doubled(resident_bytes, now_s - worker.started_s):
            log.warning(
                "worker_grows",
                extra=fields(
                    worker=worker.number,
                    pid=process.pid,
                    resident_bytes=resident_bytes,
                    at_first_bytes=process.growth.first_bytes,
                ),
            )
        limit_bytes = self._config.worker_memory_bytes
        if limit_bytes is None or resident_bytes <= limit_bytes or not worker.serves:
            return
        if now_s - worker.started_s < STEADY_S or any(w.outgoing is not None for w in self._workers):
            return  # a limit below what any worker needs must not keep replacing them without end
        log.warning(
            "worker_too_large",
            extra=fields(
                worker=worker.number,
                pid=process.pid,
                resident_bytes=resident_bytes,
                limit_bytes=limit_bytes,
            ),
        )
        worker.replace()

    def _take_spare(self) -> Process | None:
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
            self._spare = new_process(self._descriptors(), LONGEST_PAUSE_S)
            if self._spare is None:
                self._spare_due_s = now_s + LONGEST_PAUSE_S
        return [] if self._spare is not None else [self._spare_due_s]

    def _reap(self, worker: Place, now_s: float) -> int | None:
        """The exit status if the worker has died; then it is due again."""
        process = worker.process
        if process is None or (status := process.poll()) is None:
            return None
        process.close()
        worker.process = None
        if not worker.changing:  # else the name is still that of the one before
            self._front.merger.ended(worker.name)
        self._restarts += 1
        worker.deaths = 0 if now_s - worker.started_s >= STEADY_S else worker.deaths + 1
        pause_s = min(FIRST_PAUSE_S * 2 ** min(max(worker.deaths - 1, 0), 16), LONGEST_PAUSE_S)
        worker.due_s = now_s + pause_s
        log.error(
            "worker_died",
            extra=fields(worker=worker.number, pid=process.pid, status=status, restart_in_s=pause_s),
        )
        return status

    async def _stop(self) -> None:
        """Pass the signal on, wait for the drain, kill who does not end."""
        listeners.close(self._data)  # as the workers do: nobody would accept what comes
        held = [process for worker in self._workers for process in (worker.process, worker.outgoing)]
        processes = [process for process in (*held, *self._leaving) if process is not None]
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
        if self._before is not None:
            shutil.rmtree(self._before.directory, ignore_errors=True)
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

    def _renew(self) -> None:
        self._renewed = True
        self._wake.set()

    def _end(self) -> None:
        self._ended = True
        self._wake.set()

    def _sockets(self) -> dict[str, str]:
        """Of those that fill their places, or of who still serves for them."""
        return {
            w.name: w.outgoing_path if w.changing else w.socket_path
            for w in self._workers
            if w.process is not None or w.changing
        }

    def _draining(self) -> dict[str, str]:
        return {w.draining_name: w.outgoing_path for w in self._workers if w.outgoing and not w.changing}

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


def _load(command: list[str]) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, input=pickle.dumps(sys.path), capture_output=True, timeout=LOAD_S)


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


def run(config: Config, reload: Callable[[], Config], passed: Sequence[socket.socket] = ()) -> int:
    """Serve with several workers until SIGTERM or SIGINT. Returns the exit status. `passed`: see `Supervisor`."""
    set_up(config.log_level)
    return asyncio.run(_run(config, reload, passed))


async def _run(config: Config, reload: Callable[[], Config], passed: Sequence[socket.socket]) -> int:
    return await Supervisor(config, reload, passed).run()


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
        config, socket_path, beating, data = pickle.load(sys.stdin.buffer)
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
            listeners=[socket.socket(fileno=descriptor) for descriptor in data],
        )
    except ConfigError as error:  # a file that cannot be loaded, for one
        log.error("cannot_start", extra=fields(error=error))
        return 2
