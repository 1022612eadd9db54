"""A recorded relay keeps what it passed on of a stream, so that another replica can go on with it.

This module decides which of an engine's events say that it failed. It does not pass these on but leaves them in
`broken`: `attempt` reads that and calls `resuming`, which tries another replica first. `let_through` gives them to the
client if nobody goes on.
"""

from __future__ import annotations

from typing import Final

from warmroute.dataplane.relay import SIZES, Relay
from warmroute.dialects.engine_errors import DEAD_MARK, DRAINING_MARK
from warmroute.dialects.sse import EventGate

ABORTED: Final = b'"finish_reason":"abort"'
"""vLLM that is terminated ends what it has like this, and with `[DONE]`. Source: vLLM 0.32.0."""
_MARKS: Final = (DEAD_MARK, DRAINING_MARK, ABORTED)


class RecordedRelay(Relay):
    """See `relay.Relay`. Always made with a transcript."""

    __slots__ = ()

    def let_through(self, events: bytes) -> None:
        """Nobody goes on: the client gets what the engine said, and all that follows as it comes."""
        self.transcript = None
        gate = self._gate
        if gate is not None:
            events = super()._looked_through(gate, events)
            self._client.transport.write(self._in_chunk(events))

    def _framed(self, piece: bytes) -> bytes:
        gate = self._gate
        if gate is not None:
            watch = self._watch
            if not (piece in self._alike and gate.idle and (watch is None or not watch.alert)):
                piece = self._searched(gate, piece)
            elif self.transcript is not None:
                self.transcript.feed(piece)
        return self._in_chunk(piece)

    def _in_chunk(self, piece: bytes) -> bytes:
        size = len(piece)
        if not self._chunked or not size:
            return piece
        return b"%b\r\n%b\r\n" % (SIZES[size] if size < len(SIZES) else b"%x" % size, piece)

    def _looked_through(self, gate: EventGate, piece: bytes) -> bytes:
        if self.transcript is not None and piece:
            if self.broken:
                self.broken += piece
                return b""
            at = _failure(piece)
            if at >= 0:
                piece, self.broken = piece[:at], piece[at:]
                if not piece:
                    return b""
            self.transcript.feed(piece)
        return super()._looked_through(gate, piece)


def _failure(events: bytes) -> int:
    """Where the first event begins that says that the engine failed; -1: none does.

    A model's own words are never taken for it: `data: {"error"` begins an event, and quotes inside a text are escaped.
    """
    first = -1
    for mark in _MARKS:
        at = events.find(mark)
        while at >= 0:
            begin = max(events.rfind(b"\n\n", 0, at), events.rfind(b"\r\n\r\n", 0, at) + 2)
            begin = begin + 2 if begin > 1 else 0
            if mark is ABORTED or events.startswith(b'data: {"error"', begin):
                if first < 0 or begin < first:
                    first = begin
                break
            at = events.find(mark, at + 1)
    return first
