"""One request's life: read, choose, dispatch, retry, settle exactly once.

Decides what a failure means: whether the next replica of the ranking is tried, and what the client hears. Does not
choose replicas (`core.fleet`), parse prompts (`dialects`) or frame bytes (`relay`, `upstream`).

The rules it keeps:
1. Nothing has been sent to the client until a replica's first body byte; until then any failure of the replica's may be
   made good by another. vLLM answers 200 to a stream before it has computed anything, so a head alone is no answer.
2. A decision is settled exactly once, whatever ends it: `_settle` is the only place.
3. Choosing and counting is one synchronous step: no callback runs between `records` and `choose_and_reserve`.
4. A first choice by prefix may be held (`hold`); it is then made later, and its ticket given back if the client leaves.
"""

from __future__ import annotations

import logging
from time import monotonic
from typing import TYPE_CHECKING, Final

from router.core.errors import NotFoundError, ReplicaError, RouterError
from router.core.fleet import Decision, Replica
from router.core.health import FailureReason, ReplicaState
from router.core.queue import Ticket
from router.core.types import Api, DecisionKind, ReplicaId, RequestShape
from router.dataplane import local
from router.dataplane.relay import TAIL_BYTES, Relay, write_whole
from router.dialects import parse
from router.dialects.routes import RouteKind, stored_response_id
from router.dialects.usage import find_usage, response_id
from router.dialects.usage_request import ASKING, ASKS, UNSEEN, StreamManner, StreamWatch, asking_at
from router.telemetry.logs import fields

if TYPE_CHECKING:
    from router.core.types import Records
    from router.dataplane.answer import AnswerHead
    from router.dataplane.downstream import ClientConnection
    from router.dataplane.gateway import Gateway
    from router.dataplane.pool import Pool
    from router.dataplane.request import Request
    from router.dataplane.upstream import ReplicaConnection

log = logging.getLogger(__name__)

_PREFIX: Final = RouteKind.PREFIX
_LOAD: Final = RouteKind.LOAD
_STORED: Final = RouteKind.STORED

RETRIABLE: Final = frozenset((500, 502, 503, 504))
"""Statuses whose body is read before anything is passed on, up to `HELD_BYTES`."""

ID_BYTES: Final = 4096
"""How far into a response its id is looked for: engines write it first."""

HELD_BYTES: Final = 64 * 1024

REFUSALS: Final = frozenset((400, 422))
"""How an engine answers that does not know `stream_options`."""

REFUSAL_MARKS: Final = (b"stream_options", b"include_usage")

DRAINING_MARK: Final = b"cannot schedule new futures after shutdown"
"""vLLM while it drains: a 500 on every new request, /health still 200. Source: vLLM 0.32.0, SIGTERM with a timeout."""

DEAD_MARK: Final = b"EngineCore encountered an issue"
"""vLLM whose engine process died: a 500, or a stream of one error event. Source: vLLM 0.32.0, worker killed."""

BUSY_MARK: Final = b"currently busy"
"""vLLM over --max-num-queued-reqs: a 503 that says nothing against the replica's health."""

EVENT_ERRORS: Final = (b'data: {"error"', b"event: error")
"""How a stream starts whose very first event is an error: nothing of an answer has been made yet."""


class Exchange:
    """One request and what becomes of it."""

    __slots__ = (
        "_api",
        "_asked",
        "_asking_at",
        "_attempts",
        "_connecting",
        "_done",
        "_first_byte_s",
        "_fresh_tried",
        "_gateway",
        "_head",
        "_held",
        "_manner",
        "_pinned",
        "_records",
        "_refusal",
        "_relay",
        "_request",
        "_seen",
        "_status",
        "_ticket",
        "_tried",
        "body_bytes",
        "client",
        "connection",
        "decision",
        "held_s",
        "progress_s",
        "request_id",
        "shape",
    )

    def __init__(self, gateway: Gateway, client: ClientConnection, request: Request) -> None:
        self._gateway = gateway
        self.client = client
        self._request = request
        self._api = Api.OTHER
        self._asked = False
        """The attempt under way asked for usage that the client did not ask for."""
        self._asking_at = -1
        """Where the request for usage would be spliced into the body; -1 if it is not to be."""
        self._attempts = 0
        self._connecting = False
        self._done = False
        self._first_byte_s: float | None = None
        self._fresh_tried = False
        self._head: AnswerHead | None = None
        self._held: bytes | None = None
        self._manner: StreamManner | None = None
        """How this attempt's engine ends such streams; None where nothing is asked."""
        self._pinned: ReplicaId | None = None
        self._records: Records | None = None
        self._refusal = False
        """This attempt is made again without asking."""
        self._relay: Relay | None = None
        self._seen: bytes | None = None
        """The beginning of a response whose id has not come yet."""
        self._status = 0
        self._ticket: Ticket | None = None
        """Only while the request is held."""
        self._tried: list[Replica] = []
        self.body_bytes = 0
        """Body bytes passed on, once the answer is over."""
        self.connection: ReplicaConnection | None = None
        self.decision: Decision | None = None
        self.held_s = 0.0
        """How long it was held."""
        self.progress_s = request.received_s
        self.request_id = request.head.request_id or gateway.new_request_id()
        self.shape: RequestShape | None = None

    # -- reading and choosing -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Decide what kind of request this is and take its way."""
        request = self._request
        head = request.head
        found = head.route
        if found is None:
            self.fail(
                NotFoundError(f"no endpoint {head.path.decode('latin-1')!r} here", code="unknown_endpoint")
            )
            return
        self._api = found.api
        kind = found.kind
        try:
            if kind is _PREFIX:
                self._start_by_prefix()
            elif kind is _LOAD:
                self._choose_by_load()
            elif kind is _STORED:
                stored_id = stored_response_id(head.path)
                if stored_id is None:
                    self.fail(NotFoundError("this is no response id", code="response_not_found"))
                else:
                    self._gateway.registry.find_response(stored_id, self._stored_found)
            else:
                local.answer(self, self._gateway, head, found)
        except RouterError as error:
            self.fail(error)
        except Exception as error:  # noqa: BLE001 - ends this exchange, and no other on its connection
            self.crashed(error)

    def _start_by_prefix(self) -> None:
        request = self._request
        gateway = self._gateway
        parsed = parse(self._api, request.body)
        self.shape = gateway.shape(parsed, request)
        if parsed.may_ask_usage and gateway.ask_usage:
            self._asking_at = asking_at(request.body)
        if parsed.previous_response_id is not None:
            gateway.registry.find_response(parsed.previous_response_id, self._previous_found)
        else:
            self._look_up()

    def _look_up(self) -> None:
        assert self.shape is not None
        rungs = self.shape.rungs
        records = self._gateway.registry.lookup(rungs, self._looked_up) if rungs else []
        if records is not None:
            self._looked_up(records)

    def _looked_up(self, records: Records) -> None:
        if self._done:
            return
        self._records = records
        try:
            self._choose_by_prefix()
        except Exception as error:  # noqa: BLE001 - must not end the registry's other answers
            self.crashed(error)

    def _choose_by_load(self) -> None:
        self.shape = self._gateway.load_shape(self._api, self._request)
        self._choose()

    def _previous_found(self, replica: ReplicaId | None) -> None:
        """A conversation kept by an engine continues there unless that engine is ejected; else anywhere."""
        if self._done:
            return
        try:
            kept = self._gateway.fleet.replicas.get(replica) if replica is not None else None
            if kept is not None and kept.state is not ReplicaState.EJECTED:
                try:
                    self._reserve_on(kept.id)
                except RouterError:
                    pass
                else:
                    return
            self._look_up()
        except Exception as error:  # noqa: BLE001 - as in `_looked_up`
            self.crashed(error)

    def _stored_found(self, replica: ReplicaId | None) -> None:
        if self._done:
            return
        self.shape = RequestShape(model="")
        try:
            if replica is not None:
                self._reserve_on(replica)
            else:
                self.fail(
                    NotFoundError("no replica is known to keep this response", code="response_not_found")
                )
        except RouterError as error:
            self.fail(error)
        except Exception as error:  # noqa: BLE001 - as in `_looked_up`
            self.crashed(error)

    def _reserve_on(self, replica: ReplicaId) -> None:
        assert self.shape is not None
        gateway = self._gateway
        now_s = gateway.clock()
        decision = gateway.fleet.reserve_on(replica, self.shape, now_s)
        self._pinned = replica
        self._decided(decision, now_s)

    def _choose_by_prefix(self) -> None:
        """Choose, or wait until it can be chosen well."""
        gateway = self._gateway
        hold = gateway.hold
        if hold is None:
            self._choose()
            return
        shape = self.shape
        assert shape is not None
        now_s = gateway.clock()
        try:
            answer = hold.offer(shape, self._records, now_s, self._granted)
        except RouterError as error:
            self.fail(error)
            return
        if isinstance(answer, Ticket):
            self._ticket = answer
            hold.release(now_s)
        else:
            self._decided(answer, now_s)

    def _granted(self, answer: Decision | RouterError) -> None:
        """The request is held no longer."""
        try:
            now_s = self._hold_over()
            if isinstance(answer, RouterError):
                if not self._done:
                    self.fail(answer)
            elif self._done:  # the client left while others were let go
                self.decision = answer
                self._settle()
            else:
                self._decided(answer, now_s)
        except Exception as error:  # noqa: BLE001 - must not end the others' turn
            self.crashed(error)

    def _hold_over(self) -> float:
        gateway = self._gateway
        now_s = gateway.clock()
        ticket, self._ticket = self._ticket, None
        if ticket is not None:
            self._records = ticket.records  # with what was noted while it waited
            self.held_s = max(0.0, now_s - ticket.arrival_s)
            gateway.metrics.held(self.held_s)
        return now_s

    def _choose(self) -> None:
        gateway = self._gateway
        shape = self.shape
        assert shape is not None
        now_s = gateway.clock()
        try:
            decision = gateway.fleet.choose_and_reserve(shape, self._records, now_s)
        except RouterError as error:
            self.fail(error)
            return
        self._decided(decision, now_s)

    def _decided(self, decision: Decision, now_s: float) -> None:
        self.decision = decision
        incarnation = decision.replica.incarnation
        shape = self.shape
        assert shape is not None
        if shape.rungs and incarnation is not None:
            self._gateway.registry.touch(shape.rungs, incarnation, decision.reserved_s)
        self._dispatch()

    # -- dispatching --------------------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        assert self.decision is not None
        self._attempts += 1
        self._fresh_tried = False
        self._refusal = False
        self._connect(self._gateway.pool(self.decision.replica))

    def _connect(self, pool: Pool) -> None:
        connection = pool.take()
        if connection is not None:
            self._send(connection)
        else:
            self._connecting = True
            pool.connect(self)

    def connected(self, connection: ReplicaConnection) -> None:
        """A fresh connection is there."""
        self._connecting = False
        if self._done:
            self._gateway.keep(connection)
            return
        try:
            self._send(connection)
        except Exception as error:  # noqa: BLE001 - nobody else would hear of it
            self.crashed(error)

    def connect_failed(self, why: str, *, refused: bool) -> None:
        """No connection could be made."""
        self._connecting = False
        if self._done:
            return
        try:
            self._attempt_failed(FailureReason.REFUSED if refused else FailureReason.CONNECT, why)
        except Exception as error:  # noqa: BLE001 - as in `connected`
            self.crashed(error)

    def _send(self, connection: ReplicaConnection) -> None:
        assert self.decision is not None
        self.connection = connection
        self.progress_s = monotonic()
        request = self._request
        pool = self._gateway.pool(self.decision.replica)
        at = self._asking_at
        asked = False
        if at >= 0:
            manner = self._manner = self._gateway.manner(self.decision.replica, self._api)
            asked = manner.verdict == ASKS and not self._refusal
        self._asked = asked
        if not asked:
            head = request.upstream_head(pool.host_header, self.request_id, self.client.peer, 0)
            connection.send(self, head, request.body)
        else:
            head = request.upstream_head(pool.host_header, self.request_id, self.client.peer, len(ASKING))
            connection.send(self, head + request.body[:at] + ASKING, memoryview(request.body)[at:])

    # -- the answer ---------------------------------------------------------------------------------------------

    def on_whole(self, head: AnswerHead, body: bytes) -> None:
        """The complete answer at once."""
        self.connection = None
        self._status = status = head.status
        if status in RETRIABLE or head.event_stream or (self._asked and status in REFUSALS):
            self.on_head(head)
            self.on_body(body)
            self.on_end()
            return
        added = self._begun(body)
        self.body_bytes = len(body)
        keep_alive = write_whole(self.client, self._request.head, head, added, body)
        self._status_seen()
        self._finish(keep_alive=keep_alive, seen=body[-TAIL_BYTES:])

    def on_head(self, head: AnswerHead) -> None:
        """The replica's head: kept until there is a body byte to go with it."""
        self._status = head.status
        self._head = head
        status = head.status
        self._held = b"" if status in RETRIABLE or (self._asked and status in REFUSALS) else None

    def on_body(self, piece: bytes) -> None:
        """A piece of the body."""
        relay = self._relay
        if relay is not None:
            if self._seen is not None:
                self._find_id(self._seen + piece)
            relay.body(piece)
        elif self._held is not None:
            self._held += piece
            if len(self._held) > HELD_BYTES:
                self._begin_relay(self._held)
        elif self._status == 200 and piece.startswith(EVENT_ERRORS):
            self._held = piece
        else:
            self._begin_relay(piece)

    def on_end(self) -> None:
        """The answer is complete."""
        self.connection = None
        relay = self._relay
        if relay is None:
            held = self._held
            if held is not None and (
                self._refused(held) if self._status in REFUSALS else self._retriable(held)
            ):
                return
            relay = self._begin_relay(held or b"")
        relay.end()
        self._status_seen()
        self._finish(keep_alive=relay.keep_alive, seen=relay.usage_bytes())

    def on_lost(self, why: str) -> None:
        """The connection is gone before the answer was complete."""
        connection, self.connection = self.connection, None
        relay = self._relay
        decision = self.decision
        assert decision is not None
        assert connection is not None
        if relay is None:
            if connection.used and not connection.answered and not self._fresh_tried:
                # Most likely the replica had closed an idle connection while this request was on its way.
                self._fresh_tried = True
                self._connecting = True
                self._gateway.pool(decision.replica).connect(self)
            else:
                self._attempt_failed(FailureReason.LOST, why)
            return
        gateway = self._gateway
        gateway.replica_failed(decision.replica, FailureReason.LOST)
        self._break_off(
            relay, ReplicaError(f"the replica failed in the middle of its answer: {why}", code="replica_lost")
        )

    def _begin_relay(self, first: bytes) -> Relay:
        self._held = None
        head = self._head
        assert head is not None
        manner = self._manner
        watch = None
        if manner is not None and self._status == 200:
            if not self._asked and self._refusal:
                manner.refuse()
            if head.event_stream and (self._asked or manner.verdict == UNSEEN):
                manner.accepted = manner.accepted or self._asked
                watch = StreamWatch(manner, self._asked)
        relay = self._relay = Relay(self.client, self._request.head, head, self._begun(first), first, watch)
        hold = self._gateway.hold
        if hold is not None and hold.waiting and self.decision is not None:
            hold.release(self._gateway.clock(), self.decision.replica)
        return relay

    def _begun(self, first: bytes) -> bytes:
        """The answer's first bytes are there: no replica after this one. Returns the header lines to add."""
        gateway = self._gateway
        decision = self.decision
        assert decision is not None
        replica = decision.replica
        gateway.drop_body(self._request)
        gateway.fleet.started(decision, gateway.clock(), self._status == 200)
        if self._api is Api.RESPONSES and self._status == 200:
            self._find_id(first)
        self._first_byte_s = monotonic()
        if not gateway.explain_headers:
            return b"x-request-id: %b\r\n" % self.request_id
        return (
            b"x-request-id: %b\r\nx-warmroute-replica: %b\r\nx-warmroute-decision: %b\r\n"
            b"x-warmroute-predicted-cached-tokens: %d\r\n"
            % (self.request_id, replica.id.encode(), decision.kind.encode(), decision.expected_tokens)
        )

    def _find_id(self, seen: bytes) -> None:
        """Remember which replica keeps this response, once its id has come in full."""
        kept = response_id(seen)
        decision = self.decision
        if kept is not None and decision is not None:
            self._gateway.registry.remember_response(kept, decision.replica.id)
        self._seen = seen if kept is None and len(seen) < ID_BYTES else None

    def _refused(self, body: bytes) -> bool:
        """Ask again without asking for usage, if that may be what is refused. False if the answer is the client's."""
        manner = self._manner
        decision = self.decision
        assert manner is not None
        assert decision is not None
        if manner.accepted and not any(mark in body for mark in REFUSAL_MARKS):
            return False
        self._refusal = True
        self._held = None
        self._connect(self._gateway.pool(decision.replica))
        return True

    def _retriable(self, body: bytes) -> bool:
        """Try another replica for an answer that says this one cannot serve. False if it is to be passed on."""
        status = self._status
        decision = self.decision
        assert decision is not None
        if status == 503 and BUSY_MARK in body:
            reason = FailureReason.BUSY
        elif DRAINING_MARK in body:
            reason = FailureReason.DRAINING
        elif DEAD_MARK in body or status in (502, 503, 504):
            reason = FailureReason.STATUS
        else:
            return False
        gateway = self._gateway
        gateway.replica_failed(decision.replica, reason)
        return self._retry(decision, reason)

    # -- failing ------------------------------------------------------------------------------------------------

    def _retry(self, failed: Decision, reason: FailureReason) -> bool:
        """Dispatch to the next replica of the ranking. False if there is none, or no attempt left."""
        gateway = self._gateway
        shape = self.shape
        assert shape is not None
        self._withdraw(failed, shape)
        self._tried.append(failed.replica)
        if self._pinned is not None or self._attempts >= gateway.max_attempts:
            return False
        now_s = gateway.clock()
        try:
            decision = gateway.fleet.choose_and_reserve(shape, self._records, now_s, self._tried)
        except RouterError:
            return False
        self._settle()
        self._held = None
        decision.kind = DecisionKind.RETRY
        gateway.metrics.retried(reason)
        self._decided(decision, now_s)
        return True

    def _withdraw(self, failed: Decision, shape: RequestShape) -> None:
        """Take back what was noted at dispatch: a replica that failed has not computed the prompt."""
        incarnation = failed.incarnation
        rungs = shape.rungs
        records = self._records
        if incarnation is None or not rungs or records is None:
            return  # what was there before is not known, and stays
        kept = 0
        for depth, record in enumerate(records):
            if record is not None and any(holder[0] == incarnation for holder in record):
                kept = depth + 1
        if kept < len(rungs):
            self._gateway.registry.forget(rungs[kept:], incarnation, failed.reserved_s)

    def _attempt_failed(self, reason: FailureReason, why: str) -> None:
        """The replica failed before its first body byte: the next one, or the end."""
        gateway = self._gateway
        decision = self.decision
        assert decision is not None
        gateway.replica_failed(decision.replica, reason)
        self._held = None
        if not self._retry(decision, reason):
            self.fail(
                ReplicaError(
                    f"replica {decision.replica.id} failed before it answered ({why});"
                    f" {self._attempts} attempt(s) made, no replica left to try"
                )
            )

    def time_out(self) -> None:
        """The replica has been silent for too long."""
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.abandon()
        relay = self._relay
        decision = self.decision
        gateway = self._gateway
        dead = decision is not None and gateway.fleet.shown_dead(decision)
        # A time-out says something of its own request first: of the replica only if nobody heard of that meanwhile.
        if decision is not None and (dead or gateway.pool(decision.replica).heard_s <= self.progress_s):
            gateway.replica_failed(decision.replica, FailureReason.TIMEOUT)
        error = ReplicaError("the replica was silent for too long", status=504, code="replica_timeout")
        if relay is not None:
            self._break_off(relay, error)
        elif decision is not None and dead and self._retry(decision, FailureReason.TIMEOUT):
            return  # it was terminated and left this request hanging; another replica has it now
        else:
            self.fail(error)

    def _break_off(self, relay: Relay, error: RouterError) -> None:
        """End an answer under way: a stream with its API's error event, anything else by closing."""
        if relay.end_broken(local.stream_error(self._api, error, self.request_id)):
            self._finish(keep_alive=relay.keep_alive, code=error.code)
        else:
            self.client.abort()
            self._finish(keep_alive=False, code=error.code)

    def crashed(self, error: Exception) -> None:
        """A step of this exchange raised what nobody expected: log it, answer 500 if possible, settle, and close."""
        log.error(
            "exchange_crashed",
            exc_info=error,
            extra=fields(
                request_id=self.request_id.decode("latin-1"), path=self._request.head.path.decode("latin-1")
            ),
        )
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.abandon()
        over, self._done = self._done, True
        if self._relay is not None:
            self.body_bytes = self._relay.body_bytes
        self._gateway.drop_body(self._request)
        self._settle()
        client = self.client
        if client.exchange is not self:
            client.abort()
            return
        if over or client.closing:
            client.exchange_done(keep_alive=False)
            return
        internal = RouterError("the router failed on this request; its log says why")
        self._status = internal.status
        if self._first_byte_s is None:
            local.write_error(client, self._request.head, self._api, internal, self.request_id, close=True)
        else:
            client.abort()
        client.exchange_done(keep_alive=False)
        self._gateway.finished(self, self._request, self._api, internal.status, internal.code, None, None)

    def fail(self, error: RouterError) -> None:
        """Answer with an error of the router's own."""
        self._status = error.status
        keep_alive = local.write_error(self.client, self._request.head, self._api, error, self.request_id)
        self._finish(keep_alive=keep_alive, code=error.code)

    def answered_locally(self, status: int, *, keep_alive: bool) -> None:
        """The router itself has answered."""
        self._done = True
        self._gateway.drop_body(self._request)
        self._status = status
        self.client.exchange_done(keep_alive=keep_alive)

    def client_gone(self) -> None:
        """The client closed: stop the replica's work at once."""
        if self._done:
            return
        connection, self.connection = self.connection, None
        if connection is not None:
            phase = "stream" if self._relay is not None else "prefill"
            connection.abandon()
        elif self._ticket is not None:
            phase = "held"
        else:
            phase = "connect" if self._connecting else "lookup"
        self._gateway.metrics.client_gone(phase)
        self._status = 499
        self._finish(keep_alive=False, code="client_gone")

    # -- flow control -------------------------------------------------------------------------------------------

    def pause_upstream(self) -> None:
        """The client takes nothing more for now."""
        if self.connection is not None:
            self.connection.pause()

    def resume_upstream(self) -> None:
        """The client takes more."""
        if self.connection is not None:
            self.connection.resume()

    @property
    def streaming(self) -> bool:
        """Whether body bytes have been passed on."""
        return self._relay is not None

    # -- the end ------------------------------------------------------------------------------------------------

    def _status_seen(self) -> None:
        gateway = self._gateway
        decision = self.decision
        if decision is not None and self._status < 500 and decision.replica.health.tainted:
            gateway.fleet.report_success(decision.replica, gateway.clock())

    def _settle(self) -> None:
        gateway = self._gateway
        ticket = self._ticket
        hold = gateway.hold
        if ticket is not None and hold is not None:
            self._hold_over()
            hold.withdraw(ticket)
        decision, self.decision = self.decision, None
        if decision is not None:
            now_s = gateway.clock()
            gateway.fleet.settle(decision, now_s)
            if hold is not None and hold.waiting:
                hold.release(now_s, decision.replica)

    def _finish(self, *, keep_alive: bool, code: str | None = None, seen: bytes = b"") -> None:
        """End, once. `seen` is where the answer's usage is looked for."""
        self._done = True
        if self._relay is not None:
            self.body_bytes = self._relay.body_bytes
        self._gateway.drop_body(self._request)
        decision = self.decision
        self._settle()
        usage = find_usage(self._api, seen) if seen and self._status == 200 else None
        self._gateway.finished(self, self._request, self._api, self._status, code, decision, usage)
        self.client.exchange_done(keep_alive=keep_alive)

    @property
    def first_byte_s(self) -> float | None:
        """Monotonic time of the first body byte passed on."""
        return self._first_byte_s

    @property
    def attempts(self) -> int:
        """How many times the request was dispatched."""
        return self._attempts
