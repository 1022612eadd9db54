"""Simulated replicas as processes of their own, which tests may kill, stop and start again on the same port."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

from tests.support.processes import python_command
from tests.support.redis_server import free_port
from warmroute.config.schema import Address, Config, HealthConfig, ReplicaConfig


class SimProcess:
    """`warmroute-replica sim` with one or more ports; a context manager."""

    def __init__(self, *arguments: str, ports: int = 1) -> None:
        self.ports = [free_port() for _ in range(ports)]
        self._arguments = arguments
        self._process: subprocess.Popen[str] | None = None

    @property
    def urls(self) -> list[str]:
        """Base URL of each replica."""
        return [f"http://127.0.0.1:{port}" for port in self.ports]

    @property
    def ids(self) -> list[str]:
        """The ids that a router gives them."""
        return [f"127.0.0.1:{port}" for port in self.ports]

    @property
    def running(self) -> bool:
        """Whether it was started and not killed."""
        return self._process is not None

    def start(self) -> None:
        """Start and wait until all ports listen."""
        command = python_command("warmroute_replica.cli", "sim", *self._arguments)
        for port in self.ports:
            command += ["--port", str(port)]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        for _ in self.ports:
            line = self._process.stdout.readline()
            assert line.startswith("replica ready"), line

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


@contextlib.contextmanager
def fleet(count: int, *arguments: str) -> Iterator[list[SimProcess]]:
    """So many processes with one replica each, started side by side."""
    with contextlib.ExitStack() as stack:
        processes = [SimProcess(*arguments) for _ in range(count)]
        threads = [threading.Thread(target=process.start) for process in processes]
        for process, thread in zip(processes, threads, strict=True):
            stack.callback(process.kill)
            thread.start()
        for thread in threads:
            thread.join()
        yield processes


def before(sims: Sequence[SimProcess]) -> Config:
    """Settings of a router before these, that notices within a moment when one dies or comes back."""
    return Config(
        listen=Address("127.0.0.1:0"),
        admin=Address("127.0.0.1:0"),
        replicas=tuple(ReplicaConfig(url=sim.urls[0], id=sim.ids[0]) for sim in sims),
        health=HealthConfig(probe_interval_s=0.2),
    )
