"""The client side is what whoever answers needs of a client's connection; `downstream` implements it.

This module decides nothing. It has a class of its own, so that what writes answers lies below what reads requests.
"""

from __future__ import annotations

import asyncio

from warmroute.dataplane.cors import Cors


class ClientSide:
    """One client's connection as `relay`, `local` and an exchange see it."""

    __slots__ = ("closing", "peer", "transport")

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.closing = False
        self.peer = b""
        """The address that made the connection."""

    @property
    def cors(self) -> Cors | None:
        """What browsers' pages are told."""
        raise NotImplementedError

    @property
    def draining(self) -> bool:
        """Whether the router is about to end: answers then say that the connection closes."""
        raise NotImplementedError

    def serves(self, exchange: object) -> bool:
        """Whether this exchange is the one under way."""
        raise NotImplementedError

    def exchange_done(self, *, keep_alive: bool) -> None:
        """The answer has been written in full (or nothing more can be written): go on with the next request."""
        raise NotImplementedError

    def abort(self) -> None:
        """Close at once: the answer cannot be completed, and the client must see that."""
        raise NotImplementedError

    # -- for what stands in for it on its transport (`large_body`, `tunnel`) ----------------------------------------

    def claim_body(self, size_bytes: int) -> bool:
        """So much more of a long body has come. False: what comes is of no use."""
        raise NotImplementedError

    def large_body_completed(self, body: bytearray) -> None:
        """All of a long body is there, and the connection is its own again."""
        raise NotImplementedError

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        raise NotImplementedError

    def pause_writing(self) -> None:
        """The client reads slowly."""
        raise NotImplementedError

    def resume_writing(self) -> None:
        """The client has caught up."""
        raise NotImplementedError
