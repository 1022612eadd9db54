"""The two-line cost adds the uncached tokens that wait for a first byte and twice the request's own uncached tokens.

Source: none. It is the simplest cost that charges a miss for what it costs other requests, and the best of the simple
rules on live routers over simulated replicas. The history is bounded by the replica's cache size; requests in flight
break ties.
"""

from __future__ import annotations

from warmroute_loadtest.simulate.chooser import Chooser, Site
from warmroute_loadtest.simulate.history import History
from warmroute_loadtest.simulate.workload import Turn


class WaitingPlusUncached(Chooser):
    """The two-line cost; the module describes it."""

    name = "waiting+2x"

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self._index = History(site.replicas, site.block_tokens, site.cache_tokens)
        self._waiting = [0] * site.replicas
        self._uncached: dict[str, int] = {}

    def choose(self, turn: Turn, now_s: float) -> int:
        """Choose the replica of smallest cost."""

        def cost(i: int) -> float:
            matched = self._index.overlap_tokens(i, turn.keys, turn.prompt_tokens)
            return self._waiting[i] + 2.0 * (turn.prompt_tokens - matched) + 1e-6 * self.in_flight[i]

        return self.least(cost)

    def dispatched(self, turn: Turn, replica: int, now_s: float) -> None:
        """Count the turn's uncached tokens on the replica, and remember its blocks."""
        super().dispatched(turn, replica, now_s)
        matched = self._index.overlap_tokens(replica, turn.keys, turn.prompt_tokens)
        self._uncached[turn.id] = turn.prompt_tokens - matched
        self._waiting[replica] += turn.prompt_tokens - matched
        self._index.remember(replica, turn.keys[: turn.prompt_tokens // self.site.block_tokens])

    def first_byte(self, turn: Turn, replica: int, now_s: float) -> None:
        """Take off the turn's uncached tokens, since its prefill is over."""
        self._waiting[replica] -= self._uncached.pop(turn.id)
