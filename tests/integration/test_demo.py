from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from warmroute_loadtest.demo.__main__ import settings_of

ROOT = Path(__file__).parents[2]


class Demo:
    """`python -m warmroute_loadtest.demo` as a process whose children can be told by a mark in their environment."""

    def __init__(self, temp_dir: str, *arguments: str) -> None:
        self.mark = f"DEMO_TEST_MARK={uuid.uuid4()}"
        name, _, value = self.mark.partition("=")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "warmroute_loadtest.demo", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, name: value, "TMPDIR": temp_dir},
        )

    def family(self) -> list[int]:
        """Ids of the demo and everything it started."""
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                if self.mark.encode() in path.read_bytes():
                    found.append(int(path.parent.name))
            except OSError:
                continue
        return found

    def wait_line(self, start: str) -> list[str]:
        """Lines up to the one that begins so."""
        assert self.process.stdout is not None
        lines = []
        for line in self.process.stdout:
            lines.append(line.rstrip("\n"))
            if line.startswith(start):
                return lines
        raise AssertionError(f"ended without {start!r}: {lines} {self.process.communicate()[1]}")


@contextmanager
def demo(*arguments: str) -> Iterator[Demo]:
    with tempfile.TemporaryDirectory() as temp_dir:
        running = Demo(temp_dir, *arguments)
        try:
            with running.process:
                try:
                    yield running
                finally:
                    running.process.kill()
        finally:
            for pid in running.family():
                os.kill(pid, signal.SIGKILL)


def wait_until(condition: Callable[[], bool], timeout_s: float = 60.0) -> bool:
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        if condition():
            return True
        time.sleep(0.1)
    return condition()


def test_the_demo_shows_what_prefix_routing_saves() -> None:
    with demo("--once", "--speed", "12") as running:
        output, errors = running.process.communicate(timeout=110)
        assert running.process.returncode == 0, errors
        assert running.family() == []
    assert "\033" not in output
    assert errors == ""
    summary = json.loads(output.splitlines()[-1])
    before, after = summary["round_robin"], summary["warmroute"]
    assert before["requests"] == after["requests"] == summary["requests"]
    assert before["failed"] == after["failed"] == 0
    assert before["prompt_tokens"] == after["prompt_tokens"], "both sides were asked the same"
    # What is late on a busy machine moves all of these a little; times to the first token say how busy it is.
    assert after["cached_ratio"] >= 2 * before["cached_ratio"], output
    assert after["computed_tokens"] < 0.5 * before["computed_tokens"], output
    assert 0.5 < summary["working_set_tokens"] / summary["cache_tokens"] < 1.5
    assert min(after["requests_per_replica"].values()) > summary["requests"] / 8


def test_the_demo_stays_up_and_survives_a_dead_replica() -> None:
    with demo("--conversations", "4", "--speed", "100") as running:
        lines = running.wait_line("Ctrl-C")
        (curl,) = [line for line in lines if "curl -i" in line]
        match = re.search(r"-i (http://\S+) .* -d @(\S+)$", curl)
        assert match is not None
        url, body = match[1], Path(match[2]).read_bytes()

        status, headers = post(url, body)
        assert status == 200
        assert headers["X-Warmroute-Decision"] == "warm"
        assert int(headers["X-Warmroute-Predicted-Cached-Tokens"]) > 1000

        pids = {port: pid for pid, port in re.findall(r"(\d+) \(replica (\d+)\)", lines[-3])}
        warm_port = headers["X-Warmroute-Replica"].rpartition(":")[2]
        os.kill(int(pids[warm_port]), signal.SIGKILL)
        status, headers = post(url, body)
        assert status == 200
        assert not headers["X-Warmroute-Replica"].endswith(f":{warm_port}")
        running.wait_line(f"replica {warm_port} has ended")

        body_dir = Path(match[2]).parent
        running.process.send_signal(signal.SIGINT)
        _, errors = running.process.communicate(timeout=90)
        assert running.process.returncode == 0, errors
        assert running.family() == []
        assert not body_dir.exists()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_nothing_outlives_a_demo_that_is_ended_half_way(number: int, status: int) -> None:
    with demo("--once", "--speed", "2") as running:
        running.wait_line("  round-robin")
        assert wait_until(lambda: len(running.family()) == 6)
        running.process.send_signal(number)
        running.process.communicate(timeout=90)
        assert running.process.returncode == status
        assert wait_until(lambda: running.family() == [])


def test_a_replica_that_dies_ends_the_comparison_with_its_reason() -> None:
    with demo("--once", "--speed", "2") as running:
        lines = running.wait_line("  round-robin")
        victim = next(
            pid
            for pid in running.family()
            if b"warmroute-replica" in Path(f"/proc/{pid}/cmdline").read_bytes()
        )
        os.kill(victim, signal.SIGKILL)
        _, errors = running.process.communicate(timeout=90)
        assert running.process.returncode == 1, lines
        assert re.search(r"demo: replica \d+ ended with status -9", errors)
        assert running.family() == []


@pytest.mark.parametrize(
    "arguments",
    [["--engine", "gpu"], ["--speed", "0"], ["--conversations", "0"], ["--engine", "vllm", "--speed", "2"]],
)
def test_wrong_arguments_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        settings_of(arguments)
    assert ended.value.code == 2
    assert arguments[-2].lstrip("-") in capsys.readouterr().err


def post(url: str, body: bytes) -> tuple[int, Any]:
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        response.read()
        return response.status, response.headers
