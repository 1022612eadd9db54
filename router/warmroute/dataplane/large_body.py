"""The rest of a long request body is read straight from the socket into its final place.

llhttp would copy every piece once, and the join once more; past a first read, a body of known length needs no parsing.
The transport's protocol is swapped for the time being, so exactly the body's bytes are taken: whatever a client
pipelines behind them stays in the socket for the next request's parser.
"""

from __future__ import annotations

import asyncio

from warmroute.dataplane.client_side import ClientSide

LARGE_BYTES = 32 * 1024
"""Remainders below this take the parser's way: swapping protocols costs more than copying them."""

FIRST_BYTES = 64 * 1024
"""Room that is made for a body whose beginning is shorter than half of this."""


def first_bytes(begun_bytes: int, length_bytes: int) -> int:
    """How much room is made at first for a body of this length of which so much is there."""
    return min(max(FIRST_BYTES, 2 * begun_bytes), length_bytes)


class LargeBody(asyncio.BufferedProtocol):
    """Stands in for a client connection until the body is complete.

    There is room for twice what has come, at most: a bytearray takes its memory when it is made, and who announces
    much and sends little must not take what others need.
    """

    __slots__ = ("_buffer", "_connection", "_length_bytes", "_refused", "filled")

    def __init__(
        self, connection: ClientSide, begun: list[bytes], length_bytes: int, room_bytes: int
    ) -> None:
        """`room_bytes`: counted already as what the body takes (`first_bytes`)."""
        self._connection = connection
        self._length_bytes = length_bytes
        self._refused = False
        self._buffer = bytearray(room_bytes)
        filled = 0
        for piece in begun:
            self._buffer[filled : filled + len(piece)] = piece
            filled += len(piece)
        self.filled = filled
        """How much of it is there."""

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go."""
        room = len(self._buffer)
        if self.filled == room and not self._refused:
            # Here and not when it becomes full: then the transport still holds the buffer.
            more = min(room, self._length_bytes - room)
            if self._connection.claim_body(more):
                self._buffer.extend(bytes(more))
            else:
                self._refused = True
        view = memoryview(self._buffer)
        # What comes behind a refusal is written to the same place until the client has read why.
        return view if self._refused else view[self.filled :]

    def buffer_updated(self, nbytes: int) -> None:
        """Some of the body arrived."""
        if self._refused:
            return
        self.filled += nbytes
        if self.filled == self._length_bytes:
            self._connection.large_body_completed(self._buffer)

    def eof_received(self) -> bool | None:
        """The client ended in the middle of its body."""
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._connection.connection_lost(exc)

    def pause_writing(self) -> None:
        """Belongs to the connection."""
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        """Belongs to the connection."""
        self._connection.resume_writing()
