"""The admission queue is the hold queue of a fleet that tenants and classes share: it also refuses.

This module decides whether a request goes to its replica at once, waits here, or is turned away, and keeps what those
who wait were promised: each is begun before its deadline or refused when that passes. `line` says who is next, and the
hold queue, which this one is built on, when a replica is free and what it is given. The rules it keeps besides theirs:
1. Nobody waits here but while no replica has room, or for one that computes a prompt and is the best for it even so (as
   in the hold queue): priorities and shares leave no engine idle.
2. Nobody is taken in who will not be begun in time, as far as can be told from what waits for the replicas of the same
   model, and from how fast that moved lately (`paces`); nor beyond `max_held` requests or `max_bytes` of bodies.
   Whoever is refused is told at once, and when to come back.
3. Every request that waits is answered exactly once: with a decision, or with the reason why there is none.
4. Time that a clock is set by is no time that anybody waits (`follow`).

What is told to other routers of the first in line is a key that puts classes before shares, and shares before the hold
queue's own order, so that of several routers the one goes first whose first request would in one line of all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil, inf
from typing import Final

from warmroute.core.errors import OverloadError, RouterError
from warmroute.core.fleet.decision import Decision
from warmroute.core.fleet.fleet import Fleet
from warmroute.core.fleet.replica import Replica
from warmroute.core.holding.line import BATCH, CLASSES, LEVELS, Claim, Cursor, Line
from warmroute.core.holding.paces import Paces
from warmroute.core.holding.parameters import HoldParameters
from warmroute.core.holding.queue import AGEING_RATIO, MAX_LOOKED_AT, MOST_TIMER_S, HoldQueue
from warmroute.core.holding.queue_parameters import QueueParameters
from warmroute.core.holding.shares import QUANTUM_TOKENS, Flow, Shares
from warmroute.core.holding.ticket import Ticket
from warmroute.core.types import Records, RequestShape

CLASS_S: Final = 100_000.0
ROUND_S: Final = 100.0
MOST_ROUNDS: Final = 900
"""Of the key that other routers are told: classes are further apart than all rounds, and rounds than all that waiting
and prefill make of the hold queue's own key."""

LEAST_COST_S: Final = 0.005
"""What a request without a prompt that could be computed counts."""

SURE_RATIO: Final = 0.75
"""Of a request's time, what the line ahead of it may take. The rest is for what is not known: others' answers, and who
goes before it for being shorter."""

OVERTAKEN_RATIO: Final = 0.25
"""Of a request's time, by how much later a shorter one of its tenant may come and still go before it."""

SET_S: Final = 0.1
"""By so much the clock is set, not late to be read."""

LONGEST_RETRY_S: Final = 60
"""When a client that was refused is told to come back at the latest."""

OVERLOADED: Final = "overloaded"
LATE: Final = "deadline_exceeded"


class AdmissionQueue(HoldQueue):
    """The queue of one event loop, in front of one fleet."""

    def __init__(
        self, fleet: Fleet, hold: HoldParameters, parameters: QueueParameters, shares: Shares
    ) -> None:
        super().__init__(fleet, hold)
        self._line = Line(shares, parameters.aged_s)
        self._max_bytes = parameters.max_bytes
        self._terms.max_under_way = parameters.max_under_way
        self._spare_ratio = parameters.spare_ratio
        self._shares = shares
        self._paces = Paces(fleet)
        self._refused: list[tuple[Ticket, Decision | RouterError]] = []
        """Those who gave way and are to be told."""
        self._next_deadline_s = inf
        self._offset_s = 0.0
        """How far the clock was before the one that is never set (`follow`)."""
        self._first_s = inf
        """The key, as other routers are told it, of the first in line."""
        self.refused = [0] * LEVELS
        """Requests turned away, by class: for lack of room, or of time."""

    def __len__(self) -> int:
        return len(self._line) + len(self._refused)

    @property
    def line(self) -> Line:
        """Those who wait."""
        return self._line

    # -- coming in --------------------------------------------------------------------------------------------------

    def begin(self, shape: RequestShape, records: Records | None, now_s: float) -> Decision | None:
        """A decision if the request may go at once; None: it has to `wait`.

        Raises:
            NotFoundError, OverloadError: As `Fleet.choose_and_reserve`.
        """
        fleet = self._fleet
        if shape.model in self._models or fleet.rivals:
            return None  # by class and share: somebody waits for this model, or at another router
        answer = fleet.reserve_if_free(shape, records, self._terms_for(0.0, now_s), elsewhere=True)
        if isinstance(answer, Decision):
            return answer
        fleet.end_plan()
        return None

    def wait(
        self,
        shape: RequestShape,
        records: Records | None,
        now_s: float,
        granted: Callable[[Decision | RouterError], None],
        level: int,
        flow: Flow,
        timeout_s: float,
        body_bytes: int,
    ) -> Claim:
        """Take a request into the line; `release` is due.

        Raises:
            NotFoundError: As `Fleet.choose_and_reserve`.
            OverloadError: No replica may be sent it; or there is no room, or it would not be begun in time.
        """
        fleet = self._fleet
        line = self._line
        belief = fleet.believe(shape, records)
        # Of several prompts with one new prefix, the first computes it for all.
        cost_s = max(fleet.prefill_s(belief, fleet.held.shared_tokens(belief)), LEAST_COST_S)
        model = shape.model
        pace = self._paces.asked(model, now_s)
        tokens = fleet.as_tokens(model, cost_s)
        ahead_s = line.ahead_s(level, flow, self._paces.shares(model), tokens / cost_s, now_s) / pace
        if ahead_s > SURE_RATIO * timeout_s:
            raise self._turned_away(
                level, ahead_s - SURE_RATIO * timeout_s, f"it would wait for about {ahead_s:.1f} s"
            )
        while len(line) >= self._max_held or (
            line.body_bytes + body_bytes > self._max_bytes and body_bytes <= self._max_bytes and len(line) > 0
        ):
            other = line.gives_way(level, flow, cost_s, model, self._paces.replicas)
            if other is None:
                raise self._turned_away(level, ahead_s, "as many requests wait as may")
            self._leave(other)
            error = self._turned_away(other.level, ahead_s, "others go first, and as many wait as may")
            self._refused.append((other, error))
        if body_bytes > self._max_bytes:
            raise self._turned_away(level, ahead_s, "its body is longer than all that may wait")
        self._shares.quantum = QUANTUM_TOKENS * max(1, len(fleet.replicas))
        self._arrivals += 1
        own = None if records is None else list(records)
        claim = Claim(
            shape,
            own,
            granted,
            (min(self._rank_s(belief, now_s), _latest_s(now_s, timeout_s)), self._arrivals),
            now_s,
            level,
            flow,
            now_s + timeout_s,
            body_bytes,
            cost_s,
            tokens,
        )
        line.put(claim, now_s)
        fleet.hold_begun(shape)
        if claim.deadline_s < self._next_deadline_s:
            self._next_deadline_s = claim.deadline_s
        told_s = self._told_s(claim, now_s)
        if told_s < self._first_s:
            self._first_s = told_s
            fleet.note_first_held(told_s, urgent=True)
        return claim

    def _turned_away(self, level: int, retry_s: float, why: str) -> OverloadError:
        self.refused[level] += 1
        after_s = min(max(1, ceil(retry_s)), LONGEST_RETRY_S)
        error = OverloadError(
            f"the fleet has no capacity for this request of class {CLASSES[level]}: {why}. Retry in {after_s} s.",
            code=OVERLOADED,
        )
        error.lines = b"retry-after: %d\r\n" % after_s
        return error

    def _expired(self, claim: Claim) -> OverloadError:
        self.refused[claim.level] += 1
        waited_s = claim.deadline_s - claim.arrival_s
        error = OverloadError(
            f"no replica came free for this request of class {CLASSES[claim.level]} within {waited_s:.3g} s",
            status=504,
            code=LATE,
        )
        error.lines = b"retry-after: 1\r\n"
        return error

    def _told_s(self, claim: Claim, now_s: float) -> float:
        rounds = self._shares.round_of(claim.flow, 0.0, now_s)
        return claim.level * CLASS_S + min(rounds, MOST_ROUNDS) * ROUND_S + claim.key[0]

    # -- leaving ----------------------------------------------------------------------------------------------------

    def _leave(self, claim: Claim) -> None:
        self._close(claim)
        self._line.remove(claim)

    def withdraw(self, ticket: Ticket) -> None:
        """The client is gone; a no-op if the ticket was granted."""
        if ticket.open:
            assert isinstance(ticket, Claim)
            self._leave(ticket)
            self._find_first(ticket.arrival_s)

    def _find_first(self, now_s: float) -> None:
        first = self._line.first(now_s)
        self._first_s = inf if first is None else self._told_s(first, now_s)
        self._fleet.note_first_held(self._first_s)

    def follow(self, now_s: float, steady_s: float) -> None:
        """How the clock of all times here stands beside one that is never set: where it was set since this was told
        last, those who wait have as much time left as they had."""
        offset_s = now_s - steady_s
        moved_s = offset_s - self._offset_s
        self._offset_s = offset_s
        if -SET_S <= moved_s <= SET_S or not self._models:
            return
        for claim in self._line.claims():
            claim.arrival_s += moved_s
            claim.deadline_s += moved_s
            claim.key = (claim.key[0] + AGEING_RATIO * moved_s, claim.key[1])
        self._line.sort()
        self._next_deadline_s += moved_s
        self._due_s += moved_s
        self._find_first(now_s)

    def release(self, now_s: float, freed: Replica | None = None) -> float | None:
        """As `HoldQueue.release`; also refuses those whose deadline has passed."""
        answers, self._refused = self._refused, []
        fleet = self._fleet
        if self._renewed:
            self._in_order(now_s)
        if now_s >= self._next_deadline_s:
            self._expire(now_s, answers)
        if self._models:
            if freed is None:
                self._grant(now_s, answers)
                wait_s = fleet.next_free_s(self._terms_for(self._first_s, now_s))
                self._due_s = now_s + (wait_s if wait_s < MOST_TIMER_S else MOST_TIMER_S)
            else:
                if freed.begins_soon(self._terms_for(self._first_s, now_s)):
                    self._grant(now_s, answers)
                wait_s = freed.free_in_s(self._terms_for(self._first_s, now_s))
                if 0.0 < wait_s < self._due_s - now_s:
                    self._due_s = now_s + wait_s
        if answers:
            self._find_first(now_s)
        for ticket, answer in answers:
            ticket.granted(answer)
        if not self._models:
            return 0.0 if self._refused else None
        if self._next_deadline_s < self._due_s:
            self._due_s = self._next_deadline_s
        return self._pause_s(now_s)

    def _expire(self, now_s: float, answers: list[tuple[Ticket, Decision | RouterError]]) -> None:
        self._next_deadline_s = inf
        for claim in self._line.claims():
            if claim.deadline_s <= now_s:
                self._leave(claim)
                answers.append((claim, self._expired(claim)))
            elif claim.deadline_s < self._next_deadline_s:
                self._next_deadline_s = claim.deadline_s

    def _grant(self, now_s: float, answers: list[tuple[Ticket, Decision | RouterError]]) -> None:
        """Go along the line, and reserve for whom there is a replica: first the one that is best for each, then, where
        that has no room, any that has. So whoever is best for a replica goes there, and none is left idle."""
        fleet = self._fleet
        line = self._line
        gone: dict[Claim, Decision | RouterError] = {}
        self._tickets = list(line.claims())
        self._go_along(now_s, gone, False)
        if self._terms.max_under_way and len(gone) < len(line):
            fleet.end_plan()
            self._go_along(now_s, gone, True)
        fleet.end_plan()
        self._tickets = []
        for claim, given in gone.items():
            if not isinstance(given, RouterError):
                line.granted(claim, now_s)
                self._paces.granted(given.replica, claim.cost_s, now_s)
            self._leave(claim)
            answers.append((claim, given))
        if gone:
            line.sort()

    def _go_along(self, now_s: float, gone: dict[Claim, Decision | RouterError], elsewhere: bool) -> None:
        """Put into `gone` who may go."""
        fleet = self._fleet
        planned = fleet.plan.replicas
        free: dict[str, bool] = {}
        """By model, whether any of its replicas is."""
        busy = 0
        last = False
        """Only the lowest class is left: it is given no replica before that has begun with all it has, since whoever
        is more urgent and comes meanwhile would wait for it."""
        models = len(self._models)
        cursor = Cursor(self._line, now_s)
        while busy < models and len(planned) < MAX_LOOKED_AT:
            claim = cursor.next()
            if claim is None:
                break
            if claim in gone:
                continue
            terms = self._terms_for(self._told_s(claim, now_s), now_s)
            if claim.level == BATCH and claim is not cursor.aged:
                terms.ahead_tokens = 0.0
                if not last:
                    last = True
                    free.clear()
                    busy = 0
            try:
                model = claim.shape.model
                known = free.get(model)
                if known is None:
                    known = free[model] = fleet.any_free(model, terms, self._spare_ratio if last else 0.0)
                    if not known:
                        busy += 1
                if not known:
                    continue
                answer = fleet.reserve_if_free(claim.shape, claim.records, terms, elsewhere)
            except RouterError as error:
                gone[claim] = error
                continue
            if isinstance(answer, Decision):
                gone[claim] = answer
                self._note(claim, answer.replica, now_s)
                free.clear()
                busy = 0
            else:
                self._mean(claim)

    def _key(self, ticket: Ticket) -> tuple[float, int]:
        """As `HoldQueue._key`: who has become longer by what was noted is not overtaken for longer."""
        assert isinstance(ticket, Claim)
        rank_s, arrival = super()._key(ticket)
        return min(rank_s, _latest_s(ticket.arrival_s, ticket.deadline_s - ticket.arrival_s)), arrival

    def to_read_again(self, now_s: float) -> Sequence[Ticket]:
        """As `HoldQueue.to_read_again`, whatever class they are of."""
        return self._renewal.begin(self._line.claims(), now_s) if self._renewal.due(now_s) else ()

    def _in_order(self, now_s: float) -> None:
        self._renewed = False
        self._line.sort()
        self._find_first(now_s)

    def would_hold(self, replica: Replica, displacing_s: float, now_s: float) -> bool:
        """Whether a request whose choice is this replica would have to wait now, whatever it displaces."""
        return bool(self._models) or replica.free_in_s(self._terms_for(-inf, now_s)) > 0.0


def _latest_s(arrival_s: float, timeout_s: float) -> float:
    """The order's key beyond which no request goes that came then and has so much time."""
    return AGEING_RATIO * (arrival_s + OVERTAKEN_RATIO * timeout_s)
