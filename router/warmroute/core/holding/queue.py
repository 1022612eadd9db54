"""The hold queue keeps requests at the router until the moment in which a replica comes free.

This module decides whether a request goes to its replica at once or waits here, and which request goes first. The
shortest expected prefill goes first, and warm requests are short; each second of waiting counts like `AGEING_RATIO`
seconds less of prefill. A request that waits here can still go to whichever replica is best when its turn comes. In an
engine it could not, and there the order is that of arrival. The queue keeps what the registry knew of a prompt up to
date by what it grants, so that of several prompts with one new prefix only the first is computed whole; `renewal` says
when the registry has to be asked again for what other routers granted.

The rules it keeps:
1. A request waits here only for a replica that has a prompt to compute and will be heard to end it
   (`Replica.free_in_s`), never for one that could begin: holding leaves no engine idle that would have worked
   without, whatever the rates are believed to be. Only where other routers hold requests that go before does it wait
   up to `STAGGER_S` longer for each of these routers; and a prompt that is mostly new waits as long as it is worth to
   displace nobody who will go on (`displacing`), whether the replica is idle or not.
2. A new request overtakes a held one only by the order above.
3. At most `max_held` requests wait here, and none longer than `max_hold_s`: beyond either, requests go to the best
   replica at once, as without a queue.

Nothing here waits or schedules: the caller calls `release` after `Fleet.started` and `Fleet.settle`, and when `release`
said so.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from math import inf
from typing import Final

from warmroute.core.beliefs.belief import Belief
from warmroute.core.errors import RouterError
from warmroute.core.fleet.decision import Decision
from warmroute.core.fleet.fleet import Fleet
from warmroute.core.fleet.hold_terms import HoldTerms
from warmroute.core.fleet.replica import Replica
from warmroute.core.holding.parameters import HoldParameters
from warmroute.core.holding.renewal import Renewal, merged
from warmroute.core.holding.ticket import Ticket
from warmroute.core.types import Records, RequestShape

AGEING_RATIO: Final = 0.25

MOST_LENGTH_RATIO: Final = 4.0
"""Prompts of more than so many times the mean prefill go like this long ones: they would be overtaken for too long."""

MAX_LOOKED_AT: Final = 64
"""Held requests looked through at one event, best first; those behind them wait for the next."""

STAGGER_S: Final = 0.012
"""How much later a request goes for each router that holds one to go before it: as long as it takes to hear whether
that has gone. Otherwise all routers would send to the replica that comes free, at the same moment. But no later than
`ahead_tokens` take: a fast engine would be through with what was sent ahead, and wait."""

LEAST_TIMER_S: Final = 0.005
MOST_TIMER_S: Final = 0.5
"""When to look again at the latest: replicas also come and go without an event here."""


class HoldQueue:
    """The queue of one event loop, in front of one fleet."""

    def __init__(self, fleet: Fleet, parameters: HoldParameters) -> None:
        self._fleet = fleet
        self._ahead_tokens = parameters.ahead_tokens
        self._terms = HoldTerms()
        """Set anew for each request that is looked at (`_terms_for`)."""
        self._terms.behind_tokens = parameters.ahead_tokens
        self._max_held = parameters.max_held
        self._max_hold_s = parameters.max_hold_s
        self._renewal = Renewal(fleet, STAGGER_S, MAX_LOOKED_AT)
        self._tickets: list[Ticket] = []
        """The held requests, best first. Ageing moves all keys alike; `_note` and `renew` alone change the order."""
        self._models = fleet.held.by_model
        """How many of them ask for each model; the fleet counts."""
        self._arrivals = 0
        self._due_s = 0.0
        """When to look for whoever may go by then."""
        self._aged_s = 0.0
        """When the queue was last searched for requests held too long."""
        self._renewed = False
        """Keys have changed since the tickets were last put in order."""

    def __len__(self) -> int:
        return len(self._tickets)

    def offer(
        self,
        shape: RequestShape,
        records: Records | None,
        now_s: float,
        granted: Callable[[Decision | RouterError], None],
    ) -> Decision | Ticket:
        """A decision if the request may go at once; else a ticket, and `release` is due.

        Raises:
            NotFoundError, OverloadError: As `Fleet.choose_and_reserve`.
        """
        fleet = self._fleet
        if shape.prompt_tokens <= 0 or len(self._tickets) >= self._max_held:
            return fleet.choose_and_reserve(shape, records, now_s)
        if not self._tickets:
            rank_s = 0.0
            if fleet.rivals:
                rank_s = self._rank_s(fleet.believe(shape, records), now_s)
            answer = fleet.reserve_if_free(shape, records, self._terms_for(rank_s, now_s, now_s))
            if isinstance(answer, Decision):
                return answer
        else:
            answer = fleet.believe(shape, records)
        rank_s = self._rank_s(answer, now_s)
        self._arrivals += 1
        own = None if records is None else list(records)
        ticket = Ticket(shape, own, granted, (rank_s, self._arrivals), now_s)
        if fleet.plan.meant is not None:
            self._mean(ticket)
            fleet.end_plan()
        insort(self._tickets, ticket)
        fleet.hold_begun(shape)
        if rank_s < fleet.first_held_s:
            fleet.note_first_held(rank_s, urgent=True)
        return ticket

    def _rank_s(self, belief: Belief, arrival_s: float) -> float:
        """The order's key, smallest first: comparable between routers, whose clocks and estimates agree about."""
        most_s = MOST_LENGTH_RATIO * self._fleet.mean_prefill_s(belief.shape.model)
        return min(self._fleet.prefill_s(belief), most_s) + AGEING_RATIO * arrival_s

    def _behind_s(self, rank_s: float) -> float:
        """How much later than at once a request with this key goes, to let other routers' requests go first."""
        rivals = self._fleet.rivals
        return STAGGER_S * bisect_left(rivals, rank_s) if rivals else 0.0

    def _terms_for(
        self, rank_s: float, now_s: float, arrival_s: float = -inf, overdue: bool = False
    ) -> HoldTerms:
        """On what terms a request with this key goes that came then, whatever it displaces where that is not said; one
        that was held for too long goes in any case."""
        terms = self._terms
        terms.now_s = now_s
        terms.waited_s = inf if overdue else now_s - arrival_s
        terms.ahead_tokens = inf if overdue else self._ahead_tokens
        terms.behind_s = 0.0 if overdue else self._behind_s(rank_s)
        return terms

    def _tell_first(self) -> None:
        self._fleet.note_first_held(self._tickets[0].key[0] if self._tickets else inf)

    def withdraw(self, ticket: Ticket) -> None:
        """The client is gone; a no-op if the ticket was granted."""
        if ticket.open:
            self._close(ticket)
            self._tickets.remove(ticket)
            self._tell_first()

    def release(self, now_s: float, freed: Replica | None = None) -> float | None:
        """Grant what may go. Calls `granted` of each; those must not call back in here.

        Args:
            freed: The replica of which a prompt has started or ended, if that is all that has happened: cheap
                unless it is free for the next.
        Returns:
            When to call again if nothing happens before, in seconds from now; None if nobody waits.
        """
        if not self._tickets:
            return None
        if self._renewed:
            self._in_order(now_s)
        fleet = self._fleet
        first_s = self._tickets[0].key[0]
        answers: list[tuple[Ticket, Decision | RouterError]] = []
        if freed is None:
            answers = self._look(now_s)
            wait_s = fleet.next_free_s(self._terms_for(first_s, now_s))
            self._due_s = now_s + (wait_s if wait_s < MOST_TIMER_S else MOST_TIMER_S)
        else:
            if freed.begins_soon(self._terms_for(first_s, now_s)):
                answers = self._look(now_s)
            wait_s = freed.free_in_s(self._terms_for(first_s, now_s))
            if 0.0 < wait_s < self._due_s - now_s:
                self._due_s = now_s + wait_s
        if answers:
            for ticket, _ in answers:
                self._close(ticket)
            self._tickets = [ticket for ticket in self._tickets if ticket.open]
            self._tickets.sort()
            self._tell_first()
        for ticket, answer in answers:
            ticket.granted(answer)
        return self._pause_s(now_s) if self._tickets else None

    def to_read_again(self, now_s: float) -> Sequence[Ticket]:
        """Whose prompts are to be looked up in the registry again now; `renew` is called with what is found."""
        return self._renewal.begin(self._tickets, now_s) if self._renewal.due(now_s) else ()

    def renew(self, ticket: Ticket, found: Records, now_s: float) -> bool:
        """Take over what the registry knows of a held prompt by now. True if it is more than was known: then
        `release` is due."""
        known = ticket.records
        if not ticket.open or not known:
            return False
        records = merged(known, found)
        if records == known:
            return False
        ticket.records = records
        try:
            ticket.key = self._key(ticket)
        except RouterError:
            return True  # nobody may be sent it: `release` tells it
        self._renewed = True
        return True

    def end(self, now_s: float) -> None:
        """Nobody is held here any more: everybody goes to the best replica at once."""
        fleet = self._fleet
        tickets, self._tickets = self._tickets, []
        for ticket in tickets:
            self._close(ticket)
        self._tell_first()
        for ticket in tickets:
            try:
                ticket.granted(fleet.choose_and_reserve(ticket.shape, ticket.records, now_s))
            except RouterError as error:
                ticket.granted(error)

    def _pause_s(self, now_s: float) -> float:
        return min(max(self._due_s - now_s, LEAST_TIMER_S), MOST_TIMER_S)

    def follow(self, now_s: float, steady_s: float) -> None:
        """How the clock of all times here stands beside one that is never set. It need not be told: who waits while it
        is set goes at once."""

    def would_hold(self, replica: Replica, displacing_s: float, now_s: float) -> bool:
        """Whether a request whose choice is this replica, and that may wait so long for what it would displace there,
        would have to wait now."""
        busy = displacing_s > 0.0 or replica.free_in_s(self._terms_for(-inf, now_s)) > 0.0
        return busy and len(self._tickets) < self._max_held

    def _close(self, ticket: Ticket) -> None:
        ticket.open = False
        fleet = self._fleet
        fleet.hold_ended(ticket.shape)
        if ticket.meant is not None:
            fleet.hold_for(ticket.meant, -ticket.meant_tokens)

    def _mean(self, ticket: Ticket) -> None:
        """Other routers should count on it that the request, which was looked at last, goes where it is meant to."""
        fleet = self._fleet
        replica = fleet.plan.meant
        if ticket.meant is not None:
            fleet.hold_for(ticket.meant, -ticket.meant_tokens)
        ticket.meant = replica
        if replica is None:
            return
        tokens = int(replica.work_tokens(ticket.shape.prompt_tokens, fleet.plan.overlap_tokens))
        ticket.meant_tokens = tokens
        fleet.hold_for(replica, tokens)

    def _look(self, now_s: float) -> list[tuple[Ticket, Decision | RouterError]]:
        """Look through the tickets, best first, and reserve for whom there is a replica."""
        fleet = self._fleet
        oldest_s = now_s - self._max_hold_s
        by_age = not self._aged_s <= now_s < self._aged_s + MOST_TIMER_S
        if by_age:
            self._aged_s = now_s
        answers: list[tuple[Ticket, Decision | RouterError]] = []
        planned = fleet.plan.replicas
        free: dict[str, bool] = {}
        """By model, whether any of its replicas is."""
        busy = 0
        models = len(self._models)
        for ticket in self._tickets:
            # Held for too long, or the clock was set back.
            overdue = by_age and not oldest_s < ticket.arrival_s <= now_s
            terms = self._terms_for(ticket.key[0], now_s, ticket.arrival_s, overdue)
            try:
                if not overdue:
                    if busy == models or len(planned) >= MAX_LOOKED_AT:
                        if by_age:
                            continue
                        break
                    model = ticket.shape.model
                    known = free.get(model)
                    if known is None:
                        known = free[model] = fleet.any_free(model, terms)
                        if not known:
                            busy += 1
                    if not known:
                        continue
                answer = fleet.reserve_if_free(ticket.shape, ticket.records, terms)
            except RouterError as error:
                answers.append((ticket, error))
                continue
            if isinstance(answer, Decision):
                answers.append((ticket, answer))
                self._note(ticket, answer.replica, now_s)
                free.clear()
                busy = 0
            else:
                self._mean(ticket)
        fleet.end_plan()
        return answers

    def _note(self, granted: Ticket, replica: Replica, now_s: float) -> None:
        """Note with those held, as the registry would, what a granted one puts into a replica's cache."""
        incarnation = replica.incarnation
        rungs = granted.shape.rungs
        if not rungs or incarnation is None:
            return
        first = rungs[0]
        model = granted.shape.model
        for ticket in self._tickets:
            records = ticket.records
            others = ticket.shape.rungs
            if not records or not others or others[0] != first or ticket.shape.model != model:
                continue
            if ticket is granted:
                continue
            depth = min(len(rungs), len(others))
            while rungs[depth - 1] != others[depth - 1]:
                depth -= 1
            record = records[depth - 1] or ()
            records[depth - 1] = (*(h for h in record if h[0] != incarnation), (incarnation, now_s))
            ticket.key = self._key(ticket)

    def _key(self, ticket: Ticket) -> tuple[float, int]:
        """Its place by what is known of its prompt now.

        Raises:
            NotFoundError, OverloadError: As `Fleet.choose_and_reserve`.
        """
        belief = self._fleet.believe(ticket.shape, ticket.records)
        return self._rank_s(belief, ticket.arrival_s), ticket.key[1]

    def _in_order(self, now_s: float) -> None:
        """Put the tickets in order whose keys `renew` has changed: once for all that one answer tells of."""
        self._renewed = False
        self._tickets.sort()
        self._tell_first()
