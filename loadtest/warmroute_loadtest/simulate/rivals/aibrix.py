"""AIBrix's `prefix-cache` takes the longest match among the replicas that are not too busy.

If the most loaded replica runs more than 8 requests above the least loaded one, only the least loaded replicas are
considered. Otherwise replicas are ordered by match ratio, largest first, then by running requests, and the first one is
taken whose running requests are at most the mean plus 1 standard deviation. If there is none, the one with the fewest
requests is taken. The index forgets after 20 minutes. Source: AIBrix `pkg/plugins/gateway/algorithms/prefix_cache.go`
(code's constants; the README says 16 and 2 sigma).
"""

from __future__ import annotations

from statistics import fmean, pstdev

from warmroute_loadtest.simulate.chooser import Chooser, Site
from warmroute_loadtest.simulate.history import History
from warmroute_loadtest.simulate.workload import Turn

IMBALANCE = 8
SIGMAS = 1.0
INDEX_BLOCKS_OF_4 = 200_000


class AibrixPrefixCache(Chooser):
    """AIBrix's rule; the module describes it."""

    name = "aibrix"

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self._index = History(site.replicas, site.block_tokens, INDEX_BLOCKS_OF_4 * 16)

    def choose(self, turn: Turn, now_s: float) -> int:
        """Choose the longest match among the replicas within the load limit."""
        running = self.in_flight
        least = min(running)
        pool = list(range(self.site.replicas))
        if max(running) - least > IMBALANCE:
            pool = [i for i in pool if running[i] == least]
        matched = {i: self._index.overlap_tokens(i, turn.keys, turn.prompt_tokens) for i in pool}
        limit = fmean(running) + SIGMAS * pstdev(running)
        for i in sorted(pool, key=lambda i: (-matched[i], running[i])):
            if matched[i] and running[i] <= limit:
                return i
        return self.least(running.__getitem__)

    def dispatched(self, turn: Turn, replica: int, now_s: float) -> None:
        """Remember the prompt's blocks."""
        super().dispatched(turn, replica, now_s)
        self._index.remember(replica, turn.keys[: turn.prompt_tokens // self.site.block_tokens])
