"""Settings of cached contents, and of what keeping them warm may cost: sections of the schema (`schema`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from warmroute.config.bounds import Bytes, Count, Memory, PositiveCount, PositiveSeconds, Range

Lifetime = Annotated[float, Range(1.0, 366 * 86_400.0)]
Share = Annotated[float, Range(0.0, 1.0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedContentsConfig:
    """Contents that clients store and name in their prompts (docs/prompt-caching-google.md). `true` or `false` stands
    for `{enabled: …}`. Kept in the registry's Redis, for all routers together; without one in this process, until it
    ends."""

    shorthand: ClassVar[str] = "enabled"

    enabled: bool = False
    """Whether Google's API is served: `generateContent`, `streamGenerateContent`, `countTokens` and `cachedContents`,
    below `/v1beta` and `/v1`; and with it `/v1/caches`, and `cached_content` in chat requests."""
    ttl_s: Lifetime = 3600.0
    """How long a cached content lives that does not say."""
    ttl_max_s: Lifetime = 7 * 86_400.0
    """The longest that one may ask for."""
    contents: PositiveCount = 1000
    """Most cached contents of one tenant."""
    contents_bytes: Bytes = 256 << 20
    """Most bytes that those of one tenant have together."""
    content_bytes: Bytes = 8 << 20
    """Most bytes that one content may have."""
    least_tokens: Count = 0
    """Shorter contents are refused, as Google refuses those under 1,024 or 4,096 tokens. 0: none is too short."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepWarmConfig:
    """Promised prefixes are computed anew before a replica loses them, or when it did: cached contents, by one router
    for all, and with `prompts_bytes` what requests ask to be kept. Needs a policy that goes by records
    (`prefix-cost`)."""

    budget_ratio: Share = 0.05
    """Share of the time that the fleet's replicas could spend on prefill which this may take. A minute of it may be
    saved up. 0: nothing is kept warm."""
    tenant_ratio: Share = 0.05
    """Share that one tenant's promises may take."""
    prompts_bytes: Memory = 0
    """How much memory each router may use to remember the texts of prefixes that `caching` promises (breakpoints and
    retention of OpenAI's and Anthropic's interfaces), so that they are kept warm until the promise ends. They are in
    that memory alone: never in Redis, nor on disk. Where cached contents are kept warm too, each kind has half of the
    budget. 0: only hashes are remembered, and nothing of this is kept warm."""
    uses_per_copy: PositiveCount = 120
    """Uses a minute that one warm replica is for: a prefix that is used more is kept on more."""
    interval_s: PositiveSeconds = 0.5
    """How often it is looked at what is in danger."""
