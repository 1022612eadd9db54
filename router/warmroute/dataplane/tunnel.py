"""A tunnel is a WebSocket through the router: a client connection and a replica connection pass bytes to each other.

This module decides which replica it goes to, before anything was sent: the next one where a replica cannot be reached,
breaks, or is silent before it has agreed. It goes by load, since what the client will say is not known yet. It reads
nothing of the tunnel but the head of the replica's answer. The rules it keeps:
nothing of what the client sends behind its request reaches the replica before that has agreed, since an engine that
ignores the upgrade would take it for another request, past the table of endpoints; when either side ends, so does the
other, once what was read is written; and the choice is settled exactly once.

A tunnel counts as one request, with status 101 where the replica agreed, for as long as it lasts.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, cast
from urllib.parse import parse_qs

from warmroute.core.errors import ClientError, ReplicaError, RouterError
from warmroute.core.health.health import FailureReason
from warmroute.core.types import Api, DecisionKind, ReplicaId
from warmroute.dataplane import local
from warmroute.dataplane.accounts import GONE
from warmroute.dataplane.request import CREDENTIALS, KEPT_BACK, Fields, Request, RequestHead
from warmroute.dataplane.shapes import load_shape
from warmroute.dialects.routes import may_be_websocket
from warmroute.telemetry.access_log import AccessEntry

if TYPE_CHECKING:
    from warmroute.core.fleet.fleet import Decision, Replica
    from warmroute.dataplane.admission import Admission
    from warmroute.dataplane.client_side import ClientSide
    from warmroute.dataplane.gateway import Gateway
    from warmroute.tenants.caller import Caller

MOST_HEAD_BYTES = 64 * 1024
"""Of the replica's answer."""

_WRITTEN_ANEW = KEPT_BACK


def wants_websocket(head: RequestHead, fields: Fields) -> bool:
    """Whether this request asks for a WebSocket where an engine may have one."""
    if head.method != b"GET" or not may_be_websocket(head.path):
        return False
    return any(name == b"upgrade" and value.strip().lower() == b"websocket" for name, value in fields)


class _ReplicaSide(asyncio.Protocol):
    """The replica's connection."""

    def __init__(self, tunnel: Tunnel) -> None:
        self._tunnel = tunnel
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._tunnel.answered(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._tunnel.replica_lost(self)

    def pause_writing(self) -> None:
        self._tunnel.client_transport.pause_reading()

    def resume_writing(self) -> None:
        self._tunnel.client_transport.resume_reading()


class Tunnel(asyncio.Protocol):
    """Stands in for a client connection until the WebSocket is over."""

    def __init__(
        self, gateway: Gateway, client: ClientSide, head: RequestHead, fields: Fields, rest: bytes
    ) -> None:
        self._gateway = gateway
        self._client = client
        self._head = head
        self._fields = fields
        self._early = [rest] if rest else []
        """What the client sent before the replica has agreed."""
        self._answer = b""
        """What there is of the head of the replica's answer."""
        self.client_transport = client.transport
        self._side: _ReplicaSide | None = None
        """Whom it is asked of, or being connected to."""
        self._replica: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        """Only while a replica owes its answer."""
        self._tried: list[Replica] = []
        self._why: RouterError = ReplicaError("no replica could be reached")
        """What the client hears if no replica agrees."""
        self._decision: Decision | None = None
        self._request_id = head.request_id or gateway.new_request_id()
        self._started_s = monotonic()
        self._first_byte_s: float | None = None
        self._status = 0
        self._attempts = 0
        self._bytes_in = self._bytes_out = 0
        self._over = False
        self._model = ""
        self._kind: DecisionKind | None = None
        self._replica_id: ReplicaId | None = None
        self._caller: Caller | None = None

    def start(self) -> None:
        """Take the client's connection over and look for a replica."""
        transport = self.client_transport
        transport.pause_reading()
        transport.set_protocol(self)
        self._gateway.tasks.spawn(self._connect(), name="websocket")

    async def _connect(self) -> None:
        tried = self._tried
        if self._gateway.admission is not None and self._caller is None:
            try:
                self._caller = await _identify(self._gateway.admission, self._head)
            except RouterError as error:
                self._refuse(error)
                return
        while self._attempts < self._gateway.max_attempts and not self._over:
            try:
                decision = self._choose(tried)
            except RouterError as error:
                self._why = self._why if tried else error
                break
            self._attempts += 1
            side = self._side = _ReplicaSide(self)
            pool = self._gateway.pool(decision.replica)
            try:
                await pool.open(side)
            except OSError as error:
                reason = (
                    FailureReason.REFUSED
                    if isinstance(error, ConnectionRefusedError)
                    else FailureReason.CONNECT
                )
                self._gateway.replica_failed(decision.replica, reason)
                self._settle()
                tried.append(decision.replica)
                self._why = ReplicaError(f"replica {decision.replica.id} could not be reached")
                continue
            if self._side is side:  # else it was lost again already
                self._connected(side, pool.address)
            return
        self._side = None
        self._settle()
        self._refuse(self._why)

    def _try_again(self, reason: FailureReason, why: RouterError) -> None:
        """The replica has failed before it answered, and nothing was sent to either side: another one may agree."""
        decision, replica = self._decision, self._replica
        self._stop_timer()
        self._side = self._replica = None
        self._answer = b""
        if replica is not None:
            replica.abort()
        if decision is not None:
            self._tried.append(decision.replica)
            self._gateway.replica_failed(decision.replica, reason, str(why))
        self._settle()
        self._why = why
        self.client_transport.pause_reading()
        self._gateway.tasks.spawn(self._connect(), name="websocket")

    def _silent(self) -> None:
        if not self._over and not self._status:
            self._try_again(
                FailureReason.TIMEOUT,
                ReplicaError("the replica was silent for too long", status=504, code="replica_timeout"),
            )

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _refuse(self, why: RouterError) -> None:
        if not self._over:
            self._status = why.status
            _, self._bytes_out = local.write_error(
                self._client, self._head, Api.OTHER, why, self._request_id, close=True
            )
            self._end(why.code)
            self.client_transport.close()

    def _choose(self, tried: list[Replica]) -> Decision:
        gateway = self._gateway
        shape = load_shape(gateway, Request(self._head, b"", self._started_s))
        query = self._head.target[len(self._head.path) + 1 :].decode("latin-1")
        shape.model = parse_qs(query).get("model", [""])[0]
        self._model = shape.model
        if gateway.admission is not None and self._caller is not None:
            gateway.admission.may_use(self._caller, shape.model)
        decision = gateway.fleet.choose_and_reserve(shape, None, gateway.clock(), tried)
        self._decision = decision
        self._replica_id = decision.replica.id
        self._kind = decision.kind
        return decision

    def _connected(self, side: _ReplicaSide, host: bytes) -> None:
        transport = side.transport
        assert transport is not None
        if self._over:
            transport.abort()
            self._settle()
            return
        self._replica = transport
        head = self._head
        lines = [b"GET %b HTTP/1.1\r\n" % head.target]
        upstream = self._gateway.upstream_authorization
        dropped = _WRITTEN_ANEW if upstream is None else _WRITTEN_ANEW | CREDENTIALS
        lines += [b"%b: %b\r\n" % field for field in self._fields if field[0] not in dropped]
        if upstream:
            lines.append(b"authorization: %b\r\n" % upstream)
        lines.append(
            b"host: %b\r\nconnection: Upgrade\r\nupgrade: websocket\r\nx-request-id: %b\r\n"
            b"x-forwarded-for: %b%b\r\n\r\n" % (host, self._request_id, head.forwarded_for, self._client.peer)
        )
        transport.write(b"".join(lines))
        limits = self._gateway.upstream
        self._timer = asyncio.get_running_loop().call_later(
            min(limits.first_byte_timeout_s, limits.late_max_s), self._silent
        )
        if len(self._early) == 0:
            self.client_transport.resume_reading()  # to hear it leave

    def _settle(self) -> None:
        decision, self._decision = self._decision, None
        if decision is not None:
            self._gateway.settle(decision)

    # -- bytes --------------------------------------------------------------------------------------------------

    def answered(self, data: bytes) -> None:
        """Bytes of the replica."""
        if not self._status:
            self._answer += data
            if b"\r\n\r\n" not in self._answer and len(self._answer) < MOST_HEAD_BYTES:
                return
            data, self._answer = self._answer, b""
            status = data[9:12]
            if data[:7] != b"HTTP/1." or status != b"101":
                self._refused(int(status) if data[:7] == b"HTTP/1." and status.isdigit() else 502)
                return
            self._agreed()
        elif self._over:
            return
        self._bytes_out += len(data)
        self.client_transport.write(data)

    def _agreed(self) -> None:
        self._stop_timer()
        self._status = 101
        self._first_byte_s = monotonic()
        decision, replica = self._decision, self._replica
        assert replica is not None
        if decision is not None:
            self._gateway.fleet.started(decision, self._gateway.clock(), False)
        for piece in self._early:
            replica.write(piece)
        self._early = []
        self.client_transport.resume_reading()

    def _refused(self, status: int) -> None:
        """The replica has answered otherwise: the client hears which, and both connections end."""
        self._status = status if status >= 400 else 426
        error: RouterError = (
            ReplicaError("the replica failed on the WebSocket", status=self._status)
            if self._status >= 500
            else ClientError(
                "the replica does not take a WebSocket here", status=self._status, code="upgrade_refused"
            )
        )
        _, self._bytes_out = local.write_error(
            self._client, self._head, Api.OTHER, error, self._request_id, close=True
        )
        self._end(error.code)
        self.client_transport.close()
        if self._replica is not None:
            self._replica.abort()

    def data_received(self, data: bytes) -> None:
        """Bytes of the client."""
        self._bytes_in += len(data)
        if self._status != 101 or self._replica is None:
            self._early.append(data)
            self.client_transport.pause_reading()
        else:
            self._replica.write(data)

    def pause_writing(self) -> None:
        """The client reads slowly: so does the router."""
        if self._replica is not None:
            self._replica.pause_reading()

    def resume_writing(self) -> None:
        """The client has caught up."""
        if self._replica is not None:
            self._replica.resume_reading()

    def eof_received(self) -> bool | None:
        """The client ended its side: gone, as everywhere here."""
        return None

    # -- the end ------------------------------------------------------------------------------------------------

    def replica_lost(self, side: _ReplicaSide) -> None:
        """The replica has ended: so does the client's connection, once it has what was sent."""
        if self._over or side is not self._side:
            return
        if not self._status:
            self._try_again(FailureReason.LOST, ReplicaError("the replica failed before it answered"))
            return
        self._end(None)
        self.client_transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has ended."""
        if not self._status:
            self._status = 499
        self._end("client_gone" if self._status == 499 else None)
        if self._replica is not None:
            self._replica.close()
        self._client.connection_lost(exc)

    def _end(self, code: str | None) -> None:
        if self._over:
            return
        self._over = True
        self._stop_timer()
        self._settle()
        self._client.closing = True
        gateway = self._gateway
        duration_s = monotonic() - self._started_s
        status = self._status
        kind, replica = self._kind, self._replica_id
        ttft_s = None if self._first_byte_s is None else self._first_byte_s - self._started_s
        counted = replica if replica in gateway.fleet.replicas else GONE
        gateway.metrics.observe(
            Api.OTHER, self._model, status, code, kind, counted, None, duration_s, 0, 0, None, None
        )
        if gateway.access_log is not None:
            gateway.access_log.write(
                AccessEntry(
                    time=gateway.clock() - duration_s,
                    request_id=self._request_id.decode("latin-1"),
                    client=gateway.accounts.client_of(self._client.peer, self._head),
                    method="GET",
                    path=self._head.path.decode("latin-1"),
                    api=Api.OTHER,
                    model=self._model,
                    status=status,
                    code=code,
                    replica=replica,
                    decision=kind,
                    predicted_cached_tokens=0,
                    cached_tokens=None,
                    prompt_tokens=0,
                    completion_tokens=None,
                    ttft_s=ttft_s,
                    duration_s=duration_s,
                    bytes_in=self._bytes_in,
                    bytes_out=self._bytes_out,
                    held_s=0.0,
                    attempts=self._attempts,
                    tenant=None if self._caller is None else self._caller.tenant.id,
                    key=None if self._caller is None else self._caller.key_id,
                ),
                b"",
            )


async def _identify(admission: Admission, head: RequestHead) -> Caller:
    """Whose it is.

    Raises:
        RouterError: Nobody's who may come in.
    """
    answer: asyncio.Future[Caller | RouterError] = asyncio.get_running_loop().create_future()

    def done(found: Caller | RouterError) -> None:
        if not answer.done():
            answer.set_result(found)

    caller = admission.identify(head, done)
    found = caller if caller is not None else await answer
    if isinstance(found, RouterError):
        raise found
    return found
