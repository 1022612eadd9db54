"""The affinity gate takes, among replicas with at least 0.8 of the best match, the least tokens not yet prefilled.

With the release: if the gate's best would wait 18 s longer than the fleet's least (at the published 15,928 tokens a
second), all replicas are considered.
Source: llm-d `prefix-cache-affinity-filter` (0.80, 18,000 ms) with its `token-load` scorer; the best known shape in
cache-only replays of public traces.
"""

from __future__ import annotations

from warmroute_loadtest.simulate.chooser import Chooser, Site
from warmroute_loadtest.simulate.history import History
from warmroute_loadtest.simulate.workload import Turn

GATE = 0.8
RELEASE_S = 18.0
RELEASE_TOKENS_PER_S = 15_928.0


class AffinityGate(Chooser):
    """The affinity gate; the module describes the rule."""

    name = "affinity-gate"

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self._index = History(site.replicas, site.block_tokens, site.cache_tokens)
        self._waiting = [0] * site.replicas
        self._uncached: dict[str, int] = {}

    def choose(self, turn: Turn, now_s: float) -> int:
        """Choose the replica with the fewest waiting tokens among those inside the gate."""
        matched = [
            self._index.overlap_tokens(i, turn.keys, turn.prompt_tokens) for i in range(self.site.replicas)
        ]
        best = max(matched)
        waiting = self._waiting
        inside = [i for i, m in enumerate(matched) if m >= GATE * best]
        if min(waiting[i] for i in inside) - min(waiting) > RELEASE_S * RELEASE_TOKENS_PER_S:
            inside = list(range(self.site.replicas))
        return self.least(lambda i: waiting[i] + turn.prompt_tokens - matched[i], inside)

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
