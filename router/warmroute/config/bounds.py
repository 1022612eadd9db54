"""Bounds of settings: the types of numbers that more than one section uses. Data only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True, slots=True)
class Range:
    """Bounds of a number, both included."""

    low: float
    high: float


PositiveSeconds = Annotated[float, Range(0.001, 86_400.0)]
Seconds = Annotated[float, Range(0.0, 86_400.0)]
PositiveCount = Annotated[int, Range(1, 1_000_000_000)]
Count = Annotated[int, Range(0, 1_000_000_000)]
Bytes = Annotated[int, Range(1, 1 << 40)]
Memory = Annotated[int, Range(0, 1 << 40)]
"""Bytes, where 0 is none."""
Rate = Annotated[float, Range(0.001, 1e9)]
