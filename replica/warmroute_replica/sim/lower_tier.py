"""A tier below the GPU's cache keeps what that gives up: host memory or a disk, as an offloading connector uses it.

This module decides what is kept, and for how long: keys of evicted blocks, the longest unused go first. A block that is
loaded leaves the tier, since it is on the GPU again. It knows no times; `engine` decides what a load takes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence


class LowerTier:
    """Room for so many blocks."""

    __slots__ = ("_keys", "blocks", "loaded")

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        self.loaded = 0
        """Number of blocks loaded from the tier since it was made."""
        self._keys: OrderedDict[Hashable, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._keys)

    def put(self, key: Hashable) -> None:
        """Keep an evicted block."""
        self._keys[key] = None
        self._keys.move_to_end(key)
        if len(self._keys) > self.blocks:
            self._keys.popitem(last=False)

    def match(self, keys: Sequence[Hashable], start: int, limit: int) -> int:
        """Return how many blocks from `start` on, one after the other, are here; at most up to `limit`."""
        at = start
        end = min(limit, len(keys))
        while at < end and keys[at] in self._keys:
            at += 1
        return at - start

    def load(self, keys: Sequence[Hashable]) -> None:
        """Take these blocks out: they are on the GPU from now on."""
        for key in keys:
            del self._keys[key]
        self.loaded += len(keys)

    def clear(self) -> None:
        """Forget all of it."""
        self._keys.clear()
