"""The chunk store is what an engine keeps of prompts' chunks, wherever they stood: LMCache's CacheBlend.

This module decides which chunks are known and which are dropped. A key stands for a chunk's content alone, unlike a
block's. Chunks lie in memory of their own (the host's), so that using one takes blocks of the KV cache as computing it
would. The rules, as in LMCache (`lmcache/v1/token_database.py`, `SegmentTokenDatabase`): a chunk is found as a whole or
not at all; of a chunk that is found, a share of the tokens is computed all the same. One simplification: of a chunk in
which the prefix ends, the rest is found, where LMCache takes none of it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence

Chunk = tuple[Hashable, int, int]
"""A chunk's key, and the prompt's tokens from which and up to which it goes."""


class ChunkStore:
    """Chunks in the order of their last use; those that were not used for longest go first."""

    __slots__ = ("_chunks", "capacity_tokens", "recompute_ratio", "tokens")

    def __init__(self, capacity_tokens: int, recompute_ratio: float) -> None:
        if capacity_tokens < 1 or not 0.0 <= recompute_ratio <= 1.0:
            raise ValueError("a chunk store needs room for a token, and a recompute_ratio from 0 to 1")
        self.capacity_tokens = capacity_tokens
        self.recompute_ratio = recompute_ratio
        self.tokens = 0
        """Number of tokens in the store."""
        self._chunks: OrderedDict[Hashable, int] = OrderedDict()

    def reuse(self, chunks: Sequence[Chunk], start: int) -> int:
        """Return how many of a prompt's tokens from `start` on need not be computed; the chunks are in use again."""
        known = self._chunks
        found = 0
        for key, first, end in chunks:
            if key in known:
                known.move_to_end(key)
                found += max(0, end - max(first, start))
        return int(found * (1.0 - self.recompute_ratio))

    def keep(self, chunks: Sequence[Chunk]) -> None:
        """Store the chunks of a prompt that is computed."""
        known = self._chunks
        for key, first, end in chunks:
            if key not in known:
                self.tokens += end - first
                known[key] = end - first
            known.move_to_end(key)
        while self.tokens > self.capacity_tokens:
            _, tokens = known.popitem(last=False)
            self.tokens -= tokens

    def clear(self) -> None:
        """Forget all chunks."""
        self._chunks.clear()
        self.tokens = 0
