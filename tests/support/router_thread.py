"""A real router in a thread of the test process: real sockets, its own event loop, settings as keywords."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import uvloop

from warmroute.app import Worker
from warmroute.config.schema import Config


class RouterThread:
    """Runs `Worker` until closed; a context manager."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._started = threading.Event()
        self._error: BaseException | None = None
        self.worker = Worker(config)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self.worker.start())
        except BaseException as error:  # handed to the test's thread
            self._error = error
            self._started.set()
            return
        self._started.set()
        self._loop.run_forever()

    def __enter__(self) -> RouterThread:
        self._thread.start()
        assert self._started.wait(60), "the router did not start"
        if self._error is not None:
            raise self._error
        return self

    def __exit__(self, *exc: object) -> None:
        asyncio.run_coroutine_threadsafe(self.worker.stop(), self._loop).result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)
        self._loop.close()

    @property
    def port(self) -> int:
        """Data port."""
        return self.worker.data_port

    @property
    def url(self) -> str:
        """Base URL of the data port."""
        return f"http://127.0.0.1:{self.worker.data_port}"

    @property
    def admin_url(self) -> str:
        """Base URL of the admin port."""
        return f"http://127.0.0.1:{self.worker.admin_port}"

    def call(self, function: Callable[[], Any]) -> Any:
        """Run something in the router's own thread and return its result."""

        async def run() -> Any:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(60)

    def wait_ready(self, replicas: int) -> None:
        """Wait until this many replicas, all or those that are well, are routable."""
        wait_until(lambda: self.call(self.worker.gateway.fleet.routable) == replicas)

    def assert_at_rest(self) -> None:
        """Every counter is back where it was: nothing in flight, nothing buffered, nothing half read."""
        gateway = self.worker.gateway

        def at_rest() -> bool:
            gateway.fleet.validate()
            return gateway.buffered_bytes == 0 and all(
                replica.in_flight == 0 and replica.waiting == 0 and replica.waiting_tokens == 0
                for replica in gateway.fleet.replicas.values()
            )

        wait_until(lambda: self.call(at_rest))

    def connect(self) -> socket.socket:
        """A raw client connection."""
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def post(
        self, path: str, body: Any, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """One request with a JSON body: status, headers by lower-case name, body."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path, data=data, headers={"Content-Type": "application/json", **(headers or {})}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, {k.lower(): v for k, v in answer.headers.items()}, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, {k.lower(): v for k, v in error.headers.items()}, error.read()


def wait_until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Poll until a condition holds; fail the test otherwise."""
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, "the condition did not come true in time"
        time.sleep(0.01)


@contextlib.contextmanager
def running(config: Config, replicas: int) -> Iterator[RouterThread]:
    """A router whose fleet is up."""
    with RouterThread(config) as router:
        router.wait_ready(replicas)
        yield router


def read_answer(sock: socket.socket) -> bytes:
    """Everything until the router closes."""
    pieces = []
    while True:
        try:
            data = sock.recv(65536)
        except ConnectionResetError:
            break
        if not data:
            break
        pieces.append(data)
    return b"".join(pieces)
