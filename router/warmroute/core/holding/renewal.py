"""Renewal brings what the registry knew of a held prompt up to date by what other routers have placed since.

This module decides when a held request's prompt is looked up again, and what of old and new records counts. What this
router itself lets go, the hold queue notes with the others at once (`HoldQueue._note`); what other routers let go
reaches the registry alone. A request that waits for seconds would otherwise go by what was known as it came, be sent
past the replica that has its prefix by now, and be computed whole there: which makes all wait longer.

Nothing here looks anything up: the caller does so for those that `begin` returns.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import nsmallest
from operator import itemgetter
from typing import Final

from warmroute.core.errors import RouterError
from warmroute.core.fleet.fleet import Fleet
from warmroute.core.holding.ticket import Ticket
from warmroute.core.types import Record, Records

MOST_HOLDERS: Final = 16
"""Holders that a rung keeps, as in the registry's records."""


class Renewal:
    """When the prompts of one queue's requests are looked up again."""

    __slots__ = ("_due_s", "_fleet", "_most", "_read_s", "_turn_s")

    def __init__(self, fleet: Fleet, turn_s: float, most: int) -> None:
        """Args:
        turn_s: For each router, so long at the least: as long as it takes to hear of its placements. Looking again
            sooner finds nothing new.
        most: Prompts that are looked up at once.
        """
        self._fleet = fleet
        self._turn_s = turn_s
        self._most = most
        self._read_s = self._due_s = 0.0
        """When some were looked up last, and are to be again."""

    def due(self, now_s: float) -> bool:
        """Whether some are to be looked up again now: each time the fleet's mean prefill has passed, which is about
        when each replica is given another prompt. Never before a single router."""
        # A clock set back does not put it off.
        return self._fleet.routers > 1 and not self._read_s <= now_s < self._due_s

    def begin(self, tickets: Iterable[Ticket], now_s: float) -> list[Ticket]:
        """Those to be looked up again now, when it is `due`: the first of all that are held."""
        least_s = self._turn_s * self._fleet.routers
        first = nsmallest(self._most, [t for t in tickets if t.records and now_s - t.arrival_s >= least_s])
        pause_s = least_s
        if first:
            try:
                pause_s = max(pause_s, self._fleet.mean_prefill_s(first[0].shape.model))
            except RouterError:
                pass  # nobody may be sent it at the moment
        self._read_s = now_s
        self._due_s = now_s + pause_s
        return first


def merged(known: Records, found: Records) -> Records:
    """Of each rung the latest holders that either names, each with the later of its times.

    A lookup that the registry answers too late names only what this router placed itself, so nothing that was known is
    given up for it. A record that was withdrawn meanwhile counts until the request goes, as it did before.
    """
    records: Records = []
    last: tuple[Record | None, Record | None] = (None, None)
    both: Record | None = None
    for old, new in zip(known, found, strict=True):
        if old is not last[0] or new is not last[1]:  # one object stays one
            last = (old, new)
            both = _holders(old, new) if old and new else new or old
        records.append(both)
    return records


def _holders(old: Record, new: Record) -> Record:
    """Those of both, the most recent last."""
    if old == new:
        return new
    times = dict(old)
    for incarnation, at_s in new:
        times[incarnation] = max(at_s, times.get(incarnation, at_s))
    return tuple(sorted(times.items(), key=itemgetter(1))[-MOST_HOLDERS:])
