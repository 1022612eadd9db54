"""AIBrix's `prefix-cache` takes the longest match among the replicas that are not too busy.

Most - least running > 8: only the least loaded are considered. Then by match ratio, largest first, then by running
requests; the first with running <= mean + 1 standard deviation; none: least request. The index forgets after 20
minutes.
Source: AIBrix `pkg/plugins/gateway/algorithms/prefix_cache.go` (code's constants; the README says 16 and 2 sigma).
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
    """See the module."""

    name = "aibrix"

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self._index = History(site.replicas, site.block_tokens, INDEX_BLOCKS_OF_4 * 16)

    def choose(self, turn: Turn, now_s: float) -> int:
        """Match first, within the load limit."""
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
