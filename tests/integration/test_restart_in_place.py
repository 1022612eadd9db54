"""A router that is started anew in place, or whose workers are replaced, refuses no connection and loses no request."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import RouterProcess, SimProcess
from tests.support.redis_server import RedisServer
from tests.support.router_thread import wait_until
from tests.support.steady_clients import SteadyClients


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def replicas() -> Iterator[list[str]]:
    with SimProcess(2) as sim:
        yield sim.urls


def test_a_router_that_becomes_a_new_one_and_workers_that_are_replaced_lose_nothing(
    redis: RedisServer, replicas: list[str], tmp_path: Path
) -> None:
    settings = tmp_path / "warmroute.yaml"
    settings.write_text("max_attempts: 2\n")
    with RouterProcess(replicas, "--registry", redis.url, "--config", str(settings), workers=2) as router:
        first = router.worker_pids()
        wait_until(lambda: len(router.children()) == 3)
        with SteadyClients(router.port) as clients:
            clients.wait_more(50)
            router.process.send_signal(signal.SIGUSR2)
            wait_until(lambda: router.output.count("worker_left") == 2)
            clients.wait_more(50)
        assert not clients.failed
        assert router.output.count(" supervising ") == 2
        second = router.worker_pids()
        assert set(second.values()).isdisjoint(first.values())
        wait_until(lambda: router.metrics().get("warmroute_workers") == 2)
        assert router.admin("/ready")[0] == 200
        assert "worker_died" not in router.output

        settings.write_text("max_attempts: many\n")
        router.process.send_signal(signal.SIGUSR2)
        wait_until(lambda: "not_renewed" in router.output)
        assert "max_attempts" in router.output
        assert router.worker_pids() == second
        assert router.chat("hi")[0] == 200

        wait_until(lambda: len(router.children()) == 3)
        with SteadyClients(router.port) as clients:
            clients.wait_more(20)
            os.kill(second[0], signal.SIGKILL)
            wait_until(lambda: router.output.count(" listening ") == 5)
            clients.wait_more(50)
        # Requests that the dead process had are lost, one a client at most; nobody was refused.
        assert not [failure for failure in clients.failed if failure.startswith("connect")]
        assert sum(clients.failed.values()) <= 4

        with SteadyClients(router.port) as clients:
            settings.write_text("worker_memory_bytes: 1000000\n")
            router.process.send_signal(signal.SIGHUP)
            wait_until(lambda: router.output.count("worker_left") == 3)
            clients.wait_more(20)
        assert not clients.failed
        assert "worker_too_large worker=" in router.output
        assert router.terminate() == 0
        assert "Traceback" not in router.output


PASS = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.set_inheritable(3, True)
os.environ["LISTEN_FDS"], os.environ["LISTEN_PID"] = "1", str(os.getpid())
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""
"""Does what systemd does with the socket of a unit."""


@pytest.mark.parametrize("workers", [1, 2])
def test_restarts_behind_a_socket_of_systemd_refuse_nobody(
    redis: RedisServer, replicas: list[str], tmp_path: Path, workers: int
) -> None:
    code = f"import sys; sys.path[:] = {sys.path!r}; from warmroute.cli.main import main; sys.exit(main(sys.argv[1:]))"
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as held:
        port = held.getsockname()[1]
        words = ["-c", code, "serve", "--listen", f"127.0.0.1:{port}", "--admin", "127.0.0.1:0"]
        words += ["--registry", redis.url, "--workers", str(workers)]
        words += [word for url in replicas for word in ("--replica", url)]

        def started(number: int) -> subprocess.Popen[bytes]:
            with (tmp_path / str(number)).open("wb") as log:
                return subprocess.Popen(
                    [sys.executable, "-c", PASS, str(held.fileno()), *words],
                    pass_fds=[held.fileno()],
                    stdout=log,
                    stderr=log,
                )

        process = started(0)
        with SteadyClients(port) as clients:
            clients.wait_more(20)
            process.terminate()
            assert process.wait(60) == 0
            process = started(1)
            clients.wait_more(20)
        assert not clients.failed
        process.terminate()
        assert process.wait(60) == 0
        output = (tmp_path / "1").read_text()
        assert re.search(rf" (?:supervising|listening) .*data=127\.0\.0\.1:{port} ", output), output
        assert "Traceback" not in output
