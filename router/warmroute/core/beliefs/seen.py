"""This module remembers which prefixes were sent before, to any replica: what could have been reused at best.

It decides nothing about routing. It keeps two generations of sets, of the largest size that is allowed. The old one is
given up when the young one is full or the lifetime is over, so a prefix is remembered for one to two lifetimes, or for
the last so many rungs. It sees only this process's own traffic; the registry's records add what other routers saw.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from warmroute.core.types import FingerprintHash

SEEN_S: Final = 1800.0
"""Lifetime: twice this is the longest that a prefix counts as one that could have been reused."""
MAX_RUNGS: Final = 131_072
"""Of one generation; about 8 MB each."""


class Seen:
    """Remembers rungs. A prompt costs a set operation a rung, in C."""

    __slots__ = ("_half", "_lifetime_s", "_old", "_turned_s", "_young")

    def __init__(self, lifetime_s: float = SEEN_S, max_rungs: int = MAX_RUNGS) -> None:
        self._lifetime_s = lifetime_s
        self._half = max_rungs
        self._young: set[FingerprintHash] = set()
        self._old: set[FingerprintHash] = set()
        self._turned_s = 0.0

    def depth(self, rungs: Sequence[FingerprintHash], now_s: float) -> int:
        """The deepest of these rungs that was seen before, -1 if none was; all are seen from now on."""
        if now_s - self._turned_s >= self._lifetime_s or len(self._young) >= self._half:
            self._old = self._young
            self._young = set()
            self._turned_s = now_s
        young, old = self._young, self._old
        depth = len(rungs) - 1
        while depth >= 0 and rungs[depth] not in young and rungs[depth] not in old:
            depth -= 1
        young.update(rungs)
        return depth

    def __len__(self) -> int:
        return len(self._young) + len(self._old)
