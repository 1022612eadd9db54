"""A second try of a request whose first one is late: asked while the first goes on, until one of the two answers.

Decides what of its own answer is the beginning of one, by the rules of `attempt`: comments and the events that open a
response are none, and an error is no answer while the first try may still give one. What follows is its owner's
business (`retries`), which takes over the connection with all that came on it, or drops it.

The rule it keeps: it tells its owner of one end only, `second_answers` or `second_failed`, and of nothing once it was
dropped or promoted.
"""

from __future__ import annotations

import time
from typing import Final

from warmroute.core.fleet.decision import Decision
from warmroute.core.health.health import FailureReason
from warmroute.core.types import Api
from warmroute.dataplane.answer import AnswerHead
from warmroute.dataplane.gateway import Gateway
from warmroute.dataplane.outcome import Outcome
from warmroute.dataplane.request import Request
from warmroute.dataplane.upstream import Asker, ReplicaConnection
from warmroute.dialects.coding import readable as plain_of
from warmroute.dialects.engine_errors import EVENT_ERRORS, KEPT_BACK_BYTES, judge
from warmroute.dialects.sse import first_data
from warmroute.dialects.terminal import opening_end
from warmroute.dialects.usage_request import ASKING, ASKS, UsageSupport

monotonic: Final = time.monotonic

SILENCE: Final = "silence"
HEDGE: Final = "hedge"
"""Why a second try is made, as metrics call it."""


class SecondOwner(Outcome):
    """Who has a second try made, and hears of its end."""

    __slots__ = ()

    def second_answers(self, second: Second, head: AnswerHead | None, body: bytes, whole: bool) -> None:
        """The beginning of its answer, or the answer (`whole`). Without a head the connection has the rest."""
        raise NotImplementedError

    def second_failed(
        self, second: Second, reason: FailureReason | None, why: str, *, delivered: bool
    ) -> None:
        """There will be no answer that is worth passing on; no `reason`: nothing is wrong with the replica."""
        raise NotImplementedError


class Second(Asker):
    """One request on a second replica."""

    __slots__ = (
        "_api",
        "_asking_at",
        "_gateway",
        "_kept_back",
        "_owner",
        "_request",
        "asked",
        "cause",
        "connecting",
        "connection",
        "decision",
        "expected_s",
        "head",
        "support",
        "over",
        "promoted",
        "sent_s",
        "surprise_s",
    )

    def __init__(
        self,
        owner: SecondOwner,
        gateway: Gateway,
        request: Request,
        api: Api,
        decision: Decision,
        asking_at: int,
        cause: str,
    ) -> None:
        self._owner = owner
        self._gateway = gateway
        self._request = request
        self._api = api
        self._asking_at = asking_at
        self._kept_back = b""
        """What there is of its body."""
        self.asked = False
        """It asks for usage that the client did not ask for."""
        self.cause = cause
        self.connecting = False
        self.connection: ReplicaConnection | None = None
        self.decision = decision
        self.expected_s = self.surprise_s = 0.0
        """As in `Attempt`."""
        self.head: AnswerHead | None = None
        self.support: UsageSupport | None = None
        self.over = False
        """Its owner has heard of its end, or wants to hear nothing more."""
        self.promoted = False
        """It is the first try now: its owner gets what comes."""
        self.sent_s = monotonic()

    def start(self) -> None:
        """Ask."""
        pool = self._gateway.pool(self.decision.replica)
        connection = pool.take()
        if connection is not None:
            self._send(connection)
        else:
            self.connecting = True
            pool.connect(self)

    def drop(self) -> None:
        """Nobody wants it any more."""
        self.over = True
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.abandon()

    def take_kept_back(self) -> bytes:
        """What there is of the body, for whoever goes on with it."""
        kept_back, self._kept_back = self._kept_back, b""
        return kept_back

    def _send(self, connection: ReplicaConnection) -> None:
        self.connection = connection
        self.sent_s = monotonic()
        gateway, request, owner = self._gateway, self._request, self._owner
        address = gateway.pool(self.decision.replica).address
        at = self._asking_at
        if at >= 0:
            self.support = gateway.usage_support(self.decision.replica, self._api)
            self.asked = self.support.verdict == ASKS
        spliced = len(ASKING) if self.asked else 0
        head = request.upstream_head(address, owner.request_id, owner.client.peer, spliced)
        if self.asked:
            connection.send(self, head + request.body[:at] + ASKING, memoryview(request.body)[at:])
        else:
            connection.send(self, head, request.body)

    # -- what the connection says -----------------------------------------------------------------------------------

    def connected(self, connection: ReplicaConnection) -> None:
        """A fresh connection is there."""
        self.connecting = False
        if self.promoted:
            self._owner.connected(connection)
        elif self.over:
            self._gateway.pool_unused(connection)
        else:
            try:
                self._send(connection)
            except Exception as error:  # noqa: BLE001 - nobody else would hear of it
                self.crashed(error)

    def connect_failed(self, why: str, *, refused: bool) -> None:
        """No connection could be made."""
        self.connecting = False
        if self.promoted:
            self._owner.connect_failed(why, refused=refused)
        else:
            self._failed(FailureReason.REFUSED if refused else FailureReason.CONNECT, why, False)

    def on_whole(self, head: AnswerHead, body: bytes) -> None:
        """The complete answer at once."""
        self.connection = None
        if head.status >= 400:
            self._erred(head, body)
        elif head.event_stream and body.startswith(EVENT_ERRORS):
            self._erred(head, body)
        else:
            self._answers(head, body, True)

    def on_head(self, head: AnswerHead) -> None:
        """The answer's head."""
        self.head = head

    def on_body(self, piece: bytes) -> None:
        """A piece of its body."""
        head = self.head
        assert head is not None
        kept_back = self._kept_back = self._kept_back + piece
        if head.status >= 400:
            if len(kept_back) > KEPT_BACK_BYTES:
                self._erred(head, kept_back)
            return
        if head.event_stream and len(kept_back) <= KEPT_BACK_BYTES:
            at = first_data(kept_back)
            if at >= 0 and self._api is Api.RESPONSES:
                at = opening_end(kept_back, at)
            if at < 0:
                return
            if kept_back.startswith(EVENT_ERRORS, at) and head.status == 200:
                self._erred(head, kept_back)
                return
        self._answers(None, b"", False)

    def on_end(self) -> None:
        """It is complete, before anything of an answer was there."""
        self.connection = None
        head = self.head
        if head is not None and head.status >= 400:
            self._erred(head, self._kept_back)
        elif head is not None and not head.event_stream:
            self._answers(head, self.take_kept_back(), True)
        else:
            self._failed(None, "an empty answer", True)

    def on_lost(self, why: str) -> None:
        """The connection is gone before it was complete."""
        self.connection = None
        self._failed(FailureReason.LOST, why, True)

    def crashed(self, error: Exception) -> None:
        """One of these raised what nobody expected."""
        self._owner.crashed(error)

    # -- its end --------------------------------------------------------------------------------------------------

    def _answers(self, head: AnswerHead | None, body: bytes, whole: bool) -> None:
        if not self.over:
            self.over = True
            self._owner.second_answers(self, head, body, whole)

    def _erred(self, head: AnswerHead, body: bytes) -> None:
        reason = judge(head.status, head.lines, plain_of(head.coding, body, KEPT_BACK_BYTES))
        self._failed(None if reason is FailureReason.ERROR else reason, f"it answered {head.status}", True)

    def _failed(self, reason: FailureReason | None, why: str, delivered: bool) -> None:
        if self.over:
            return
        self.over = True
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.abandon()
        self._owner.second_failed(self, reason, why, delivered=delivered)
