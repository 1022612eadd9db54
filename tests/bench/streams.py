"""Many streams at once through one router process: errors, and the router's memory.

    python -m tests.bench.streams [--streams 2000] [--events 30] [--interval-s 0.5]

Every stream must arrive whole. Needs a file descriptor limit of twice the streams and some.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import time
from collections import Counter
from typing import cast

import uvloop

from tests.bench import processes
from tests.bench.fixed_replica import DONE, EVENT


class Stream(asyncio.Protocol):
    """One client with one stream."""

    def __init__(self, request: bytes, expected_events: int, ended: asyncio.Future[str]) -> None:
        self._request = request
        self._expected_events = expected_events
        self._ended = ended
        self._data = bytearray()
        self.open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.open = True
        self._data += data
        if self._data.endswith(b"0\r\n\r\n"):
            self._end("whole" if self._whole() else "not whole")

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(f"lost: {exc}")

    def _whole(self) -> bool:
        data = bytes(self._data)
        return (
            data.startswith(b"HTTP/1.1 200")
            and data.count(EVENT) == self._expected_events
            and data.count(DONE) == 1
        )

    def _end(self, outcome: str) -> None:
        self.open = False
        if not self._ended.done():
            self._ended.set_result(outcome)
            self._transport.close()


async def measure(port: int, pid: int, count: int, events: int) -> None:
    """Open all streams, watch them, and print."""
    loop = asyncio.get_running_loop()
    before_mb = processes.rss_mb(pid)
    outcomes: list[asyncio.Future[str]] = []
    streams: list[Stream] = []
    started_s = time.monotonic()
    for number in range(count):
        messages = [{"role": "user", "content": f"{number % 100} " + "word " * 400}]
        body = json.dumps({"model": "m", "messages": messages, "stream": True}).encode()
        request = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (
            len(body),
            body,
        )
        ended: asyncio.Future[str] = loop.create_future()
        stream = Stream(request, events, ended)
        try:
            await loop.create_connection(lambda stream=stream: stream, "127.0.0.1", port)  # type: ignore[misc]
        except OSError as error:
            ended.set_result(f"refused: {error}")
        outcomes.append(ended)
        streams.append(stream)
    opened_s = time.monotonic() - started_s
    most_open, most_mb = 0, before_mb
    while not all(outcome.done() for outcome in outcomes):
        await asyncio.sleep(0.25)
        most_open = max(most_open, sum(stream.open for stream in streams))
        most_mb = max(most_mb, processes.rss_mb(pid))
    counted = Counter(outcome.result() for outcome in outcomes)
    print(f"{count} streams opened in {opened_s:.1f} s, at most {most_open} open at once")
    print(f"outcomes: {dict(counted)}")
    print(f"router memory: {before_mb:.0f} MiB before, {most_mb:.0f} MiB at most")


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--streams", type=int, default=2000)
    parser.add_argument("--events", type=int, default=30)
    parser.add_argument("--interval-s", type=float, default=0.5)
    arguments = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    paced = ("--events", str(arguments.events), "--interval-s", str(arguments.interval_s))
    with processes.replicas(2, *paced) as ports, processes.router(ports) as (port, pid):
        uvloop.run(measure(port, pid, arguments.streams, arguments.events))


if __name__ == "__main__":
    main()
