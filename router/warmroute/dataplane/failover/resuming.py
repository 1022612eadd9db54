"""A request whose stream broke in the middle is resumed at another replica, if that may be.

This module decides it: by what was asked and said (`dialects.continuation`), by what is remembered of requests that
replicas died with (`health.deaths`), and within the budget of all tries made again. `attempt` and `retries` call it
when a stream breaks; it calls `rest`, which makes what comes the rest of the same stream.

The rule it keeps: where a stream cannot go on it ends with its API's error event, as it would without this.
"""

from __future__ import annotations

from typing import Final

from warmroute.core.errors import OverloadError, ReplicaError, RouterError
from warmroute.core.fleet.fleet import Decision
from warmroute.core.health.health import FailureReason
from warmroute.core.types import Api
from warmroute.dataplane.answer import AnswerHead
from warmroute.dataplane.client_side import ClientSide
from warmroute.dataplane.failover.recorded import RecordedRelay
from warmroute.dataplane.failover.rest import Continuation
from warmroute.dataplane.gateway import Gateway
from warmroute.dataplane.relay import Relay
from warmroute.dataplane.request import Request
from warmroute.dataplane.retries import Retrying
from warmroute.dataplane.states import Recording
from warmroute.dialects.continuation import continued_body, may_continue
from warmroute.dialects.engine_errors import DEAD_MARK

DEADLY: Final = frozenset((FailureReason.LOST, FailureReason.STATUS, FailureReason.TIMEOUT))
INNOCENT_TOKENS: Final = 16
"""What a replica has gone on to say of a stream, before it is believed not to be what replicas die of."""


class Resuming(Retrying):
    """A request, as far as all its tries go, before its first byte and after."""

    __slots__ = ("_continuation", "_said_tokens")

    def __init__(self, gateway: Gateway, client: ClientSide, request: Request) -> None:
        super().__init__(gateway, client, request)
        self._continuation: Continuation | None = None
        """The rest of a stream that broke, asked of another replica."""
        self._said_tokens = 0
        """Tokens that had been said when the stream was gone on with last."""

    def _may_go_on(self, head: AnswerHead) -> Recording:
        """Whether another replica could go on with this stream, if it broke: then it is recorded."""
        if (
            (self._api is Api.CHAT or self._api is Api.COMPLETIONS)
            and head.event_stream
            and head.status == 200
            and not head.coding
            and head.length_bytes is None
            and not self._request.head.coding
            and may_continue(self._request.body)
        ):
            return Recording.RECORDED
        return Recording.UNRECORDED

    def _engine_failed(self, relay: Relay) -> None:
        """The engine says, in the middle of a stream, that it failed: what it says is not passed on yet."""
        connection, decision = self.connection, self.decision
        events, relay.broken = relay.broken, b""
        killed = DEAD_MARK in events
        if decision is not None:
            gateway = self._gateway
            if killed:
                gateway.note_death(decision, self.shape, self._request, True)
            gateway.replica_failed(
                decision.replica, FailureReason.STATUS, "it failed in the middle of a stream"
            )
        if self._goes_on(relay, FailureReason.STATUS):
            if connection is not None:
                connection.abandon()
        elif isinstance(relay, RecordedRelay):
            relay.let_through(events)

    def stalled(self) -> None:
        """The stream's replica is silent, and so are its probes: another one may go on."""
        relay, connection = self._relay, self.connection
        self.suspected = True
        if relay is not None and relay.transcript is not None and self._goes_on(relay, FailureReason.TIMEOUT):
            self.suspected = False
            if connection is not None:
                connection.abandon()

    def _goes_on(self, relay: Relay, reason: FailureReason) -> bool:
        """Whether another replica goes on with the stream, which broke, or nothing is missing of it but its end."""
        gateway = self._gateway
        failed, shape, said = self.decision, self.shape, relay.transcript
        if said is None or failed is None or shape is None or not relay.resumable:
            return False
        said.fold()
        body = None
        if said.finished:
            if not said.fit or b'"include_usage"' in self._request.body:
                gateway.metrics.failed_over("unfit")
                return False
            relay.end_finished()
            gateway.metrics.failed_over("ended")
            self._finish(keep_alive=relay.keep_alive)
            return True
        if self._pinned is None and self.attempts < gateway.max_attempts:
            body = continued_body(self._api, self._request.body, said)
        if body is None:
            gateway.metrics.failed_over("unfit")
            return False
        if reason in DEADLY and not self._outlives(failed, said.tokens):
            gateway.metrics.failed_over("deadly")
            return False
        now_s = gateway.clock()
        try:
            if not gateway.may_retry():
                raise OverloadError("no budget for another try")
            decision = gateway.fleet.choose_and_reserve(shape, self._records, now_s, [failed.replica])
        except RouterError:
            gateway.metrics.failed_over("refused")
            return False
        if self._continuation is not None:
            self._continuation.over = True
        self._settle()
        self._noted = False
        self.decision = decision
        self.connection = None
        self.attempts += 1
        self.retried_after = f"{failed.replica.id} {reason.value}"
        self._said_tokens = said.tokens
        gateway.metrics.failed_over("tried")
        relay.restart(None)
        self._continuation = Continuation(self, gateway, self._request, body, decision, relay, said)
        self._continuation.start()
        return True

    def _outlives(self, failed: Decision, tokens: int) -> bool:
        """Whether a stream that a replica died with may be given to another: as any request, but one that the replica
        had gone on with for a while before has shown that it kills nobody."""
        gateway = self._gateway
        if self._continuation is not None and tokens - self._said_tokens >= INNOCENT_TOKENS:
            gateway.outlived(self.shape, self._request)
            gateway.note_death(failed, self.shape, self._request)
            self._deaths = 0
        self._deaths += 1
        return self._deaths <= 1 and gateway.may_outlive(failed, self.shape, self._request)

    def rest_begins(self, decision: Decision) -> None:
        """The first event of the rest is there."""
        gateway = self._gateway
        now_s = gateway.clock()
        gateway.fleet.started(decision, now_s)
        gateway.freed(decision, now_s)
        shape = self.shape
        if shape is not None and shape.keys and decision.incarnation is not None:
            owner = "" if self.caller is None else self._owner()
            gateway.registry.touch(shape.keys, decision.incarnation, decision.reserved_s, owner)

    def rest_ended(self) -> None:
        """All of the rest was passed on."""
        relay = self._relay
        assert relay is not None
        relay.end()
        self._gateway.metrics.failed_over("completed")
        self._computed()
        self._finish(keep_alive=relay.keep_alive, seen=relay.usage_bytes())

    def rest_lost(self, reason: FailureReason | None, why: str) -> None:
        """The rest broke, or never began."""
        if self._done:
            return
        relay, decision = self._relay, self.decision
        assert relay is not None
        if reason is not None and reason in DEADLY:
            self._broke(relay, reason, why)
            return
        if reason is not None and decision is not None:
            self._gateway.replica_failed(decision.replica, reason, why)
            if self._goes_on(relay, reason):
                return
        self._break_off(relay, ReplicaError(f"the stream's replica failed, and {why}", code="replica_lost"))

    def _drop_others(self) -> None:
        """The request is over: what else is under way for it ends too."""
        if self.second is not None:
            self._drop_second()
        if self._continuation is not None:
            self._continuation.over = True
