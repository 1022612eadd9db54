"""This module has the bounds of the admission queue; `admission_queue` keeps to them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class QueueParameters:
    """How much may wait, and for how long."""

    max_bytes: int = 128 * 2**20
    """Of bodies of requests that wait."""
    aged_s: float = 15.0
    """After so long a request of a lower class has waited for too long (`line`)."""
    max_under_way: int = 256
    """Requests under way on one replica, other routers' included, with which it is free for no other; 0: any number."""
    spare_ratio: float = 0.0
    """Share of the replicas that the lowest class leaves free for others."""

    def __post_init__(self) -> None:
        if min(self.max_bytes, self.aged_s, self.max_under_way, self.spare_ratio) < 0:
            raise ValueError("the bounds of the queue must not be negative")
