"""How many of the tokens that `Residency` counts fit into a replica's cache, as learnt from answers.

Decides one ratio: tokens by that count, as a multiple of the size that the engine tells. The count errs upwards (what
lies between two rungs) and downwards (other routers), engines keep some room for themselves, and a size may be told
wrong. What is counted on and close to the edge shows where the edge is; what is surely there and missing all the same
shows a size that is wrong altogether. Knows no prefixes and counts no tokens.
"""

from __future__ import annotations

from typing import Final

FIT_RATIO: Final = 0.97
LEAST_FIT_RATIO: Final = 0.1
MOST_FIT_RATIO: Final = 2.0
"""The first guess, and its bounds."""
WANTED_RATIO: Final = 0.05
"""So much of what is doubtful may be missing, beyond what is missing everywhere, before less is taken to fit. To count
on what is gone costs more than to give up what is there: in simulated fleets of agents whose contexts just fit, 5 % too
much raised the mean time to first token by 5 %, 12 % by 9 %; 5 % too little was no worse than the truth."""
MISSED_RATIO: Final = 0.2
"""If so much is missing of what is surely there, far less fits than is told: prompts given up half computed, and
preempted ones, make less."""
OLDER_RATIO: Final = 1.3
"""And if what is missing was used so much longer ago than what is found."""
_STEP: Final = 0.02
_LARGE_STEP: Final = 0.05
_FOUND_STEP: Final = 0.01
_MISSED_WEIGHT: Final = 1 / 32


class CacheFit:
    """See the module."""

    __slots__ = ("found_age_s", "missed_age_s", "missed_ratio", "ratio")

    def __init__(self) -> None:
        self.ratio = FIT_RATIO
        self.missed_ratio = 0.0
        """How often what is surely there was missing, lately."""
        self.missed_age_s = 0.0
        """How long ago that was last used, in the mean."""
        self.found_age_s = 0.0
        """The same of what is surely there and was found."""

    def clear(self) -> None:
        """The engine has restarted."""
        self.ratio = FIT_RATIO
        self.missed_ratio = self.missed_age_s = self.found_age_s = 0.0

    def learn(self, there: bool, doubtful: bool, age_s: float) -> None:
        """An answer showed whether a prefix that was counted on, last used so long ago, was there.

        Args:
            doubtful: Whether it lay near the edge (`Residency.doubtful`).
        """
        factor = 1.0
        if doubtful:
            wanted_ratio = self.missed_ratio + WANTED_RATIO
            if not there:
                factor = 1.0 - _STEP
            elif wanted_ratio < 0.5:
                factor = 1.0 + _STEP * wanted_ratio / (1.0 - wanted_ratio)
            else:
                factor = 1.0 + _STEP
        elif there:
            self.missed_ratio -= self.missed_ratio * _MISSED_WEIGHT
            self.found_age_s += (age_s - self.found_age_s) * _MISSED_WEIGHT
        else:
            self.missed_ratio += (1.0 - self.missed_ratio) * _MISSED_WEIGHT
            self.missed_age_s += (age_s - self.missed_age_s) * _MISSED_WEIGHT
            # What is missing whatever its age is missing for another reason.
            if self.missed_ratio > MISSED_RATIO and self.missed_age_s > OLDER_RATIO * self.found_age_s:
                factor = 1.0 - _LARGE_STEP
        self._scale(factor)

    def found(self) -> None:
        """An answer showed that most of a prefix that was given up was there."""
        self._scale(1.0 + _FOUND_STEP)

    def _scale(self, factor: float) -> None:
        self.ratio = min(max(self.ratio * factor, LEAST_FIT_RATIO), MOST_FIT_RATIO)
