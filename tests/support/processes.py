"""Routers and simulated replicas as processes of their own, with the import path of the test's own process."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

_RUN = "import sys; sys.path[:] = {path!r}; from {module} import main; sys.exit(main(sys.argv[1:]))"


def python_command(module: str, *arguments: str) -> list[str]:
    """Runs a module's `main` in a Python of its own, with the import path of this one."""
    return [sys.executable, "-c", _RUN.format(path=sys.path, module=module), *arguments]


class Program:
    """One command, its output in a file; killed at the end of the `with` block if it still runs."""

    def __init__(self, module: str, *arguments: str) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="warmroute-test-")
        self._log = Path(self._directory.name) / "log"
        with self._log.open("wb") as output:
            self.process = subprocess.Popen(
                python_command(module, *arguments),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    @property
    def output(self) -> str:
        """Everything it has written so far."""
        return self._log.read_text()

    def children(self) -> list[int]:
        """Its child processes that live."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in path.read_text().split()] if path.exists() else []

    def wait_until(self, condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
        """Poll until a condition holds; fails with its output otherwise, at once where the program has ended."""
        until = time.monotonic() + timeout_s
        while not condition():
            status = self.process.poll()
            assert status is None, f"the program has ended with {status}: {self.output}"
            assert time.monotonic() < until, f"the condition did not come true in time: {self.output}"
            time.sleep(0.01)

    def terminate(self, timeout_s: float = 60.0) -> int:
        """SIGTERM; returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._directory.cleanup()


class SimProcess(Program):
    """Simulated replicas in one process, on ports that the system chose."""

    def __init__(self, count: int, *arguments: str) -> None:
        super().__init__("warmroute_replica.cli", "sim", *("--port", "0") * count, *arguments)
        self.ports: list[int] = []
        try:
            self.wait_until(lambda: self._listening(count))
        except AssertionError:
            self.__exit__()
            raise

    def _listening(self, count: int) -> bool:
        # A line ends with its line feed: a file is read while it is written.
        self.ports = [int(port) for port in re.findall(r"^replica ready on \S+:(\d+)\n", self.output, re.M)]
        return len(self.ports) == count

    @property
    def urls(self) -> list[str]:
        """Base URL of each."""
        return [f"http://127.0.0.1:{port}" for port in self.ports]


class RouterProcess(Program):
    """`warmroute serve` on ports that the system chose, ready when entered.

    Args:
        replicas: Their base URLs.
        arguments: Further words of the command line.
        workers: How many of them.
        wait: Whether to wait for readiness on entry; without it, the ports are known once it listens.
        well: Replicas that will be found well, by every worker; all of them when absent.
    """

    def __init__(
        self,
        replicas: list[str],
        *arguments: str,
        workers: int = 1,
        wait: bool = True,
        well: list[str] | None = None,
    ) -> None:
        self.workers = workers
        self._wait = wait
        self._well = {urlsplit(url).netloc for url in (replicas if well is None else well)}
        named = [word for url in replicas for word in ("--replica", url)]
        addresses = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
        super().__init__(
            "warmroute.cli.main", "serve", *addresses, *named, "--workers", str(workers), *arguments
        )

    def __enter__(self) -> Self:
        if self._wait:
            try:
                self.wait_until(self.ready)
            except AssertionError:
                self.__exit__()
                raise
        return self

    @property
    def port(self) -> int:
        """Data port."""
        return self._ports()[0]

    @property
    def admin_port(self) -> int:
        """Admin port."""
        return self._ports()[1]

    def _ports(self) -> tuple[int, int]:
        found = re.search(
            r" (?:supervising|listening) .*\bdata=127\.0\.0\.1:(\d+) admin=(?:127\.0\.0\.1:)?(\d+)",
            self.output,
        )
        assert found is not None, f"it does not listen yet: {self.output}"
        return int(found[1]), int(found[2])

    def ready(self) -> bool:
        """Whether every worker takes connections and knows the replicas that are well."""
        if self.output.count(" listening ") < self.workers:
            return False
        metrics = self.metrics()
        # Workers' states are laid side by side: one that knows less than the others shows.
        states = re.findall(r'warmroute_replica_state\{replica="([^"]+)",state="(\w+)"\}', "\n".join(metrics))
        seen = {replica: {state for of, state in states if of == replica} for replica in self._well}
        whole = metrics.get("warmroute_workers") == self.workers
        return whole and all(state == {"ready"} for state in seen.values())

    def metrics(self) -> dict[str, float]:
        """Every sample of `/metrics`, by name with labels."""
        lines = self.admin("/metrics")[1].decode().splitlines()
        samples = [line.rpartition(" ") for line in lines if line and not line.startswith("#")]
        return {name: float(value) for name, _, value in samples}

    def requests(self) -> float:
        """Requests counted, over all labels."""
        return sum(v for name, v in self.metrics().items() if name.startswith("warmroute_requests_total"))

    def worker_pids(self) -> dict[int, int]:
        """The latest process of each worker."""
        return {
            int(worker): int(pid)
            for worker, pid in re.findall(r"worker_started worker=(\d+) pid=(\d+)", self.output)
        }

    def admin(self, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """One request to the admin port."""
        return _fetch(f"http://127.0.0.1:{self.admin_port}{path}", body)

    def chat(self, text: str, **more: Any) -> tuple[int, dict[str, Any]]:
        """One chat completion over a connection of its own."""
        body = {"model": "sim", "max_tokens": 2, "messages": [{"role": "user", "content": text}], **more}
        status, answer = _fetch(
            f"http://127.0.0.1:{self.port}/v1/chat/completions", json.dumps(body).encode()
        )
        return status, json.loads(answer)


def cpu_s(pid: int) -> float:
    """CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def wait_idle(pid: int, timeout_s: float = 60.0) -> None:
    """Wait until a process has stopped using CPU."""
    until = time.monotonic() + timeout_s
    before = -1.0
    while (now := cpu_s(pid)) != before or now < 0.1:
        assert time.monotonic() < until, "the process did not come to rest"
        before = now
        time.sleep(0.3)


def _fetch(url: str, body: bytes | None) -> tuple[int, bytes]:
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()
