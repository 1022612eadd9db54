"""Preble E2 exploits where more is cached than new, explores by cost otherwise, and rebalances where one is overloaded.

If the cached part of a prompt is longer than the new part, Preble exploits: it takes the holder with the smaller cost.
Otherwise it explores: it takes the smallest sum of the load of the last 3 minutes, the cost of evicting, and the cost
of the request's own prefill, all in seconds of prefill. If the largest 3-minute load is more than 1.5 times the
smallest, what would go to the replica with the largest load goes to that with the smallest. Source: Srivatsa et al.,
"Preble: Efficient Distributed Prompt Scheduling for LLM Serving" (ICLR 2025) and its repository. Decode is priced by
the last 3 minutes' mean output; eviction by the tokens that a full replica must drop, at the price of prefill.
"""

from __future__ import annotations

from collections import deque

from warmroute_loadtest.simulate.chooser import Chooser, Site
from warmroute_loadtest.simulate.history import History
from warmroute_loadtest.simulate.workload import Turn

WINDOW_S = 180.0
REBALANCE_RATIO = 1.5
DECODE_TOKEN_S = 0.0005
"""Seconds that a decoded token costs: its share of a step in which some 30 sequences decode."""


class PrebleE2(Chooser):
    """Preble's rule; the module describes it."""

    name = "preble"

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self._tree = History(site.replicas, site.block_tokens, site.cache_tokens)
        self._recent: list[deque[tuple[float, float]]] = [deque() for _ in range(site.replicas)]
        self._load = [0.0] * site.replicas
        self._outputs: deque[int] = deque(maxlen=1000)

    def _prefill_s(self, tokens: float) -> float:
        return tokens / self.site.prefill_tokens_per_s

    def _forget(self, now_s: float) -> None:
        for i, recent in enumerate(self._recent):
            while recent and recent[0][0] < now_s - WINDOW_S:
                self._load[i] -= recent.popleft()[1]

    def choose(self, turn: Turn, now_s: float) -> int:
        """Choose by exploiting or exploring, then rebalance."""
        self._forget(now_s)
        matched = [
            self._tree.overlap_tokens(i, turn.keys, turn.prompt_tokens) for i in range(self.site.replicas)
        ]
        best = max(matched)

        def cost(i: int) -> float:
            uncached = turn.prompt_tokens - matched[i]
            room = self.site.cache_tokens
            over = max(self._tree.size_tokens(i) + uncached - room, 0) if room is not None else 0
            return self._load[i] + self._prefill_s(uncached) + self._prefill_s(min(over, uncached))

        if best > turn.prompt_tokens - best:
            chosen = self.least(cost, [i for i, m in enumerate(matched) if m == best])
        else:
            chosen = self.least(cost)
        least = min(self._load)
        if self._load[chosen] == max(self._load) and self._load[chosen] > REBALANCE_RATIO * max(least, 1.0):
            chosen = self._load.index(least)
        return chosen

    def dispatched(self, turn: Turn, replica: int, now_s: float) -> None:
        """Charge the turn's cost to the replica for the next 3 minutes."""
        super().dispatched(turn, replica, now_s)
        uncached = turn.prompt_tokens - self._tree.overlap_tokens(replica, turn.keys, turn.prompt_tokens)
        decode = sum(self._outputs) / len(self._outputs) if self._outputs else 200.0
        work_s = self._prefill_s(uncached) + decode * DECODE_TOKEN_S
        self._recent[replica].append((now_s, work_s))
        self._load[replica] += work_s
        self._tree.remember(replica, turn.keys[: turn.prompt_tokens // self.site.block_tokens])

    def finished(self, turn: Turn, replica: int, cached_tokens: int, now_s: float) -> None:
        """Learn how long outputs are."""
        super().finished(turn, replica, cached_tokens, now_s)
        self._outputs.append(turn.output_tokens)
