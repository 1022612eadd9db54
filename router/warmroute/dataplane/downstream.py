"""A client connection takes bytes in and gives complete requests out, one at a time and in order.

This module decides when a request is complete, too large, too slow or malformed. It does not decide where the request
goes (`exchange`), and it writes nothing but `100 Continue` and refusals of what could not be read.

The rule it keeps: at most one exchange is under way. Requests that a client pipelines behind it wait, already read but
not yet started, and reading pauses when there are `PIPELINE_LIMIT` of them. After a request that could not be read the
connection closes, because nothing that follows it can be trusted to start where it seems to.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Final, cast

import httptools

from warmroute.core.errors import ClientError, OverloadError, RouterError
from warmroute.core.types import Api
from warmroute.dataplane import local
from warmroute.dataplane.client_side import ClientSide
from warmroute.dataplane.exchange import Exchange
from warmroute.dataplane.head_cache import KnownHead
from warmroute.dataplane.kinds import exchange_for
from warmroute.dataplane.large_body import FIRST_BYTES, LARGE_BYTES, LargeBody, first_bytes
from warmroute.dataplane.request import Fields, Request, RequestHead
from warmroute.dataplane.tunnel import Tunnel, wants_websocket
from warmroute.telemetry.logs import fields as log_fields

if TYPE_CHECKING:
    from warmroute.dataplane.cors import Cors
    from warmroute.dataplane.gateway import Gateway

log = logging.getLogger(__name__)

monotonic: Final = time.monotonic
"""The module's own: a name of another module is looked up at every use."""

PIPELINE_LIMIT: Final = 8
"""Requests read ahead on one connection; browsers and SDKs never pipeline, load generators do."""

WRITE_HIGH_BYTES: Final = 128 * 1024
"""Unsent answer bytes above which the replica's side pauses: what a slow client costs in memory, plus one read."""


class Waiting:
    """What a connection waits for: names the limit that applies and what to do when it passes."""

    IDLE: Final = 0
    HEAD: Final = 1
    BODY: Final = 2
    ANSWER: Final = 3
    TUNNEL: Final = 4


class ClientConnection(ClientSide):
    """Protocol of one accepted connection. Does not inherit asyncio's, so that it can be compiled."""

    __slots__ = (
        "_between",
        "_body",
        "_body_bytes",
        "_body_length",
        "_fields",
        "_first_read",
        "_gateway",
        "_going_on",
        "_head",
        "_head_bytes",
        "_heads_begun",
        "_in_head",
        "_known",
        "_large",
        "_paused_reading",
        "_parser",
        "_queue",
        "_refused",
        "_reserved_bytes",
        "_rewriting",
        "_url",
        "_write_paused",
        "exchange",
        "lingering",
        "since_s",
        "waiting",
    )

    def __init__(self, gateway: Gateway) -> None:
        super().__init__()
        self._gateway = gateway
        self.exchange: Exchange | None = None
        self._queue: deque[Request | RouterError] = deque()
        self._parser = httptools.HttpRequestParser(self)
        self._refused = False
        self._paused_reading = False
        self._rewriting = False
        self._going_on = False
        self._in_head = False
        self._between = True
        """Whether the parser has no message begun: only then may a read be taken past it."""
        self._reserved_bytes = 0
        self._head_bytes = 0
        self._heads_begun = 0
        self._head: RequestHead | None = None
        self._known: KnownHead | None = None
        """The head that was found in the cache last: the next request most likely has it too."""
        self._first_read = b""
        self._fields: Fields = []
        self._url = b""
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._body_length = 0
        self._large: LargeBody | None = None
        """What stands in for this one while a long body is read."""
        self._write_paused = False
        """Whether the client is behind with what is written: then no further request of its is started."""
        self.lingering = False
        """Refused while still sending: reads are dropped, and nothing more is answered."""
        self.waiting = Waiting.IDLE
        self.since_s = 0.0

    # -- transport callbacks ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected."""
        self.transport = cast(asyncio.Transport, transport)
        gateway = self._gateway
        peer = transport.get_extra_info("peername")
        if not self.peer:  # else a proxy's header named it
            self.peer = peer[0].encode() if isinstance(peer, tuple) else b"unix"
        self.since_s = monotonic()
        self.transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)
        gateway.connections.add(self)
        # Counted in any case, as it is dropped in any case.
        fits = not gateway.counts_addresses or gateway.add_address(self.peer)
        if len(gateway.connections) > gateway.limits.connections:
            self._refuse(OverloadError("too many connections: retry later", code="too_many_connections"))
        elif not fits:
            error = "too many connections from this address: retry later"
            self._refuse(OverloadError(error, code="too_many_connections"))

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone: whatever is under way for it is aborted."""
        self.closing = True
        gateway = self._gateway
        if self in gateway.connections:
            gateway.connections.discard(self)
            if gateway.counts_addresses:
                gateway.drop_address(self.peer)
        for waiting in self._queue:
            if isinstance(waiting, Request):
                self._gateway.drop_body(waiting)
        self._queue.clear()
        self._release_reserved()
        exchange = self.exchange
        if exchange is not None:
            exchange.client_gone()

    def data_received(self, data: bytes) -> None:
        """Bytes of one or more requests."""
        if self._refused or self.closing:
            return
        idle = self._between and self.exchange is None
        if idle:
            if not self._write_paused and self._begin_known(data):
                return
            if self.waiting != Waiting.HEAD:  # empty lines before a request are no progress
                self.waiting = Waiting.HEAD
                self.since_s = monotonic()
            self._first_read = data
        fields_before = self._fields
        body_before = self._body_bytes
        self._heads_begun = 0
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if not self._tunnelled(data[upgrade.args[0] :]):
                self._ignore_upgrade(data, upgrade.args[0])
            return
        except httptools.HttpParserCallbackError as error:
            log.error("request_crashed", exc_info=error, extra=log_fields(client=self.peer.decode()))
            self._refuse(RouterError("the router failed on this request; its log says why"))
            return
        except httptools.HttpParserError as error:
            self._refuse(ClientError(f"malformed HTTP request: {error}", code="malformed_http"))
            return
        finally:
            self._first_read = b""
        if self._in_head:
            if fields_before is self._fields or (idle and self._heads_begun == 1):
                self._head_bytes += len(data)  # all of this read belongs to one head that has not ended
            if self._head_bytes > self._gateway.limits.header_bytes:
                self._refuse(local.headers_too_large(self._gateway.limits.header_bytes))
        elif self._body_length < 0 and not self._between and not self._refused:
            self._head_bytes = 0 if self._body_bytes != body_before else self._head_bytes + len(data)
            if self._head_bytes > self._gateway.limits.header_bytes:  # trailers, or an extension of a chunk
                self._refuse(local.headers_too_large(self._gateway.limits.header_bytes))
        elif self._body_length - self._body_bytes > LARGE_BYTES and not self._refused:
            self._read_large_body()

    def _begin_known(self, data: bytes) -> bool:
        """Begin a request whose head is known. False if the parser must see it."""
        known = self._known
        body_at = -1
        length_bytes = 0
        if known is not None and known.cache is self._gateway.heads:
            body_at, length_bytes = known.measure(data)
        if body_at < 0:
            known = self._gateway.heads.find(data)
            if known is None:
                return False
            body_at, length_bytes = known.measure(data)
            if body_at < 0:
                return False
            self._known = known
        assert known is not None
        if length_bytes > self._gateway.limits.body_bytes:
            return False
        missing_bytes = length_bytes - len(data) + body_at
        body = data[body_at:]
        if not missing_bytes:
            if length_bytes > LARGE_BYTES and not self._reserve(length_bytes):
                return False
            request = Request(known.head, body, monotonic())
            request.reserved_bytes, self._reserved_bytes = self._reserved_bytes, 0
            self._begin(request)
            return True
        if missing_bytes < LARGE_BYTES:
            return False
        if not self._announce(length_bytes):
            return False
        self.waiting = Waiting.BODY
        self.since_s = monotonic()
        self._between = False
        self._head = known.head
        self._body = [body]
        self._body_length = length_bytes
        self._body_bytes = len(body)
        self._read_large_body()
        return True

    def eof_received(self) -> bool | None:
        """The client ended its side: treated as gone, as nginx does."""
        return None

    def pause_writing(self) -> None:
        """The client reads slowly: hold the replica back, and start nothing more."""
        self._write_paused = True
        exchange = self.exchange
        if exchange is not None:
            exchange.pause_upstream()

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._write_paused = False
        exchange = self.exchange
        if exchange is not None:
            exchange.resume_upstream()
        elif self._queue and not self.closing:
            self._go_on()

    # -- parser callbacks ---------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """First byte of a request."""
        self._in_head = True
        self._between = False
        self._heads_begun += 1
        self._head_bytes = 0
        self._head = None
        self._fields = []
        self._url = b""
        self._body = []
        self._body_bytes = 0
        self._body_length = 0

    def on_url(self, url: bytes) -> None:
        """A piece of the request target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One field; trailer fields arrive here too and are dropped."""
        if self._in_head:
            self._fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head is complete: refuse early what the body could not change."""
        self._in_head = False
        self._head_bytes = 0
        if self._refused:
            return
        parser = self._parser
        limits = self._gateway.limits
        head_bytes = len(self._url)
        for name, value in self._fields:
            head_bytes += len(name) + len(value) + 4
            if name == b"content-length":
                self._body_length = int(value)
            elif name == b"transfer-encoding":
                if value.lower() != b"chunked":
                    self._refuse(
                        ClientError(
                            "only Transfer-Encoding: chunked is understood", code="unsupported_coding"
                        )
                    )
                    return
                self._body_length = -1
        head = self._head = RequestHead(
            parser.get_method(),
            self._url,
            self._fields,
            keep_alive=parser.should_keep_alive(),
            minor_version=0 if parser.get_http_version() == "1.0" else 1,
            sessions=self._gateway.sessions,
            upstream=self._gateway.upstream_authorization,
        )
        if head_bytes > limits.header_bytes:
            self._refuse(local.headers_too_large(limits.header_bytes))
        elif not head.target or head.method == b"CONNECT":
            self._refuse(
                ClientError("the request target must be a path or an http URL", code="malformed_http")
            )
        elif self._body_length > limits.body_bytes:
            self._refuse(local.body_too_large(limits.body_bytes))
        elif self._body_length > LARGE_BYTES and not self._announce(self._body_length):
            self._refuse(local.buffers_full())
        elif self._body_length:
            self.waiting = Waiting.BODY
            self.since_s = monotonic()
            if (
                self._body_length > 0
                and self._first_read
                and self._heads_begun == 1
                and not parser.should_upgrade()
            ):
                self._gateway.heads.keep(self._first_read, head)
            if head.expects_continue and not parser.should_upgrade():  # else the head is read once more
                self._invite_body(head)

    def _invite_body(self, head: RequestHead) -> None:
        """Say `100 Continue` to a client that waits for it, once no answer before it is owed."""
        if head.minor_version and self.exchange is None and not self._queue:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _invite_late(self) -> None:
        """The last answer before it is written: now a client may be waiting to be asked for its body."""
        head = self._head
        if head is not None and head.expects_continue and not self._body_bytes and not self._refused:
            self._invite_body(head)

    def on_body(self, piece: bytes) -> None:
        """A piece of the body."""
        if self._refused:
            return
        self._body.append(piece)
        self._body_bytes += len(piece)
        if self._body_length < 0:
            limits = self._gateway.limits
            if self._body_bytes > limits.body_bytes:
                self._refuse(local.body_too_large(limits.body_bytes))
            elif self._body_bytes > LARGE_BYTES and not self._reserve(
                self._body_bytes - self._reserved_bytes
            ):
                self._refuse(local.buffers_full())

    def on_message_complete(self) -> None:
        """The request is complete, unless it was refused or carries an upgrade that is about to be ignored."""
        self._between = True
        if self._refused or (self._parser.should_upgrade() and not self._rewriting):
            return
        body = self._body
        self._completed(body[0] if len(body) == 1 else b"".join(body))

    # -- reading ------------------------------------------------------------------------------------------------

    def _completed(self, body: bytes | bytearray) -> None:
        head = self._head
        assert head is not None
        self._body = []
        if self.closing:
            self._release_reserved()
            return
        request = Request(head, body, monotonic())
        request.reserved_bytes, self._reserved_bytes = self._reserved_bytes, 0
        if self.exchange is None and not self._queue and not self._write_paused:
            self._begin(request)
        else:
            self._queue.append(request)
            if len(self._queue) >= PIPELINE_LIMIT and not self._paused_reading:
                self._paused_reading = True
                self.transport.pause_reading()

    def _begin(self, request: Request) -> None:
        self.waiting = Waiting.ANSWER
        self.since_s = request.received_s
        gateway = self._gateway
        if not gateway.special:
            exchange = self.exchange = Exchange(gateway, self, request)
        else:
            exchange = self.exchange = exchange_for(gateway, self, request)
        exchange.start()

    def _read_large_body(self) -> None:
        room_bytes = first_bytes(self._body_bytes, self._body_length)
        if not self.claim_body(room_bytes - self._reserved_bytes):
            return
        large = self._large = LargeBody(self, self._body, self._body_length, room_bytes)
        self._body = []
        self.transport.pause_reading()
        self.transport.set_protocol(large)
        self.transport.resume_reading()

    def _announce(self, length_bytes: int) -> bool:
        """A body of this length is about to come. There must be room for it, and it takes of that what has come."""
        limits = self._gateway.limits
        if self._gateway.buffered_bytes + length_bytes > limits.buffered_body_bytes:
            return False
        return self._reserve(min(length_bytes, FIRST_BYTES))

    def claim_body(self, size_bytes: int) -> bool:
        """So much more of a long body has come, or is about to. False: it is refused, and what comes is of no use."""
        if self._refused:
            return False
        if not self._reserve(size_bytes):
            self._refuse(local.buffers_full())
        return not self._refused

    def large_body_completed(self, body: bytearray) -> None:
        """The long body is in its place: take the socket back and go on with a parser that never saw it."""
        self.transport.pause_reading()
        self.transport.set_protocol(cast(asyncio.Protocol, self))
        self.transport.resume_reading()
        self._paused_reading = False
        self._large = None
        self._parser = httptools.HttpRequestParser(self)
        self._between = True
        self._completed(body)

    def _tunnelled(self, rest: bytes) -> bool:
        """Whether the request asks for a WebSocket that a replica may have: then this connection is its own from here.

        Args:
            rest: What was read behind the head.
        """
        head = self._head
        if head is None or self._refused or self.exchange is not None or self._queue:
            return False
        if not wants_websocket(head, self._fields):
            return False
        self.waiting = Waiting.TUNNEL
        self._between = True
        Tunnel(self._gateway, self, head, self._fields, rest).start()
        return True

    def _ignore_upgrade(self, data: bytes, consumed_bytes: int) -> None:
        """Read a request that offers an upgrade (h2c, websocket) as if it had not: llhttp stops at its head."""
        dropped = (b"connection", b"upgrade", b"http2-settings")
        head = b"%b %b HTTP/1.1\r\n" % (self._parser.get_method(), self._url)
        head += b"".join([b"%b: %b\r\n" % field for field in self._fields if field[0] not in dropped])
        self._parser = httptools.HttpRequestParser(self)
        self._rewriting = True
        self.data_received(head + b"\r\n" + data[consumed_bytes:])
        self._rewriting = False

    def _reserve(self, size_bytes: int) -> bool:
        gateway = self._gateway
        if gateway.buffered_bytes + size_bytes > gateway.limits.buffered_body_bytes:
            return False
        gateway.buffered_bytes += size_bytes
        self._reserved_bytes += size_bytes
        return True

    def _release_reserved(self) -> None:
        if self._reserved_bytes:
            self._gateway.buffered_bytes -= self._reserved_bytes
            self._reserved_bytes = 0

    # -- refusing, going on, closing ----------------------------------------------------------------------------

    def _refuse(self, error: RouterError) -> None:
        """Answer what cannot be read, after the answers that are still owed, and close."""
        if self._refused or self.closing:
            return
        self._refused = True
        self._body = []
        self._release_reserved()
        if self.exchange is None and not self._queue:
            self._answer_refusal(error)
        else:
            self._queue.append(error)

    def _answer_refusal(self, error: RouterError) -> None:
        gateway = self._gateway
        head = RequestHead(b"", b"", [], keep_alive=False, minor_version=1)
        head.anthropic = self.refused_anthropic
        local.write_error(self, head, Api.OTHER, error, gateway.new_request_id())
        gateway.metrics.observe(
            Api.OTHER, "", error.status, error.code, None, None, None, 0.0, 0, 0, None, None
        )
        transport = self.transport
        if self._between or not transport.can_write_eof():
            self.close()
        else:
            # The client is still sending: closing now would reset the connection, and with it the answer that says why.
            # What comes is dropped until the client ends too; the sweeper waits `LINGER_S` for that.
            self.closing = self.lingering = True
            self.since_s = monotonic()
            transport.write_eof()

    def time_out(self, what: str) -> None:
        """The head or the body did not arrive in time."""
        self._refuse(
            ClientError(f"the request's {what} did not arrive in time", status=408, code="request_timeout")
        )

    def exchange_done(self, *, keep_alive: bool) -> None:
        """The answer has been written in full (or nothing more can be written): go on with the next request."""
        self.exchange = None
        if self.closing:
            return
        if not keep_alive:
            # A drain does not close what was said to stay open: the client may be sending its next request just now.
            self.close()
        else:
            self.since_s = monotonic()
            if self._between:
                self.waiting = Waiting.IDLE
            else:
                self.waiting = Waiting.HEAD if self._in_head else Waiting.BODY
            if self._queue:
                self._go_on()
            elif self.waiting == Waiting.BODY:
                self._invite_late()

    def _go_on(self) -> None:
        """Start what was read ahead. A loop, not recursion: answers made here end before `_begin` returns."""
        if self._going_on:
            return
        self._going_on = True
        queue = self._queue
        while queue and self.exchange is None and not self.closing and not self._write_paused:
            following = queue.popleft()
            if isinstance(following, RouterError):
                self._answer_refusal(following)
            else:
                self._begin(following)
        self._going_on = False
        if self._paused_reading and len(queue) < PIPELINE_LIMIT and not self.closing:
            self._paused_reading = False
            self.transport.resume_reading()

    def serves(self, exchange: object) -> bool:
        """Whether this exchange is the one under way."""
        return self.exchange is exchange

    @property
    def cors(self) -> Cors | None:
        """What browsers' pages are told."""
        return self._gateway.cors

    @property
    def draining(self) -> bool:
        """Whether the router is about to end: answers then say that the connection closes."""
        return self._gateway.draining

    @property
    def refused_anthropic(self) -> bool:
        """Whether the request that could not be read is one of Anthropic's, as far as it was read."""
        head = self._head
        if head is not None:
            return head.anthropic
        return self._url.startswith(b"/v1/messages") or b"anthropic-version" in dict(self._fields)

    @property
    def idle(self) -> bool:
        """Whether nothing is owed to this client and no request of its is half read."""
        return self.exchange is None and self.waiting == Waiting.IDLE and not self.closing

    @property
    def body_arrived(self) -> int:
        """How much of the body being read is there."""
        large = self._large
        return self._body_bytes if large is None else large.filled

    def close(self) -> None:
        """Send what is written, then close; the sweeper cuts off a client that does not take it."""
        self.closing = True
        self.since_s = monotonic()
        self.transport.close()

    def abort(self) -> None:
        """Close at once: the answer cannot be completed, and the client must see that."""
        self.closing = True
        self.transport.abort()
