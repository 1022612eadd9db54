"""A promise says that a prefix is to be kept until some time: what a provider's caching interface calls a cache entry.

This module decides when a promise is made, renewed by a read, and over. It keeps nothing of a prompt but hashes: the
rungs by which replicas that hold the prefix are found, and a key that is exact where rungs are only the ladder's. It
does not decide what is done to keep a prefix.

A key is a chain: of each block, hashed with the key before it. So two prompts have the same key at the end of a block
exactly if they are the same up to there, in one model and scope.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from xxhash import xxh3_64_intdigest

from warmroute.core.types import FingerprintHash

_CHAIN: Final = 0x50524F4D49534553
"""Keeps keys of promises apart from rungs."""


class Promise:
    """One prefix, and until when it is to be kept."""

    __slots__ = ("key", "lapsed", "model", "rungs", "tenant", "tokens", "ttl_s", "until_s", "uses")

    def __init__(
        self,
        key: int,
        tenant: str,
        model: str,
        rungs: Sequence[FingerprintHash],
        tokens: int,
        ttl_s: float,
        until_s: float,
    ) -> None:
        self.key = key
        self.tenant = tenant
        """Whom it was made to."""
        self.model = model
        self.rungs = rungs
        """Of the prefix, shallowest first: never empty."""
        self.tokens = tokens
        """Estimated length."""
        self.ttl_s = ttl_s
        """For how long it holds from each read on."""
        self.until_s = until_s
        """Unix seconds."""
        self.uses = 0
        """How often it was read since it was made."""
        self.lapsed = False
        """Keeping it warm is given up for now."""


class Promises:
    """Those of one router, the one made or renewed last at the end; the oldest give way beyond `most`."""

    __slots__ = ("_made", "_most", "dropped")

    def __init__(self, most: int) -> None:
        self._made: dict[int, Promise] = {}
        self._most = most
        self.dropped = 0
        """Promises that gave way before they were over."""

    def __len__(self) -> int:
        return len(self._made)

    def read(self, keys: Sequence[int], now_s: float) -> Promise | None:
        """The promise about the longest of these prefixes, shortest first, renewed; None: there is none."""
        for key in reversed(keys):
            promise = self._made.get(key)
            if promise is not None:
                if promise.until_s > now_s:
                    promise.uses += 1
                    self._put(promise, now_s)
                    return promise
                del self._made[key]
        return None

    def make(self, promise: Promise, now_s: float) -> Promise:
        """Promise it. Where the same prefix was promised for longer, that stays as it was. Returns what holds."""
        known = self._made.get(promise.key)
        if known is not None and known.until_s > now_s:
            if known.ttl_s > promise.ttl_s:
                promise = known
            else:
                promise.uses, promise.lapsed = known.uses, known.lapsed
        self._put(promise, now_s)
        made = self._made
        while made:
            oldest = next(iter(made.values()))
            over = oldest.until_s <= now_s
            if not over and len(made) <= self._most:
                break
            del made[oldest.key]
            self.dropped += not over
        return promise

    def find(self, key: int) -> Promise | None:
        """The promise of this key, whether it holds or is over."""
        return self._made.get(key)

    def live(self, now_s: float) -> Iterator[Promise]:
        """All that hold, oldest first."""
        for promise in list(self._made.values()):
            if promise.until_s > now_s:
                yield promise

    def _put(self, promise: Promise, now_s: float) -> None:
        promise.until_s = now_s + promise.ttl_s
        self._made.pop(promise.key, None)
        self._made[promise.key] = promise


def chain(space: int, canonical: bytes, ends_bytes: Sequence[int]) -> list[int]:
    """Key of the prompt at each of these depths, which ascend. Complexity: one hash a depth.

    Args:
        space: Stands for deployment, model and scope (`Fingerprinter.space`).
    """
    keys: list[int] = []
    key = space ^ _CHAIN
    view = memoryview(canonical)
    start = 0
    for end in ends_bytes:
        key = xxh3_64_intdigest(view[start:end], key)
        keys.append(key)
        start = end
    return keys
