"""The player plays one request: it sends it, reads its answer, and returns the sample.

This module decides what a failure is: a status other than 200, a broken connection, an error in the stream, or a stream
that ends before its API's own end. The player never waits for a request's time; its caller does. Ill-mannered clients
are played here, too; `hostile` judges the answers to them.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

from warmroute_loadtest.locust import hostile
from warmroute_loadtest.locust.answers import Answer, refusal
from warmroute_loadtest.locust.bodies import PATHS, Dialogue
from warmroute_loadtest.locust.samples import Sample
from warmroute_loadtest.locust.sse import Events
from warmroute_loadtest.locust.talks import Api, Manners, Talk
from warmroute_loadtest.locust.wire import Leave, Reply, Wire, WireError

CUT_OFF = "not answered when the run ended"


@dataclass(slots=True)
class _Reading:
    """An answer while it is read."""

    answer: Answer
    events: Events
    manners: Manners
    body: bytearray
    is_stream: bool | None = None
    seen: int = 0

    def read(self, reply: Reply, piece: bytes, now_s: float) -> None:
        if self.is_stream is None:
            kind = reply.headers.get("content-type", "")
            self.is_stream = reply.status == 200 and kind.startswith("text/event-stream")
        if not self.is_stream:
            self.body += piece
            return
        for data in self.events.feed(piece):
            self.answer.event(data, now_s)
            self.seen += 1
        if self.manners is Manners.LEAVES_MIDWAY and self.seen >= hostile.LEFT_AFTER_EVENTS:
            raise Leave


class Player:
    """Plays requests against one URL."""

    def __init__(
        self,
        wire: Wire,
        headers: dict[str, str],
        start_s: float,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Prepare to play; no connection is made yet.

        Args:
            wire: The server.
            headers: Headers that are sent with every request.
            start_s: `perf_counter` at the start of the run.
            sleep: Called to wait where an ill-mannered client waits.
        """
        self._wire = wire
        self._headers = {"Content-Type": "application/json", "User-Agent": "warmroute-loadtest", **headers}
        self._messages_headers = {**self._headers, "anthropic-version": "2023-06-01"}
        self._start_s = start_s
        self._sleep = sleep
        self.in_flight = 0

    def play(
        self, talk: Talk, dialogue: Dialogue, number: int, turn: int, *, due_s: float, waited_s: float = 0.0
    ) -> tuple[Sample, str]:
        """Send request `turn` of talk `number` now. Return its sample, and the answer's text if that is kept.

        Args:
            talk: The talk that the request belongs to.
            dialogue: Makes the talk's bodies.
            number: The talk's number.
            turn: The request's number in the talk.
            due_s: `perf_counter` at which the request was to be sent.
            waited_s: Seconds by which `due_s` is later than planned, because the answer before was not complete.
        """
        body = dialogue.ask(turn)
        keeps_text = talk.grows and turn + 1 < len(talk.asks)
        answer = Answer(talk.api, keeps_text)
        reading = _Reading(answer, Events(), talk.manners, bytearray())
        sent_s = perf_counter()
        reply = Reply()
        error: str | None = CUT_OFF
        self.in_flight += 1
        try:
            reply, error = self._exchange(talk, body, reading)
        finally:
            # This runs also when the greenlet is killed: a request under way then counts as failed.
            self.in_flight -= 1
            end_s = perf_counter()
            sample = Sample(
                name=talk.name,
                api=talk.api.value,
                talk=number,
                turn=turn,
                at_s=sent_s - self._start_s,
                late_s=max(0.0, sent_s - due_s),
                waited_s=waited_s,
                ttft_s=None if answer.first_s is None else answer.first_s - sent_s,
                itl_s=answer.itl_s(),
                gap_s=answer.longest_gap_s if answer.events > 1 else None,
                e2e_s=end_s - sent_s,
                asked_tokens=talk.asked_tokens(turn),
                prompt_tokens=answer.prompt_tokens,
                cached_tokens=answer.cached_tokens,
                completion_tokens=answer.completion_tokens,
                bytes_out=len(body),
                replica=reply.headers.get("x-warmroute-replica", ""),
                decision=reply.headers.get("x-warmroute-decision", ""),
                error=error or "",
            )
            if error is CUT_OFF:
                self.on_cut_off(sample)
        return sample, answer.text

    def on_cut_off(self, sample: Sample) -> None:
        """Hook that is called with the sample of a request that was under way when its greenlet was killed."""

    def _exchange(self, talk: Talk, body: bytes, reading: _Reading) -> tuple[Reply, str | None]:
        """Return the answer's head, and what was wrong with the answer (None where nothing was)."""
        headers = self._messages_headers if talk.api is Api.MESSAGES else self._headers
        request = self._wire.head("POST", PATHS[talk.api], headers, len(body)) + body
        if talk.manners is not Manners.GOOD and talk.manners is not Manners.LEAVES_MIDWAY:
            return self._misbehave(talk, request, body, reading)
        try:
            reply = self._wire.exchange(request, reading.read)
        except Leave:
            return Reply(), None
        except WireError as error:
            return Reply(), str(error)
        if reply.status != 200:
            wrong = refusal(reply.status or 0, bytes(reading.body))
            return reply, None if talk.manners is not Manners.GOOD else wrong
        if reading.is_stream:
            reading.answer.finished()
        else:
            reading.answer.body(bytes(reading.body))
        return reply, reading.answer.error

    def _misbehave(
        self, talk: Talk, request: bytes, body: bytes, reading: _Reading
    ) -> tuple[Reply, str | None]:
        """Act as an ill-mannered client does; this may sleep for some seconds."""
        manners = talk.manners
        if manners in (Manners.UNKNOWN_MODEL, Manners.WRONG_TYPES, Manners.BROKEN_JSON):
            if manners is Manners.BROKEN_JSON:
                request = request[:-3] + b"\x00[,"
            try:
                reply = self._wire.exchange(request, reading.read)
            except WireError:
                return Reply(), hostile.judged(manners, None)
            return reply, hostile.judged(manners, reply.status)
        status: int | None = None
        try:
            with self._wire.connect() as sock:
                if manners is Manners.LEAVES_EARLY:
                    sock.sendall(request)
                    self._sleep(hostile.LEFT_AFTER_S)
                    return Reply(), None
                status = self._raw(sock, manners, request, body)
        except (OSError, WireError) as error:
            if manners is Manners.READS_SLOWLY:
                return Reply(), str(error)
        return Reply(status), hostile.judged(manners, status)

    def _raw(self, sock: socket.socket, manners: Manners, request: bytes, body: bytes) -> int | None:
        """Return the number in the status line; None where no status line came."""
        if manners is Manners.READS_SLOWLY:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.sendall(request.replace(b"HTTP/1.1\r\n", b"HTTP/1.1\r\nConnection: close\r\n", 1))
            return self._read_slowly(sock)
        if manners is Manners.NOT_HTTP:
            sock.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + body[:200] + b"\r\n\r\n")
        elif manners is Manners.HUGE_HEAD:
            filler = b"X-Filler: " + b"a" * hostile.HUGE_HEAD_BYTES + b"\r\n"
            sock.sendall(request.replace(b"\r\n", b"\r\n" + filler, 1))
        else:
            sock.sendall(request[: len(request) - len(body) // 2])
            self._sleep(hostile.HALF_BODY_WAIT_S)
            return None
        return _status(sock.recv(4096))

    def _read_slowly(self, sock: socket.socket) -> int | None:
        head = b""
        for _ in range(hostile.SLOW_READS):
            piece = sock.recv(hostile.SLOW_READ_BYTES)
            if not piece:
                return _status(head)
            head = head or piece
            self._sleep(hostile.SLOW_READ_PAUSE_S)
        while sock.recv(65_536):
            pass
        return _status(head)


def _status(head: bytes) -> int | None:
    words = head.split(b" ", 2)
    return int(words[1]) if len(words) > 1 and words[0].startswith(b"HTTP/") and words[1].isdigit() else None
