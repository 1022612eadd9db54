"""Residency says what a replica has probably kept in its cache, from what this router sent there.

This module decides how much of what was last used at some time is still there, and how old the next thing to go is. It
knows no prefixes. The engine keeps what it uses and what it used last. So of all tokens, counted by the moment at which
the answer that used them ended, the newest that fill the cache are resident. Moments are short at first, and become
twice as long whenever there are too many of them, so that a cache which turns over within seconds is followed as
closely as one that keeps an hour. The oldest moment that is still there, or a part of it, is the edge. What was last
used before the edge is evicted. Of the edge itself the ends of prompts go first, so that a part of each prompt is left.

Each token counts once: while a request is under way (`begin`), or at its last end (`end`). Records know when a prompt
was sent; this module remembers, moment by moment, when that was over. What this router's requests do is written down
for other routers (`told`), and what theirs do is followed (`follow`), so that all have the picture that one router
would have. What answers under way add to their prompts is counted by their age (`room`).

The engine says how much fits. Where that is wrong, answers show it, by age (`survival`).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Final

from warmroute.core.beliefs.cache_event import ABANDONED, ADDED, BEGUN, COMPUTED, LOST, REUSED, CacheEvent
from warmroute.core.beliefs.room import Room

MOMENTS_PER_S: Final = 16.0
"""Of the finest: no engine's step is much shorter."""
MAX_BUCKETS: Final = 1024
"""Moments that are kept apart."""

MOST_TOLD: Final = 4096
"""Uses that are kept until the next notice; where there are more, others are told that they know nothing any more."""

MOST_FOLLOWED: Final = 4096
"""Requests of one other router under way at once; where there are more, some ends were not heard."""

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
        "_followed",
        "_newest",
        "_per_s",
        "_serial",
        "_under_way",
        "cache_tokens",
        "horizon_s",
        "pinned_tokens",
        "room",
        "told",
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
        """In use: prompts of requests under way."""
        self.room = Room()
        """What answers under way take besides. Nothing is counted there while the cache's size is not known."""
        self.told: list[CacheEvent] | None = None
        """What this router's requests did here and is to be told to other routers; None while there is nobody to
        tell."""
        self._serial = 0
        self._followed: dict[int, dict[int, tuple[float, tuple[int, int, int]]]] = {}
        """Other routers' requests under way, by router and serial: when they were sent, and what `end` wants."""
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
        self._followed.clear()
        self._forget_told()
        self.room.clear()
        self.tokens = self.pinned_tokens = 0
        self.horizon_s = -inf
        self._newest = 0
        self._edge = -1
        self._cut = 0

    def begin(
        self, tokens: int, depths_tokens: list[int], times_s: list[float], now_s: float
    ) -> tuple[int, int, int]:
        """A prompt is sent.

        Args:
            depths_tokens: Where in the prompt the time of last use changes, deepest first.
            times_s: Those times, of what lies between each depth and the next.

        Returns:
            What `end` wants to know: how many tokens are counted for it, since nobody else under way does, how
            many of those were counted before, and what the request is called where it is told.
        """
        serial = 0 if self.told is None else self._tell_begun(tokens, depths_tokens, times_s, now_s)
        if self.cache_tokens == inf:
            return 0, 0, serial
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
            reused_tokens = before - self.tokens
        self._under_way[second] = self._under_way.get(second, 0) + 1
        if second in self._ended:
            del self._ended[second]
        self.pinned_tokens += own_tokens
        self.room.begin(now_s)
        self._evict(now_s)
        return own_tokens, reused_tokens, serial

    def end(self, counted: tuple[int, int, int], begun_s: float, now_s: float, computed: bool) -> None:
        """The request of a `begin` is over. `computed`: as far as is known, its prompt was."""
        own_tokens, reused_tokens, serial = counted
        if serial:
            self._tell(COMPUTED if computed else ABANDONED, serial, 0, now_s)
        if self.cache_tokens == inf:
            return
        second = int(begun_s * self._per_s)
        left = self._under_way.get(second, 0) - 1
        if left < 0:
            return  # begun before the size was known
        self.pinned_tokens -= own_tokens
        self.room.end(begun_s)
        if left:
            self._under_way[second] = left
        else:
            del self._under_way[second]
            if not self._under_way:
                self.pinned_tokens = 0  # what began before the size was known ended after
                self.room.clear()
        if not computed:
            if reused_tokens:
                self._touch(reused_tokens, now_s)
            return
        ended = self._ended
        ended[second] = int(now_s * self._per_s)
        if len(ended) > MOST_ENDED:
            oldest = next(iter(ended))
            if ended[oldest] < self._edge or len(ended) > MAX_BUCKETS:
                del ended[oldest]
        self._touch(own_tokens, now_s)

    def touch(self, tokens: int, now_s: float) -> None:
        """So many tokens are now the last used; negative to take back part of an earlier count."""
        self._tell(ADDED, 0, tokens, now_s)
        self._touch(tokens, now_s)

    def _touch(self, tokens: int, now_s: float) -> None:
        if self.cache_tokens == inf:
            return
        buckets = self._buckets
        bucket = int(now_s * self._per_s)
        if not buckets or bucket > self._newest:
            self._newest = bucket
            buckets[bucket] = 0
            if len(buckets) > MAX_BUCKETS:
                self._coarsen()
                buckets = self._buckets
        # A clock set back: the newest second takes it.
        buckets[self._newest] += tokens
        self.tokens += tokens
        self._evict(now_s)

    def reuse(self, tokens: int, used_s: float, now_s: float) -> None:
        """So many of the tokens last used at `used_s` are in use again, counted by who uses them."""
        self._tell(REUSED, 0, 0, now_s, [(tokens, used_s)])
        if self._buckets:
            self._take(tokens, int(used_s * self._per_s))

    def follow(self, router: int, use: CacheEvent, notice_s: float) -> None:
        """Another router's request did this.

        Args:
            notice_s: When it was told; the use's times count from there. What is told too late happened at the latest
                moment known.
        """
        kind, serial = use.kind, use.serial
        at_s = max(notice_s + use.at_s, self._newest / self._per_s)
        told, self.told = self.told, None
        if kind == ADDED:
            self._touch(use.tokens, at_s)
        elif kind == REUSED:
            for tokens, used_s in use.parts:
                self.reuse(tokens, notice_s + used_s, at_s)
        elif kind == LOST:
            self._lose(router, at_s)
        elif kind == BEGUN:
            under_way = self._followed.setdefault(router, {})
            if serial in under_way or len(under_way) >= MOST_FOLLOWED:
                self._lose(router, at_s)
                under_way = self._followed.setdefault(router, {})
            times_s = [notice_s + used_s for _, used_s in use.parts]
            depths_tokens: list[int] = []
            depth_tokens = 0
            for tokens, _ in reversed(use.parts):
                depth_tokens += tokens
                depths_tokens.append(depth_tokens)
            depths_tokens.reverse()
            under_way[serial] = at_s, self.begin(use.tokens, depths_tokens, times_s, at_s)
        elif router in self._followed and serial in self._followed[router]:
            begun_s, counted = self._followed[router].pop(serial)
            self.end(counted, begun_s, at_s, kind == COMPUTED)
        self.told = told

    def _lose(self, router: int, now_s: float) -> None:
        """Nobody knows what becomes of its requests: they are taken for over."""
        for begun_s, counted in self._followed.pop(router, {}).values():
            self.end(counted, begun_s, now_s, computed=True)

    def _tell_begun(self, tokens: int, depths_tokens: list[int], times_s: list[float], now_s: float) -> int:
        """Returns what the request is called."""
        self._serial = self._serial % 0xFFFF + 1
        count = len(depths_tokens)
        parts = [
            (depths_tokens[index] - (depths_tokens[index + 1] if index + 1 < count else 0), times_s[index])
            for index in range(count)
        ]
        self._tell(BEGUN, self._serial, tokens, now_s, parts)
        return self._serial

    def _tell(
        self, kind: int, serial: int, tokens: int, at_s: float, parts: Sequence[tuple[int, float]] = ()
    ) -> None:
        told = self.told
        if told is not None:
            if len(told) >= MOST_TOLD:
                self._forget_told()
            told.append(CacheEvent(kind, serial, tokens, at_s, parts))

    def _forget_told(self) -> None:
        """What was to be told is dropped. Without its ends others would take requests for under way for ever."""
        if self.told is not None:
            self.told[:] = [CacheEvent(LOST, 0, 0, self._newest / self._per_s)]

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

    def in_use_tokens(self, now_s: float) -> int:
        """Prompts of requests under way, and what their answers have added; 0 where the size is not known."""
        return self.pinned_tokens + int(self.room.grown_tokens(now_s))

    def room_in_s(self, now_s: float, prompt_tokens: int) -> float:
        """Expected time until a prompt of so many tokens fits; 0 where it does, and where that is not known."""
        over_tokens = self.in_use_tokens(now_s) + prompt_tokens - self.cache_tokens
        return self.room.wait_s(over_tokens, self.cache_tokens)

    def _evict(self, now_s: float) -> None:
        size_tokens = int(self.cache_tokens)
        # Not all that waits in the engine can be in use.
        limit = max(size_tokens - self.in_use_tokens(now_s), size_tokens // 10)
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
                self._fell(oldest, over)
                return
            del buckets[oldest]
            self.tokens -= there
            self.horizon_s = (oldest + 1) / self._per_s
            self._fell(oldest, there)

    def _fell(self, bucket: int, tokens: int) -> None:
        """So many tokens of a bucket are evicted (`tiers`)."""

    def price(self, compute_token_s: float) -> None:
        """To compute a token takes so long (`tiers`)."""

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
        return there / (there + self._cut) if bucket == edge and there > 0 else 0.0

    def behind_ratio(self, used_s: float) -> float:
        """Share of the cache that was used after what was last used then: that goes when it is all of it. 0 while the
        cache's size is not known."""
        if self.cache_tokens == inf:
            return 0.0
        bucket = int(used_s * self._per_s)
        bucket = self._ended.get(bucket, bucket)
        newer_tokens = self.pinned_tokens
        for moment, tokens in self._buckets.items():
            if moment > bucket:
                newer_tokens += tokens
        return min(1.0, newer_tokens / self.cache_tokens) if self.cache_tokens > 0 else 1.0
