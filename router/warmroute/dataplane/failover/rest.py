"""A continuation asks another replica for the rest of a stream that broke, and passes it on.

This module decides whether what comes can follow what the client has (`dialects.continuation` says how). It does not
choose the replica, and it does not end the client's answer: its owner (`resuming`) does both.

The rule it keeps: its owner hears of one end only, `rest_ended` or `rest_lost`.
"""

from __future__ import annotations

import time
from typing import Final

from warmroute.core.fleet.decision import Decision
from warmroute.core.health.health import FailureReason
from warmroute.dataplane.answer import AnswerHead
from warmroute.dataplane.gateway import Gateway
from warmroute.dataplane.relay import Relay
from warmroute.dataplane.request import Request
from warmroute.dataplane.second import SecondOwner
from warmroute.dataplane.upstream import Asker, ReplicaConnection
from warmroute.dialects.continuation import Rest, Transcript
from warmroute.dialects.engine_errors import judge
from warmroute.dialects.sse import EventGate

monotonic: Final = time.monotonic


class FailoverOwner(SecondOwner):
    """Whose stream it is: `resuming` implements this."""

    __slots__ = ("connection", "progress_s")

    connection: ReplicaConnection | None
    progress_s: float

    def rest_begins(self, decision: Decision) -> None:
        """The first event of the rest is there."""
        raise NotImplementedError

    def rest_ended(self) -> None:
        """All of it was passed on."""
        raise NotImplementedError

    def rest_lost(self, reason: FailureReason | None, why: str) -> None:
        """It broke, or never began; no `reason`: nothing is wrong with the replica, and no other one would do."""
        raise NotImplementedError


class Continuation(Asker):
    """One more replica's part of a stream."""

    __slots__ = (
        "_begun",
        "_body",
        "_gate",
        "_gateway",
        "_owner",
        "_relay",
        "_request",
        "_rest",
        "decision",
        "over",
    )

    def __init__(
        self,
        owner: FailoverOwner,
        gateway: Gateway,
        request: Request,
        body: bytes,
        decision: Decision,
        relay: Relay,
        said: Transcript,
    ) -> None:
        self._owner = owner
        self._gateway = gateway
        self._request = request
        self._body = body
        self._relay = relay
        self._rest = Rest(said)
        self._gate = EventGate()
        self._begun = False
        self.decision = decision
        self.over = False
        """Its owner has heard of its end, or wants to hear nothing more."""

    def start(self) -> None:
        """Ask."""
        pool = self._gateway.pool(self.decision.replica)
        connection = pool.take()
        if connection is not None:
            self._send(connection)
        else:
            pool.connect(self)

    def _send(self, connection: ReplicaConnection) -> None:
        owner, request = self._owner, self._request
        owner.connection = connection
        owner.progress_s = monotonic()
        address = self._gateway.pool(self.decision.replica).address
        longer = len(self._body) - request.body_bytes
        head = request.upstream_head(address, owner.request_id, owner.client.peer, longer)
        connection.send(self, head, self._body)

    def connected(self, connection: ReplicaConnection) -> None:
        """A fresh connection is there."""
        if self.over:
            self._gateway.pool_unused(connection)
            return
        try:
            self._send(connection)
        except Exception as error:  # noqa: BLE001 - nobody else would hear of it
            self.crashed(error)

    def connect_failed(self, why: str, *, refused: bool) -> None:
        """No connection could be made."""
        try:
            self._lost(FailureReason.REFUSED if refused else FailureReason.CONNECT, why)
        except Exception as error:  # noqa: BLE001 - as in `connected`
            self.crashed(error)

    def on_whole(self, head: AnswerHead, body: bytes) -> None:
        """The complete answer at once."""
        self._owner.connection = None
        if head.status >= 400:
            self._erred(head, body)
            return
        self.on_head(head)
        if not self.over:
            self.on_body(body)
        if not self.over:
            self.on_end()

    def on_head(self, head: AnswerHead) -> None:
        """The answer's head."""
        if head.status >= 400:
            self._erred(head, b"")
        elif head.status != 200 or not head.event_stream or head.coding:
            self._lost(None, f"another replica answered {head.status}, and no stream")

    def on_body(self, piece: bytes) -> None:
        """A piece of its body."""
        if self.over:
            return
        events = self._gate.feed(piece)
        if not events:
            return
        rest = self._rest
        out = rest.passed_on(events)
        if out:
            if not self._begun:
                self._begun = True
                self._owner.rest_begins(self.decision)
            self._relay.body(out)
        if rest.failed:
            self._lost(FailureReason.STATUS, "it failed in the middle of the rest")

    def on_end(self) -> None:
        """It is complete."""
        self._owner.connection = None
        if self.over:
            return
        if self._rest.done:
            self.over = True
            self._owner.rest_ended()
        else:
            self._lost(FailureReason.LOST, "it ended without saying that this was all")

    def on_lost(self, why: str) -> None:
        """The connection is gone before it was complete."""
        self._owner.connection = None
        if self._rest.done and not self.over:
            self.over = True
            self._owner.rest_ended()
        else:
            self._lost(FailureReason.LOST, why)

    def crashed(self, error: Exception) -> None:
        """One of these raised what nobody expected."""
        self._owner.crashed(error)

    def _erred(self, head: AnswerHead, body: bytes) -> None:
        self._lost(judge(head.status, head.lines, body), f"another replica answered {head.status}")

    def _lost(self, reason: FailureReason | None, why: str) -> None:
        if self.over:
            return
        self.over = True
        owner = self._owner
        connection, owner.connection = owner.connection, None
        if connection is not None:
            connection.abandon()
        owner.rest_lost(reason, why)
