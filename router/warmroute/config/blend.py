"""Settings of engines that reuse what is no prefix: a section of the schema (`schema`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from warmroute.config.bounds import PositiveCount, Range


@dataclass(frozen=True, slots=True, kw_only=True)
class BlendConfig:
    """What all replicas were started with where they reuse chunks of a prompt wherever these stand (LMCache's
    CacheBlend). Prompts that are derived from schemas have their modules set apart by it then."""

    separator: str = ""
    """What stands between chunks: `LMCACHE_BLEND_SPECIAL_STR`, such as `" # # "`. Empty: replicas reuse prefixes
    alone."""
    chunk_tokens: PositiveCount = 256
    """Shorter parts are no chunks, and shorter modules are not set apart: `LMCACHE_BLEND_MIN_TOKENS`."""
    recompute_ratio: Annotated[float, Range(0.0, 1.0)] = 0.15
    """Share of a known chunk's tokens that an engine computes all the same, so that the chunk fits what now stands
    before it: `LMCACHE_BLEND_RECOMPUTE_RATIOS`."""
