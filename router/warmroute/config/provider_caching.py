"""Settings of the providers' caching interfaces, each of which an application may have been written for. Data only."""

from __future__ import annotations

from dataclasses import dataclass

from warmroute.config.bounds import Count, PositiveCount


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheMinimumConfig:
    """How long a prefix must be for one model."""

    model: str
    """Name of the model."""
    tokens: Count
    """Shorter prefixes are not cached as far as the interface tells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CachingConfig:
    """Prompt caching by the providers' interfaces (docs/prompt-caching.md)."""

    openai: bool = False
    """Whether OpenAI's interface is served in chat completions and responses: `prompt_cache_retention`,
    `prompt_cache_options` and `prompt_cache_breakpoint` are checked and honoured, `prompt_cache_key` is joined with the
    prompt's beginning to choose a place on the ring, and usage tells `cache_write_tokens`."""
    openai_minimum_tokens: Count = 1024
    """Shorter prefixes are not promised to be kept. What engines have of them is used and told all the same."""
    openai_strip_fields: bool = False
    """Whether those fields are taken out of what replicas are sent, for engines that refuse what they do not know. vLLM
    ignores them. The body is then written anew."""
    anthropic: bool = False
    """Whether Anthropic's interface is served in `/v1/messages`: `cache_control` is checked and honoured, usage tells
    the split by lifetime, and `max_tokens: 0` computes a prompt without an answer."""
    anthropic_minimum_tokens: Count = 1024
    """A breakpoint on a shorter prefix is passed over in silence, as Anthropic does."""
    anthropic_minimums: tuple[CacheMinimumConfig, ...] = ()
    """The same for single models."""
    deepseek: bool = False
    """Whether usage in chat completions and completions tells `prompt_cache_hit_tokens` and `prompt_cache_miss_tokens`:
    to requests with the header `X-Warmroute-Usage: deepseek`, and to `deepseek_tenants`."""
    deepseek_tenants: tuple[str, ...] = ()
    """Tenants that are told without asking; `*`: everybody."""
    promises: PositiveCount = 10_000
    """Most prefixes that one router remembers to be kept until a time; the oldest give way."""
