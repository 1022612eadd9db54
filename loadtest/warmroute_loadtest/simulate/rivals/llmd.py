"""llm-d's endpoint picker adds up weighted scorers, each 0 to 1; the largest sum wins, by chance among equals.

Weights: queue 2, KV-cache utilisation 2, prefix 3. Queue = (most - own) / (most - least) of the engines' waiting
requests; KV = 1 - utilisation; prefix = matched / total of the approximate index (per-replica LRU of the engine's
own size).
Source: llm-d-inference-scheduler, default profile and `scorer/prefix`; the metrics are scraped each 50 ms there,
and read without delay here.
"""

from __future__ import annotations

from warmroute_loadtest.simulate.chooser import Chooser, Site
from warmroute_loadtest.simulate.history import History
from warmroute_loadtest.simulate.workload import Turn

QUEUE_WEIGHT = 2.0
KV_WEIGHT = 2.0
PREFIX_WEIGHT = 3.0


class LlmdScorers(Chooser):
    """llm-d's scorers; the module describes the rule."""

    name = "llm-d"

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self._index = History(site.replicas, site.block_tokens, site.cache_tokens)

    def choose(self, turn: Turn, now_s: float) -> int:
        """Choose the replica with the largest weighted sum."""
        engines = self.site.engines
        waiting = [engine.waiting for engine in engines]
        most, least = max(waiting), min(waiting)
        spread = most - least

        def score(i: int) -> float:
            queue = (most - waiting[i]) / spread if spread else 1.0
            prefix = self._index.overlap_tokens(i, turn.keys, turn.prompt_tokens) / turn.prompt_tokens
            kv = 1.0 - engines[i].usage_ratio
            return -(QUEUE_WEIGHT * queue + KV_WEIGHT * kv + PREFIX_WEIGHT * prefix)

        return self.least(score)

    def dispatched(self, turn: Turn, replica: int, now_s: float) -> None:
        """Remember the prompt's blocks."""
        super().dispatched(turn, replica, now_s)
        self._index.remember(replica, turn.keys[: turn.prompt_tokens // self.site.block_tokens])
