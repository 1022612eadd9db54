"""Whether a process keeps taking more memory: compares what it takes with what it took when it had come to rest.

Caches and registries fill up in the first minutes, so the comparison begins after those. Reads nothing and decides
nothing but when to say it: at each doubling, once.
"""

from __future__ import annotations

SETTLED_S = 600.0
"""Age at which what a process takes is what it needs."""

FACTOR = 2.0


class Growth:
    """Of one process."""

    __slots__ = ("_next_bytes", "first_bytes")

    def __init__(self) -> None:
        self.first_bytes = 0
        """What it took when it had come to rest; 0 before."""
        self._next_bytes = 0.0

    def doubled(self, resident_bytes: int, age_s: float) -> bool:
        """Whether it takes twice as much as when this was last true, or as at first."""
        if age_s < SETTLED_S or resident_bytes <= 0:
            return False
        if not self.first_bytes:
            self.first_bytes = resident_bytes
            self._next_bytes = resident_bytes * FACTOR
            return False
        if resident_bytes < self._next_bytes:
            return False
        self._next_bytes = resident_bytes * FACTOR
        return True
