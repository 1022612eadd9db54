"""The two-line cost adds the uncached tokens that wait for a first byte and twice the request's own uncached tokens.

Source: none; the simplest cost that prices a miss to others, and the best of the simple rules on live routers over
simulated replicas. History bounded by the replica's cache size, in-flight requests break ties.
"""

from __future__ import annotations

from warmroute_loadtest.simulate.chooser import Chooser, Site
from warmroute_loadtest.simulate.history import History
from warmroute_loadtest.simulate.workload import Turn


class WaitingPlusUncached(Chooser):
    """See the module."""

    name = "waiting+2x"

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self._index = History(site.replicas, site.block_tokens, site.cache_tokens)
        self._waiting = [0] * site.replicas
        self._uncached: dict[str, int] = {}

    def choose(self, turn: Turn, now_s: float) -> int:
        """The smallest cost."""

        def cost(i: int) -> float:
            matched = self._index.overlap_tokens(i, turn.keys, turn.prompt_tokens)
            return self._waiting[i] + 2.0 * (turn.prompt_tokens - matched) + 1e-6 * self.in_flight[i]

        return self.least(cost)

    def dispatched(self, turn: Turn, replica: int, now_s: float) -> None:
        """Count the uncached tokens, remember the blocks."""
        super().dispatched(turn, replica, now_s)
        matched = self._index.overlap_tokens(replica, turn.keys, turn.prompt_tokens)
        self._uncached[turn.id] = turn.prompt_tokens - matched
        self._waiting[replica] += turn.prompt_tokens - matched
        self._index.remember(replica, turn.keys[: turn.prompt_tokens // self.site.block_tokens])

    def first_byte(self, turn: Turn, replica: int, now_s: float) -> None:
        """Its prefill is over."""
        self._waiting[replica] -= self._uncached.pop(turn.id)
