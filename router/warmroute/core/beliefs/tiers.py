"""A tier is what an engine keeps below its GPU's cache: host memory, a disk, a remote store.

This module decides what of a prompt is believed to be in a tier, and what that is worth. What the GPU's cache gives up
falls to the first tier, what that gives up to the next one, and what is used again is on the GPU again. To load a token
takes `token_s` instead of the replica's prefill; so a token in a tier counts as the share of one on the GPU that this
saves, and nothing where it takes longer to load than to compute. A hit in a tier so beats a recomputation and loses to
a hit on the GPU, and among tiers the faster one wins. What loads take is a setting: learned from first bytes it came
out too high, and cost more than it earned (docs/routing.md).

Replicas without tiers have a plain `Residency`, and pay nothing for these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from warmroute.core.beliefs.residency import MAX_BUCKETS, Residency


@dataclass(frozen=True, slots=True)
class Tier:
    """One tier of each replica."""

    name: str
    tokens: int
    """How much it keeps beyond what the GPU and the tiers above have."""
    token_s: float
    """How long it takes to load a token."""


class _Level:
    """What one tier is believed to hold: tokens by moment of last use, oldest first.

    A tier may keep for days what passes through a GPU in seconds: where its moments become too many they are made twice
    as long, and the GPU's stay as they are.
    """

    __slots__ = ("buckets", "cut", "edge", "held", "shift", "tier", "worth")

    def __init__(self, tier: Tier) -> None:
        self.tier = tier
        self.buckets: dict[int, int] = {}
        self.held = 0
        self.edge = -1
        """The newest bucket of which anything was given up."""
        self.cut = 0
        """Tokens that went of it."""
        self.worth = 0.0
        """What a token counts here, of one on the GPU."""
        self.shift = 0
        """A moment here is two to the power of so many of the GPU's."""

    def ratio(self, bucket: int) -> float:
        """Share that is still here of what came of this bucket of the GPU's."""
        bucket >>= self.shift
        if bucket > self.edge:
            return 1.0
        there = self.buckets.get(bucket, 0)
        return there / (there + self.cut) if bucket == self.edge and there > 0 else 0.0

    def add(self, bucket: int, tokens: int) -> None:
        """So many tokens of a bucket of the GPU's come down."""
        bucket >>= self.shift
        self.buckets[bucket] = self.buckets.get(bucket, 0) + tokens
        self.held += tokens
        if len(self.buckets) > MAX_BUCKETS:
            self._lengthen()
            self.shift += 1

    def take(self, bucket: int, tokens: int) -> int:
        """So many tokens of a bucket of the GPU's go up again. Returns how many were here."""
        bucket >>= self.shift
        there = self.buckets.get(bucket, 0)
        taken = tokens if tokens < there else there
        if taken > 0:
            self.buckets[bucket] = there - taken
            self.held -= taken
        return taken

    def give_up(self) -> tuple[int, int]:
        """The oldest bucket, as the GPU counts them, and how much of it does not fit any more: it goes."""
        buckets = self.buckets
        over = self.held - self.tier.tokens
        oldest = next(iter(buckets))
        there = buckets[oldest]
        if oldest > self.edge:
            self.edge = oldest
            self.cut = 0
        if there > over:
            buckets[oldest] = there - over
            self.cut += over
            self.held -= over
            return oldest << self.shift, over
        del buckets[oldest]
        self.held -= there
        return oldest << self.shift, there

    def coarsen(self) -> None:
        """The GPU's moments are twice as long."""
        if self.shift:
            self.shift -= 1
        else:
            self._lengthen()

    def _lengthen(self) -> None:
        before, self.buckets = self.buckets, {}
        for bucket, tokens in before.items():
            self.buckets[bucket >> 1] = self.buckets.get(bucket >> 1, 0) + tokens
        self.edge >>= 1


class TieredResidency(Residency):
    """A cache with tiers below it."""

    __slots__ = ("_levels",)

    def __init__(self, tiers: Sequence[Tier]) -> None:
        super().__init__()
        self._levels = [_Level(tier) for tier in tiers]

    def price(self, compute_token_s: float) -> None:
        """To compute a token takes so long on this replica."""
        for level in self._levels:
            level.worth = max(0.0, 1.0 - level.tier.token_s / compute_token_s)

    def clear(self) -> None:
        """The engine has restarted. What a disk or another machine has may be there, but nobody knows what."""
        super().clear()
        self._levels = [_with_worth(level) for level in self._levels]

    def resident_ratio(self, used_s: float) -> float:
        """Share of what was last used then that is still there, each tier's part as much as it is worth."""
        ratio = super().resident_ratio(used_s)
        if ratio >= 1.0:
            return 1.0
        bucket = int(used_s * self._per_s)
        bucket = self._ended.get(bucket, bucket)
        gone = 1.0 - ratio
        for level in self._levels:
            here = gone * level.ratio(bucket)
            ratio += here * level.worth
            gone -= here
        return ratio

    def _take(self, tokens: int, second: int) -> None:
        bucket = self._ended.get(second, second)
        if bucket <= self._edge:
            for level in self._levels:
                tokens -= level.take(bucket, tokens)
        if tokens > 0:
            super()._take(tokens, second)

    def _fell(self, bucket: int, tokens: int) -> None:
        """The GPU has given up so many tokens of a bucket."""
        self._fall(0, bucket, tokens)

    def _fall(self, place: int, bucket: int, tokens: int) -> None:
        if place == len(self._levels) or tokens <= 0:
            return
        level = self._levels[place]
        level.add(bucket, tokens)
        while level.held > level.tier.tokens:
            self._fall(place + 1, *level.give_up())

    def _coarsen(self) -> None:
        super()._coarsen()
        for level in self._levels:
            level.coarsen()


def _with_worth(level: _Level) -> _Level:
    fresh = _Level(level.tier)
    fresh.worth = level.worth
    return fresh
