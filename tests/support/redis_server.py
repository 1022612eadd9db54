"""Real Redis servers for tests: on free ports, without persistence, able to die, hang and come back.

Installs `redis-server` with apt-get where it is missing, and says what to do where it cannot.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.debian import ensure_program

_START_S = 60.0


def ensure_redis(program: str = "redis-server") -> str:
    """Path of a Redis program, installed first if need be.

    Raises:
        RuntimeError: It is absent and cannot be installed here.
    """
    return ensure_program(program, "redis-server", "the registry tests (Redis 6.2 or newer)")


def _candidates() -> Iterator[int]:
    """Ports below the range from which systems give ports to clients, round and round from anywhere.

    Low enough for a Cluster's second ports, 10,000 higher, to be below it too, and apart from all these. Processes
    that run tests side by side share them out: a port that is free stays so until its server listens.
    """
    process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    step = max(int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")), process + 1)
    first = random.SystemRandom().randrange(10_000)
    for number in itertools.count(first):
        offset = number % 10_000
        if offset % step == process:
            yield 10_000 + offset


_CANDIDATES = _candidates()


def free_port() -> int:
    """A TCP port that was free a moment ago, for a server that must be told one or come back on it.

    Nobody is given it as a client's port while the server is down, and this process gives it to nobody else.
    """
    for port in _CANDIDATES:
        if _is_free(port) and _is_free(port + 10_000):
            return port
    raise AssertionError("there is always a next candidate")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


class RedisServer:
    """One redis-server process: `with RedisServer() as server: … server.url`.

    Args:
        arguments: Further command-line settings, e.g. `--requirepass`, `secret`.
        client: How tests themselves reach it, as keyword arguments of `redis.Redis`; host and port are filled in.
        port: The port, chosen when absent; kept over restarts.
        sentinel: Run as a Sentinel, with this text as its configuration.
    """

    def __init__(
        self,
        *arguments: str,
        client: dict[str, Any] | None = None,
        port: int | None = None,
        sentinel: str | None = None,
    ) -> None:
        self.port = port or free_port()
        self.directory = Path(tempfile.mkdtemp(prefix="warmroute-redis-"))
        self._arguments = arguments
        self._client = {"host": "127.0.0.1", "port": self.port, **(client or {})}
        self._sentinel = sentinel
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Plain URL without credentials."""
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start and wait until it answers."""
        command = [ensure_redis()]
        if self._sentinel is not None:
            configuration = self.directory / "sentinel.conf"
            configuration.write_text(f"port {self.port}\ndir {self.directory}\n{self._sentinel}\n")
            command += [str(configuration), "--sentinel"]
        else:
            command += ["--port", str(self.port), "--dir", str(self.directory)]
            command += ["--save", "", "--appendonly", "no"]
        command += ["--bind", "127.0.0.1", *self._arguments]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline_s = time.monotonic() + _START_S
        while True:
            try:
                self.command("PING")
                return
            except redis.ConnectionError as error:
                if time.monotonic() > deadline_s or self._process.poll() is not None:
                    raise RuntimeError(
                        f"redis-server did not start: {(self.directory / 'log').read_text()}"
                    ) from error
                time.sleep(0.02)

    def command(self, *words: str | bytes | int) -> Any:
        """Run one command over a connection of its own."""
        with redis.Redis(**self._client, socket_timeout=30.0, retry=Retry(NoBackoff(), 0)) as client:
            return client.execute_command(*words)

    def stop(self) -> None:
        """End it in order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a crash would."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Let it hang: connections stand, nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Undo `pause`."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGCONT)
            process.send_signal(number)
            try:
                process.wait(30.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)
