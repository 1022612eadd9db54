"""SGLang's model gateway `cache_aware` over HTTP keeps an approximate tree, and escapes to the shortest queue.

If the load is imbalanced (most - least in flight > 64 and most > 1.5 x least), it takes the shortest queue and ignores
affinity. Otherwise it takes the replica of the longest match if that covers more than 0.3 of the prompt, else the
replica with the smallest tree. The tree has at most 67,108,864 characters a replica; the least recently used leaves go
first. Source: sgl-model-gateway `policies/cache_aware.rs` and its CLI defaults (0.3 / 64 / 1.5 / 67108864). "Smallest
tree" for no match is the legacy rule; the current one, least loaded, is used here, as it is the better of the two.
"""

from __future__ import annotations

from warmroute_loadtest.simulate.chooser import Chooser, Site
from warmroute_loadtest.simulate.history import History
from warmroute_loadtest.simulate.workload import BYTES_PER_TOKEN, Turn

CACHE_THRESHOLD = 0.3
BALANCE_ABSOLUTE = 64
BALANCE_RELATIVE = 1.5
MAX_TREE_CHARACTERS = 67_108_864


class SglangCacheAware(Chooser):
    """SGLang's rule; the module describes it."""

    name = "sglang"

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self._tree = History(site.replicas, site.block_tokens, MAX_TREE_CHARACTERS // BYTES_PER_TOKEN)

    def choose(self, turn: Turn, now_s: float) -> int:
        """Choose the shortest queue, the longest match or the least loaded replica."""
        most, least = max(self.in_flight), min(self.in_flight)
        if most - least > BALANCE_ABSOLUTE and most > BALANCE_RELATIVE * least:
            return self.least(self.in_flight.__getitem__)
        matched = [
            self._tree.overlap_tokens(i, turn.keys, turn.prompt_tokens) for i in range(self.site.replicas)
        ]
        best = max(matched)
        if best / turn.prompt_tokens > CACHE_THRESHOLD:
            return matched.index(best)
        return self.least(self.in_flight.__getitem__)

    def dispatched(self, turn: Turn, replica: int, now_s: float) -> None:
        """Insert the prompt into the replica's tree."""
        super().dispatched(turn, replica, now_s)
        self._tree.remember(replica, turn.keys[: turn.prompt_tokens // self.site.block_tokens])
