"""One request's life: read, choose, dispatch, retry, settle exactly once.

Decides what a failure means: whether the next replica of the ranking is tried, and what the client hears. Does not
choose replicas (`core.fleet`), parse prompts (`dialects`) or frame bytes (`relay`, `upstream`).

The rules it keeps:
1. Nothing has been sent to the client until a replica's first body byte; until then any failure of the replica's may be
   made good by another. vLLM answers 200 to a stream before it has computed anything, so a head alone is no answer;
   nor is a comment. Those, and with `headers.early` the head, are passed on, and another replica may still go on.
   Nor are the events that open a response of `/v1/responses`: they wait for the first one after them.
   What was never delivered is tried again freely; what a replica died with, once (`core.deaths`).
2. A decision is settled exactly once, whatever ends it: `_settle` is the only place.
3. Choosing and counting is one synchronous step: no callback runs between `records` and `choose_and_reserve`.
4. A first choice by prefix may be held (`hold`); it is then made later, and its ticket given back if the client leaves.
5. What is noted in the registry at dispatch stays only if an answer comes that computed the prompt.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final
from urllib.parse import quote

from router.core.errors import ClientError, NotFoundError, ReplicaError, RouterError
from router.core.fleet import Decision, Replica
from router.core.health import FailureReason, ReplicaState
from router.core.queue import Ticket
from router.core.replica import STARTED
from router.core.types import Api, DecisionKind, Records, ReplicaId, RequestShape
from router.dataplane import local, own_answers
from router.dataplane.accounts import Outcome
from router.dataplane.answer import AnswerHead, at_the_router
from router.dataplane.client_side import ClientSide
from router.dataplane.gateway import Gateway
from router.dataplane.pool import Pool
from router.dataplane.relay import TAIL_BYTES, Relay, write_whole
from router.dataplane.request import Request
from router.dataplane.shapes import load_shape, prefix_shape, readable
from router.dataplane.upstream import ReplicaConnection
from router.dialects.coding import readable as plain_of
from router.dialects.engine_errors import (
    DEAD_MARK,
    EVENT_ERRORS,
    HELD_BYTES,
    NO_VERDICT,
    REFUSAL_MARKS,
    REFUSALS,
    judge,
    killed,
)
from router.dialects.reading import invoked_api, parse
from router.dialects.routes import Route, RouteKind, stored_response_id
from router.dialects.sse import MAX_HELD_BYTES, first_data, unfinished_line
from router.dialects.terminal import opening_end
from router.dialects.usage import find_usage, response_id
from router.dialects.usage_request import ASKING, ASKS, UNSEEN, StreamManner, StreamWatch, asking_at
from router.telemetry.logs import fields

log = logging.getLogger(__name__)

monotonic: Final = time.monotonic
"""The module's own: a name of another module is looked up at every use."""

_PREFIX: Final = RouteKind.PREFIX
_LOAD: Final = RouteKind.LOAD
_PASSED: Final = RouteKind.PASSED
_INVOCATION: Final = RouteKind.INVOCATION
_STORED: Final = RouteKind.STORED

ID_BYTES: Final = 4096
"""How far into a response its id is looked for: engines write it first."""

LEADING: Final = frozenset((b":", b"\r", b"\n"))
"""How a stream begins that begins with a comment, or with nothing."""

OPENING_BYTES: Final = 256 * 1024
"""How much of the events that open a response is held: they repeat its instructions and tools."""

STALE_S: Final = 1.0
"""A connection used before that is lost so soon after a request was written to it was most likely closed already."""

READ_CODED_BYTES: Final = 1 << 20
"""Longest answer that is decoded to be read: its usage, its id, why it failed."""

NO_ROUTE: Final = b'"Not Found"'
"""What FastAPI says of a path that no handler has, as itself and as vLLM words it; of a missing object it says more."""


class Exchange(Outcome):
    """One request and what becomes of it."""

    __slots__ = (
        "_api",
        "_asked",
        "_asking_at",
        "_connecting",
        "_deaths",
        "_done",
        "_event_error",
        "_fresh_tried",
        "_gateway",
        "_head",
        "_held",
        "_joined",
        "_kept",
        "_lead",
        "_manner",
        "_noted",
        "_opened",
        "_opening",
        "_pinned",
        "_previous",
        "_records",
        "_refusal",
        "_relay",
        "_request",
        "_seen",
        "_status",
        "_searched",
        "_suspects",
        "_ticket",
        "_tried",
        "_withdrawals",
        "connection",
        "decision",
        "progress_s",
    )

    def __init__(self, gateway: Gateway, client: ClientSide, request: Request) -> None:
        super().__init__(client, request.head.request_id or gateway.new_request_id())
        self._gateway = gateway
        self._request = request
        self._api = Api.OTHER
        self._asked = False
        """The attempt under way asked for usage that the client did not ask for."""
        self._asking_at = -1
        """Where the request for usage would be spliced into the body; -1 if it is not to be."""
        self._connecting = False
        self._deaths = 0
        """Attempts that a replica may have died of."""
        self._done = False
        self._event_error = False
        """This attempt's answer is a stream whose first event is an error."""
        self._fresh_tried = False
        self._head: AnswerHead | None = None
        self._held: bytes | None = None
        """What there is of an error answer, before anything of it is passed on."""
        self._kept: tuple[AnswerHead, bytes] | None = None
        """The last error answer that was tried again: the client's if nobody answers after it."""
        self._joined = False
        """This attempt's stream is the one that the relay passes on."""
        self._lead = b""
        """The end of the comments before a stream's first event, if a line of them is not complete."""
        self._manner: StreamManner | None = None
        """How this attempt's engine ends such streams; None where nothing is asked."""
        self._noted = False
        """This attempt's prompt was noted in the registry."""
        self._opened = False
        """Events that open a response were passed on: no other replica can go on with it."""
        self._opening = b""
        """Events that open a response, held until the next one."""
        self._pinned: ReplicaId | None = None
        self._previous: str | None = None
        """Id of the response that the request continues."""
        self._records: Records | None = None
        self._refusal = False
        """This attempt is made again without asking."""
        self._relay: Relay | None = None
        self._searched = False
        """The replicas were asked already whether one of them has the model."""
        self._seen: bytes | None = None
        """The beginning of a response whose id has not come yet."""
        self._status = 0
        self._suspects: list[Replica] | None = None
        """Replicas that answered this request with an error, which others are asked about."""
        self._ticket: Ticket | None = None
        """Only while the request is held."""
        self._tried: list[Replica] = []
        self._withdrawals = -1
        """`Gateway.withdrawals` as of the note; -1 if nothing was noted."""
        self.connection: ReplicaConnection | None = None
        self.decision: Decision | None = None
        self.progress_s = request.received_s

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
            elif kind is _LOAD or kind is _PASSED:
                self._choose_by_load()
            elif kind is _STORED:
                stored_id = stored_response_id(head.path)
                if stored_id is None:
                    self.fail(NotFoundError("this is no response id", code="response_not_found"))
                else:
                    self._gateway.registry.find_response(stored_id, self._stored_found)
            elif kind is _INVOCATION:
                self._api = invoked_api(readable(self._gateway, request))
                if self._api is Api.OTHER:
                    self._choose_by_load()
                else:
                    self._start_by_prefix()
            elif kind is RouteKind.MODELS and not self._may_see_models():
                pass
            else:
                self._answer_here(found)
        except RouterError as error:
            self.fail(error)
        except Exception as error:  # noqa: BLE001 - ends this exchange, and no other on its connection
            self.crashed(error)

    def _start_by_prefix(self) -> None:
        request = self._request
        gateway = self._gateway
        coded = request.head.coding
        parsed = parse(self._api, request.body if not coded else readable(gateway, request))
        shape = self.shape = prefix_shape(gateway, parsed, request.head)
        if gateway.deaths.remembers:
            gateway.refuse_deadly(shape, request, self.request_id)
        if parsed.may_ask_usage and gateway.ask_usage and not coded:
            self._asking_at = asking_at(request.body)
        if parsed.previous_response_id is not None:
            self._previous = parsed.previous_response_id
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
        gateway = self._gateway
        shape = self.shape = load_shape(gateway, self._request)
        if gateway.deaths.remembers:
            gateway.refuse_deadly(shape, self._request, self.request_id)
        self._choose()

    def _previous_found(self, replica: ReplicaId | None) -> None:
        """A conversation kept by an engine continues there unless that engine is ejected; else anywhere."""
        if self._done:
            return
        previous, self._previous = self._previous, None
        if replica is None and previous is not None:
            self._find_kept(previous, self._previous_found)
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
            elif not self._searched:
                self._searched = True
                kept = stored_response_id(self._request.head.path)
                assert kept is not None
                self._find_kept(kept, self._stored_found)
            else:
                self.fail(
                    NotFoundError("no replica is known to keep this response", code="response_not_found")
                )
        except RouterError as error:
            self.fail(error)
        except Exception as error:  # noqa: BLE001 - as in `_looked_up`
            self.crashed(error)

    def _find_kept(self, response_id: str, done: Callable[[ReplicaId | None], None]) -> None:
        """No record says who keeps this response: ask the replicas, once, and remember."""
        gateway = self._gateway

        def found(replica: ReplicaId | None) -> None:
            if replica is not None:
                gateway.registry.remember_response(response_id, replica)
            done(replica)

        gateway.questions.find_response(
            "/v1/responses/" + quote(response_id, safe=""), self._request.head.authorization, found
        )

    def _may_see_models(self) -> bool:
        """Whether the list is answered now; otherwise it is refused, now or when replicas were asked."""
        allowed = self._gateway.questions.allowed(self._request.head.authorization, self._key_tried)
        if allowed is False:
            self.fail(local.UnauthorizedError())
        return allowed is True

    def _key_tried(self, allowed: bool) -> None:
        if self._done:
            return
        try:
            if not allowed:
                self.fail(local.UnauthorizedError())
                return
            if self._searched:
                self._gateway.questions.find_model(self._models_read)
            else:
                self._answer_models()
        except RouterError as error:
            self.fail(error)
        except Exception as error:  # noqa: BLE001 - as in `_looked_up`
            self.crashed(error)

    def _search_model(self) -> None:
        """No replica lists the model: before that is said, ask them once more, on behalf of those who may know."""
        self._searched = True
        gateway = self._gateway
        allowed = gateway.questions.allowed(self._request.head.authorization, self._key_tried)
        if allowed is True:
            gateway.questions.find_model(self._models_read)
        elif allowed is False:
            self.fail(local.UnauthorizedError())

    def _models_read(self) -> None:
        """What the replicas serve was read anew."""
        if self._done:
            return
        shape = self.shape
        try:
            if shape is None:
                self._answer_models()
                return
            gateway = self._gateway
            if gateway.unlisted_models and shape.model not in gateway.fleet.models():
                self.unlisted_model = shape.model
                shape.model = ""
            if self._records is not None:
                self._choose_by_prefix()
            else:
                self._choose()
        except RouterError as error:
            self.fail(error)
        except Exception as error:  # noqa: BLE001 - as in `_looked_up`
            self.crashed(error)

    def _answer_models(self) -> None:
        found = self._request.head.route
        assert found is not None
        self._answer_here(found)

    def _answer_here(self, found: Route) -> None:
        status, keep_alive = own_answers.answer(
            self._gateway, self.client, self._request.head, found, self.request_id
        )
        self.answered_locally(status, keep_alive=keep_alive)

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
        shape = self.shape
        assert shape is not None
        gateway = self._gateway
        incarnation = decision.incarnation
        if shape.rungs and incarnation is not None and self._records is not None:
            # Siblings of a burst must find it; where it was not looked up, taking it back would take too much.
            self._noted = True
            self._withdrawals = gateway.withdrawals
            gateway.registry.touch(shape.rungs, incarnation, decision.reserved_s)
        self._dispatch()

    # -- dispatching --------------------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        assert self.decision is not None
        self.attempts += 1
        self._fresh_tried = self._refusal = self._event_error = self._joined = False
        self._lead = self._opening = b""
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
            # Behind a connection that was lost with the request on it, what looks stale may have been a death.
            self._attempt_failed(
                FailureReason.REFUSED if refused else FailureReason.CONNECT, why, self._fresh_tried
            )
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
        if status >= 400 or head.event_stream or self._relay is not None:
            self.on_head(head)
            self.on_body(body)
            if not self._done:
                self.on_end()
            return
        if head.coding:
            if self._asked:
                self._ask_plainly()
            else:
                self._answer_coded(head, body)
            return
        self._begin(body)
        self.body_bytes = len(body)
        added = self._added_lines(head)
        keep_alive = write_whole(self.client, self._request.head, head, added, body)
        self._computed()
        self._finish(keep_alive=keep_alive, seen=body[-TAIL_BYTES:])

    def _answer_coded(self, head: AnswerHead, body: bytes) -> None:
        """The complete answer at once, in a content coding: passed on as it is, decoded only to be read here."""
        plain = plain_of(head.coding, body, READ_CODED_BYTES)
        self._begin(plain)
        self.body_bytes = len(body)
        added = self._added_lines(head)
        keep_alive = write_whole(self.client, self._request.head, head, added, body)
        self._computed()
        self._finish(keep_alive=keep_alive, seen=plain[-TAIL_BYTES:])

    @property
    def _passed(self) -> bool:
        """Whether engines need not have this endpoint."""
        found = self._request.head.route
        return found is not None and found.kind is _PASSED

    def on_head(self, head: AnswerHead) -> None:
        """The replica's head: kept until there is a body byte to go with it."""
        self._status = head.status
        self._head = head
        status = head.status
        relay = self._relay
        if status >= 400 or (relay is not None and not head.event_stream) or (self._asked and head.coding):
            self._held = b""
            return
        self._held = None
        if relay is None and self._gateway.early_heads:
            self._open_relay(b"")

    def on_body(self, piece: bytes) -> None:
        """A piece of the body."""
        if self.begun:
            relay = self._relay
            assert relay is not None
            if self._seen is not None:
                self._find_id(self._seen + piece)
            relay.body(piece)
        elif self._held is not None:
            if self._asked and self._status == 200 and self._head is not None and self._head.coding:
                self._ask_plainly()
                return
            self._held += piece
            if len(self._held) > HELD_BYTES:
                self._begin_relay(self._held)
        else:
            head = self._head
            assert head is not None
            if not head.event_stream:
                self._begin_relay(piece)
            else:
                self._first_events(head, piece)

    def _first_events(self, head: AnswerHead, piece: bytes) -> None:
        """A piece of a stream before its first event: comments, or that."""
        if self._opening:
            self._first_of_response(head, self._opening + piece)
            return
        lead = self._lead
        if lead or piece[:1] in LEADING:
            events = lead + piece
            at = first_data(events)
            if at < 0 and head.length_bytes is None and len(lead) < MAX_HELD_BYTES:
                self._lead = unfinished_line(events)
                self._open_relay(piece)
                return
            if at < 0:
                at = 0
        else:
            events, at = piece, 0
        if self._api is Api.RESPONSES and not self._opened and head.length_bytes is None:
            before = at - len(lead)
            if before >= 0:
                if before:
                    self._open_relay(piece[:before])
                self._lead = b""
                self._first_of_response(head, piece[before:])
                return
        if events.startswith(EVENT_ERRORS, at) and self._status == 200:
            self._held = piece
            self._event_error = True
        else:
            self._begin_relay(piece)

    def _first_of_response(self, head: AnswerHead, events: bytes) -> None:
        """All there is of a response's events: held until one comes for which something was computed."""
        at = opening_end(events, 0)
        if at < 0 and len(events) <= OPENING_BYTES:
            self._opening = events
            return
        self._opening = b""
        if at > 0 and events[at : at + 1] in LEADING:
            # The engine keeps the client waiting, which is to notice: what is passed on now cannot be made anew.
            self._opened = True
            self._find_id(events[:at])
            self._seen = None
            self._open_relay(events[:at])
            self._first_events(head, events[at:])
        elif at >= 0 and events.startswith(EVENT_ERRORS, at) and self._status == 200:
            self._held = events
            self._event_error = True
        else:
            self._begin_relay(events)

    def on_end(self) -> None:
        """The answer is complete."""
        self.connection = None
        if not self.begun:
            held = self._held
            if held is not None and self._taken_over(held):
                return
            if not self._begin_relay(held or self._opening):
                return
        elif self._status >= 400 and self.decision is not None and self._head is not None:
            # Too long to be read before it was passed on.
            if judge(self._status, self._head.lines, b"") is FailureReason.ERROR:
                self._gateway.fleet.report_error(self.decision)
        relay = self._relay
        assert relay is not None
        relay.end()
        if self._status < 400 and not self._event_error:
            self._computed()
        self._finish(keep_alive=relay.keep_alive, seen=relay.usage_bytes())

    def _taken_over(self, held: bytes) -> bool:
        """Whether the complete answer is not the client's."""
        if self._status == 404 and self._passed:
            head = self._head
            assert head is not None
            if self._no_endpoint(plain_of(head.coding, held, READ_CODED_BYTES)):
                return True
        return (self._status >= 400 or self._event_error) and self._tried_elsewhere(held)

    def _no_endpoint(self, body: bytes) -> bool:
        if NO_ROUTE not in body:
            return False
        path = self._request.head.path.decode("latin-1")
        self.fail(
            ClientError(
                f"the engines of this fleet do not have {path}",
                status=501,
                code="endpoint_not_implemented",
            )
        )
        return True

    def _ask_plainly(self) -> None:
        """What the engine was asked to add could not be taken out of a coded stream: ask anew, without."""
        connection, self.connection = self.connection, None
        decision, manner = self.decision, self._manner
        assert decision is not None
        if manner is not None:
            manner.refuse()
        if connection is not None:
            connection.abandon()
        self._held = None
        self._refusal = True
        self._connect(self._gateway.pool(decision.replica))

    def on_lost(self, why: str) -> None:
        """The connection is gone before the answer was complete."""
        connection, self.connection = self.connection, None
        relay = self._relay
        decision = self.decision
        assert decision is not None
        assert connection is not None
        if relay is not None and relay.finished:
            self._finished_early(relay)
            return
        if not self.begun:
            stale = connection.used and not connection.answered
            if stale and not self._fresh_tried and monotonic() - self.progress_s < STALE_S:
                # Most likely the replica had closed an idle connection while this request was on its way.
                self._fresh_tried = True
                self._connecting = True
                self._gateway.pool(decision.replica).connect(self)
            else:
                self._attempt_failed(FailureReason.LOST, why, True)
            return
        assert relay is not None
        gateway = self._gateway
        gateway.note_death(decision, self.shape, self._request)
        gateway.replica_failed(decision.replica, FailureReason.LOST, why)
        self._break_off(
            relay, ReplicaError(f"the replica failed in the middle of its answer: {why}", code="replica_lost")
        )

    def _begin_relay(self, first: bytes) -> bool:
        """The answer's first bytes are there: pass them on. False if that cannot be, and the exchange is over."""
        self._held = None
        head = self._head
        assert head is not None
        relay = self._relay
        if relay is not None and not (self._joined or (head.event_stream and self._status == 200)):
            self._unfit(relay)
            return False
        self._begin(first)
        self._open_relay(first)
        hold = self._gateway.hold
        if hold is not None and hold.waiting and self.decision is not None:
            hold.release(self._gateway.clock(), self.decision.replica)
        return True

    def _unfit(self, relay: Relay) -> None:
        """Another replica's answer that cannot follow the head which the client has."""
        status = self._status
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.abandon()
        self._status = 200
        self._break_off(
            relay,
            ReplicaError(
                f"the stream's replica failed, and another one answered {status}", code="replica_lost"
            ),
        )

    def _open_relay(self, first: bytes) -> None:
        """Pass on what there is: the head, if the client has none, and these bytes."""
        relay = self._relay
        if relay is not None:
            if not self._joined:
                self._joined = True
                relay.restart(self._make_watch())
            if first:
                relay.body(first)
            return
        head = self._head
        assert head is not None
        self._joined = True
        watch = self._make_watch()
        self._relay = Relay(
            self.client, self._request.head, head, self._added_lines(head), first, watch, self._api
        )

    def _make_watch(self) -> StreamWatch | None:
        """What follows this attempt's stream, if it tells something of usage."""
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
        return watch

    def _begin(self, first: bytes) -> None:
        """The answer's first bytes are there: no replica after this one."""
        self.begun = True
        gateway = self._gateway
        decision = self.decision
        assert decision is not None
        replica = decision.replica
        gateway.drop_body(self._request)
        status = self._status
        computed = status < 300 and not self._event_error
        heard = True
        if self._api is Api.RESPONSES and decision.streams:
            heard = opening_end(first, 0) >= 0  # else it only opens a response, at a length that is not held
        gateway.fleet.started(decision, gateway.clock(), computed, heard)
        if computed and self._withdrawals != gateway.withdrawals:
            self._note_again(decision)
        if self._suspects is not None:
            self._verdict(self._suspects, replica, computed)
        if self._api is Api.RESPONSES and self._status == 200 and not self._opened:
            self._find_id(first)
        self.first_byte_s = monotonic()

    def _added_lines(self, head: AnswerHead) -> bytes:
        """Header lines of the router's own; a Location of the replica itself becomes the router's."""
        gateway = self._gateway
        decision = self.decision
        assert decision is not None
        if head.status != 200:
            at_the_router(head, gateway.pool(decision.replica).host_header)
        if gateway.cors is not None:
            return gateway.cors.added(self._request.head, head.lines) + self._own_lines(head, decision)
        return self._own_lines(head, decision)

    def _own_lines(self, head: AnswerHead, decision: Decision) -> bytes:
        """Header lines that say who answered and why."""
        ids = self.request_id
        if self._request.head.anthropic and not head.names_request():
            ids = b"%b\r\nrequest-id: %b" % (ids, ids)
        if not self._gateway.explain_headers:
            return b"x-request-id: %b\r\n" % ids
        replica = decision.replica
        return (
            b"x-request-id: %b\r\nx-warmroute-replica: %b\r\nx-warmroute-decision: %b\r\n"
            b"x-warmroute-predicted-cached-tokens: %d\r\n"
            % (ids, replica.id.encode(), decision.kind.encode(), decision.expected_tokens)
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

    def _tried_elsewhere(self, body: bytes) -> bool:
        """Try another replica for an error answer, if that may help. False if it is to be passed on."""
        status = self._status
        head = self._head
        assert head is not None
        held = body
        if head.coding:
            body = plain_of(head.coding, held, READ_CODED_BYTES)
        if self._asked and status in REFUSALS and self._refused(body):
            return True
        decision = self.decision
        shape = self.shape
        assert decision is not None
        assert shape is not None
        gateway = self._gateway
        replica = decision.replica
        reason = judge(status, head.lines, body)
        if status < 500 and status != 200:
            gateway.fleet.report_refusal(replica, gateway.clock())
        if reason is None:
            return False
        if reason is FailureReason.BUSY or reason is FailureReason.ERROR:
            if reason is FailureReason.ERROR and not self._put_before_others(decision):
                return False
            if self._pinned is not None or not gateway.fleet.has_other(shape.model, [*self._tried, replica]):
                return False
        else:
            gateway.replica_failed(replica, reason, f"it answered {status}")
            if killed(status, body) and not self._outlived(decision, DEAD_MARK in body):
                return False
        if not self._retry(decision, reason):
            return False
        self._kept = head, held
        return True

    def _put_before_others(self, decision: Decision) -> bool:
        """An error that blames nobody: whether the replica is suspect, so that others are to be asked."""
        gateway = self._gateway
        if self._pinned is not None:
            return False  # about what it keeps, or does not
        fleet = gateway.fleet
        if not fleet.report_error(decision):
            return False
        now_s = gateway.clock()
        if not gateway.may_compare(now_s):
            if decision.trial:
                fleet.report_failure(
                    decision.replica, FailureReason.ERROR, now_s, f"it answered {self._status}"
                )
            return False
        if self._suspects is None:
            self._suspects = []
        self._suspects.append(decision.replica)
        return True

    def _verdict(self, suspects: list[Replica], fellow: Replica, computed: bool) -> None:
        """Another replica has answered what these erred on."""
        self._suspects = None
        if not computed:
            if self._status in NO_VERDICT:
                return
            suspects.append(fellow)  # it erred like them
        gateway = self._gateway
        gateway.fleet.try_suspects(suspects, computed, gateway.clock())

    # -- failing ------------------------------------------------------------------------------------------------

    def _retry(self, failed: Decision, reason: FailureReason) -> bool:
        """Dispatch to the next replica of the ranking. False if there is none, or no attempt left."""
        gateway = self._gateway
        shape = self.shape
        assert shape is not None
        self._tried.append(failed.replica)
        if self._pinned is not None or self.attempts >= gateway.max_attempts:
            return False
        relay = self._relay
        if relay is not None and (self._opened or not relay.resumable):
            return False  # behind an early head, only an event stream can be gone on with
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

    def _outlived(self, decision: Decision, engine: bool = False) -> bool:
        """A replica, or its engine, failed after it had the request in full: whether another may be given it."""
        gateway = self._gateway
        if not gateway.note_death(decision, self.shape, self._request, engine):
            return True  # it was dead already, and this request not the reason
        self._deaths += 1
        return self._deaths <= 1 and gateway.may_outlive(decision, self.shape, self._request)

    def _withdraw(self, failed: Decision, shape: RequestShape) -> None:
        """Take back what was noted at dispatch: the prompt was not computed."""
        gateway = self._gateway
        self._noted = False
        incarnation = failed.incarnation
        rungs = shape.rungs
        records = self._records
        if incarnation is None or records is None:
            return
        kept = 0
        for depth, record in enumerate(records):
            if record is not None:
                for holder in record:
                    if holder[0] == incarnation and not gateway.was_withdrawn(holder):
                        kept = depth + 1
        if kept < len(rungs):
            gateway.withdraw(rungs[kept:], incarnation, failed.reserved_s)

    def _note_again(self, decision: Decision) -> None:
        """The prompt was computed, and something noted was taken back meanwhile: perhaps what stood for it too."""
        shape = self.shape
        if shape is not None and shape.rungs and decision.incarnation is not None:
            self._gateway.registry.touch(shape.rungs, decision.incarnation, decision.reserved_s)

    def _attempt_failed(self, reason: FailureReason, why: str, delivered: bool) -> None:
        """The replica failed before its first body byte: the next one, or the end."""
        gateway = self._gateway
        decision = self.decision
        assert decision is not None
        gateway.replica_failed(decision.replica, reason, why)
        self._held = None
        outlived = not delivered or self._outlived(decision)
        if outlived and self._retry(decision, reason):
            return
        kept = self._kept
        if kept is not None and outlived:
            self._head, body = kept
            self._status = self._head.status
            self._event_error = self._status == 200
            self._joined = False
            if self._begin_relay(body):
                relay = self._relay
                assert relay is not None
                relay.end()
                self._finish(keep_alive=relay.keep_alive)
            return
        rest = "no replica left to try"
        if not outlived:
            rest = "not tried on another, since the request itself may be the cause"
        self.fail(
            ReplicaError(
                f"replica {decision.replica.id} failed before it answered ({why});"
                f" {self.attempts} attempt(s) made, {rest}"
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
        if relay is not None and relay.finished:
            self._finished_early(relay)
            return
        dead = decision is not None and gateway.fleet.shown_dead(decision)
        # A time-out says something of its own request first: of the replica only if nobody heard of that meanwhile.
        if decision is not None and (dead or gateway.pool(decision.replica).heard_s <= self.progress_s):
            gateway.replica_failed(decision.replica, FailureReason.TIMEOUT, "silent for too long")
        error = ReplicaError("the replica was silent for too long", status=504, code="replica_timeout")
        if relay is not None and self.begun:
            if dead and decision is not None:
                gateway.note_death(decision, self.shape, self._request)
            self._break_off(relay, error)
        elif (
            decision is not None
            and dead
            and self._outlived(decision)
            and self._retry(decision, FailureReason.TIMEOUT)
        ):
            return  # it was terminated and left this request hanging; another replica has it now
        else:
            self.fail(error)

    def _finished_early(self, relay: Relay) -> None:
        """The replica does not end the transfer of an answer whose own end the client has."""
        if relay.endless:
            relay.end()
        else:
            self.client.abort()
        self._computed()
        self._finish(keep_alive=relay.keep_alive and relay.endless, seen=relay.usage_bytes())

    def _break_off(self, relay: Relay, error: RouterError) -> None:
        """End an answer under way: a stream with its API's error event, anything else by closing."""
        api = Api.MESSAGES if self._request.head.anthropic else self._api
        if relay.end_broken(local.stream_error(api, error, self.request_id)):
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
        if not client.serves(self):
            client.abort()
            return
        if over or client.closing:
            client.exchange_done(keep_alive=False)
            return
        internal = RouterError("the router failed on this request; its log says why")
        self._status = internal.status
        if self.first_byte_s is None and self._relay is None:
            local.write_error(client, self._request.head, self._api, internal, self.request_id, close=True)
        else:
            client.abort()
        client.exchange_done(keep_alive=False)
        gateway = self._gateway
        gateway.accounts.finished(
            self, self._request, self._api, internal.status, internal.code, None, None, gateway.clock()
        )

    def fail(self, error: RouterError) -> None:
        """Answer with an error of the router's own."""
        relay = self._relay
        if relay is not None:  # the client has a stream's head already
            self._status = 200
            self._break_off(relay, error)
            return
        if error.code == "model_not_found" and not self._searched:
            self._search_model()
            return
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
        relay = self._relay
        if relay is not None and relay.finished:
            if connection is not None:
                connection.abandon()
            relay.seen_out()
            self._computed()
            self._finish(keep_alive=False, seen=relay.usage_bytes())
            return
        if connection is not None:
            phase = "stream" if self.begun else "prefill"
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
        """Whether an answer has begun."""
        return self.begun

    # -- the end ------------------------------------------------------------------------------------------------

    def _computed(self) -> None:
        """The answer is complete, and no error."""
        gateway = self._gateway
        decision = self.decision
        if decision is not None:
            gateway.fleet.report_success(decision.replica, gateway.clock())
            if gateway.deaths.remembers:
                gateway.outlived(self.shape, self._request)

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
            if self._noted and not (decision.phase == STARTED and decision.computed):
                assert self.shape is not None
                self._withdraw(decision, self.shape)
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
        gateway = self._gateway
        gateway.accounts.finished(
            self, self._request, self._api, self._status, code, decision, usage, gateway.clock()
        )
        self.client.exchange_done(keep_alive=keep_alive)
