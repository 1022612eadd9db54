"""Answers on their way back in another form: Google's, or as they are with a line more in their head.

Decides how a translated answer is framed for the client. `dialects.gemini_answers` decides what it says. A stream is
passed on event by event as it comes; anything else is written once it is whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from warmroute.core.errors import ReplicaError
from warmroute.dataplane.answer import STATUS_LINES
from warmroute.dataplane.client_side import ClientSide
from warmroute.dataplane.request import RequestHead
from warmroute.dataplane.stand_in import StandIn
from warmroute.dialects import gemini_answers

if TYPE_CHECKING:
    from warmroute.dataplane.cors import Cors

PLAIN: Final = 0
"""The body as it is: the router's own answers."""
ANSWER: Final = 1
COUNT: Final = 2


class _Outward(StandIn):
    """A stand-in with a client behind it."""

    __slots__ = ("_outer", "added")

    def __init__(self, outer: ClientSide) -> None:
        super().__init__(outer.peer)
        self._outer = outer
        self.added = b""
        """Header lines that the answer gets besides."""

    @property
    def cors(self) -> Cors | None:
        """As the client's connection has it."""
        return self._outer.cors

    @property
    def draining(self) -> bool:
        """As the client's connection has it."""
        return self._outer.draining

    def serves(self, exchange: object) -> bool:
        """As the client's connection knows."""
        return self._outer.serves(exchange)

    def abort(self) -> None:
        """The answer cannot be completed."""
        self._outer.abort()


class GoogleClient(_Outward):
    """Writes one answer in Google's form."""

    __slots__ = ("_alt", "_asked", "_body", "_keep_alive", "_stream", "_written", "form", "thoughts")

    def __init__(self, outer: ClientSide, asked: RequestHead) -> None:
        super().__init__(outer)
        self._asked = asked
        self._alt = ""
        self._body: list[bytes] = []
        self._keep_alive = False
        self._stream: gemini_answers.Stream | None = None
        self._written = False
        self.form = PLAIN
        """What the body is: one of the constants above. Errors are always translated."""
        self.thoughts = False

    def write_as(self, form: int, alt: str, thoughts: bool) -> None:
        """How what comes is to be read, and written."""
        self.form = form
        self._alt = alt
        self.thoughts = thoughts

    def on_answer(self) -> None:
        """Begin a stream at once: what keeps the client waiting is not the router."""
        if self.status != 200 or not self.event_stream or self.form != ANSWER:
            return
        sse = self._alt == "sse"
        self._stream = gemini_answers.Stream(sse=sse, thoughts=self.thoughts)
        kind = b"text/event-stream" if sse else b"application/json; charset=UTF-8"
        chunked = self._asked.minor_version == 1
        framing = b"transfer-encoding: chunked\r\n" if chunked else b""
        self._write_head(kind, framing, chunked)

    def on_piece(self, data: bytes) -> None:
        """Pass on what is complete of it."""
        stream = self._stream
        if stream is None:
            self._body.append(data)
        else:
            self._write_chunk(stream.feed(data))

    def exchange_done(self, *, keep_alive: bool) -> None:
        """The answer is over, as far as it will ever be."""
        outer = self._outer
        if not outer.closing:
            stream = self._stream
            if stream is not None:
                self._write_chunk(stream.end())
                if self._asked.minor_version == 1:
                    outer.transport.write(b"0\r\n\r\n")
            elif self.status:
                self._write_whole()
        outer.exchange_done(keep_alive=self._keep_alive)

    def abort(self) -> None:
        """Where nothing was passed on yet, an error says what would otherwise only be seen."""
        if self._written or self._outer.closing:
            self._outer.abort()
            return
        error = ReplicaError("the replica failed in the middle of its answer", code="replica_lost")
        self.status = error.status
        self._body = [gemini_answers.error_body(error.status, error.message, error.code)]
        self.form = PLAIN

    def _write_whole(self) -> None:
        body = b"".join(self._body)
        if self.status >= 400:
            if self.form != PLAIN or not body.startswith(b'{"error":{"code":'):
                body = gemini_answers.translated_error(self.status, body)
        elif self.form != PLAIN:
            count = self.form == COUNT
            read = (
                gemini_answers.counted(body) if count else gemini_answers.whole(body, thoughts=self.thoughts)
            )
            if read is None:
                self.status = 502
                read = gemini_answers.error_body(
                    502, "the replica answered what cannot be read", "replica_failed"
                )
            body = read
        self._write_head(b"application/json; charset=UTF-8", b"content-length: %d\r\n" % len(body), True)
        if self._asked.method != b"HEAD":
            self._outer.transport.write(body)

    def _write_head(self, kind: bytes, framing: bytes, ends: bool) -> None:
        asked = self._asked
        self._written = True
        self._keep_alive = keep_alive = ends and asked.keep_alive and not self._outer.draining
        if not keep_alive:
            framing += b"connection: close\r\n"
        elif not asked.minor_version:
            framing += b"connection: keep-alive\r\n"
        status = STATUS_LINES.get(self.status) or b"HTTP/1.1 %d Unknown\r\n" % self.status
        self._outer.transport.write(
            b"%b%bcontent-type: %b\r\n%b%b\r\n" % (status, self.lines, kind, self.added, framing)
        )

    def _write_chunk(self, data: bytes) -> None:
        if data:
            chunked = self._asked.minor_version == 1
            self._outer.transport.write(b"%x\r\n%b\r\n" % (len(data), data) if chunked else data)


class AddingClient(_Outward):
    """Passes one answer on as it is, with lines of ours in its head; framed as the exchange frames it."""

    __slots__ = ("_begun",)

    def __init__(self, outer: ClientSide, added: bytes = b"") -> None:
        super().__init__(outer)
        self.added = added
        self._begun = False

    def written(self, data: bytes) -> None:
        """A piece of the answer: an exchange writes a head in one."""
        if not self._begun:
            self._begun = True
            at = data.find(b"\r\n\r\n") + 2
            data = data[:at] + self.added + data[at:] if at >= 2 else data
        self._outer.transport.write(data)

    def exchange_done(self, *, keep_alive: bool) -> None:
        """The answer is over."""
        self._outer.exchange_done(keep_alive=keep_alive)
