"""The way back: one replica's answer to one client, byte for byte.

Decides the answer's head and framing on the client's side. Body bytes are passed on as they come and never changed;
chunk framing is the router's own, so that a stream that breaks can still be ended properly, HTTP/1.0 clients can be
served, and trailers drop. Of an event stream only complete events are passed on: an error event can then follow at
any time without running into half a line.

Keeps the last piece that holds a usage record, which `exchange` reads when the answer is over.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from router.dataplane.request import HOP_BY_HOP, Headers, Request
from router.dialects.sse import EventGate

if TYPE_CHECKING:
    from router.dataplane.downstream import ClientConnection

REPLACED = HOP_BY_HOP | frozenset((b"x-request-id",))
"""Answer fields that the router writes anew or that mean the replica's connection only."""

USAGE_MARK = b'"usage":'
TAIL_BYTES = 4096
"""How much of a long plain answer's end is kept to find its usage in."""

STATUS_LINES = {
    status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode()) for status in HTTPStatus
}


class Relay:
    """Writes one answer. Created when its first byte is about to be passed on."""

    __slots__ = ("_chunked", "_client", "_gate", "_tail", "body_bytes", "keep_alive", "streaming")

    def __init__(
        self,
        client: ClientConnection,
        request: Request,
        status: int,
        fields: Headers,
        added: bytes,
        first: bytes,
    ) -> None:
        """Write the head and what is there of the body, in one write.

        Args:
            added: Rendered header lines of the router's own.
            first: The first piece of the body, possibly empty.
        """
        self._client = client
        self._tail = b""
        self.body_bytes = 0
        self.streaming = False
        lines = [STATUS_LINES.get(status) or b"HTTP/1.1 %d Unknown\r\n" % status]
        has_length = False
        for field in fields:
            name = field[0]
            if name in REPLACED:
                continue
            if name == b"content-length":
                has_length = True
            elif name == b"content-type" and field[1].startswith(b"text/event-stream"):
                self.streaming = True
            lines.append(b"%b: %b\r\n" % field)
        lines.append(added)
        bodiless = status in (204, 304)
        self.keep_alive = request.keep_alive and (request.minor_version == 1 or has_length or bodiless)
        self._chunked = not has_length and not bodiless and request.minor_version == 1
        if self._chunked:
            lines.append(b"transfer-encoding: chunked\r\n")
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        elif request.minor_version == 0:
            lines.append(b"connection: keep-alive\r\n")
        lines.append(b"\r\n")
        self._gate = EventGate() if self.streaming else None
        if first:
            self._note(first)
            lines.append(self._framed(first))
        client.transport.write(b"".join(lines))

    def body(self, piece: bytes) -> None:
        """Pass a piece on."""
        self._note(piece)
        framed = self._framed(piece)
        if framed:
            self._client.transport.write(framed)

    def end(self) -> None:
        """The answer is complete."""
        rest = b""
        if self._gate is not None:
            rest = self._gate.flush()
        if self._chunked:
            self._client.transport.write(
                b"%x\r\n%b\r\n0\r\n\r\n" % (len(rest), rest) if rest else b"0\r\n\r\n"
            )
        elif rest:
            self._client.transport.write(rest)

    def end_broken(self, last_event: bytes) -> bool:
        """End a stream whose replica failed with an error event. False if the answer cannot be ended properly."""
        if self._gate is None:
            return False
        if self._chunked:
            last_event = b"%x\r\n%b\r\n0\r\n\r\n" % (len(last_event), last_event)
        self._client.transport.write(last_event)
        return True

    def usage_bytes(self) -> bytes:
        """What was seen of the answer's usage record; empty if nothing."""
        return self._tail

    def _note(self, piece: bytes) -> None:
        self.body_bytes += len(piece)
        if self.streaming:
            if USAGE_MARK in piece:
                self._tail = piece
        elif self._tail:
            self._tail = (self._tail + piece)[-TAIL_BYTES:]
        else:
            self._tail = piece if len(piece) <= TAIL_BYTES else piece[-TAIL_BYTES:]

    def _framed(self, piece: bytes) -> bytes:
        if self._gate is not None:
            piece = self._gate.feed(piece)
        if not self._chunked or not piece:
            return piece
        return b"%x\r\n%b\r\n" % (len(piece), piece)
