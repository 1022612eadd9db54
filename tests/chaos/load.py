"""Clients in conversations, as a load balancer before several routers would pass them on; everything is counted.

A conversation sends its whole history each turn, so what the replicas' caches gave is a share of all prompt tokens.
A router that refuses a connection costs its client the next router, as behind any balancer; nothing else is tried
again.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import aiohttp

WORDS = 120
TURNS = 6
TOKENS = 12
TIMEOUT_S = 60.0


@dataclass
class Figures:
    """What was counted between two looks."""

    asked: int = 0
    answered: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    broken: int = 0
    """Streams that ended with an error event after their first byte: said, not silent."""
    refused: int = 0
    """Connections that a router did not take; the client went to the next one."""
    doubled: int = 0
    """Answers with more tokens than asked for, or with two ends."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    ttft_s: list[float] = field(default_factory=list)

    @property
    def cached_ratio(self) -> float:
        """Share of prompt tokens that an engine had in its cache."""
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else 0.0

    def ttft_ms(self, share: float) -> float:
        """A quantile of the time to the first byte of a body."""
        ordered = sorted(self.ttft_s)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000 if ordered else 0.0


class Load:
    """Conversations until left; an async context manager."""

    def __init__(
        self, urls: list[str], clients: int = 12, pause_s: float = 0.05, leaving_ratio: float = 0.0
    ) -> None:
        self.urls = urls
        self.figures = Figures()
        self._clients = clients
        self._pause_s = pause_s
        self._leaving_ratio = leaving_ratio
        """Share of streams whose client leaves in the middle."""
        self._numbers = itertools.count()
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)
        )
        self._tasks = [asyncio.ensure_future(self._client(number)) for number in range(self._clients)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._session.close()
        for result in results:
            if isinstance(result, BaseException) and kind is None:
                raise result

    def take(self) -> Figures:
        """What was counted since the last look."""
        figures, self.figures = self.figures, Figures()
        return figures

    async def for_a_while(self, seconds: float, least: int = 20) -> None:
        """Go on for so long, and until so many further requests have been answered."""
        goal = self.figures.answered + least
        began_s = time.monotonic()
        while time.monotonic() - began_s < seconds or self.figures.answered < goal:
            if time.monotonic() - began_s > 120:
                raise TimeoutError(f"only {self.figures.answered} of {goal} answered; {self.figures.failed}")
            await asyncio.sleep(0.02)

    async def _client(self, number: int) -> None:
        rng = random.Random(number)
        while not self._stopping:
            words = [f"talk{next(self._numbers)}", *(f"word{rng.randrange(5000)}" for _ in range(WORDS))]
            messages: list[dict[str, str]] = []
            for turn in range(TURNS):
                if self._stopping:
                    return
                messages.append({"role": "user", "content": " ".join(words if not turn else words[1:])})
                text = await self._ask(
                    messages, stream=rng.random() < 0.7, leaves=rng.random() < self._leaving_ratio
                )
                messages.append({"role": "assistant", "content": text or "nothing"})
                await asyncio.sleep(self._pause_s * rng.uniform(0.5, 1.5))

    async def _ask(self, messages: list[dict[str, str]], *, stream: bool, leaves: bool) -> str:
        figures = self.figures
        figures.asked += 1
        body: dict[str, Any] = {"model": "sim", "max_tokens": TOKENS, "messages": messages, "stream": stream}
        if stream:
            body["stream_options"] = {"include_usage": True}
        first = next(self._numbers)
        for index in range(len(self.urls)):
            url = self.urls[(first + index) % len(self.urls)]
            began_s = time.monotonic()
            try:
                async with self._session.post(f"{url}/v1/chat/completions", json=body) as answer:
                    if answer.status != 200:
                        self.figures.failed[f"{answer.status} {(await answer.text())[:120]}"] += 1
                        return ""
                    return await self._read(answer, began_s, stream=stream, leaves=leaves)
            except aiohttp.ClientConnectorError:
                self.figures.refused += 1
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                self.figures.failed[f"{type(error).__name__}: {error}"[:120]] += 1
                return ""
        self.figures.failed["no router"] += 1
        return ""

    async def _read(
        self, answer: aiohttp.ClientResponse, began_s: float, *, stream: bool, leaves: bool
    ) -> str:
        data = await answer.content.readany()
        figures = self.figures
        figures.ttft_s.append(time.monotonic() - began_s)
        if leaves and stream:
            answer.close()
            figures.answered += 1
            return ""
        data += await answer.content.read()
        if not stream:
            whole = json.loads(data)
            self._count(whole["usage"], ends=1)
            return str(whole["choices"][0]["message"]["content"])
        events = [json.loads(line[6:]) for line in data.split(b"\n") if line.startswith(b"data: {")]
        ends = data.count(b"data: [DONE]")
        if any("error" in event for event in events):
            figures.broken += 1
            if (
                ends > 1
            ):  # vLLM ends a stream that breaks with an error event and `[DONE]`, and so does the router
                figures.failed["two ends after an error"] += 1
            return ""
        if not ends:
            figures.failed["a stream without an end"] += 1
            return ""
        usage = [event["usage"] for event in events if event.get("usage")]
        self._count(usage[-1], ends=max(ends, len(usage)))
        return "".join(
            event["choices"][0]["delta"].get("content") or "" for event in events if event["choices"]
        )

    def _count(self, usage: dict[str, Any], ends: int) -> None:
        figures = self.figures
        figures.answered += 1
        figures.doubled += usage["completion_tokens"] > TOKENS or ends != 1
        figures.prompt_tokens += usage["prompt_tokens"]
        figures.cached_tokens += (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
