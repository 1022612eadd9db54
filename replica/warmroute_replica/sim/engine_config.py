"""What one simulated engine is started with, under vLLM's names. Data and its checks; `engine` goes by it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from warmroute_replica.sim.step_time import StepTime


class SchedulingPolicy(Enum):
    """The order in which sequences are admitted; preemption goes by it, too."""

    FCFS = "fcfs"
    PRIORITY = "priority"


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """The limits of one engine, under vLLM's names."""

    cache_tokens: int = 131_072
    """Size of the KV cache in tokens, rounded down to whole blocks."""
    block_tokens: int = 16
    max_num_batched_tokens: int = 8192
    """Number of tokens that a step computes at most, prompts and decoding together."""
    max_num_seqs: int = 256
    """Number of sequences that run at once at most."""
    long_prefill_token_threshold: int = 0
    """Number of tokens of one sequence that a step computes at most while other requests are unfinished; 0 sets no
    cap."""
    long_prefill_token_threshold_adaptive: bool = False
    """Whether that cap is never below `max_num_batched_tokens` divided by the number of unfinished requests."""
    scheduling_policy: SchedulingPolicy = SchedulingPolicy.FCFS
    step_time: StepTime = field(default_factory=StepTime)
    tier_tokens: int = 0
    """Size in tokens of a tier below the GPU, to which evicted blocks fall (`lower_tier`); 0: there is none."""
    tier_token_s: float = 0.0
    """Time that a step takes longer for each token which it loads from there, in seconds, before `step_time.speed`."""
    chunk_store_tokens: int = 0
    """Number of tokens that the chunk store holds, in memory of its own; 0: the engine reuses prefixes alone."""
    recompute_ratio: float = 0.15
    """Share of a known chunk's tokens that is computed all the same (`LMCACHE_BLEND_RECOMPUTE_RATIOS`)."""

    def __post_init__(self) -> None:
        if self.block_tokens < 1 or self.cache_tokens < self.block_tokens:
            raise ValueError("block_tokens must be at least 1, cache_tokens at least block_tokens")
        if not 1 <= self.max_num_seqs <= self.max_num_batched_tokens:
            raise ValueError("max_num_seqs must be at least 1 and at most max_num_batched_tokens")
        if self.tier_tokens < 0 or self.tier_token_s < 0:
            raise ValueError("tier_tokens and tier_token_s must not be negative")
        if self.long_prefill_token_threshold < 0:
            raise ValueError("long_prefill_token_threshold must not be negative")
        if self.chunk_store_tokens < 0:
            raise ValueError("chunk_store_tokens must not be negative")

    @property
    def cache_blocks(self) -> int:
        """Number of blocks in the cache."""
        return self.cache_tokens // self.block_tokens
