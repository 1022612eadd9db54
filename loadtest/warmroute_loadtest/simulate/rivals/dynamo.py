"""NVIDIA Dynamo's KV router takes the smallest cost in blocks, by chance among equals, at temperature 0.

cost = 1.0 x (active prefill blocks + prompt blocks - overlap blocks) + decode blocks, where active prefill blocks
are the uncached blocks of requests without a first token, and decode blocks all blocks of requests under way.
Source: Dynamo `lib/kv-router/src/scheduling` (default selector, overlap weight 1.0); overlap is exact from KV
events, as here, without their delay.
"""

from __future__ import annotations

from warmroute_loadtest.simulate.chooser import Chooser, Site
from warmroute_loadtest.simulate.workload import Turn


class DynamoCost(Chooser):
    """Dynamo's cost; the module describes the rule."""

    name = "dynamo"

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self._prefill = [0.0] * site.replicas
        self._decode = [0.0] * site.replicas
        self._uncached: dict[str, float] = {}

    def _overlap(self, turn: Turn, replica: int) -> int:
        return self.site.engines[replica].overlap_tokens(turn.keys, turn.prompt_tokens)

    def choose(self, turn: Turn, now_s: float) -> int:
        """Choose the replica of smallest cost."""
        return self.least(
            lambda i: (
                (self._prefill[i] + turn.prompt_tokens - self._overlap(turn, i) + self._decode[i])
                / self.site.block_tokens
            )
        )

    def dispatched(self, turn: Turn, replica: int, now_s: float) -> None:
        """Count the turn's blocks on the replica."""
        super().dispatched(turn, replica, now_s)
        self._uncached[turn.id] = uncached = turn.prompt_tokens - self._overlap(turn, replica)
        self._prefill[replica] += uncached
        self._decode[replica] += turn.prompt_tokens

    def first_byte(self, turn: Turn, replica: int, now_s: float) -> None:
        """Take off the turn's prefill blocks, since its prefill is over."""
        self._prefill[replica] -= self._uncached.pop(turn.id)

    def finished(self, turn: Turn, replica: int, cached_tokens: int, now_s: float) -> None:
        """Take off the turn's decode blocks, since they are no longer active."""
        super().finished(turn, replica, cached_tokens, now_s)
        self._decode[replica] -= turn.prompt_tokens
