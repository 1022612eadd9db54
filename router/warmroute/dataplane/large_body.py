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


class LargeBody(asyncio.BufferedProtocol):
    """Stands in for a client connection until the body is complete."""

    __slots__ = ("_buffer", "_claimed", "_connection", "_refused", "_view", "filled")

    def __init__(
        self, connection: ClientSide, begun: list[bytes], length_bytes: int, claimed_bytes: int
    ) -> None:
        self._connection = connection
        self._claimed = claimed_bytes
        self._refused = False
        # bytearray(n) is calloc: pages are only taken as bytes arrive, so a client that claims 64 MiB and sends
        # nothing costs nothing.
        self._buffer = bytearray(length_bytes)
        self._view = memoryview(self._buffer)
        filled = 0
        for piece in begun:
            self._view[filled : filled + len(piece)] = piece
            filled += len(piece)
        self.filled = filled
        """How much of it is there."""

    def get_buffer(self, sizehint: int) -> memoryview:
        """The part still empty."""
        return self._view if self._refused else self._view[self.filled :]

    def buffer_updated(self, nbytes: int) -> None:
        """Some of the body arrived."""
        if self._refused:
            return  # the same place is written again until the client has read why
        self.filled += nbytes
        length = len(self._buffer)
        if self.filled > self._claimed:
            # Twice what has come: who announces much and sends little takes nobody's room.
            more = min(2 * self.filled, length) - self._claimed
            self._claimed += more
            if not self._connection.claim_body(more):
                self._refused = True
                return
        if self.filled == length:
            connection, buffer = self._connection, self._buffer
            self._view.release()
            connection.large_body_completed(buffer)

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
