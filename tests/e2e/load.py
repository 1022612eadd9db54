"""Requests at a steady rate, whatever becomes of them, until told to end; then a line of JSON on what did.

    load.py URL RATE SECONDS TOKENS [--stream]

Runs inside the cluster's network, so it is a program of its own. Every second request has a connection of its own, the
others keep theirs, as clients do. A request is whole if its status is 200 and its answer ends as it should; nothing is
tried twice. SIGTERM ends the sending; what is under way is waited for.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections import Counter
from typing import Any

import aiohttp

PATIENCE_S = 120.0


class Load:
    """One run."""

    def __init__(self, url: str, tokens: int, stream: bool) -> None:
        self._url = f"{url}/v1/chat/completions"
        self._tokens = tokens
        self._stream = stream
        self.sent = 0
        self.whole = 0
        self.warm = 0
        self.failures: Counter[str] = Counter()
        self.took_s: list[float] = []

    def _body(self, number: int) -> dict[str, Any]:
        # Ten conversations' openings, so that some find their prefix and some do not.
        text = f"opening {number % 10}: " + "the same words again and again " * 150
        messages = [{"role": "user", "content": f"{text} and request {number}"}]
        return {"model": "sim", "max_tokens": self._tokens, "stream": self._stream, "messages": messages}

    async def one(self, session: aiohttp.ClientSession, number: int) -> None:
        """One request, counted."""
        self.sent += 1
        began = time.monotonic()
        try:
            async with session.post(self._url, json=self._body(number)) as answer:
                body = await answer.read()
                self.warm += answer.headers.get("X-Warmroute-Decision") == "warm"
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self.failures[f"{type(error).__name__}: {error}"[:200]] += 1
            return
        ended = body.rstrip().endswith(b"data: [DONE]") if self._stream else b'"finish_reason"' in body
        if answer.status == 200 and ended and b'"error"' not in body:
            self.whole += 1
            self.took_s.append(time.monotonic() - began)
        else:
            self.failures[f"{answer.status}: {body[-150:].decode(errors='replace')}"] += 1

    async def run(self, rate: float, seconds: float) -> None:
        """Send until the time is over or SIGTERM, then wait for what is under way."""
        over = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
        timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
        fresh = aiohttp.TCPConnector(limit=0, force_close=True)
        kept = aiohttp.TCPConnector(limit=0, keepalive_timeout=2)
        async with (
            aiohttp.ClientSession(connector=fresh, timeout=timeout) as once,
            aiohttp.ClientSession(connector=kept, timeout=timeout) as long,
        ):
            began, tasks = time.monotonic(), []
            while not over.is_set() and time.monotonic() - began < seconds:
                tasks.append(asyncio.create_task(self.one((once, long)[len(tasks) % 2], len(tasks))))
                wait = began + len(tasks) / rate - time.monotonic()
                if wait > 0:
                    await asyncio.wait([asyncio.create_task(over.wait())], timeout=wait)
            await asyncio.gather(*tasks)


def main(url: str, rate: str, seconds: str, tokens: str, *flags: str) -> None:
    """Run and report."""
    load = Load(url, int(tokens), "--stream" in flags)
    asyncio.run(load.run(float(rate), float(seconds)))
    took = sorted(load.took_s) or [0.0]
    report = {
        "sent": load.sent,
        "whole": load.whole,
        "warm": load.warm,
        "failed": sum(load.failures.values()),
        "failures": dict(load.failures),
        "median_s": round(took[len(took) // 2], 3),
        "longest_s": round(took[-1], 3),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
