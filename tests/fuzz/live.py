"""Mutated requests on the sockets of a real router: it fails none by itself, and keeps nothing."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections import Counter

import httptools

from tests.fuzz.mutator import mutated, seeds
from tests.support.processes import RouterProcess, SimProcess
from tests.support.wire import ParsedAnswers

AT_ONCE = 32
QUIET_S = 0.2
"""An answer that has been silent for so long is not waited for: most inputs are half a request."""

OWN = re.compile(rb"^HTTP/1\.1 5\d\d", re.MULTILINE)
CRASHES = ("Traceback", "_crashed")


def run(count: int, first: int) -> list[str]:
    """What did not hold, in words."""
    settings = ("--set", "limits.header_timeout_s=1", "--set", "limits.body_timeout_s=1")
    with (
        SimProcess(2, "--speed", "50", "--model", "m", "--model", "sim") as sims,
        RouterProcess(sims.urls, *settings) as router,
    ):
        resting = len(os.listdir(f"/proc/{router.process.pid}/fd"))
        statuses, problems = asyncio.run(_all(router.port, count, first))
        print(f"live: answers by status {dict(sorted(statuses.items()))}")
        if router.process.poll() is not None:
            return [*problems, f"the router has ended: {router.output[-2000:]}"]
        problems += left_over(router, resting)
        if router.chat("still there")[0] != 200:
            problems.append("no answer to a good request at the end")
        log = router.output
        problems += [line for line in log.splitlines() if any(word in line for word in CRASHES)]
        if router.terminate() != 0:
            problems.append("it did not end in order")
    return problems


def left_over(router: RouterProcess, resting_descriptors: int) -> list[str]:
    """What is not at rest within ten seconds."""
    until_s = time.monotonic() + 10
    while True:
        metrics = router.metrics()
        left = {
            name: value
            for name, value in metrics.items()
            if value
            and name.startswith(
                (
                    "warmroute_in_flight",
                    "warmroute_held",
                    "warmroute_client_connections",
                    "warmroute_buffered_body_bytes",
                )
            )
        }
        descriptors = len(os.listdir(f"/proc/{router.process.pid}/fd"))
        # Idle connections to the replicas may stand: they are bounded, and closed after keepalive_s.
        if not left and descriptors <= resting_descriptors + 4:
            return []
        if time.monotonic() > until_s:
            return [f"left over: {left}, descriptors {resting_descriptors} -> {descriptors}"]
        time.sleep(0.5)


async def _all(port: int, count: int, first: int) -> tuple[Counter[int], list[str]]:
    corpus = seeds("requests")
    numbers = iter(range(first, first + count))
    statuses: Counter[int] = Counter()
    problems: list[str] = []

    async def client() -> None:
        for number in numbers:
            data = mutated(corpus, number)
            answer = await _one(port, data, number)
            try:
                found = [status for status, _, _ in ParsedAnswers(answer).answers]
            except httptools.HttpParserUpgrade:
                found = [101]
            except httptools.HttpParserError as error:
                problems.append(f"{number}: the answer is no HTTP ({error}): {answer[:200]!r}")
                continue
            statuses.update(found)
            if any(status >= 500 and status != 501 for status in found):
                problems.append(f"{number}: {answer[:300]!r} to {data[:200]!r}")

    await asyncio.gather(*[client() for _ in range(AT_ONCE)])
    return statuses, problems


async def _one(port: int, data: bytes, number: int) -> bytes:
    """Send it, half of the time in two pieces, and read until nothing more comes."""
    answer = b""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError as error:
        return f"no connection: {error}".encode()
    try:
        if number % 2:
            writer.write(data[: len(data) // 2])
            await writer.drain()
            await asyncio.sleep(0)
            writer.write(data[len(data) // 2 :])
        else:
            writer.write(data)
        async with asyncio.timeout(5):
            while True:
                async with asyncio.timeout(QUIET_S):
                    piece = await reader.read(65_536)
                if not piece:
                    break
                answer += piece
    except (TimeoutError, OSError):
        pass
    finally:
        if number % 3:
            writer.close()
        else:
            writer.transport.abort()
    return answer
