"""Requests held at the router for the moment in which a replica comes free.

Decides whether a request goes to its replica at once or waits here, and who goes first: the shortest expected prefill,
warm ones being short, with ageing (each second of waiting counts like `AGEING_RATIO` seconds less of prefill). Who
waits here can still go to whichever replica is best when the turn comes; who waits in an engine cannot, and there the
order is that of arrival.

The rule it keeps: a replica is given a prompt only if it starts it within `most_wait_s`, and nobody held is overtaken
by a new one except in the order above. At most `max_held` wait here, and none longer than `max_hold_s`: beyond either,
requests go to the best replica at once, as without a queue. Nothing here waits or schedules: the caller calls `release`
after `Fleet.started` and `Fleet.settle`, and when `release` said so.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from router.core.errors import RouterError
from router.core.fleet import Fleet
from router.core.replica import Decision, Replica
from router.core.types import Record, RequestShape

AGEING_RATIO = 0.5

MOST_LENGTH_S = 1.2
"""Longer prompts go like this long ones: they would be overtaken for too long."""

MAX_LOOKED_AT = 64
"""Held requests looked through at one event, best first; those behind them wait for the next."""

LEAST_TIMER_S = 0.002
MOST_TIMER_S = 0.5
"""When to look again at the latest: replicas also come and go without an event here."""


@dataclass(frozen=True, slots=True)
class HoldParameters:
    """When to hold, and how much."""

    most_wait_s: float = 0.04
    """Work ahead at which a replica is as good as free: an engine step and a hop, so that it never runs dry."""
    max_held: int = 1024
    max_hold_s: float = 30.0

    def __post_init__(self) -> None:
        if self.most_wait_s < 0 or self.max_held < 0 or self.max_hold_s < 0:
            raise ValueError("most_wait_s, max_held and max_hold_s must not be negative")


class Ticket:
    """One held request. `granted` is called once, with a decision or the reason why there is none, unless withdrawn."""

    __slots__ = ("arrival_s", "granted", "key", "open", "records", "shape")

    def __init__(
        self,
        shape: RequestShape,
        records: Sequence[Record | None] | None,
        granted: Callable[[Decision | RouterError], None],
        key: tuple[float, int],
        arrival_s: float,
    ) -> None:
        self.shape = shape
        self.records = records
        self.granted = granted
        self.key = key
        self.arrival_s = arrival_s
        self.open = True

    def __lt__(self, other: Ticket) -> bool:
        return self.key < other.key


class HoldQueue:
    """The queue of one event loop, in front of one fleet."""

    def __init__(self, fleet: Fleet, parameters: HoldParameters) -> None:
        self._fleet = fleet
        self._parameters = parameters
        self._tickets: list[Ticket] = []
        """Best first. Ageing moves all keys alike, so that the order never changes."""
        self._arrivals = 0

    def __len__(self) -> int:
        return len(self._tickets)

    def offer(
        self,
        shape: RequestShape,
        records: Sequence[Record | None] | None,
        now_s: float,
        granted: Callable[[Decision | RouterError], None],
    ) -> Decision | Ticket:
        """A decision if the request may go at once; else a ticket, and `release` is due.

        Raises:
            NotFoundError, OverloadError: As `Fleet.choose_and_reserve`.
        """
        fleet = self._fleet
        if shape.prompt_tokens <= 0 or len(self._tickets) >= self._parameters.max_held:
            return fleet.choose_and_reserve(shape, records, now_s)
        if not self._tickets:
            planned: list[Replica] = []
            decision, _ = fleet.reserve_if_free(shape, records, now_s, self._parameters.most_wait_s, planned)
            if decision is not None:
                return decision
            fleet.end_plan(planned)
        self._arrivals += 1
        rank_s = min(fleet.prefill_s(shape, records), MOST_LENGTH_S) + AGEING_RATIO * now_s
        ticket = Ticket(shape, records, granted, (rank_s, self._arrivals), now_s)
        insort(self._tickets, ticket)
        return ticket

    def withdraw(self, ticket: Ticket) -> None:
        """The client is gone; a no-op if the ticket was granted."""
        if ticket.open:
            ticket.open = False
            self._tickets.remove(ticket)

    def release(self, now_s: float) -> float | None:
        """Grant what may go. Calls `granted` of each; those must not call back in here.

        Returns:
            When to call again if nothing happens before, in seconds from now; None if nobody waits.
        """
        tickets = self._tickets
        if not tickets:
            return None
        fleet = self._fleet
        parameters = self._parameters
        most_wait_s = parameters.most_wait_s
        oldest_s = now_s - parameters.max_hold_s
        answers: list[tuple[Ticket, Decision | RouterError]] = []
        planned: list[Replica] = []
        next_s = MOST_TIMER_S
        # Each refusal plans for a replica: soon all of them have somebody waiting, and who follows would too.
        most_refusals = 2 * len(fleet.replicas) + 4
        for ticket in tickets[:MAX_LOOKED_AT]:
            limit_s = most_wait_s if ticket.arrival_s > oldest_s else float("inf")
            try:
                decision, wait_s = fleet.reserve_if_free(
                    ticket.shape, ticket.records, now_s, limit_s, planned
                )
            except RouterError as error:
                answers.append((ticket, error))
                continue
            if decision is not None:
                answers.append((ticket, decision))
            else:
                next_s = min(next_s, wait_s - most_wait_s)
                if len(planned) >= most_refusals:
                    break
        fleet.end_plan(planned)
        for ticket, _ in answers:
            ticket.open = False
        if answers:
            self._tickets = [ticket for ticket in tickets if ticket.open]
        for ticket, answer in answers:
            ticket.granted(answer)
        return max(next_s, LEAST_TIMER_S) if self._tickets else None
