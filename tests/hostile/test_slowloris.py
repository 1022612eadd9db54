"""Thousands of connections that drip, and a replica without an end, against router processes: `make test-hostile`.

Everybody else is served meanwhile, the router's memory stays what it was but for a bounded part, and who drips is
closed at the time-out. What single connections of this kind are answered is in `tests/integration`.
"""

from __future__ import annotations

import asyncio
import json
import re
import resource
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import RouterProcess, SimProcess
from tests.support.scripted_upstream import SSE_HEAD, Connection, Received, ScriptedUpstream, chunk

SLOW = 2000
TIMEOUT_S = 5
DRIP_S = 0.5
MOST_MIB = 100
"""More than before, for all of them: 50 KiB each."""

POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: r\r\n"
LIMITS = [word for name in ("header", "body") for word in ("--set", f"limits.{name}_timeout_s={TIMEOUT_S}")]

DRIPS: dict[str, tuple[bytes, Callable[[int], bytes]]] = {
    "heads": (POST + b"X-A: ", lambda _: b"a"),
    "fields": (POST, lambda n: b"X-%d: a\r\n" % n),
    "bodies": (POST + b"Content-Length: 1000\r\n\r\n", lambda _: b" "),
    "long bodies": (POST + b"Content-Length: 60000000\r\n\r\n" + b" " * 40_000, lambda _: b" "),
    "chunks of a byte": (POST + b"Transfer-Encoding: chunked\r\n\r\n", lambda _: b"1\r\n \r\n"),
    "chunk sizes": (POST + b"Transfer-Encoding: chunked\r\n\r\n", lambda _: b"0"),
    "trailers": (POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", lambda n: b"X-%d: a\r\n" % n),
}


def memory_mib(router: RouterProcess, field: str) -> float:
    found = re.search(rf"{field}:\s+(\d+) kB", Path(f"/proc/{router.process.pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


async def drip(
    port: int, opening: bytes, next_bytes: Callable[[int], bytes], outcomes: Counter[bytes]
) -> None:
    """One connection, until the router has enough of it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    began_s = time.monotonic()
    answer = asyncio.ensure_future(reader.read(64 * 1024))
    try:
        writer.write(opening)
        for number in range(600):
            writer.write(next_bytes(number))
            done, _ = await asyncio.wait([answer], timeout=DRIP_S)
            if done:
                break
        outcomes[answer.result()[9:12] if answer.done() else b"still open"] += 1
        assert time.monotonic() - began_s > TIMEOUT_S / 2
    except ConnectionError:
        outcomes[b"reset"] += 1
    finally:
        answer.cancel()
        writer.transport.abort()


async def served(router: RouterProcess, until: asyncio.Future[Any]) -> int:
    """Requests that other clients got answered meanwhile, one after the other; each must be."""
    count = 0
    while not until.done():
        status, _ = await asyncio.to_thread(router.chat, f"hello {count}")
        assert status == 200
        count += 1
        await asyncio.sleep(0.05)
    return count


@pytest.fixture(autouse=True)
def _descriptors() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 3 * SLOW:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 3 * SLOW), hard))


@pytest.mark.parametrize("name", DRIPS)
def test_thousands_that_drip_keep_nobody_else_waiting(name: str) -> None:
    opening, next_bytes = DRIPS[name]

    async def run(router: RouterProcess) -> tuple[Counter[bytes], int]:
        outcomes: Counter[bytes] = Counter()
        slow = asyncio.gather(*[drip(router.port, opening, next_bytes, outcomes) for _ in range(SLOW)])
        count = await served(router, slow)
        await slow
        return outcomes, count

    with SimProcess(1, "--speed", "100") as sims, RouterProcess(sims.urls, *LIMITS) as router:
        router.chat("warm")
        before_mib = memory_mib(router, "VmRSS")
        outcomes, count = asyncio.run(run(router))
        grown_mib = memory_mib(router, "VmHWM") - before_mib
        print(f"{name}: {dict(outcomes)}, {count} others served, {grown_mib:.0f} MiB more")
        # A long body that finds no room for all of it is refused at once; nobody is left, and nobody gets through.
        assert set(outcomes) <= {b"408", b"503", b"400", b"reset"}
        assert outcomes[b"408"] > 0
        assert count >= 20
        assert grown_mib < MOST_MIB + (SLOW * 2 * 40_000 / 2**20 if name == "long bodies" else 0)
        assert router.chat("and after")[0] == 200
        assert router.metrics()["warmroute_buffered_body_bytes"] == 0
        assert "Traceback" not in router.output


@pytest.mark.parametrize("name", ["one event", "one line of a head", "one whole answer"])
def test_an_answer_without_an_end_takes_no_memory_though_nobody_reads_it(name: str) -> None:
    piece = b"a" * (1 << 20)
    sent = 0

    def endless(_upstream: ScriptedUpstream, connection: Connection, _received: Received) -> bool:
        nonlocal sent
        if name == "one event":
            connection.send(SSE_HEAD + chunk(b'data: {"choices":[{"index":0,"delta":{"content":"'))
        elif name == "one line of a head":
            connection.send(b"HTTP/1.1 200 OK\r\nx-a: ")
        else:
            connection.send(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 9999999999\r\n\r\n"
            )
        connection.sock.settimeout(3.0)
        for _ in range(500):
            connection.send(chunk(piece) if name == "one event" else piece)
            sent += len(piece)
        return False

    async def ask(router: RouterProcess) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", router.port)
        body = json.dumps({"model": "m", "stream": name == "one event", "messages": []}).encode()
        writer.write(POST + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        await asyncio.sleep(6)  # reads nothing
        writer.transport.abort()

    with ScriptedUpstream(script=endless) as upstream:
        with RouterProcess([upstream.url], "--set", "max_attempts=1") as router:
            before_mib = memory_mib(router, "VmRSS")
            asyncio.run(ask(router))
            grown_mib = memory_mib(router, "VmHWM") - before_mib
            print(f"{name}: {sent >> 20} MiB taken of the replica, {grown_mib:.0f} MiB more")
            assert grown_mib < 30
            assert router.process.poll() is None
