"""The hold wakes the queue of requests held at the router, on the event loop's clock.

This module decides only when the queue is looked through again: after every first byte and end that the fleet hears of,
when the registry knows more of a held prompt, and by one timer for all. `holding.queue` says which requests may go, in
which order, and whose prompts are to be looked up again.

The rule it keeps: the queue is never entered from within itself, whatever those do who are let go. One that fails
starts its client's next request, whose settling comes back here. Such calls make the outermost one look again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Final

from warmroute.core.errors import RouterError
from warmroute.core.fleet.decision import Decision
from warmroute.core.fleet.replica import Replica
from warmroute.core.fleet.report import Ranking
from warmroute.core.holding.queue import HoldQueue
from warmroute.core.holding.ticket import Ticket
from warmroute.core.types import Records, RequestShape
from warmroute.ports import Registry

EARLIER_S: Final = 0.005
"""The timer is not set anew for less."""


class Hold:
    """The held requests of one worker."""

    __slots__ = ("_again", "_clock", "_queue", "_registry", "_releasing", "_timer", "_timer_s", "waiting")

    def __init__(self, queue: HoldQueue, registry: Registry, clock: Callable[[], float]) -> None:
        self._queue = queue
        self._registry = registry
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = 0.0
        """Monotonic time at which the timer goes off."""
        self._releasing = False
        self._again = False
        self.waiting = 0
        """How many requests are held: 0 tells that `release` has nothing to do."""

    def offer(
        self,
        shape: RequestShape,
        records: Records | None,
        now_s: float,
        granted: Callable[[Decision | RouterError], None],
    ) -> Decision | Ticket:
        """As `HoldQueue.offer`: with a ticket, `release` is due once it is kept."""
        answer = self._queue.offer(shape, records, now_s, granted)
        if isinstance(answer, Ticket):
            self.waiting = len(self._queue)
        return answer

    def changed(self) -> None:
        """Somebody was put into the queue, or out of it, by its owner: `release` is due."""
        self.waiting = len(self._queue)

    def withdraw(self, ticket: Ticket) -> None:
        """Its client is gone."""
        self._queue.withdraw(ticket)
        self.waiting = len(self._queue)

    def release(self, now_s: float, freed: Replica | None = None) -> None:
        """Let go who may. `freed`: the one replica that may have come free; None to look at all."""
        if self._releasing:
            self._again = True
            return
        self._releasing = True
        try:
            self._queue.follow(now_s, monotonic())
            pause_s = self._queue.release(now_s, freed)
            while self._again:
                self._again = False
                pause_s = self._queue.release(now_s)
        finally:
            self._releasing = self._again = False
            self.waiting = len(self._queue)
        if pause_s is not None:
            self._look_in(pause_s)
            for ticket in self._queue.to_read_again(now_s):
                self._look_up(ticket)

    def _look_up(self, ticket: Ticket) -> None:
        """Ask the registry for what other routers have placed of its prompt since it was asked last."""

        def found(records: Records) -> None:
            if self._queue.renew(ticket, records, self._clock()):
                self._look_in(0.0)  # once for all that one answer tells of

        records = self._registry.lookup(ticket.shape.keys, found)
        if records is not None:
            found(records)

    def would_hold(self, ranking: Ranking) -> bool:
        """Whether a request whose choice is the head of this ranking would wait now."""
        return self._queue.would_hold(ranking.choice.replica, ranking.displacing_s, self._clock())

    def end(self, now_s: float) -> None:
        """Another one is asked from now on: let go everybody."""
        self.stop()
        self._queue.end(now_s)
        self.waiting = len(self._queue)

    def stop(self) -> None:
        """End the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_in(self, pause_s: float) -> None:
        at_s = monotonic() + pause_s
        if self._timer is not None:
            if at_s > self._timer_s - EARLIER_S:
                return
            self._timer.cancel()
        self._timer_s = at_s
        self._timer = asyncio.get_running_loop().call_later(pause_s, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if self.waiting:
            self.release(self._clock())
