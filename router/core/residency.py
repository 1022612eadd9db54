"""What of its cache a replica has probably kept, from what this router sent there.

Decides from which moment on a prefix that was last used before it is taken for evicted, and how old the next thing to
go is; knows no prefixes. The engine keeps what was used last: counted by time of last use, the newest tokens that fill
its cache are resident, and the time of the oldest of them is the horizon.

Other routers tell what they add (`Fleet.note_foreign`); where they do not, their share of the cache is taken for free:
it errs towards "still there", which costs what not asking would cost. Answers that report cached tokens correct the
count (`touch` with the difference).
"""

from __future__ import annotations

from collections import deque
from math import exp, inf
from typing import Final

BUCKET_S: Final = 1.0
MAX_BUCKETS: Final = 1024
"""About that many seconds of traffic; what is older goes as if evicted."""

OPTIMISM_RATIO: Final = 1.2
LEAST_OPTIMISM_RATIO: Final = 0.5
MOST_OPTIMISM_RATIO: Final = 2.0
"""Times its cache that must have been used since before a prefix is given up for evicted: the first guess, and its
bounds. To send a request where its prefix is gone costs little more than elsewhere; to send it elsewhere while it is
there costs the prefix twice. The count errs upwards (prefixes shared by many prompts, and what lies between two rungs,
are counted more than once) and downwards (other routers), so answers teach it."""
_LEARN_THERE: Final = 1.01
_LEARN_GONE: Final = 0.985
"""In doubt, believe what is true three times in five."""


class Residency:
    """Tokens by second of last use, oldest first. All costs are O(1) amortised."""

    __slots__ = (
        "_buckets",
        "_fresh",
        "_newest",
        "cache_tokens",
        "fresh_tokens",
        "full_s",
        "horizon_s",
        "optimism_ratio",
        "tokens",
    )

    def __init__(self) -> None:
        self.cache_tokens = inf
        """Infinite while the cache's size is not known: then nothing is ever believed evicted."""
        self.horizon_s = -inf
        """What was last used before is given up for evicted; minus infinity while nothing had to go."""
        self.full_s = -inf
        """What was last used before is pushed out next, if the cache holds what it is said to hold."""
        self.optimism_ratio = OPTIMISM_RATIO
        self.tokens = 0
        """Last used after `horizon_s`."""
        self.fresh_tokens = 0
        """Last used after `full_s`."""
        self._buckets: dict[int, int] = {}
        self._fresh: deque[int] = deque()
        """Buckets after `full_s`."""
        self._newest = 0

    def resize(self, cache_tokens: int | None) -> None:
        """Take over the size of the cache; None: not known."""
        self.cache_tokens = inf if cache_tokens is None else float(cache_tokens)

    def clear(self) -> None:
        """The engine has restarted."""
        self._buckets.clear()
        self._fresh.clear()
        self.tokens = self.fresh_tokens = 0
        self.horizon_s = self.full_s = -inf

    def touch(self, tokens: int, now_s: float) -> None:
        """So many tokens are now the last used; negative to take back part of an earlier count."""
        cache_tokens = self.cache_tokens
        if cache_tokens == inf:
            return
        buckets = self._buckets
        fresh = self._fresh
        bucket = int(now_s / BUCKET_S)
        if not buckets or bucket > self._newest:
            self._newest = bucket
            buckets[bucket] = 0
            fresh.append(bucket)
        # A clock set back: the newest second takes it.
        buckets[self._newest] += tokens
        self.tokens += tokens
        self.fresh_tokens += tokens
        while len(fresh) > 1 and (self.fresh_tokens > cache_tokens or len(fresh) > MAX_BUCKETS):
            oldest = fresh.popleft()
            self.fresh_tokens -= buckets[oldest]
            self.full_s = (oldest + 1) * BUCKET_S
        limit = cache_tokens * self.optimism_ratio
        while len(buckets) > len(fresh) and (self.tokens > limit or len(buckets) > MAX_BUCKETS):
            oldest = next(iter(buckets))
            self.tokens -= buckets.pop(oldest)
            self.horizon_s = (oldest + 1) * BUCKET_S

    def reuse(self, tokens: int, used_s: float) -> None:
        """So many of the tokens last used at `used_s` are about to be touched again."""
        bucket = int(used_s / BUCKET_S)
        there = self._buckets.get(bucket, 0)
        if there > 0:
            taken = tokens if tokens < there else there
            self._buckets[bucket] = there - taken
            self.tokens -= taken
            if bucket >= self._fresh[0]:
                self.fresh_tokens -= taken

    def learn(self, there: bool) -> None:
        """An answer showed whether a prefix last used before `full_s`, and after `horizon_s`, was still there."""
        ratio = self.optimism_ratio * (_LEARN_THERE if there else _LEARN_GONE)
        self.optimism_ratio = min(max(ratio, LEAST_OPTIMISM_RATIO), MOST_OPTIMISM_RATIO)

    def eviction_ratio(self, now_s: float, memory_s: float) -> float:
        """Worth of what the next tokens push out, from 0 (free room, or long unused) to 1 (used just now)."""
        if self.full_s == -inf:
            return 0.0
        age_s = now_s - self.full_s
        return exp(-age_s / memory_s) if age_s > 0 else 1.0
