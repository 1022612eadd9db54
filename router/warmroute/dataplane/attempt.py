"""An attempt is one try of a request on one replica: connect, send, keep back what is no answer yet, pass on what is.

This module decides what the first byte of an answer is, and what of it goes to the client. It leaves to `retries` what
a try that failed means, and to `exchange` when the request is over. Both extend `Attempt`, which is the request as far
as the present try goes.

The rules it keeps:
1. Nothing has been sent to the client until a replica's first body byte; until then another replica may make good any
   failure of this one. vLLM answers 200 to a stream before it has computed anything, so a head alone is no answer;
   nor is a comment. Those, and with `headers.early` the head, are passed on, and another replica may still go on.
   The events that open a response of `/v1/responses` are no answer either: they wait for the first one after them.
2. After that byte there is no other replica: a stream that breaks is ended with its API's error event.
"""

from __future__ import annotations

import time
from typing import Final

from warmroute.core.errors import ReplicaError, RouterError
from warmroute.core.fleet.fleet import Decision
from warmroute.core.health.health import FailureReason
from warmroute.core.health.silence import mean_of
from warmroute.core.types import Api
from warmroute.dataplane import local
from warmroute.dataplane.answer import AnswerHead
from warmroute.dataplane.answer_lines import added_lines
from warmroute.dataplane.attempt_hooks import AttemptHooks
from warmroute.dataplane.caching import CacheUse
from warmroute.dataplane.client_side import ClientSide
from warmroute.dataplane.failover.recorded import RecordedRelay
from warmroute.dataplane.gateway import Gateway
from warmroute.dataplane.pool import Pool
from warmroute.dataplane.relay import TAIL_BYTES, Relay, write_whole
from warmroute.dataplane.request import Request
from warmroute.dataplane.second import Second
from warmroute.dataplane.states import AnswerState, Recording
from warmroute.dataplane.upstream import ReplicaConnection
from warmroute.dialects.coding import readable as plain_of
from warmroute.dialects.continuation import Transcript
from warmroute.dialects.engine_errors import (
    EVENT_ERRORS,
    KEPT_BACK_BYTES,
    judge,
)
from warmroute.dialects.sse import MAX_KEPT_BACK_BYTES, first_data, unfinished_line
from warmroute.dialects.terminal import opening_end
from warmroute.dialects.usage import response_id
from warmroute.dialects.usage_request import ASKING, ASKS, UNSEEN, StreamWatch, UsageSupport

monotonic: Final = time.monotonic
"""The module's own: a name of another module is looked up at every use."""

ID_BYTES: Final = 4096
"""How far into a response its id is looked for: engines write it first."""

LEADING: Final = frozenset((b":", b"\r", b"\n"))
"""How a stream begins that begins with a comment, or with nothing."""

OPENING_BYTES: Final = 256 * 1024
"""How much of the events that open a response is kept back: they repeat its instructions and tools."""

STALE_S: Final = 1.0
"""A connection used before that is lost so soon after a request was written to it was most likely closed already."""

_EXPECTED: Final = AnswerState.EXPECTED
_OPENING: Final = AnswerState.OPENING
_ERROR: Final = AnswerState.ERROR
_ERROR_EVENT: Final = AnswerState.ERROR_EVENT
_CODED: Final = AnswerState.CODED
_WHOLE: Final = AnswerState.WHOLE
_UNDECIDED: Final = Recording.UNDECIDED
_RECORDED: Final = Recording.RECORDED

READ_CODED_BYTES: Final = 1 << 20
"""Longest answer that is decoded to be read: its usage, its id, why it failed."""


class Attempt(AttemptHooks):
    """A request, as far as the try under way goes."""

    __slots__ = (
        "_api",
        "_asked",
        "_asking_at",
        "_connecting",
        "_done",
        "_fresh_tried",
        "_gateway",
        "_head",
        "_kept_back",
        "_joined",
        "_lead",
        "_support",
        "_use",
        "_opened",
        "_recording",
        "_refusal",
        "_relay",
        "_request",
        "_seen",
        "_state",
        "_status",
        "decision",
        "expected_s",
        "second",
        "surprise_s",
        "suspected",
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
        self._done = False
        self._fresh_tried = False
        self._head: AnswerHead | None = None
        self._kept_back = b""
        """What there is of the answer while it is kept back (`_state` says why)."""
        self._joined = False
        """This attempt's stream is the one that the relay passes on."""
        self._lead = b""
        """The end of the comments before a stream's first event, if a line of them is not complete."""
        self._support: UsageSupport | None = None
        """How this attempt's engine ends such streams; None where nothing is asked."""
        self._opened = False
        """Events that open a response were passed on: no other replica can go on with it."""
        self._recording = _UNDECIDED
        self._refusal = False
        """This attempt is made again without asking."""
        self._relay: Relay | None = None
        self._seen: bytes | None = None
        """The beginning of a response whose id has not come yet."""
        self._state = _EXPECTED
        self._status = 0
        self._use: CacheUse | None = None
        """What it asks of caches, and how its answer is told; None: nothing, and as it is."""
        self.connection = None
        self.decision: Decision | None = None
        self.progress_s = request.received_s
        self.expected_s = 0.0
        """Predicted time to the first byte, once the sweeper has looked at the attempt; 0 before."""
        self.surprise_s = 0.0
        """How much more it takes where caches hold nothing of what they should; of the same moment."""
        self.second: Second | None = None
        """A second try under way beside this one."""
        self.suspected = False
        """This attempt's silence was held against its replica."""

    # -- asking the replica -----------------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        assert self.decision is not None
        self.attempts += 1
        self._fresh_tried = self._refusal = self._joined = False
        self._state = _EXPECTED
        self._lead = self._kept_back = b""
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
        if self._done or self.connection is not None:  # a second try has answered meanwhile
            self._gateway.pool_unused(connection)
            return
        try:
            self._send(connection)
        except Exception as error:  # noqa: BLE001 - nobody else would hear of it
            self.crashed(error)

    def connect_failed(self, why: str, *, refused: bool) -> None:
        """No connection could be made."""
        self._connecting = False
        if self._done or self.connection is not None:
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
        self.expected_s = 0.0
        request = self._request
        pool = self._gateway.pool(self.decision.replica)
        at = self._asking_at
        asked = False
        if at >= 0:
            support = self._support = self._gateway.usage_support(self.decision.replica, self._api)
            asked = support.verdict == ASKS and not self._refusal
        self._asked = asked
        if not asked:
            head = request.upstream_head(pool.address, self.request_id, self.client.peer, 0)
            connection.send(self, head, request.body)
        else:
            head = request.upstream_head(pool.address, self.request_id, self.client.peer, len(ASKING))
            connection.send(self, head + request.body[:at] + ASKING, memoryview(request.body)[at:])

    def _ask_plainly(self) -> None:
        """What the engine was asked to add could not be taken out of a coded stream: ask anew, without."""
        connection, self.connection = self.connection, None
        decision, support = self.decision, self._support
        assert decision is not None
        if support is not None:
            support.refuse()
        if connection is not None:
            connection.abandon()
        self._refusal = True
        self._connect(self._gateway.pool(decision.replica))

    # -- its answer -------------------------------------------------------------------------------------------------

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
                # Passed on as it is, decoded only to be read here.
                self._answer_whole(head, body, plain_of(head.coding, body, READ_CODED_BYTES))
        else:
            self._answer_whole(head, self._retold(head, body), body)

    def _retells(self, head: AnswerHead) -> bool:
        """Whether this answer is told to the client otherwise, once it is whole."""
        use = self._use
        return use is not None and use.told is not None and not (head.event_stream or head.coding)

    def _retold(self, head: AnswerHead, body: bytes) -> bytes:
        """A complete answer as the client gets it."""
        use = self._use
        return body if use is None or use.told is None or head.status != 200 else use.told.whole(body)

    def _answer_whole(self, head: AnswerHead, body: bytes, plain: bytes) -> None:
        """The complete answer at once: what the client gets, and what it says."""
        self._begin(plain)
        self.body_bytes = len(body)
        added = self._added_lines(head) + (b"" if self._use is None else self._use.lines)
        keep_alive = write_whole(self.client, self._request.head, head, added, body)
        self._computed()
        self._kept_back = plain[-TAIL_BYTES:]
        self._finish(keep_alive=keep_alive, seen=self._kept_back)

    def on_head(self, head: AnswerHead) -> None:
        """The replica's head: kept until there is a body byte to go with it."""
        self._status = head.status
        self._head = head
        status = head.status
        relay = self._relay
        coded = self._asked and head.coding != b""
        if status >= 400 or coded or (relay is not None and not head.event_stream):
            self._state = _CODED if coded and status == 200 else _ERROR
            self._kept_back = b""
            return
        self._state = state = _WHOLE if self._use is not None and self._retells(head) else _EXPECTED
        if relay is None and state is _EXPECTED and self._gateway.early_heads:
            self._open_relay(b"")

    def on_body(self, piece: bytes) -> None:
        """A piece of the body."""
        if self.begun:
            relay = self._relay
            assert relay is not None
            if self._seen is not None:
                self._find_id(self._seen + piece)
            relay.body(piece)
            if relay.broken:
                self._engine_failed(relay)
            return
        state, head = self._state, self._head
        assert head is not None
        if state is _EXPECTED:
            if head.event_stream:
                self._first_events(head, piece)
            else:
                self._begin_relay(piece)
        elif state is _OPENING:
            self._first_of_response(head, self._kept_back + piece)
        elif state is _CODED:
            self._ask_plainly()
        else:
            self._kept_back += piece
            if len(self._kept_back) > (READ_CODED_BYTES if state is _WHOLE else KEPT_BACK_BYTES):
                self._begin_relay(self._kept_back)

    def _first_events(self, head: AnswerHead, piece: bytes) -> None:
        """A piece of a stream before its first event: comments, or that."""
        lead = self._lead
        if lead or piece[:1] in LEADING:
            events = lead + piece
            at = first_data(events)
            if at < 0 and head.length_bytes is None and len(lead) < MAX_KEPT_BACK_BYTES:
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
            self._state = _ERROR_EVENT
            self._kept_back = piece
        else:
            self._begin_relay(piece)

    def _first_of_response(self, head: AnswerHead, events: bytes) -> None:
        """All there is of a response's events: kept back until one comes for which something was computed."""
        at = opening_end(events, 0)
        if at < 0 and len(events) <= OPENING_BYTES:
            self._state = _OPENING
            self._kept_back = events
            return
        self._state = _EXPECTED
        self._kept_back = b""
        if at > 0 and events[at : at + 1] in LEADING:
            # The engine keeps the client waiting, which is to notice: what is passed on now cannot be made anew.
            self._opened = True
            self._find_id(events[:at])
            self._seen = None
            self._open_relay(events[:at])
            self._first_events(head, events[at:])
        elif at >= 0 and events.startswith(EVENT_ERRORS, at) and self._status == 200:
            self._state = _ERROR_EVENT
            self._kept_back = events
        else:
            self._begin_relay(events)

    def on_end(self) -> None:
        """The answer is complete."""
        self.connection = None
        if not self.begun:
            kept_back, state = self._kept_back, self._state
            if (
                state is not _EXPECTED
                and state is not _OPENING
                and state is not _WHOLE
                and self._taken_over(kept_back)
            ):
                return
            if state is _WHOLE and kept_back and self._head is not None:
                self._answer_whole(self._head, self._retold(self._head, kept_back), kept_back)
                return
            if not self._begin_relay(kept_back):
                return
        elif self._status >= 400 and self.decision is not None and self._head is not None:
            # Too long to be read before it was passed on.
            if judge(self._status, self._head.lines, b"") is FailureReason.ERROR:
                self._gateway.fleet.report_error(self.decision)
        relay = self._relay
        assert relay is not None
        relay.end()
        if self._status < 400 and self._state is not _ERROR_EVENT:
            self._computed()
        self._finish(keep_alive=relay.keep_alive, seen=relay.usage_bytes())

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
            stale = connection.used and not connection.answered and self.second is None
            if stale and not self._fresh_tried and monotonic() - self.progress_s < STALE_S:
                # Most likely the replica had closed an idle connection while this request was on its way.
                self._fresh_tried = True
                self._connecting = True
                self._gateway.pool(decision.replica).connect(self)
            else:
                self._attempt_failed(FailureReason.LOST, why, True)
            return
        assert relay is not None
        self._broke(relay, FailureReason.LOST, why)

    def _broke(self, relay: Relay, reason: FailureReason, why: str) -> None:
        """A stream, or any answer, broke in the middle: gone on with elsewhere, or at an end."""
        decision = self.decision
        gateway = self._gateway
        if decision is not None:
            gateway.note_death(decision, self.shape, self._request)
            gateway.replica_failed(decision.replica, reason, why)
        if relay.transcript is not None and self._goes_on(relay, reason):
            return
        self._break_off(
            relay, ReplicaError(f"the replica failed in the middle of its answer: {why}", code="replica_lost")
        )

    # -- passing it on ----------------------------------------------------------------------------------------------

    def _begin_relay(self, first: bytes) -> bool:
        """The answer's first bytes are there: pass them on. False if that cannot be, and the exchange is over."""
        self._kept_back = b""
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
        asked, added = self._request.head, self._added_lines(head)
        use, told = self._use, None
        if use is not None:
            added += use.lines
            told = use.told if head.event_stream and not head.coding else None
        if self._recording is _UNDECIDED and self._gateway.failover:
            self._recording = self._may_go_on(head)
        if self._recording is not _RECORDED:
            self._relay = Relay(self.client, asked, head, added, first, watch, self._api, told=told)
            return
        relay = RecordedRelay(self.client, asked, head, added, first, watch, self._api, Transcript(), told)
        self._relay = relay
        if relay.broken:
            self._engine_failed(relay)

    def _make_watch(self) -> StreamWatch | None:
        """What follows this attempt's stream, if it tells something of usage."""
        head = self._head
        assert head is not None
        support = self._support
        watch = None
        if support is not None and self._status == 200:
            if not self._asked and self._refusal:
                support.refuse()
            if head.event_stream and (self._asked or support.verdict == UNSEEN):
                support.accepted = support.accepted or self._asked
                watch = StreamWatch(support, self._asked)
        return watch

    def _begin(self, first: bytes) -> None:
        """The answer's first bytes are there: no replica after this one."""
        self.begun = True
        gateway = self._gateway
        decision = self.decision
        assert decision is not None
        if gateway.failover and self._recording is _UNDECIDED:
            self._recording = Recording.UNRECORDED if self._head is None else self._may_go_on(self._head)
        if self._recording is not _RECORDED:
            gateway.drop_body(self._request)
        status = self._status
        computed = status < 300 and self._state is not _ERROR_EVENT
        heard = True
        if self._api is Api.RESPONSES and decision.streams:
            heard = opening_end(first, 0) >= 0  # else it only opens a response, too long to keep back
        gateway.fleet.started(decision, gateway.clock(), computed, heard)
        self._answers(decision, computed)
        if self._api is Api.RESPONSES and self._status == 200 and not self._opened:
            self._find_id(first)
        self.first_byte_s = now_s = monotonic()
        took_s = now_s - self.progress_s
        if decision.streams:
            if took_s > gateway.first_s:
                gateway.first_s = took_s
        elif computed and took_s > 0.0:
            if took_s > gateway.plain_s:
                gateway.plain_s = took_s
            if decision.computes:
                gateway.plain_mean_s = mean_of(gateway.plain_mean_s, took_s)

    def _added_lines(self, head: AnswerHead) -> bytes:
        """Header lines of the router's own."""
        assert self.decision is not None
        return added_lines(
            self._gateway, self._request.head, head, self.decision, self.request_id, self.grant
        )

    def _find_id(self, seen: bytes) -> None:
        """Remember which replica stores this response, once its id has come in full."""
        stored_id = response_id(seen)
        decision = self.decision
        if stored_id is not None and decision is not None:
            self._gateway.registry.remember_response(stored_id, decision.replica.id)
        self._seen = seen if stored_id is None and len(seen) < ID_BYTES else None

    # -- its end ----------------------------------------------------------------------------------------------------

    def _computed(self) -> None:
        """The answer is complete, and no error."""
        gateway = self._gateway
        decision = self.decision
        if decision is not None:
            gateway.fleet.report_success(decision, gateway.clock())
            if decision.computes:
                gateway.pool(decision.replica).heard_s = monotonic()
            if gateway.deaths.remembers:
                gateway.outlived(self.shape, self._request)

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

    # -- flow control -----------------------------------------------------------------------------------------------

    def pause_upstream(self) -> None:
        """The client takes nothing more for now."""
        if self.connection is not None:
            self.connection.pause()

    def resume_upstream(self) -> None:
        """The client takes more."""
        if self.connection is not None:
            self.connection.resume()
            self.progress_s = monotonic()

    @property
    def streaming(self) -> bool:
        """Whether an answer has begun."""
        return self.begun

    @property
    def advanced(self) -> bool:
        """Whether anything of the answer has come since this was asked last, comments left out."""
        relay = self._relay
        return relay is None or relay.advanced
