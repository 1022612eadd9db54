"""Writes stand in line for Redis in their order, counted in rungs; the line knows how old the oldest of them is.

Every operation takes the same time however many wait, since what waits while a Redis is in trouble is much. This module
decides neither when to write, nor how much may wait.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from warmroute.core.types import FingerprintHash, Incarnation


class Write(NamedTuple):
    """One thing to tell Redis."""

    rungs: Sequence[FingerprintHash]
    incarnation: Incarnation
    at_s: float | None
    """When the holder was noted, Unix seconds; `None` withdraws it."""
    retries: int = 0
    until_s: float = math.inf
    """A withdrawal leaves what was noted later."""
    kept_s: float = 0.0
    """Lifetime of the records where that is longer than the usual one."""


class Queue:
    """First in, first out."""

    __slots__ = ("_oldest", "_writes", "rungs")

    def __init__(self) -> None:
        self.rungs = 0
        """Of all writes in line."""
        self._writes: deque[Write] = deque()
        self._oldest: deque[float] = deque()
        """Times of notes that no later one in line is older than; the first is the oldest of all."""

    def __bool__(self) -> bool:
        """Whether anything is in line."""
        return bool(self._writes)

    @property
    def oldest_s(self) -> float:
        """Time of the oldest note in line; infinity when there is none."""
        return self._oldest[0] if self._oldest else math.inf

    def push(self, write: Write) -> None:
        """Add a write at the end."""
        self._writes.append(write)
        self.rungs += len(write.rungs)
        at_s = write.at_s
        if at_s is not None:
            oldest = self._oldest
            while oldest and oldest[-1] > at_s:
                oldest.pop()
            oldest.append(at_s)

    def pop(self) -> Write:
        """Take the first write."""
        write = self._writes.popleft()
        self.rungs -= len(write.rungs)
        if self._oldest and write.at_s == self._oldest[0]:
            self._oldest.popleft()
        return write
