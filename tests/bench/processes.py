"""Starts what a benchmark measures: fixed replicas and one router, each a process of its own."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.support.redis_server import free_port


@contextlib.contextmanager
def replicas(count: int, *arguments: str) -> Iterator[list[int]]:
    """Ports of so many fixed replicas."""
    with contextlib.ExitStack() as stack:
        ports = []
        for _ in range(count):
            port = free_port()
            command = [sys.executable, "-m", "tests.bench.fixed_replica", "--port", str(port), *arguments]
            process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE))
            stack.callback(process.kill)
            assert process.stdout is not None
            process.stdout.readline()
            ports.append(port)
        yield ports


@contextlib.contextmanager
def router(ports: Sequence[int], *arguments: str) -> Iterator[tuple[int, int]]:
    """Data port and process id of a router before these replicas."""
    data, admin = free_port(), free_port()
    command = [sys.executable, "-m", "warmroute.cli.main", "serve"]
    command += ["--listen", f"127.0.0.1:{data}", "--admin", f"127.0.0.1:{admin}", *arguments]
    for port in ports:
        command += ["--replica", f"http://127.0.0.1:{port}"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            until_s = time.monotonic() + 20.0
            while True:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{admin}/ready", timeout=2.0).close()
                    break
                except OSError:
                    if time.monotonic() > until_s or process.poll() is not None:
                        raise
                    time.sleep(0.05)
            yield data, process.pid
        finally:
            process.terminate()


def rss_mb(pid: int) -> float:
    """Resident memory of a process, in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise AssertionError(f"process {pid} has no memory")
