"""This module has the bounds within which requests are held at the router; `queue` keeps to them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HoldParameters:
    """When to hold, and how much."""

    ahead_tokens: float = 512.0
    """Work ahead at which a replica is as good as free, in uncached tokens without context. A GPU computes 150 to 300
    in little more than the time of an empty step, since it reads its weights once either way (its floating-point
    operations for each byte of memory bandwidth, with 16-bit weights on A100 to H100); so these are two steps, one
    that is computed and one that is ready."""
    max_held: int = 1024
    max_hold_s: float = 60.0

    def __post_init__(self) -> None:
        if min(self.ahead_tokens, self.max_held, self.max_hold_s) < 0:
            raise ValueError("the bounds of holding must not be negative")
