"""Settings of what engines keep below their GPU's cache. Data only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from warmroute.config.bounds import PositiveCount, Range

TierTokens = Annotated[int, Range(1, 1_000_000_000_000)]


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheTierConfig:
    """A tier below the GPU's cache of every replica: what a KV connector keeps in host memory, on a disk, or in a
    remote store (docs/routing.md)."""

    name: str
    """As `/replicas` shows it: `host`, `disk`."""
    tokens: TierTokens
    """How many tokens it keeps beyond what the GPU and the tiers above it have. A connector that keeps copies of what
    is on the GPU, too, keeps so many fewer."""
    tokens_per_s: PositiveCount
    """How many tokens a second are loaded from it: its bandwidth over the bytes of a token's keys and values."""
