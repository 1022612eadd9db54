"""Hold terms say when a replica counts as free for one request that waits at the router, or that might have to.

This module decides nothing: `holding.queue` sets the terms, and `Replica.free_in_s` and `Replica.lets_pass` judge by
them.
"""

from __future__ import annotations

from math import inf
from typing import Final

FULL_S: Final = 0.5
"""When to look again at a replica that has as many requests as it may: that one has ended is heard."""


class HoldTerms:
    """What one look at one request goes by. The queue has one object, and sets it anew for each request."""

    __slots__ = ("ahead_tokens", "behind_s", "behind_tokens", "max_under_way", "now_s", "waited_s")

    def __init__(self, now_s: float = 0.0, ahead_tokens: float = 0.0, behind_s: float = 0.0) -> None:
        self.now_s = now_s
        self.ahead_tokens = ahead_tokens
        """Work ahead at which a replica is as good as free; infinite for a request that is held no longer."""
        self.behind_s = behind_s
        """How much later than at once the request may go, so that other routers' requests go before it."""
        self.behind_tokens = inf
        """But not later by more than the replica takes for so many tokens."""
        self.max_under_way = 0
        """Requests under way with which a replica is busy, whatever they are at; 0: any number."""
        self.waited_s = inf
        """For how long it was held; infinite for one that is not held for what it would displace (`displacing`)."""
