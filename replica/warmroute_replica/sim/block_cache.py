"""The block cache knows which prompt prefixes an engine still holds: it is vLLM's block pool with prefix caching.

This module decides which block is reused, evicted and handed out. It does not hash: a key stands for a block's
content *and* everything before it, so equal keys mean equal prefixes. It does not schedule.

The rules, as in vLLM (`v1/core/block_pool.py`, `v1/core/kv_cache_utils.py`):

- Only full blocks carry a key. Two sequences that compute the same block at once keep a copy each.
- A block nobody uses goes to the end of the free queue and keeps its content until it is handed out again, from the
  queue's front. A sequence's blocks are freed last block first, so a prefix outlives its continuations.
- A hit takes its blocks out of the free queue.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence

from warmroute_replica.sim.lower_tier import LowerTier


class BlockCache:
    """A fixed number of blocks. Each is free or used by one or more sequences, and may hold content that a lookup can
    find.

    Invariants, checked by `validate`: a block is in the free queue exactly when its reference count is 0; a key leads
    to exactly the blocks that carry it.
    """

    __slots__ = ("_by_key", "_free", "_keys", "_lower", "_references", "_twins", "blocks", "evictions")

    def __init__(self, blocks: int, lower: LowerTier | None = None) -> None:
        """Args:
        lower: Where evicted blocks go; None where they are lost.
        """
        if blocks < 1:
            raise ValueError(f"a cache needs at least one block, got {blocks}")
        self.blocks = blocks
        self._lower = lower
        self.evictions = 0
        """Number of blocks whose content was given up to make room, since the cache was made."""
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(blocks))
        self._references = [0] * blocks
        self._keys: list[Hashable] = [None] * blocks
        self._by_key: dict[Hashable, int] = {}
        self._twins: dict[Hashable, OrderedDict[int, None]] = {}
        """Further blocks with the same key, oldest first. A sequence has at most one block of a key, so `blocks` bounds
        them."""

    @property
    def free_blocks(self) -> int:
        """Number of blocks that no sequence uses, with or without content."""
        return len(self._free)

    @property
    def cached_blocks(self) -> int:
        """Number of different keys that a lookup can find, each of them one block."""
        return len(self._by_key)

    def match(self, keys: Sequence[Hashable], limit: int) -> list[int]:
        """Return the blocks that hold the longest known prefix of `keys`, at most `limit` of them, first block first.

        The call changes nothing, so the caller must `take` the blocks before it allocates any others.
        """
        by_key = self._by_key
        found: list[int] = []
        for index in range(min(limit, len(keys))):
            block = by_key.get(keys[index])
            if block is None:
                break
            found.append(block)
        return found

    def unused(self, blocks: Sequence[int]) -> int:
        """Return how many of these blocks are in the free queue: so many free blocks does a hit on them cost."""
        references = self._references
        return sum(1 for block in blocks if not references[block])

    def take(self, blocks: Sequence[int]) -> None:
        """Add a user to each block; a block that was in the free queue leaves it."""
        references = self._references
        free = self._free
        for block in blocks:
            if not references[block]:
                del free[block]
            references[block] += 1

    def allocate(self, count: int) -> list[int]:
        """Hand out the `count` blocks that have been unused for longest, without their content.

        Raises:
            ValueError: Fewer than `count` blocks are free; the call has then changed nothing.
        """
        free = self._free
        if count > len(free):
            raise ValueError(f"{count} blocks wanted, {len(free)} free")
        references = self._references
        keys = self._keys
        taken: list[int] = []
        for _ in range(count):
            block, _none = free.popitem(last=False)
            key = keys[block]
            if key is not None:
                self._forget(block)
                self.evictions += 1
                if self._lower is not None and key not in self._by_key:
                    self._lower.put(key)
            references[block] = 1
            taken.append(block)
        return taken

    def store(self, block: int, key: Hashable) -> None:
        """Note that a used block holds the full block `key`; from now on a lookup finds the block under that key."""
        self._keys[block] = key
        if self._by_key.setdefault(key, block) != block:
            self._twins.setdefault(key, OrderedDict())[block] = None

    def release(self, blocks: Sequence[int]) -> None:
        """Take a user from each of a sequence's blocks, which are given first block first; the last block is reused
        first."""
        references = self._references
        free = self._free
        for block in reversed(blocks):
            left = references[block] - 1
            if left < 0:
                raise ValueError(f"block {block} is released more often than taken")
            references[block] = left
            if not left:
                free[block] = None

    def forget(self, blocks: Sequence[int]) -> None:
        """Undo `store` for used blocks whose content was never computed."""
        for block in blocks:
            if self._keys[block] is not None:
                self._forget(block)

    def clear(self) -> None:
        """Forget all content; blocks that sequences use stay in use."""
        if self._lower is not None:
            self._lower.clear()
        self._by_key.clear()
        self._twins.clear()
        self._keys = [None] * self.blocks

    def validate(self) -> None:
        """Raise AssertionError where an invariant is broken; tests call this."""
        assert all(count >= 0 for count in self._references)
        assert set(self._free) == {b for b, count in enumerate(self._references) if count == 0}
        carriers: dict[Hashable, set[int]] = {}
        for block, key in enumerate(self._keys):
            if key is not None:
                carriers.setdefault(key, set()).add(block)
        found = {key: {block, *self._twins.get(key, ())} for key, block in self._by_key.items()}
        assert found == carriers
        assert set(self._twins) <= set(self._by_key)

    def _forget(self, block: int) -> None:
        key = self._keys[block]
        self._keys[block] = None
        twins = self._twins.get(key)
        if self._by_key[key] != block:
            assert twins is not None
            del twins[block]
        elif twins is None:
            del self._by_key[key]
        else:
            self._by_key[key], _none = twins.popitem(last=False)
        if twins is not None and not twins:
            del self._twins[key]
