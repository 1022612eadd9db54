"""Clients in threads: steady requests through a router, and what became of each."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from types import TracebackType
from typing import Any, Self


class Traffic:
    """Sends requests from several threads until left; a context manager. Every request is counted, none is retried."""

    def __init__(self, urls: list[str], *, clients: int = 4, pause_s: float = 0.01, words: int = 600) -> None:
        self.done = 0
        self.failed: list[str] = []
        self.replicas: dict[str, int] = {}
        self._urls = urls
        self._pause_s = pause_s
        self._words = words
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._client, args=(n,)) for n in range(clients)]

    def _client(self, number: int) -> None:
        turn = 0
        while not self._stop.is_set():
            url = self._urls[(number + turn) % len(self._urls)]
            turn += 1
            prompt = f"conversation {number} " + "word " * self._words + f"turn {turn}"
            body: dict[str, Any] = {"model": "sim", "messages": [{"role": "user", "content": prompt}]}
            body["max_tokens"] = 2
            error = ""
            replica = ""
            try:
                request = urllib.request.Request(
                    f"{url}/v1/chat/completions",
                    json.dumps(body).encode(),
                    {"Content-Type": "application/json"},
                )
                with urllib.request.urlopen(request, timeout=60) as answer:
                    replica = answer.headers["x-warmroute-replica"]
                    if not json.loads(answer.read()).get("choices"):
                        error = "no choices"
            except urllib.error.HTTPError as failed:
                with failed:
                    error = f"{failed.code} {failed.read()[:200]!r}"
            except Exception as failed:
                error = repr(failed)
            with self._lock:
                self.done += 1
                self.replicas[replica] = self.replicas.get(replica, 0) + 1
                if error:
                    self.failed.append(error)
            time.sleep(self._pause_s)

    def wait_more(self, count: int, timeout_s: float = 60.0) -> None:
        """Wait until so many further requests have ended."""
        goal = self.done + count
        until = time.monotonic() + timeout_s
        while self.done < goal:
            assert time.monotonic() < until, f"only {self.done} of {goal} requests ended; {self.failed[:3]}"
            time.sleep(0.02)

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
