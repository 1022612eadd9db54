"""A ticket is one request that waits at the router, as its queue sees it: plain data, which decides nothing."""

from __future__ import annotations

from collections.abc import Callable

from warmroute.core.errors import RouterError
from warmroute.core.fleet.decision import Decision
from warmroute.core.fleet.replica import Replica
from warmroute.core.types import Records, RequestShape


class Ticket:
    """One held request. `granted` is called once, with a decision or the reason why there is none, unless withdrawn."""

    __slots__ = ("arrival_s", "granted", "key", "meant", "meant_tokens", "open", "records", "shape")

    def __init__(
        self,
        shape: RequestShape,
        records: Records | None,
        granted: Callable[[Decision | RouterError], None],
        key: tuple[float, int],
        arrival_s: float,
    ) -> None:
        self.shape = shape
        self.records = records
        self.granted = granted
        self.key = key
        self.arrival_s = arrival_s
        self.meant: Replica | None = None
        """The replica that it was meant for when it was looked at last; None before."""
        self.meant_tokens = 0
        """Its work there, in tokens without context."""
        self.open = True

    def __lt__(self, other: Ticket) -> bool:
        return self.key < other.key

    def __hash__(self) -> int:
        # A compiled class that can be compared has no hash unless it says so.
        return id(self)
