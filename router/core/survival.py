"""How much of what a replica was last sent so long ago is still in its cache: learnt from what answers report.

Decides what share of a record's promise is to be counted on, by its age; knows no sizes and no prefixes. Hits and
misses are kept by age since last use, in octaves, each as a running share that follows recent answers. Prefixes that
were given up for evicted and are found all the same count too: both sides are seen. An age of which nothing is known is
like the next younger one; where no engine reports anything, everything is counted on.
"""

from __future__ import annotations

from typing import Final

OCTAVES: Final = 14
"""Ages up to 1, 2, 4, … 8192 s; the last is open."""
_LEAST_WEIGHT: Final = 1 / 16
"""Of a new answer, once there were as many."""
YOUNG_S: Final = 2.5
"""What was used more recently is counted on and teaches nothing: it may still wait to be computed, and records tell
times to two seconds."""
LIFETIME_RATIO: Final = 0.5
"""A prefix lives as long as more than this share of it is found."""


class Survival:
    """Shares found, by octave of age. A reading is a few operations; memory is fixed."""

    __slots__ = ("_counts", "_shares", "certain")

    def __init__(self) -> None:
        self.certain = True
        """Nothing was ever missed."""
        self._shares = [1.0] * OCTAVES
        self._counts = [0] * OCTAVES

    def clear(self) -> None:
        """Another engine."""
        self.certain = True
        for octave in range(OCTAVES):
            self._shares[octave] = 1.0
            self._counts[octave] = 0

    def learn(self, age_s: float, share: float) -> None:
        """Of a prefix last used so long before it was asked for, this share was found (0 to 1)."""
        if age_s <= YOUNG_S:
            return
        octave = _octave(age_s)
        count = self._counts[octave] = self._counts[octave] + 1
        weight = 1.0 / count if count * _LEAST_WEIGHT < 1.0 else _LEAST_WEIGHT
        self._shares[octave] += (share - self._shares[octave]) * weight
        if share < 1.0:
            self.certain = False

    def share(self, age_s: float) -> float:
        """Expected share found of a prefix last used so long ago."""
        if age_s <= YOUNG_S:
            return 1.0
        octave = _octave(age_s)
        counts = self._counts
        while octave and not counts[octave]:
            octave -= 1
        return self._shares[octave]  # 1 while nothing is known

    def lifetime_s(self) -> float | None:
        """How long after their last use prefixes are found; None while none was found missing."""
        shares, counts = self._shares, self._counts
        for octave in range(OCTAVES):
            if counts[octave] and shares[octave] < LIFETIME_RATIO:
                return float(1 << octave) / 2
        return None

    def found_age_s(self) -> float:
        """The age up to which prefixes were found, to an octave; 0 if none was."""
        for octave in range(OCTAVES - 1, -1, -1):
            if self._counts[octave] and self._shares[octave] >= LIFETIME_RATIO:
                return float(1 << octave)
        return 0.0


def _octave(age_s: float) -> int:
    if age_s <= 1.0:
        return 0
    octave = int(age_s).bit_length()
    return octave if octave < OCTAVES else OCTAVES - 1
