"""Sends a simulator's workload to a live URL: prompts whose blocks repeat exactly where the workload's keys do.

A token is four bytes, as for the simulated replica, so that live prompts have the lengths of the workload. A block's
text is made from its key; blocks that an answer takes part in have what the answer really said. Sessions start by the
clock, later turns follow a pause after the answer before.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from time import monotonic
from typing import Any, Protocol

import aiohttp

from warmroute_loadtest.simulate.workload import Session, Turn, Workload

TOKEN_BYTES = 4


@dataclass(slots=True)
class LiveSample:
    """One answered request."""

    turn: Turn
    replica: str
    ttft_s: float
    """Time to the first byte: of an answer that comes whole, to all of it."""
    late_s: float
    """How much later than planned it was sent, because this process was too slow."""
    prompt_tokens: int
    cached_tokens: int


@dataclass(slots=True)
class Replay:
    """What came of it."""

    samples: list[LiveSample] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def cached_ratio(self) -> float:
        """Cached share of prompt tokens, as the engines reported it."""
        return sum(s.cached_tokens for s in self.samples) / sum(s.prompt_tokens for s in self.samples)


class Content(Protocol):
    """What prompts consist of."""

    def prompt(self, turn: Turn) -> Any:
        """The request's `prompt`."""

    def answered(self, turn: Turn, answer: bytes) -> None:
        """Learn what the answer to the turn was."""


class TokenIds:
    """Blocks of token ids made from their keys, for engines with a tokenizer. Answers are left out of prompts."""

    def __init__(self, block_tokens: int, ids: range) -> None:
        self._block_tokens = block_tokens
        self._ids = ids

    def prompt(self, turn: Turn) -> list[int]:
        """The turn's prompt: its full blocks, and a rest that nobody else has."""
        whole = turn.keys[: turn.prompt_tokens // self._block_tokens]
        made = [token for key in whole for token in self._made(str(key), self._block_tokens)]
        return made + self._made(turn.id, turn.prompt_tokens - len(made))

    def answered(self, turn: Turn, answer: bytes) -> None:
        """Nothing to learn."""

    def _made(self, seed: str, count: int) -> list[int]:
        return Random(seed).choices(self._ids, k=count)


class Texts:
    """Text of blocks by their keys, four bytes a token."""

    def __init__(self, block_tokens: int) -> None:
        self._block_bytes = block_tokens * TOKEN_BYTES
        self._answered: dict[int, bytes] = {}

    def prompt(self, turn: Turn) -> str:
        """The turn's prompt: its full blocks, and a rest that nobody else has."""
        return self._bytes(turn).decode()

    def _bytes(self, turn: Turn) -> bytes:
        size = turn.prompt_tokens * TOKEN_BYTES
        whole = turn.keys[: size // self._block_bytes]
        parts = [self._answered.get(key) or _made(f"{key:016x} ", self._block_bytes) for key in whole]
        text = b"".join(parts)
        return text + _made(f"rest of {turn.id} ", size - len(text))

    def answered(self, turn: Turn, answer: bytes) -> None:
        """Remember the blocks that the answer completed."""
        stream = self._bytes(turn) + answer
        size = self._block_bytes
        for index in range(
            turn.prompt_tokens * TOKEN_BYTES // size, min(len(turn.keys), len(stream) // size)
        ):
            self._answered[turn.keys[index]] = stream[index * size : (index + 1) * size]


def _made(unit: str, size: int) -> bytes:
    return (unit.encode() * (size // len(unit) + 1))[:size]


async def replay(
    url: str,
    workload: Workload,
    content: Content,
    *,
    model: str = "sim",
    timeout_s: float = 600.0,
    name_sessions: bool = False,
    more_urls: Sequence[str] = (),
) -> Replay:
    """Send everything at its time, each request to any of the URLs; returns when all is answered."""
    dice = Random(len(more_urls))
    result = Replay()
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as http:
        start_s = monotonic() + 0.2
        async with asyncio.TaskGroup() as group:
            for number, session in enumerate(workload.sessions):
                headers = {"Content-Type": "application/json"}
                if name_sessions:
                    headers["X-Session-Id"] = f"session {number}"
                urls = [f"{base}/v1/completions" for base in (url, *more_urls)]
                sender = _Sender(http, urls, dice, model, headers, content, result)
                group.create_task(sender.serve(session, start_s))
    return result


@dataclass(slots=True)
class _Sender:
    http: aiohttp.ClientSession
    urls: list[str]
    dice: Random
    model: str
    headers: dict[str, str]
    content: Content
    result: Replay

    async def serve(self, session: Session, start_s: float) -> None:
        """All turns, each after the answer before; the session ends at the first that fails."""
        due_s = start_s + session.start_s
        for number, turn in enumerate(session.turns):
            if number:
                due_s = monotonic() + turn.pause_s
            await asyncio.sleep(max(due_s - monotonic(), 0.0))
            try:
                await self._ask(turn, due_s)
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError) as error:
                self.result.failures.append(f"{turn.id}: {error!r}")
                return

    async def _ask(self, turn: Turn, due_s: float) -> None:
        body = {
            "model": self.model,
            "prompt": self.content.prompt(turn),
            "max_tokens": turn.output_tokens,
            "ignore_eos": True,
            "temperature": 0,
        }
        if turn.streams:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        data = json.dumps(body, ensure_ascii=False).encode()
        sent_s = monotonic()
        first_s = 0.0
        received = bytearray()
        async with self.http.post(self.dice.choice(self.urls), data=data, headers=self.headers) as response:
            async for piece in response.content.iter_any():
                if not received:
                    first_s = monotonic()
                received += piece
            replica = response.headers.get("X-Warmroute-Replica", "")
        if response.status != 200:
            raise ValueError(f"{response.status}: {bytes(received[:200])!r}")
        answer, usage = (read_stream if turn.streams else read_whole)(bytes(received))
        details = usage.get("prompt_tokens_details") or {}
        self.content.answered(turn, answer)
        self.result.samples.append(
            LiveSample(
                turn,
                replica,
                first_s - sent_s,
                sent_s - due_s,
                usage["prompt_tokens"],
                details.get("cached_tokens") or 0,
            )
        )


def read_whole(body: bytes) -> tuple[bytes, dict[str, Any]]:
    """Text and usage of a completion that came whole."""
    answer = json.loads(body)
    return "".join([choice["text"] for choice in answer["choices"]]).encode(), answer["usage"]


def read_stream(body: bytes) -> tuple[bytes, dict[str, Any]]:
    """Text and usage of a streamed completion."""
    answer: list[str] = []
    usage: dict[str, Any] = {}
    for line in body.split(b"\n"):
        if line.startswith(b"data: {"):
            event = json.loads(line[6:])
            usage = event.get("usage") or usage
            answer += [choice["text"] for choice in event["choices"]]
    return "".join(answer).encode(), usage
