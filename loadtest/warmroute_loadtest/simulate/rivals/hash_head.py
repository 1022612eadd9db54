"""This rival hashes the first 1,024 tokens: affinity without state and without regard to load.

Source: the strongest stateless baseline of cache-only replays of Mooncake's traces; LiteLLM's
`prompt_prefix_affinity` (rendezvous on the first 2,048 tokens, no load bound) and SGLang's `prefix_hash` (first
256) are of this kind.
"""

from __future__ import annotations

from warmroute_loadtest.simulate.chooser import Chooser, Site
from warmroute_loadtest.simulate.workload import Turn, id_hash, rung_hash

HEAD_TOKENS = 1024


class HashHead(Chooser):
    """Rendezvous hashing of a prompt's first tokens."""

    name = "hash-1024"

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self._blocks = max(HEAD_TOKENS // site.block_tokens, 1)

    def choose(self, turn: Turn, now_s: float) -> int:
        """Choose the replica whose hash with the key of the prompt's beginning is largest."""
        full = turn.keys[: min(self._blocks, turn.prompt_tokens // self.site.block_tokens)]
        key = full[-1] if full else id_hash(turn.id)
        return max(range(self.site.replicas), key=lambda i: rung_hash(key, i))
