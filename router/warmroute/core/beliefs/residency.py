"""Residency says what a replica has probably kept in its cache, from what this router sent there.

This module decides how much of what was last used at some time is still there, and how old the next thing to go is. It
knows no prefixes. The engine keeps what it uses and what it used last. So of all tokens, counted by the moment at which
the answer that used them ended, the newest that fill the cache are resident. Moments are short at first, and become
twice as long whenever there are too many of them, so that a cache which turns over within seconds is followed as
closely as one that keeps an hour. The oldest moment that is still there, or a part of it, is the edge. What was last
used before the edge is evicted. Of the edge itself the ends of prompts go first, so that a part of each prompt is left.

Each token counts once: while a request is under way (`begin`), or at its last end (`end`). Records know when a prompt
was sent; this module remembers, moment by moment, when that was over. Other routers tell what they add and what they
use again (`Fleet.note_peer_load`).

The engine says how much fits. Where that is wrong, answers show it, by age (`survival`).
"""

from __future__ import annotations

from math import inf
from typing import Final

MOMENTS_PER_S: Final = 16.0
"""Of the finest: no engine's step is much shorter."""
MAX_BUCKETS: Final = 1024
"""Moments that are kept apart."""

MOST_REUSES: Final = 256
"""Uses to be told of that are kept until the next notice; those beyond are not told."""

MOST_ENDED: Final = 256
"""Moments whose ends are remembered though what was used then is evicted."""

STALE_S: Final = 0.5
"""How much later than noted something may have been used: registries note a use at most every quarter of a second."""


class Residency:
    """Tokens by moment of last use, oldest first. All costs are O(1) amortised."""

    __slots__ = (
        "_buckets",
        "_cut",
        "_edge",
        "_ended",
        "_newest",
        "_per_s",
        "_under_way",
        "cache_tokens",
        "horizon_s",
        "pinned_tokens",
        "reuses",
        "tokens",
    )

    def __init__(self) -> None:
        self.cache_tokens = inf
        """Infinite while the cache's size is not known: then nothing is ever believed evicted."""
        self.horizon_s = -inf
        """What was last used before is evicted; minus infinity while nothing had to go."""
        self.tokens = 0
        """Resident and not in use."""
        self.pinned_tokens = 0
        """In use."""
        self.reuses: list[tuple[int, float]] | None = None
        """What was used again here and is to be told to other routers: tokens, and when they were used before. None
        while there is nobody to tell."""
        self._per_s = MOMENTS_PER_S
        """Moments in a second: a bucket's number is the time times this."""
        self._buckets: dict[int, int] = {}
        self._newest = 0
        self._edge = -1
        """The newest bucket of which anything was evicted."""
        self._cut = 0
        """Tokens that went of it."""
        self._under_way: dict[int, int] = {}
        """Requests under way, by the moment at which they were sent."""
        self._ended: dict[int, int] = {}
        """When the last of a moment's requests ended."""

    def resize(self, cache_tokens: int | None) -> None:
        """Take over the size of the cache; None: not known."""
        self.cache_tokens = inf if cache_tokens is None else float(cache_tokens)

    def clear(self) -> None:
        """The engine has restarted."""
        self._buckets.clear()
        self._under_way.clear()
        self._ended.clear()
        if self.reuses is not None:
            self.reuses.clear()
        self.tokens = self.pinned_tokens = 0
        self.horizon_s = -inf
        self._edge = -1
        self._cut = 0

    def begin(
        self, tokens: int, depths_tokens: list[int], times_s: list[float], now_s: float
    ) -> tuple[int, int]:
        """A prompt is sent.

        Args:
            depths_tokens: Where in the prompt the time of last use changes, deepest first.
            times_s: Those times, of what lies between each depth and the next.

        Returns:
            What `end` wants to know: how many tokens are counted for it, since nobody else under way does, and how
            many of those were counted before.
        """
        if self.cache_tokens == inf:
            return 0, 0
        second = int(now_s * self._per_s)
        if self._buckets and second < self._newest - self._stale:
            self.clear()  # a clock set back: nothing could be told apart until it has caught up
        own_tokens = tokens if tokens <= self.cache_tokens else 0  # what does not fit will be refused
        reused_tokens = 0
        if own_tokens:
            before = self.tokens
            count = len(depths_tokens)
            for index in range(count):
                part = depths_tokens[index] - (depths_tokens[index + 1] if index + 1 < count else 0)
                bucket = int(times_s[index] * self._per_s)
                if bucket in self._under_way:
                    own_tokens -= part
                else:
                    self._take(part, bucket)
                    self._tell(part, times_s[index])
            reused_tokens = before - self.tokens
        self._under_way[second] = self._under_way.get(second, 0) + 1
        if second in self._ended:
            del self._ended[second]
        self.pinned_tokens += own_tokens
        self._evict()
        return own_tokens, reused_tokens

    def end(self, counted: tuple[int, int], begun_s: float, now_s: float, computed: bool) -> None:
        """The request of a `begin` is over. `computed`: as far as is known, its prompt was."""
        if self.cache_tokens == inf:
            return
        second = int(begun_s * self._per_s)
        left = self._under_way.get(second, 0) - 1
        if left < 0:
            return  # begun before the size was known
        own_tokens, reused_tokens = counted
        self.pinned_tokens -= own_tokens
        if left:
            self._under_way[second] = left
        else:
            del self._under_way[second]
            if not self._under_way:
                self.pinned_tokens = 0  # what began before the size was known ended after
        if not computed:
            if reused_tokens:
                self.touch(reused_tokens, now_s)
            return
        ended = self._ended
        ended[second] = int(now_s * self._per_s)
        if len(ended) > MOST_ENDED:
            oldest = next(iter(ended))
            if ended[oldest] < self._edge or len(ended) > MAX_BUCKETS:
                del ended[oldest]
        self.touch(own_tokens, now_s)

    def touch(self, tokens: int, now_s: float) -> None:
        """So many tokens are now the last used; negative to take back part of an earlier count."""
        if self.cache_tokens == inf:
            return
        buckets = self._buckets
        bucket = int(now_s * self._per_s)
        if not buckets or bucket > self._newest:
            self._newest = bucket
            buckets[bucket] = 0
            if len(buckets) > MAX_BUCKETS:
                self._coarsen()
        # A clock set back: the newest second takes it.
        buckets[self._newest] += tokens
        self.tokens += tokens
        self._evict()

    def reuse(self, tokens: int, used_s: float) -> None:
        """So many of the tokens last used at `used_s` are in use again, counted by who uses them."""
        if self._buckets:
            self._take(tokens, int(used_s * self._per_s))
            self._tell(tokens, used_s)

    def heard(self, tokens: int, used_s: float, now_s: float) -> None:
        """Another router has sent a request that uses so many of the tokens last used at `used_s`."""
        bucket = int(used_s * self._per_s)
        if self._buckets and bucket not in self._under_way:
            self._take(tokens, bucket)
            self.touch(tokens, now_s)

    def _tell(self, tokens: int, used_s: float) -> None:
        reuses = self.reuses
        if reuses is not None and len(reuses) < MOST_REUSES:
            reuses.append((tokens, used_s))

    def _take(self, tokens: int, second: int) -> None:
        bucket = self._ended.get(second, second)
        # What is noted as used then may have been used a little later.
        last = bucket + self._stale
        if last > self._newest:
            last = self._newest
        buckets = self._buckets
        left = tokens
        while left > 0 and bucket <= last:
            there = buckets.get(bucket, 0)
            if there > 0:
                taken = left if left < there else there
                buckets[bucket] = there - taken
                self.tokens -= taken
                left -= taken
            if bucket <= self._edge:
                return  # the rest went with the edge
            bucket += 1
        if left > 0 and buckets:
            self._take_oldest(left)

    def _take_oldest(self, tokens: int) -> None:
        """Another router has used them since: they are counted where it was not heard of, so the sum is kept right."""
        buckets = self._buckets
        left = tokens
        while left > 0:
            oldest = next(iter(buckets))
            there = buckets[oldest]
            taken = left if left < there else there
            if taken > 0:
                buckets[oldest] = there - taken
                self.tokens -= taken
                left -= taken
            if buckets[oldest] > 0 or len(buckets) == 1:
                return
            self.tokens -= buckets[oldest]
            del buckets[oldest]

    @property
    def _stale(self) -> int:
        return int(STALE_S * self._per_s) + 1

    def _coarsen(self) -> None:
        """Make moments twice as long, so that there are half as many."""
        self._per_s *= 0.5
        before, self._buckets = self._buckets, {}
        buckets = self._buckets
        for bucket, tokens in before.items():
            buckets[bucket >> 1] = buckets.get(bucket >> 1, 0) + tokens
        self._newest >>= 1
        self._edge >>= 1
        under_way: dict[int, int] = {}
        for bucket, count in self._under_way.items():
            under_way[bucket >> 1] = under_way.get(bucket >> 1, 0) + count
        self._under_way = under_way
        ended: dict[int, int] = {}
        for bucket, end in self._ended.items():
            ended[bucket >> 1] = max(ended.get(bucket >> 1, 0), end >> 1)
        self._ended = ended

    def _evict(self) -> None:
        size_tokens = int(self.cache_tokens)
        limit = size_tokens - self.pinned_tokens
        if limit < size_tokens // 10:
            limit = size_tokens // 10  # not all that waits in the engine can be in use
        buckets = self._buckets
        while len(buckets) > 1 and self.tokens > limit:
            oldest = next(iter(buckets))
            there = buckets[oldest]
            if oldest > self._edge:
                self._edge = oldest
                self._cut = 0
            over = self.tokens - limit
            if there > over > 0:
                buckets[oldest] = there - over
                self.tokens = limit
                self._cut += over
                self.horizon_s = oldest / self._per_s
                return
            del buckets[oldest]
            self.tokens -= there
            self.horizon_s = (oldest + 1) / self._per_s

    def resident_ratio(self, used_s: float) -> float:
        """Share of what was last used then that is still there."""
        bucket = int(used_s * self._per_s)
        edge = self._edge
        if bucket > edge or bucket in self._under_way:
            return 1.0
        bucket = self._ended.get(bucket, bucket)
        if bucket > edge:
            return 1.0
        there = self._buckets.get(bucket, 0)
        if bucket < edge or there <= 0:
            return 0.0
        return there / (there + self._cut)
