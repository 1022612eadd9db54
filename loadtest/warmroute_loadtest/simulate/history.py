"""A history knows which prefixes each replica was sent: the approximate index that routers without engine events keep.

It keeps one LRU of block keys for each replica, bounded in tokens. It decides what is remembered; the rivals decide
what follows from it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence


class History:
    """The blocks that each replica was sent. Every block of a prompt is noted as most recently used, a prefix as more
    recent than its tail."""

    def __init__(self, replicas: int, block_tokens: int, capacity_tokens: int | None) -> None:
        self._block_tokens = block_tokens
        self._capacity = capacity_tokens // block_tokens if capacity_tokens is not None else None
        self._held: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(replicas)]

    def overlap_tokens(self, replica: int, keys: Sequence[int], prompt_tokens: int) -> int:
        """Return how many leading tokens of a prompt the replica was sent before, as far as they are not forgotten."""
        held = self._held[replica]
        found = 0
        for key in keys[: prompt_tokens // self._block_tokens]:
            if key not in held:
                break
            found += 1
        return found * self._block_tokens

    def remember(self, replica: int, keys: Sequence[int]) -> None:
        """Take note that the replica was sent a prompt with these blocks."""
        held = self._held[replica]
        for key in reversed(keys):
            if key in held:
                held.move_to_end(key)
            else:
                held[key] = None
        if self._capacity is not None:
            while len(held) > self._capacity:
                held.popitem(last=False)

    def size_tokens(self, replica: int) -> int:
        """Return how many tokens are remembered of the replica."""
        return len(self._held[replica]) * self._block_tokens
