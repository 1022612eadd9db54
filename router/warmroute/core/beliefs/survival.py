"""Survival says how much of what a replica was last sent so long ago is still in its cache, from what answers report.

This module decides what share of a record's promise is to be counted on, by the record's age. It knows no sizes and no
prefixes. Hits and misses are kept by age since last use, in octaves, each as a running share that follows recent
answers. Prefixes that were taken for evicted and are found all the same count too, so that both sides are seen. An age
of which nothing is known is like the next younger one. Where no engine reports anything, everything is counted on. What
was believed before weighs like many lessons, so that no single answer, and not ten of one client, decide for all.
"""

from __future__ import annotations

from typing import Final

from warmroute.core.beliefs.residency import STALE_S

OCTAVES: Final = 18
OCTAVES_PER_S: Final = 16
"""Ages up to 1/16, 1/8, … 8192 s; the last is open."""
PRIOR_LESSONS: Final = 16
"""What was believed of an age before its first lesson counts like so many; later lessons count like the one after as
many."""
LIFETIME_RATIO: Final = 0.5
"""A prefix lives as long as more than this share of it is found."""
LEAST_LESSONS: Final = 8
"""Misses before it is believed that nothing lives longer: fewer may be prompts given up before they were computed."""


class Survival:
    """Shares found, by octave of age. A reading is a few operations; memory is fixed."""

    __slots__ = ("_counts", "_found", "_shares", "certain", "missed")

    def __init__(self) -> None:
        self.certain = True
        """Nothing was ever missed."""
        self.missed = 0
        """Prefixes of which most was missed."""
        self._shares = [1.0] * OCTAVES
        self._counts = [0] * OCTAVES
        self._found = [0] * OCTAVES
        """Lessons in which most was found."""

    def clear(self) -> None:
        """Another engine."""
        self.certain = True
        self.missed = 0
        for octave in range(OCTAVES):
            self._shares[octave] = 1.0
            self._counts[octave] = self._found[octave] = 0

    def learn(self, age_s: float, share: float) -> None:
        """Of a prefix last used so long before it was asked for, this share was found (0 to 1).

        What is younger than `STALE_S` is counted on and teaches nothing: it may still wait to be computed.
        """
        if age_s <= STALE_S:
            return
        octave = _octave(age_s)
        if not self._counts[octave]:
            self._shares[octave] = self.share(age_s)
        count = self._counts[octave] = self._counts[octave] + 1
        weight = PRIOR_LESSONS + (count if count < PRIOR_LESSONS else PRIOR_LESSONS)
        self._shares[octave] += (share - self._shares[octave]) / weight
        if share < 1.0:
            self.certain = False
        if share < LIFETIME_RATIO:
            self.missed += 1
        else:
            self._found[octave] += 1

    def _lives(self, octave: int) -> bool:
        """Whether most of what is so old is found, by its own lessons alone while they are few."""
        count = self._counts[octave]
        if count < PRIOR_LESSONS:
            return 2 * self._found[octave] >= count
        return self._shares[octave] >= LIFETIME_RATIO

    def share(self, age_s: float) -> float:
        """Expected share found of a prefix last used so long ago."""
        if age_s <= STALE_S:
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
                return float(1 << octave) / (2 * OCTAVES_PER_S)
        return None

    def gone_s(self) -> float | None:
        """The age from which on hardly a prefix is found, by `LEAST_LESSONS` at least; None while that is not known.

        Unlike `lifetime_s` it is not misled by misses among the young, while older ones are found.
        """
        counts = self._counts
        lessons = youngest = 0
        for octave in range(OCTAVES - 1, -1, -1):
            if counts[octave]:
                if self._lives(octave):
                    break
                lessons += counts[octave]
                youngest = octave
        return float(1 << youngest) / (2 * OCTAVES_PER_S) if lessons >= LEAST_LESSONS else None

    def found_age_s(self) -> float:
        """The age up to which prefixes were found, to an octave; 0 if none was."""
        for octave in range(OCTAVES - 1, -1, -1):
            if self._counts[octave] and self._lives(octave):
                return float(1 << octave) / OCTAVES_PER_S
        return 0.0


def _octave(age_s: float) -> int:
    octave = int(age_s * OCTAVES_PER_S).bit_length()
    return octave if octave < OCTAVES else OCTAVES - 1
