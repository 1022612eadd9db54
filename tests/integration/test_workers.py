"""`warmroute serve --workers 2` as users run it: real processes, a real Redis, simulated replicas."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import RouterProcess, SimProcess, wait_idle
from tests.support.redis_server import RedisServer
from tests.support.router_thread import wait_until

BODY = json.dumps({"model": "sim", "max_tokens": 2, "messages": [{"role": "user", "content": "hi"}]}).encode()


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def replicas() -> Iterator[list[str]]:
    with SimProcess(2) as sim:
        yield sim.urls


@pytest.fixture
def router(redis: RedisServer, replicas: list[str]) -> Iterator[RouterProcess]:
    with RouterProcess(replicas, "--registry", redis.url, workers=2) as router:
        yield router


class Client:
    """One kept-alive connection, and so one worker: request ids begin with what is the worker's own."""

    def __init__(self, router: RouterProcess) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", router.port, timeout=60)
        self.worker = self.chat()

    def chat(self) -> str:
        """Send a request; returns which worker answered."""
        self._connection.request("POST", "/v1/chat/completions", BODY, {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        answer.read()
        assert answer.status == 200
        return answer.headers["X-Request-Id"][:16]

    def close(self) -> None:
        self._connection.close()


@contextlib.contextmanager
def clients_of_both(router: RouterProcess) -> Iterator[list[Client]]:
    """Some connections, at least one to each worker."""
    clients: list[Client] = []
    try:
        while len(clients) < 8 or len({client.worker for client in clients}) < router.workers:
            assert len(clients) < 64, "every connection goes to one worker"
            clients.append(Client(router))
        yield clients
    finally:
        for client in clients:
            client.close()


def test_both_workers_get_connections_and_one_scrape_counts_all(router: RouterProcess) -> None:
    with clients_of_both(router) as clients:
        sent = len(clients)
        for client in clients:
            client.chat()
    # Workers hear of each other over Redis, a moment after they begin.
    wait_until(lambda: router.metrics()["warmroute_peers"] == 1)
    metrics = router.metrics()
    assert router.requests() == 2 * sent
    assert metrics["warmroute_workers"] == 2
    assert metrics["warmroute_in_flight"] == 0
    assert 'process_resident_memory_bytes{worker="1"}' in metrics
    assert metrics["warmroute_duration_seconds_count" + '{api="chat",model="sim"}'] == 2 * sent


def test_the_admin_port_answers_for_all(router: RouterProcess) -> None:
    status, body = router.admin("/ready")
    assert (status, json.loads(body)["routable_replicas"]) == (200, 2)
    assert router.admin("/health")[0] == 200
    assert len(json.loads(router.admin("/replicas")[1])["replicas"]) == 2
    long = json.dumps({"model": "sim", "messages": [{"role": "user", "content": "long " * 100_000}]}).encode()
    status, body = router.admin("/explain", long)
    assert status == 200
    assert b"candidates" in body
    assert router.admin("/nothing")[0] == 404
    with socket.create_connection(("127.0.0.1", router.admin_port), timeout=60) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\nGET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = b""
        while piece := sock.recv(65536):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.count(b"HTTP/1.1") == 1


def test_a_killed_worker_is_replaced_at_once_and_the_others_clients_notice_nothing(
    router: RouterProcess,
) -> None:
    wait_until(lambda: len(router.children()) == 3)
    pids = router.worker_pids()
    (spare,) = set(router.children()) - set(pids.values())
    wait_idle(spare)
    with clients_of_both(router) as clients:
        _kill_one_under_load(router, clients, pids[0])
    with clients_of_both(router):
        pass


def test_a_new_worker_takes_connections_only_when_it_knows_the_replicas(router: RouterProcess) -> None:
    # Only a worker that has listened counts as replaced when a third one does.
    assert router.output.count(" listening ") == 2
    os.kill(router.worker_pids()[1], signal.SIGKILL)
    statuses: list[int] = []
    until_s = time.monotonic() + 60
    while router.output.count(" listening ") < 3:
        assert time.monotonic() < until_s
        statuses += _fresh_statuses(router)
    for _ in range(5):
        statuses += _fresh_statuses(router)
    assert set(statuses) == {200}


def test_a_hung_worker_is_killed_and_replaced(router: RouterProcess) -> None:
    with clients_of_both(router):
        pass
    hung = router.worker_pids()[0]
    other = router.worker_pids()[1]
    os.kill(hung, signal.SIGSTOP)
    wait_until(lambda: "worker_hung worker=0" in router.output, 60)
    wait_until(lambda: router.worker_pids()[0] != hung and router.metrics()["warmroute_workers"] == 2, 60)
    assert not alive(hung)
    assert alive(other)
    assert router.worker_pids()[1] == other
    assert router.metrics()["warmroute_worker_restarts_total"] == 1
    wait_until(lambda: router.output.count(" listening ") == 3, 60)
    with clients_of_both(router):
        pass
    assert router.output.count("worker_hung") == 1


def test_workers_serve_on_while_there_is_no_room_for_another_process(router: RouterProcess) -> None:
    supervisor = router.process.pid
    wait_until(lambda: len(router.children()) == 3)
    pids = router.worker_pids()
    before = _kept_open(supervisor)
    limits = resource.prlimit(supervisor, resource.RLIMIT_NOFILE)
    # One free, and two that the killed worker leaves: enough for a process's first pipe, not for its second.
    most = next(n for n in range(len(before), 4096) if len(set(range(n)) - before) == 1)
    resource.prlimit(supervisor, resource.RLIMIT_NOFILE, (most, limits[1]))
    os.kill(pids[0], signal.SIGKILL)
    wait_until(lambda: "no_process" in router.output)  # The spare has its place, and there is no other.
    wait_until(lambda: router.output.count(" listening ") == 3, 60)
    os.kill(router.worker_pids()[0], signal.SIGKILL)
    wait_until(lambda: router.output.count("no_process") >= 3)
    assert router.process.poll() is None
    assert alive(pids[1])
    resource.prlimit(supervisor, resource.RLIMIT_NOFILE, limits)
    wait_until(lambda: router.output.count(" listening ") == 4, 60)
    wait_until(lambda: len(router.children()) == 3, 60)
    assert router.worker_pids()[1] == pids[1]
    with clients_of_both(router):
        pass
    wait_until(lambda: len(_open_files(supervisor)) <= len(before))
    assert router.terminate() == 0
    assert "cannot_start" not in router.output


def _open_files(pid: int) -> set[int]:
    return {int(name) for name in os.listdir(f"/proc/{pid}/fd")}


def _kept_open(pid: int) -> set[int]:
    """Without the connections that are just being closed, by which it was asked for something."""
    kept = _open_files(pid)
    for _ in range(10):
        time.sleep(0.05)
        kept &= _open_files(pid)
    return kept


def _fresh_statuses(router: RouterProcess) -> list[int]:
    """Statuses of requests over new connections; those that reach a worker as it dies have none."""
    try:
        return [router.chat("hi")[0] for _ in range(4)]
    except (OSError, http.client.HTTPException):
        return []


def _kill_one_under_load(router: RouterProcess, clients: list[Client], pid: int) -> None:
    stop = threading.Event()
    failed: set[str] = set()
    served: dict[str, int] = {}

    def keep_asking(client: Client) -> None:
        while not stop.is_set():
            try:
                client.chat()
            except (OSError, http.client.HTTPException):
                failed.add(client.worker)
                return
            served[client.worker] = served.get(client.worker, 0) + 1
            time.sleep(0.01)

    threads = [threading.Thread(target=keep_asking, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    wait_until(lambda: {client.worker for client in clients} == set(served))
    before = router.requests()
    started = router.output.count("worker_started")
    os.kill(pid, signal.SIGKILL)
    wait_until(
        lambda: router.output.count("worker_started") > started and router.metrics()["warmroute_workers"] == 2
    )
    wait_until(lambda: bool(failed))
    counts = dict(served)
    (survivor,) = {client.worker for client in clients} - failed
    wait_until(lambda: served[survivor] > counts[survivor])
    stop.set()
    for thread in threads:
        thread.join(60)
    assert failed == {client.worker for client in clients} - {survivor}
    metrics = router.metrics()
    assert router.requests() >= before
    assert metrics["warmroute_worker_restarts_total"] == 1
    assert metrics["warmroute_in_flight"] == 0


def test_sigterm_drains_every_worker_and_exits_0(router: RouterProcess) -> None:
    streams = []
    for _ in range(6):
        connection = http.client.HTTPConnection("127.0.0.1", router.port, timeout=60)
        body = json.dumps(
            {
                "model": "sim",
                "max_tokens": 60,
                "stream": True,
                "messages": [{"role": "user", "content": "a stream"}],
            }
        )
        connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        streams.append((connection, connection.getresponse()))
    pids = [router.process.pid, *router.children()]
    assert router.terminate() == 0
    for connection, answer in streams:
        assert answer.read().rstrip().endswith(b"data: [DONE]")
        connection.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", router.port), timeout=5).close()
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    assert "worker_died" not in router.output


def test_workers_end_with_their_supervisor(router: RouterProcess) -> None:
    pids = router.children()
    router.process.kill()
    router.process.wait()
    wait_until(lambda: not [pid for pid in pids if alive(pid)])


def test_a_port_that_is_taken_is_said_so(
    redis: RedisServer, replicas: list[str], router: RouterProcess
) -> None:
    """Also when it is taken by another router's workers, who would share it."""
    second = RouterProcess(
        replicas,
        "--registry",
        redis.url,
        "--listen",
        f"127.0.0.1:{router.port}",
        workers=2,
        wait=False,
    )
    with second:
        assert second.process.wait(60) == 1
        assert "cannot_start" in second.output


def test_one_worker_whose_port_is_taken_says_so_and_nothing_else(
    router: RouterProcess, replicas: list[str]
) -> None:
    address = f"127.0.0.1:{router.port}"
    with RouterProcess(replicas, "--listen", address, wait=False) as second:
        assert second.process.wait(60) == 1
        assert "address already in use" in second.output
        assert "Unclosed" not in second.output


def test_workers_that_cannot_start_end_the_router(
    redis: RedisServer, replicas: list[str], tmp_path: Path
) -> None:
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).write_text("no certificate")
    settings = [f"tls.cert_file={tmp_path}/cert.pem", f"tls.key_file={tmp_path}/key.pem"]
    flags = [word for setting in settings for word in ("--set", setting)]
    with RouterProcess(replicas, "--registry", redis.url, *flags, workers=2, wait=False) as router:
        assert router.process.wait(60) == 2
        assert "tls.cert_file" in router.output


def alive(pid: int) -> bool:
    """Whether it runs; a zombie that nobody here can reap does not."""
    path = Path(f"/proc/{pid}/stat")
    try:
        return path.read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
