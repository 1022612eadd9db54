"""What was used in the last minute, or day: a sum over a window that slides, in parts of a sixtieth of its length.

The rule it keeps: in any stretch of time as long as the window no more is ever counted as free than the limit leaves.
So the part that is just leaving the window counts in full until it has left; and where the clock was set back by more
than the window, all that was counted counts as of now, since it would stay until the clock is there again. `limits.lua`
keeps the same sums in Redis; one suite runs over both.
"""

from __future__ import annotations

from typing import Final

PARTS: Final = 60
"""Parts of a window. One more is counted: the one that has left only in part."""

MINUTE_S: Final = 60
DAY_S: Final = 86_400
MONTH_S: Final = 30 * DAY_S


class Window:
    """Sum of what was added in the last `span_s` seconds."""

    __slots__ = ("_counts", "_latest", "_part", "_part_s", "total")

    def __init__(self, span_s: int) -> None:
        self._part_s = span_s // PARTS
        self._part = 0
        """Number of the latest part, counted from the clock's zero."""
        self._latest = 0
        """What that part counts; apart from the others, so that counting makes no object."""
        self._counts: list[int] = [0] * (PARTS + 1)
        """Of the parts before it, each at its number modulo their count."""
        self.total = 0
        """As of the latest `roll`."""

    def roll(self, second: int) -> int:
        """Let go of what has left by this second, and return the sum."""
        part = second // self._part_s
        if part != self._part and (part > self._part or part < self._part - PARTS):
            self._begin(part)
        return self.total

    def _begin(self, part: int) -> None:
        counts = self._counts
        if part < self._part:
            for index in range(PARTS + 1):
                counts[index] = 0
            self._latest = self.total
            self._part = part
            return
        if part - self._part > PARTS:
            for index in range(PARTS + 1):
                counts[index] = 0
            self.total = 0
        else:
            counts[self._part % (PARTS + 1)] = self._latest
            for number in range(self._part + 1, part + 1):
                index = number % (PARTS + 1)
                self.total -= counts[index]
                counts[index] = 0
        self._latest = 0
        self._part = part

    def count(self, amount: int) -> None:
        """Count it as of the latest `roll`."""
        self._latest += amount
        self.total += amount

    def add(self, amount: int, second: int, at: int = 0) -> None:
        """Count it, or count less of what was counted in the second `at` (0: now) if that has not left yet."""
        self.roll(second)
        part = self._part if not at else at // self._part_s
        if part == self._part:
            self._latest += amount
            self.total += amount
        elif self._part - PARTS <= part < self._part:
            self._counts[part % (PARTS + 1)] += amount
            self.total += amount

    def parts(self) -> list[int]:
        """What each part counts, the latest last."""
        counts = self._counts
        earlier = [counts[number % (PARTS + 1)] for number in range(self._part - PARTS, self._part)]
        return [*earlier, self._latest]

    def wait_s(self, amount: int, limit: int, now_s: float) -> float:
        """Seconds until so much more is within the limit; 0 if it is now. Never for more than the limit itself."""
        excess = self.roll(int(now_s)) + amount - limit
        if excess <= 0:
            return 0.0
        for number, counted in enumerate(self.parts(), self._part - PARTS):
            excess -= counted
            if excess <= 0:
                return (number + PARTS + 1) * self._part_s - now_s
        return float(self._part_s * (PARTS + 1))
