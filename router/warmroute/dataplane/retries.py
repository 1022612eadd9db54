"""Retries decide what it means that a try failed, or is late: who is asked next, and what the client hears instead.

They go by what the answer says (`dialects.engine_errors`), by what is remembered of requests that engines died with
(`health.deaths`), and by whether others erred on the same (`health.outliers`). They do not choose
replicas: `core.fleet` does.

The rules they keep:
1. A request that was never delivered is tried again freely; one that a replica died with is tried once more. All else
   is tried within a budget.
2. A request that is late is asked of a second replica beside the first, which it keeps: the first answer is its answer,
   and the other try is aborted.
3. What is noted in the registry at dispatch stays only if an answer comes that computed the prompt. What another
   request has computed of it meanwhile stays in any case.
"""

from __future__ import annotations

from typing import Final

from warmroute.core.beliefs.residency import STALE_S
from warmroute.core.errors import ClientError, ReplicaError, RouterError
from warmroute.core.fleet.fleet import Decision, Replica
from warmroute.core.health.health import FailureReason
from warmroute.core.types import FingerprintHash, Record, Records, ReplicaId, RequestShape
from warmroute.dataplane.answer import AnswerHead
from warmroute.dataplane.attempt import READ_CODED_BYTES, Attempt
from warmroute.dataplane.caching import CacheUse
from warmroute.dataplane.client_side import ClientSide
from warmroute.dataplane.gateway import Gateway
from warmroute.dataplane.request import Request
from warmroute.dataplane.second import SILENCE, Second
from warmroute.dataplane.states import AnswerState
from warmroute.dataplane.upstream import ReplicaConnection
from warmroute.dialects.coding import readable as plain_of
from warmroute.dialects.engine_errors import (
    DEAD_MARK,
    NO_VERDICT,
    REFUSAL_MARKS,
    REFUSALS,
    judge,
    killed,
)
from warmroute.dialects.routes import RouteKind

_PASSED: Final = RouteKind.PASSED
_EXPECTED: Final = AnswerState.EXPECTED
_ERROR: Final = AnswerState.ERROR
_ERROR_EVENT: Final = AnswerState.ERROR_EVENT

UNDELIVERED: Final = frozenset((FailureReason.REFUSED, FailureReason.CONNECT))
"""A request that failed so has cost no engine anything."""

NO_ROUTE: Final = b'"Not Found"'
"""What FastAPI says of a path that no handler has, as itself and as vLLM words it; of a missing object it says more."""


class Retrying(Attempt):
    """A request, as far as all its tries go."""

    __slots__ = (
        "_deaths",
        "_failed",
        "_last_error",
        "_noted",
        "_pinned",
        "_records",
        "_suspects",
        "_tried",
        "_withdrawals",
    )

    def __init__(self, gateway: Gateway, client: ClientSide, request: Request) -> None:
        super().__init__(gateway, client, request)
        self._failed: tuple[ReplicaId, str] | None = None
        """Where the last try failed, and why; only while the next one waits to be made."""
        self._deaths = 0
        """Attempts that a replica may have died of."""
        self._last_error: tuple[AnswerHead, bytes] | None = None
        """The last error answer that was tried again: the client's if nobody answers after it."""
        self._noted = False
        """This attempt's prompt was noted in the registry."""
        self._pinned: ReplicaId | None = None
        self._records: Records | None = None
        self._suspects: list[Replica] | None = None
        """Replicas that answered this request with an error, which others are asked about."""
        self._tried: list[Replica] = []
        self._withdrawals = -1
        """`Gateway.withdrawals` as of the note; -1 if nothing was noted."""

    def _decided(self, decision: Decision, now_s: float) -> None:
        self.decision = decision
        shape = self.shape
        assert shape is not None
        gateway = self._gateway
        incarnation = decision.incarnation
        if shape.keys and incarnation is not None and self._records is not None:
            # Siblings of a burst must find it; where it was not looked up, taking it back would take too much.
            self._noted = True
            self._withdrawals = gateway.withdrawals
            owner = "" if self.caller is None else self._owner()
            gateway.registry.touch(shape.keys, incarnation, decision.reserved_s, owner)
        self._dispatch()

    def _answers(self, decision: Decision, computed: bool) -> None:
        """The first byte is there: what was taken back meanwhile is noted again, and suspects are judged."""
        if computed:
            use = self._use
            if use is not None and use.points:
                self._promise(use, decision)
            if self._withdrawals != self._gateway.withdrawals:
                self._note_again(decision)
            if decision.replica.waiting:
                # Only a request without a first byte there can still take its note back.
                since_s = decision.reserved_s - STALE_S
                if decision.believed_s > since_s or decision.fresh_s > since_s:
                    self._bear_out(decision, since_s)
        if self._suspects is not None:
            self._verdict(self._suspects, decision.replica, computed)
        if self.second is not None:
            self._drop_second()

    def _promise(self, use: CacheUse, decision: Decision) -> None:
        """The prompt is computed: what was asked to be kept is promised."""
        caching, incarnation = self._gateway.caching, decision.incarnation
        if caching is not None and incarnation is not None and self.shape is not None:
            caching.computed(use, self.shape, incarnation, decision.reserved_s)

    # -- errors that a replica answers ------------------------------------------------------------------------------

    def _taken_over(self, kept_back: bytes) -> bool:
        """Whether the complete answer is not the client's."""
        if self._status == 404 and self._passed:
            head = self._head
            assert head is not None
            if self._no_endpoint(plain_of(head.coding, kept_back, READ_CODED_BYTES)):
                return True
        return (self._status >= 400 or self._state is _ERROR_EVENT) and self._tried_elsewhere(kept_back)

    @property
    def _passed(self) -> bool:
        """Whether engines need not have this endpoint."""
        found = self._request.head.route
        return found is not None and found.kind is _PASSED

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

    def _refused(self, body: bytes) -> bool:
        """Ask again without asking for usage, if that may be what is refused. False if the answer is the client's."""
        support = self._support
        decision = self.decision
        assert support is not None
        assert decision is not None
        if support.accepted and not any(mark in body for mark in REFUSAL_MARKS):
            return False
        self._refusal = True
        self._connect(self._gateway.pool(decision.replica))
        return True

    def _tried_elsewhere(self, body: bytes) -> bool:
        """Try another replica for an error answer, if that may help. False if it is to be passed on."""
        status = self._status
        head = self._head
        assert head is not None
        kept_back = body
        if head.coding:
            body = plain_of(head.coding, kept_back, READ_CODED_BYTES)
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
        self._last_error = head, kept_back
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

    # -- failures ---------------------------------------------------------------------------------------------------

    def _attempt_failed(self, reason: FailureReason, why: str, delivered: bool) -> None:
        """The replica failed before its first body byte: the next one, or the end."""
        gateway = self._gateway
        decision = self.decision
        assert decision is not None
        gateway.replica_failed(decision.replica, reason, why)
        outlived = not delivered or self._outlived(decision)
        if outlived and self._retry(decision, reason):
            return
        self._give_up(decision.replica.id, why, outlived)

    def _give_up(self, replica: ReplicaId, why: str, outlived: bool) -> None:
        """Nobody is left to try: the last error answer that there was, or an error of the router's."""
        last_error = self._last_error
        if last_error is not None and outlived:
            self._head, body = last_error
            self._status = self._head.status
            self._state = _ERROR_EVENT if self._status == 200 else _ERROR
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
                f"replica {replica} failed before it answered ({why});"
                f" {self.attempts} attempt(s) made, {rest}"
            )
        )

    def _left(self, connection: ReplicaConnection) -> str:
        """The client is gone: end the replica's work. Returns what it was at."""
        connection.abandon()
        if self.begun:
            return "stream"
        if self.decision is not None and not self.suspected:
            self._gateway.given_up(self.decision)
        return "prefill"

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
        if self.second is not None and not self.begun:
            self._promote(self.second, FailureReason.TIMEOUT)
            return
        error = ReplicaError("the replica was silent for too long", status=504, code="replica_timeout")
        if relay is not None and self.begun:
            if dead and decision is not None:
                gateway.note_death(decision, self.shape, self._request)
            if relay.transcript is None or not self._goes_on(relay, FailureReason.TIMEOUT):
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

    def _retry(self, failed: Decision, reason: FailureReason) -> bool:
        """Dispatch to the next replica of the ranking, now or in a moment. False if there is none, or no attempt left,
        or no budget for it."""
        gateway = self._gateway
        if self.second is not None:
            self._promote(self.second, reason)
            return True
        self._tried.append(failed.replica)
        if not self._may_retry():
            return False
        if reason not in UNDELIVERED and not gateway.may_retry():
            return False
        pause_s = gateway.pause_s(self.attempts - 1)
        if pause_s <= 0.0:
            return self._next(failed.replica.id, reason)
        assert self.shape is not None
        if not gateway.fleet.has_other(self.shape.model, self._tried):
            return False
        self._settle()
        self._kept_back = b""
        self._failed = failed.replica.id, reason.value
        gateway.later.call(pause_s, self._paused)
        return True

    def _may_retry(self) -> bool:
        """Whether another replica could be tried for this request, as far as it stands."""
        if self._pinned is not None or self.attempts >= self._gateway.max_attempts:
            return False
        relay = self._relay
        # Behind an early head, only an event stream can be gone on with.
        return relay is None or (not self._opened and relay.resumable)

    def _paused(self) -> None:
        """The pause before the next try is over."""
        failed, self._failed = self._failed, None
        if self._done or failed is None:
            return
        try:
            if not self._next(failed[0], FailureReason(failed[1])):
                self._give_up(failed[0], failed[1], True)
        except Exception as error:  # noqa: BLE001 - nobody else would hear of it
            self.crashed(error)

    def _next(self, failed: ReplicaId, reason: FailureReason) -> bool:
        gateway = self._gateway
        shape = self.shape
        assert shape is not None
        now_s = gateway.clock()
        try:
            decision = gateway.fleet.choose_and_reserve(shape, self._records, now_s, self._tried)
        except RouterError:
            return False
        self._settle()
        gateway.metrics.retried(reason)
        self.retried_after = f"{failed} {reason.value}"
        self._decided(decision, now_s)
        return True

    # -- a second try beside the first --------------------------------------------------------------------------------

    def late(self, cause: str) -> bool:
        """The first byte is late: have a second replica asked as well. False if that cannot be, or is under way."""
        decision = self.decision
        if self.begun or self.second is not None or decision is None or not self._may_retry():
            return False
        gateway, shape = self._gateway, self.shape
        if shape is None:
            return False
        tried = [*self._tried, decision.replica]
        now_s = gateway.clock()
        rank: Replica | None = None
        if not gateway.fleet.has_other(shape.model, tried):
            # Where there is no other server, another rank of this one may answer.
            rank = gateway.fleet.spare_rank(decision.replica, now_s)
            if rank is None or len(tried) > 1:
                return False
        if not gateway.may_retry():
            return False
        if rank is None:
            return self._ask_beside(tried, cause)
        self._begin_beside(gateway.fleet.reserve_on(rank.id, shape, now_s, self._records), cause)
        return True

    def second_late(self) -> None:
        """The second try is late as well: it goes on alone, and a third is made beside it, if that can be."""
        second, decision = self.second, self.decision
        if second is None or decision is None or not self._may_retry():
            return
        tried = [*self._tried, decision.replica, second.decision.replica]
        if self._may_ask_beside(tried):
            self._promote(second, FailureReason.TIMEOUT)
            if not self.begun and not self._done:
                self._ask_beside(tried, second.cause)

    def _may_ask_beside(self, tried: list[Replica]) -> bool:
        """Whether there is a replica that is well, and budget, for one more try; spends it."""
        gateway, shape = self._gateway, self.shape
        return shape is not None and gateway.fleet.has_other(shape.model, tried) and gateway.may_retry()

    def _ask_beside(self, tried: list[Replica], cause: str) -> bool:
        gateway, shape = self._gateway, self.shape
        assert shape is not None
        try:
            other = gateway.fleet.choose_and_reserve(shape, self._records, gateway.clock(), tried)
        except RouterError:
            return False
        self._begin_beside(other, cause)
        return True

    def _begin_beside(self, other: Decision, cause: str) -> None:
        gateway = self._gateway
        self.attempts += 1
        gateway.metrics.second_sent(cause)
        second = Second(self, gateway, self._request, self._api, other, self._asking_at, cause)
        self.second = second
        second.start()

    def second_answers(self, second: Second, head: AnswerHead | None, body: bytes, whole: bool) -> None:
        """The second try's answer begins: it is the request's."""
        decision = self.decision
        if self._done or self.second is not second:
            return
        gateway = self._gateway
        gateway.metrics.second_won(second.cause, decision.uncached_tokens if decision is not None else 0)
        if decision is not None and second.cause == SILENCE and not self.suspected:
            gateway.outrun(decision)
        self._take(second, second.cause)
        if whole:
            assert head is not None
            self.on_whole(head, body)
        else:
            self._replay(second)

    def second_failed(
        self, second: Second, reason: FailureReason | None, why: str, *, delivered: bool
    ) -> None:
        """The second try came to nothing: the first goes on alone."""
        gateway = self._gateway
        if reason is not None:
            gateway.replica_failed(second.decision.replica, reason, why)
            if delivered and reason is FailureReason.LOST:
                gateway.note_death(second.decision, self.shape, self._request)
                self._deaths += 1
        if self.second is second:
            self._tried.append(second.decision.replica)
            self._drop_second()

    def _promote(self, second: Second, reason: FailureReason) -> None:
        """The first try has failed: the second is the only one."""
        second.over = True
        self._take(second, reason.value)
        self._gateway.metrics.retried(reason)
        if second.connecting:
            second.promoted = self._connecting = True
        else:
            self._replay(second)

    def _take(self, second: Second, why: str) -> None:
        """Put the second try in the place of the first, which is aborted."""
        gateway = self._gateway
        shape = self.shape
        assert shape is not None
        first = self.decision
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.abandon()
        self.second = None
        self._settle()
        if first is not None:
            self._tried.append(first.replica)
            self.retried_after = f"{first.replica.id} {why}"
        decision = self.decision = second.decision
        self._noted = False
        if shape.keys and decision.incarnation is not None and self._records is not None:
            self._noted = True
            self._withdrawals = gateway.withdrawals
            owner = "" if self.caller is None else self._owner()
            gateway.registry.touch(shape.keys, decision.incarnation, decision.reserved_s, owner)
        self._head = None
        self._state = _EXPECTED
        self._fresh_tried = self._refusal = self._joined = self.suspected = False
        self._lead = self._kept_back = b""
        self._asked, self._support = second.asked, second.support
        self.progress_s = second.sent_s
        self.expected_s, self.surprise_s = second.expected_s, second.surprise_s
        self.connection, second.connection = second.connection, None
        if self.connection is not None:
            self.connection.exchange = self

    def _replay(self, second: Second) -> None:
        """What has come of the second try's answer."""
        if second.head is not None:
            self.on_head(second.head)
            kept_back = second.take_kept_back()
            if kept_back:
                self.on_body(kept_back)

    def _drop_second(self) -> None:
        """Nobody needs the second try any more."""
        second, self.second = self.second, None
        if second is not None:
            gateway = self._gateway
            gateway.metrics.wasted(second.cause, second.decision.uncached_tokens)
            second.drop()
            gateway.settle(second.decision)

    def _outlived(self, decision: Decision, engine: bool = False) -> bool:
        """A replica, or its engine, failed after it had the request in full: whether another may be given it."""
        gateway = self._gateway
        if not gateway.note_death(decision, self.shape, self._request, engine):
            return True  # it was dead already, and this request not the reason
        self._deaths += 1
        return self._deaths <= 1 and gateway.may_outlive(decision, self.shape, self._request)

    # -- what was noted ---------------------------------------------------------------------------------------------

    def _withdraw(self, failed: Decision, shape: RequestShape) -> None:
        """Take back what was noted at dispatch: the prompt was not computed."""
        gateway = self._gateway
        self._noted = False
        incarnation = failed.incarnation
        records = self._records
        if incarnation is None or records is None:
            return
        rungs = len(shape.rungs)
        computed = gateway.computed_rungs(incarnation, failed.reserved_s)
        taken_back: list[FingerprintHash] = []
        for place, record in enumerate(records):
            held = False
            if record is not None:
                for holder in record:
                    if holder[0] == incarnation and not gateway.was_withdrawn(holder):
                        held = True
            if place >= rungs:
                if not held:
                    taken_back.append(shape.keys[place])
            elif held:
                computed = place + 1
        if computed < rungs:
            taken_back = shape.rungs[computed:] + taken_back
        if taken_back:
            gateway.withdraw(taken_back, incarnation, failed.reserved_s)

    def _bear_out(self, decision: Decision, since_s: float) -> None:
        """The prompt was computed, and with it what others noted so shortly before that it was not noted again: whoever
        takes its own note back must leave these rungs. (Chunks are not looked after: each is noted by many.)"""
        records, shape = self._records, self.shape
        if records is None or shape is None:
            return
        incarnation = decision.incarnation
        last: Record | None = None
        depth = min(len(records), len(shape.rungs))
        while depth > 0:
            record = records[depth - 1]
            if record is not last and record is not None:
                last = record
                for holder in reversed(record):  # most recent first
                    if holder[1] <= since_s:
                        break
                    if holder[0] == incarnation:
                        self._gateway.note_computed(holder, depth)
                        break
            depth -= 1

    def _owner(self) -> str:
        """Whose the prompt's records are, where tenants are kept apart: then nobody else has such."""
        caller = self.caller
        return caller.tenant.sharing if caller is not None and self._gateway.owned_records else ""

    def _note_again(self, decision: Decision) -> None:
        """The prompt was computed, and something noted was taken back meanwhile: perhaps what stood for it too."""
        shape = self.shape
        gateway = self._gateway
        if gateway.needs_records and shape is not None and shape.keys and decision.incarnation is not None:
            owner = "" if self.caller is None else self._owner()
            gateway.registry.touch(shape.keys, decision.incarnation, decision.reserved_s, owner)

    # -- what whoever extends this decides ------------------------------------------------------------------------

    def fail(self, error: RouterError) -> None:
        """Answer with an error of the router's own."""
        raise NotImplementedError

    def _settle(self) -> None:
        """Give back what is reserved for the try under way."""
        raise NotImplementedError
