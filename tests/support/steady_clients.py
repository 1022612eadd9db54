"""Clients that count what a router's restart would cost: connections refused, requests that were not answered.

Half of them make a connection a request, half keep theirs for as long as the router does. None of them retries.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from types import TracebackType
from typing import Self

BODY = json.dumps({"model": "sim", "max_tokens": 2, "messages": [{"role": "user", "content": "hi"}]})
HEADERS = {"Content-Type": "application/json"}


class SteadyClients:
    """Ask one port from several threads until left; a context manager."""

    def __init__(self, port: int, clients: int = 4, pause_s: float = 0.005) -> None:
        self.answered = 0
        self.failed: Counter[str] = Counter()
        self._port = port
        self._pause_s = pause_s
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._client, args=(number % 2 == 0,)) for number in range(clients)
        ]

    def _client(self, keeps: bool) -> None:
        connection: http.client.HTTPConnection | None = None
        while not self._stop.is_set():
            failure = ""
            try:
                if connection is None:
                    connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
                    connection.connect()
            except OSError as error:
                failure, connection = f"connect: {error!r}", None
            if connection is not None:
                try:
                    connection.request("POST", "/v1/chat/completions", BODY, HEADERS)
                    answer = connection.getresponse()
                    answer.read()
                    if answer.status != 200:
                        failure = f"status {answer.status}"
                    if not keeps or answer.will_close:
                        connection.close()
                        connection = None
                except (OSError, http.client.HTTPException) as error:
                    failure = f"request: {error!r}"
                    connection.close()
                    connection = None
            with self._lock:
                self.answered += not failure
                if failure:
                    self.failed[failure] += 1
            time.sleep(self._pause_s)
        if connection is not None:
            connection.close()

    def wait_more(self, count: int) -> None:
        """Wait until so many further requests have been answered."""
        goal = self.answered + count
        until_s = time.monotonic() + 60
        while self.answered < goal:
            assert time.monotonic() < until_s, f"{self.answered} of {goal}; {self.failed}"
            time.sleep(0.01)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
