"""An upstream connection goes to a replica: it carries one request at a time and parses its answer.

This module decides whether the connection can be used again. It does not decide what an answer or a failure means
(`exchange`), and does not connect (`pool`).

The rule it keeps: an exchange hears of exactly one end: `on_end`, or `on_lost`. Bytes that arrive when no answer is
owed close the connection, so that no answer can ever reach the wrong request.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final, cast

import httptools

from warmroute.core.health.silence import Patience
from warmroute.dataplane.answer import AnswerCache, AnswerHead, from_fields
from warmroute.dataplane.request import Fields
from warmroute.telemetry.logs import fields as log_fields

log = logging.getLogger(__name__)

monotonic: Final = time.monotonic
"""The module's own: a name of another module is looked up at every use."""


MOST_BARREN_BYTES: Final = 256 * 1024
"""What may come in a row without a byte of a body, of heads, trailers and interim answers: four times what a client may
send. Engines' heads have less than 1 KiB; the parser would keep a field of any length."""


class Asker:
    """Who asks a replica over a connection, and hears what becomes of it: an exchange."""

    __slots__ = ()

    def connected(self, connection: ReplicaConnection) -> None:
        """A fresh connection is there."""
        raise NotImplementedError

    def connect_failed(self, why: str, *, refused: bool) -> None:
        """No connection could be made."""
        raise NotImplementedError

    def on_whole(self, head: AnswerHead, body: bytes) -> None:
        """The complete answer at once."""
        raise NotImplementedError

    def on_head(self, head: AnswerHead) -> None:
        """The answer's head."""
        raise NotImplementedError

    def on_body(self, piece: bytes) -> None:
        """A piece of its body."""
        raise NotImplementedError

    def on_end(self) -> None:
        """It is complete."""
        raise NotImplementedError

    def on_lost(self, why: str) -> None:
        """The connection is gone before it was complete."""
        raise NotImplementedError

    def crashed(self, error: Exception) -> None:
        """One of these raised what nobody expected."""
        raise NotImplementedError


class Home:
    """What a connection needs of the pool that it belongs to."""

    __slots__ = ("address", "answers", "heard_s", "host_header", "patience")

    def __init__(self, host_header: bytes, rank: int | None = None) -> None:
        self.host_header = host_header
        """What the replica is called in the Host field."""
        self.address = (
            host_header if rank is None else b"%b\r\nx-data-parallel-rank: %d" % (host_header, rank)
        )
        """The same, and the field that names the rank of its server, where it is one of several."""
        self.answers = AnswerCache()
        self.heard_s = 0.0
        """When (monotonic) its engine was last heard of: a piece of a begun stream came, or an answer was complete that
        it had to compute; half a second late at most."""
        self.patience = Patience()
        """How long its silences have been."""

    def release(self, connection: ReplicaConnection) -> None:
        """Keep a connection whose answer is complete, or which nobody needed."""
        raise NotImplementedError

    def lost(self, connection: ReplicaConnection) -> None:
        """A connection has closed."""
        raise NotImplementedError


class ReplicaConnection:
    """Protocol of one connection to one replica. Does not inherit asyncio's, so that it can be compiled."""

    __slots__ = (
        "_barren_bytes",
        "_bodiless",
        "_complete",
        "_fields",
        "_framed",
        "_head_only",
        "_keep_alive",
        "_parser",
        "_pieces",
        "_pool",
        "_unbounded",
        "answered",
        "closed",
        "exchange",
        "idle_since_s",
        "paused",
        "progress",
        "transport",
        "used",
    )

    transport: asyncio.Transport

    def __init__(self, pool: Home) -> None:
        self._pool = pool
        self._parser = httptools.HttpResponseParser(self)
        self._fields: Fields = []
        self._pieces: list[bytes] = []
        self._complete = False
        self._keep_alive = False
        self._framed = False
        self._unbounded = False
        """Whether the head of an answer has been read that ends with the connection."""
        self._head_only = False
        """Whether the answer has no body whatever its head says: the request was HEAD."""
        self._bodiless = False
        self._barren_bytes = 0
        """What has come since the last byte of a body."""
        self.closed = False
        self.exchange: Asker | None = None
        self.answered = False
        """Whether any byte of the present answer has arrived."""
        self.used = False
        """Whether it has carried a request before: only then may its loss mean that it was stale."""
        self.idle_since_s = 0.0
        self.progress = False
        """Set by every read, cleared by the sweeper: measures silence without a clock call a read."""
        self.paused = False

    def send(self, exchange: Asker, head: bytes, body: bytes | bytearray | memoryview) -> None:
        """Send one request; its answer goes to `exchange`."""
        self._head_only = head[:5] == b"HEAD "
        self.exchange = exchange
        self.answered = False
        self.progress = True
        self._complete = self._keep_alive = False
        if body:
            self.transport.writelines((head, body))
        else:
            self.transport.write(head)

    def release(self) -> None:
        """Back to the pool without having carried a request."""
        self._pool.release(self)

    def abandon(self) -> None:
        """Nobody wants the answer any more: closing the connection is what tells vLLM to stop computing."""
        self.exchange = None
        self.closed = True
        self.transport.abort()

    def pause(self) -> None:
        """Stop reading until the client has taken what is written."""
        if not self.paused and not self.closed:
            self.paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self.paused and not self.closed:
            self.paused = False
            self.progress = True
            self.transport.resume_reading()

    # -- transport callbacks ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Bytes of the answer: parsed as a whole first, then handed on, so that a read costs the client one write."""
        exchange = self.exchange
        if exchange is None:
            self._drop()
            return
        self.progress = True
        try:
            self._received(exchange, data)
        except Exception as error:  # noqa: BLE001 - ends this exchange, which logs it, and no other
            if self.exchange is exchange:
                self._drop()
            exchange.crashed(error)

    def _received(self, exchange: Asker, data: bytes) -> None:
        if not self.answered:
            self.answered = True
            whole = self._pool.answers.read(data) if not self._head_only else None
            if whole is not None:
                head, body = whole
                self._keep_alive = True
                self._free()
                exchange.on_whole(head, body)
                return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if isinstance(error, httptools.HttpParserCallbackError):
                log.error(
                    "answer_crashed",
                    exc_info=error,
                    extra=log_fields(replica=self._pool.host_header.decode()),
                )
            self._keep_alive = False
            if not self._complete:
                self._drop()
                exchange.on_lost(f"the replica broke HTTP: {error}")
                return
        pieces = self._pieces
        if not pieces:
            self._barren_bytes += len(data)
            if self._barren_bytes > MOST_BARREN_BYTES and not self._complete:
                self._drop()
                exchange.on_lost("the replica broke HTTP: its head or trailers have no end")
                return
        else:
            if self._barren_bytes:
                self._barren_bytes = 0
            self._pieces = []
            exchange.on_body(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        # Who had the request may have handed it to another on the way.
        owner = self.exchange
        if self._complete and owner is not None:
            self._end(owner)

    def connection_lost(self, exc: Exception | None) -> None:
        """Closed by the replica, by the network or by us."""
        self.closed = True
        self._pool.lost(self)
        exchange, self.exchange = self.exchange, None
        if exchange is None:
            return
        try:
            if exc is None and self._unbounded:
                exchange.on_end()  # an answer without length or chunks ends with the connection
            else:
                exchange.on_lost(str(exc) if exc is not None else "the replica closed the connection")
        except Exception as error:  # noqa: BLE001 - as above
            exchange.crashed(error)

    def eof_received(self) -> bool | None:
        """The replica ended its side: closed."""
        return None

    def pause_writing(self) -> None:
        """Request bodies are bounded: nothing to hold back."""

    def resume_writing(self) -> None:
        """See `pause_writing`."""

    # -- parser callbacks ---------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """First byte of an answer."""
        if self._complete:
            self._keep_alive = (
                False  # a second answer to one request: the replica cannot be trusted with another
            )
        self._fields = []
        self._framed = self._unbounded = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """One field (trailer fields of a chunked answer arrive after the head and are dropped)."""
        self._fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head of the answer."""
        status = self._parser.get_status_code()
        fields = self._fields
        self._bodiless = status < 200
        if self._bodiless or self._complete:
            return
        for name, _ in fields:
            if name in (b"content-length", b"transfer-encoding"):
                self._framed = True
                break
        self._unbounded = not self._framed
        exchange = self.exchange
        if exchange is not None:
            exchange.on_head(from_fields(status, fields))
        if self._head_only:
            self._complete = True  # llhttp would wait for the body: this connection is not used again

    def on_body(self, piece: bytes) -> None:
        """A piece of the body, without its chunk framing."""
        if not self._complete:
            self._pieces.append(piece)

    def on_message_complete(self) -> None:
        """The answer is complete (1xx answers are none)."""
        if self._bodiless:
            self._bodiless = False
            return
        if self._complete:
            return
        self._complete = True
        self._barren_bytes = 0
        self._keep_alive = self._framed and self._parser.should_keep_alive()

    # ------------------------------------------------------------------------------------------------------------

    def _end(self, exchange: Asker) -> None:
        self._free()
        exchange.on_end()

    def _free(self) -> None:
        """The answer is complete: back to the pool, or closed."""
        self.exchange = None
        if self._keep_alive and not self.closed and not self.transport.get_write_buffer_size():
            self.used = True
            if self.paused:
                self.resume()
            self.idle_since_s = monotonic()
            self._pool.release(self)
        else:
            self._drop()

    def _drop(self) -> None:
        self.exchange = None
        if not self.closed:
            self.closed = True
            self.transport.abort()
