"""The client sends a workload to one URL and measures each answer.

It decides neither what is sent nor what the measurements mean. Every request is a stream, as chat clients send them.
The time to first token is taken at the first byte of the body.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import aiohttp

from warmroute_loadtest.demo.workload import Conversation, Turn

ANSWER_TIMEOUT_S = 120.0
MAX_FAILURES_KEPT = 5

Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class Sample:
    """One answered request."""

    conversation: int
    application: int
    turn: int
    replica: str
    decision: str
    sent_s: float
    """Time from the start of the workload to the request, in seconds."""
    first_byte_s: float
    end_s: float
    late_s: float
    """Seconds by which the request was sent after its planned time, because the answer before was not complete."""
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int

    @property
    def ttft_s(self) -> float:
        """Time to first token, in seconds."""
        return self.first_byte_s - self.sent_s


@dataclass(slots=True)
class Measurements:
    """What the run of one side has shown; it grows while the run goes on."""

    samples: list[Sample] = field(default_factory=list)
    failed: int = 0
    """Number of requests without a complete answer; such a request ends its conversation."""
    failures: list[str] = field(default_factory=list)
    """What went wrong with the first few failed requests."""
    elapsed_s: float = 0.0


class AnswerError(Exception):
    """An answer is not complete."""


async def send(
    url: str, model: str, conversations: Sequence[Conversation], measured: Measurements
) -> list[Message]:
    """Send everything at its time, and return when all is answered.

    Args:
        url: The URL of a router, or of anything that speaks the chat API.
        model: The model's name in each request.
        conversations: What is sent.
        measured: Filled while this runs.
    Returns:
        The longest conversation's messages, last answer included.
    """
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=ANSWER_TIMEOUT_S)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        speaker = _Speaker(session, f"{url}/v1/chat/completions", model, measured)
        async with asyncio.TaskGroup() as tasks:
            talks = [tasks.create_task(speaker.talk(each)) for each in conversations]
    speaker.note_time()
    return max((talk.result() for talk in talks), key=len)


class _Speaker:
    def __init__(self, session: aiohttp.ClientSession, url: str, model: str, measured: Measurements) -> None:
        self._session = session
        self._url = url
        self._model = model
        self._measured = measured
        self._start_s = monotonic()

    def note_time(self) -> None:
        self._measured.elapsed_s = self._now_s()

    def _now_s(self) -> float:
        return monotonic() - self._start_s

    async def talk(self, conversation: Conversation) -> list[Message]:
        """Ask all questions of a conversation; the first that fails ends it."""
        messages: list[Message] = [{"role": "system", "content": conversation.system}]
        for number, turn in enumerate(conversation.turns):
            await asyncio.sleep(turn.at_s - self._now_s())
            messages.append({"role": "user", "content": turn.text})
            try:
                answer = await self._ask(conversation, number, turn, messages)
            except (AnswerError, aiohttp.ClientError, TimeoutError, OSError) as error:
                self._measured.failed += 1
                if len(self._measured.failures) < MAX_FAILURES_KEPT:
                    self._measured.failures.append(f"{type(error).__name__}: {error}")
                break
            messages.append({"role": "assistant", "content": answer})
        return messages

    async def _ask(self, conversation: Conversation, number: int, turn: Turn, messages: list[Message]) -> str:
        body = json.dumps(
            {
                "model": self._model,
                "messages": messages,
                "max_tokens": turn.answer_tokens,
                "temperature": 0,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
        ).encode()
        sent_s = self._now_s()
        first_byte_s = 0.0
        received = bytearray()
        headers = {"Content-Type": "application/json"}
        async with self._session.post(self._url, data=body, headers=headers) as response:
            async for piece in response.content.iter_any():
                if not received:
                    first_byte_s = self._now_s()
                received += piece
        end_s = self.note_end()
        if response.status != 200:
            raise AnswerError(f"status {response.status}: {received[:300].decode(errors='replace')}")
        answer, usage = read_stream(bytes(received))
        details = usage.get("prompt_tokens_details") or {}
        self._measured.samples.append(
            Sample(
                conversation.number,
                conversation.application,
                number,
                response.headers.get("X-Warmroute-Replica", "unknown"),
                response.headers.get("X-Warmroute-Decision", "unknown"),
                sent_s,
                first_byte_s,
                end_s,
                max(0.0, sent_s - turn.at_s),
                usage["prompt_tokens"],
                details.get("cached_tokens") or 0,
                usage.get("completion_tokens") or 0,
            )
        )
        return answer

    def note_end(self) -> float:
        self.note_time()
        return self._measured.elapsed_s


def read_stream(body: bytes) -> tuple[str, dict[str, Any]]:
    """Return the text and the usage of a streamed chat answer.

    Raises:
        AnswerError: The answer holds an error, or ends too early.
    """
    texts: list[str] = []
    usage: dict[str, Any] | None = None
    for event in _events(body):
        if "error" in event:
            raise AnswerError(f"error in the stream: {event['error']}")
        usage = event.get("usage") or usage
        texts += [choice["delta"].get("content") or "" for choice in event.get("choices", ())]
    if usage is None or not body.rstrip().endswith(b"data: [DONE]"):
        raise AnswerError("the stream ended too early")
    return "".join(texts), usage


def _events(body: bytes) -> Iterator[dict[str, Any]]:
    for line in body.split(b"\n"):
        if line.startswith(b"data: {"):
            try:
                event: dict[str, Any] = json.loads(line[6:])
            except ValueError:
                raise AnswerError("the stream ended too early: in the middle of an event") from None
            yield event
