"""The relay is the way back: it passes one replica's answer to one client, byte for byte.

This module decides the answer's head and framing on the client's side. It passes body bytes on as they come and never
changes them. The chunk framing is the router's own, so that a stream that breaks can still be ended properly, HTTP/1.0
clients can be served, and trailers drop. Of an event stream only complete events are passed on: an error event can then
follow at any time without running into half a line.

The relay keeps the last piece that holds a usage record, which `exchange` reads when the answer is over.
"""

from __future__ import annotations

from typing import Final

from warmroute.core.types import Api
from warmroute.dataplane.answer import BODILESS, AnswerHead
from warmroute.dataplane.client_side import ClientSide
from warmroute.dataplane.request import RequestHead
from warmroute.dialects.alike import Alike
from warmroute.dialects.continuation import Transcript
from warmroute.dialects.sse import EventGate, first_data
from warmroute.dialects.terminal import ends_answer
from warmroute.dialects.usage_request import FINISH, USAGE, StreamWatch
from warmroute.dialects.usage_told import UsageTold

SIZES: Final = [b"%x" % size for size in range(4096)]
"""Sizes of chunks, as written."""

LAST_BYTES: Final = 64
"""How much is kept of the pieces of an event too long to be held: enough for another, short one behind it."""

EVENT_BYTES: Final = 200
"""About how long an event with one token is, in any API, where no other was seen."""

TAIL_BYTES: Final = 4096
"""How much of a long plain answer's end is kept to find its usage in."""


def write_whole(client: ClientSide, asked: RequestHead, head: AnswerHead, added: bytes, body: bytes) -> bool:
    """Write an answer that is there in full. Returns whether the client's connection stays open."""
    keep_alive = asked.keep_alive and not client.draining
    if not keep_alive:
        added += b"connection: close\r\n"
    elif not asked.minor_version:
        added += b"connection: keep-alive\r\n"
    client.transport.write(b"%bcontent-length: %d\r\n\r\n%b" % (head.rendered(added), len(body), body))
    return keep_alive


class Relay:
    """Writes one answer. Created when its first byte is about to be passed on, or its head alone, or comments."""

    __slots__ = (
        "_alike",
        "_api",
        "_chunked",
        "_client",
        "_gate",
        "_has_end",
        "_last",
        "_open",
        "_swept_bytes",
        "_tail",
        "_told",
        "_watch",
        "body_bytes",
        "broken",
        "comment_bytes",
        "keep_alive",
        "streaming",
        "transcript",
    )

    def __init__(
        self,
        client: ClientSide,
        asked: RequestHead,
        head: AnswerHead,
        added: bytes,
        first: bytes,
        watch: StreamWatch | None = None,
        api: Api = Api.OTHER,
        transcript: Transcript | None = None,
        told: UsageTold | None = None,
    ) -> None:
        """Write the head and what is there of the body, in one write.

        Args:
            added: Rendered header lines of the router's own.
            first: The first piece of the body, possibly empty.
            watch: What hides that the router asked for usage, or learns the engine's support; event streams only.
            api: Tells how the answer's own end is named.
            transcript: What keeps what was passed on (`failover.recorded`); None: nothing does.
            told: How usage is told to the client; event streams only. None: as the engine does.
        """
        self._client = client
        self._api = api
        self._tail = b""
        self._last = b""
        """What was passed on last, of an event stream: at least the beginning and the end of its last event."""
        self._open = False
        """What was passed on last ends within an event."""
        self.body_bytes = 0
        self.comment_bytes = 0
        """Those of them, in an event stream, that are comments between events."""
        self._swept_bytes = 0
        self.broken = b""
        """Events that say that the engine failed, not passed on; only where a transcript is kept."""
        self.streaming = head.event_stream
        self._watch = watch
        self._told = told
        # What is hidden or told otherwise changes the body's length.
        changes = told is not None or (watch is not None and watch.asked)
        length_bytes = None if changes else head.length_bytes
        has_end = length_bytes is not None or head.status in BODILESS or asked.method == b"HEAD"
        self._has_end = has_end
        self._chunked = not has_end and asked.minor_version == 1
        self.keep_alive = asked.keep_alive and (has_end or self._chunked) and not client.draining
        if length_bytes is not None:
            added += b"content-length: %d\r\n" % length_bytes
        elif self._chunked:
            added += b"transfer-encoding: chunked\r\n"
        if not self.keep_alive:
            added += b"connection: close\r\n"
        elif not asked.minor_version:
            added += b"connection: keep-alive\r\n"
        self._gate = EventGate() if self.streaming else None
        self._alike = Alike()
        self.transcript = transcript
        if first:
            self._note(first)
            first = self._framed(first)
        client.transport.write(b"%b\r\n%b" % (head.rendered(added), first))

    def body(self, piece: bytes) -> None:
        """Pass a piece on."""
        self._note(piece)
        framed = self._framed(piece)
        if framed:
            self._client.transport.write(framed)

    @property
    def finished(self) -> bool:
        """Whether the client has the event that ends the answer: what becomes of the connections then is no fault."""
        return self.streaming and not self._open and ends_answer(self._api, self._last)

    @property
    def endless(self) -> bool:
        """Whether it can still be ended properly, wherever it stands: its length was not announced."""
        return not self._has_end

    @property
    def resumable(self) -> bool:
        """Whether another replica's event stream may follow here: nothing but whole comments was passed on."""
        return self._gate is not None and not self._has_end and self._gate.at_boundary

    @property
    def advanced(self) -> bool:
        """Whether anything but comments, or a part of an event, came since this was asked last."""
        gate = self._gate
        told_bytes = self.body_bytes - self.comment_bytes
        if gate is not None:
            told_bytes -= gate.kept_back_bytes
        advanced = told_bytes != self._swept_bytes
        self._swept_bytes = told_bytes
        return advanced

    def restart(self, watch: StreamWatch | None) -> None:
        """Another replica goes on with an event stream of which only the head and comments were passed on, or, where
        a transcript is kept, whole events."""
        self._gate = EventGate()
        self._alike = Alike()
        self._watch = watch

    def seen_out(self) -> None:
        """The stream is over, and the client gone: what its end teaches."""
        if self._watch is not None:
            self._watch.end(b"")

    def end(self) -> None:
        """The answer is complete."""
        rest = b""
        if self._gate is not None:
            rest = self._gate.flush()
            if self._watch is not None:
                rest = self._watch.end(rest)
            if self._told is not None:
                rest = self._told.events(rest)
        if self._chunked:
            self._client.transport.write(
                b"%x\r\n%b\r\n0\r\n\r\n" % (len(rest), rest) if rest else b"0\r\n\r\n"
            )
        elif rest:
            self._client.transport.write(rest)

    def end_broken(self, last_event: bytes) -> bool:
        """End a stream whose replica failed with an error event. False if the answer cannot be ended properly."""
        if self._gate is None or self._has_end or not self._gate.at_boundary:
            return False
        if self._watch is not None:
            last_event = self._watch.broken() + last_event
        self.body_bytes += len(last_event)
        if self._chunked:
            last_event = b"%x\r\n%b\r\n0\r\n\r\n" % (len(last_event), last_event)
        self._client.transport.write(last_event)
        return True

    @property
    def passed_events(self) -> int:
        """About how many events were passed on, if all are as long as those that were seen; engines make about one of
        each token."""
        size = self._alike.event_bytes
        if not size:
            last = self._last
            size = max(EVENT_BYTES, len(last) // max(1, last.count(b"data:")))
        return (self.body_bytes - self.comment_bytes) // size

    def usage_bytes(self) -> bytes:
        """What was seen of the answer's usage record; empty if nothing."""
        watch = self._watch
        return watch.usage or self._tail if watch is not None else self._tail

    def _note(self, piece: bytes) -> None:
        self.body_bytes += len(piece)
        if self.streaming:
            return  # noted event by event, see `_framed`
        if self._tail:
            self._tail = (self._tail + piece)[-TAIL_BYTES:]
        else:
            self._tail = piece if len(piece) <= TAIL_BYTES else piece[-TAIL_BYTES:]

    def _framed(self, piece: bytes) -> bytes:
        gate = self._gate
        if gate is not None:
            watch = self._watch
            if not (piece in self._alike and gate.idle and (watch is None or not watch.alert)):
                piece = self._searched(gate, piece)
        size = len(piece)
        if not self._chunked or not size:
            return piece
        return b"%b\r\n%b\r\n" % (SIZES[size] if size < len(SIZES) else b"%x" % size, piece)

    def end_finished(self) -> None:
        """End a stream whose finish reason was passed on, and whose replica failed to say that this was all."""
        rest = self._watch.broken() if self._watch is not None else b""
        rest += b"data: [DONE]\n\n"
        self._client.transport.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(rest), rest) if self._chunked else rest)

    def _searched(self, gate: EventGate, piece: bytes) -> bytes:
        """What of an event stream may be passed on now, looked through for what tells usage or ends an answer."""
        return self._looked_through(gate, gate.feed(piece))

    def _looked_through(self, gate: EventGate, piece: bytes) -> bytes:
        """The same of what the gate let through."""
        watch = self._watch
        if piece:
            if piece[:1] == b":" and first_data(piece) < 0:
                self.comment_bytes += len(piece)
            self._last = self._last + piece[-LAST_BYTES:] if self._open else piece
            self._open = not gate.at_boundary
        if piece.find(USAGE) >= 0:
            if watch is None:
                self._tail = piece
        elif watch is None or not (watch.alert or piece.find(FINISH) >= 0 or not gate.at_boundary):
            if gate.idle:
                self._alike.learn(piece)
            return piece
        if watch is not None:
            piece = watch.feed(piece)
        return piece if self._told is None else self._told.events(piece)
