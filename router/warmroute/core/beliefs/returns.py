"""The return ratio says how likely what was last used so long ago is asked for again, by when prompts came back.

This module decides one share by age; it knows no replicas and no prefixes. Each use of a token begins a life that ends
with the token's next use, wherever that is. Of all lives that reached an age, the share is that of the lives which
ended later instead of never; one prompt that never ended stands beside them. Ages are counted by half-octaves, and old
lives fade with the number of requests, not with time, so that fleets of any speed learn alike. What began less than an
age ago cannot have come back at that age yet, so a share that grows is seen late.
"""

from __future__ import annotations

from math import log2
from typing import Final

BUCKETS: Final = 48
LEAST_AGE_S: Final = 1 / 256
"""Ages from there to 18 hours, two buckets an octave; what lies beyond either end counts there."""
MEMORY_REQUESTS: Final = 2000.0
"""After so many requests what was learnt counts 37 %."""
_MOST_UNIT: Final = 1e9


class Returns:
    """See the module. A reading takes some 50 additions."""

    __slots__ = ("_prompts", "_returned", "_unit", "_used")

    def __init__(self) -> None:
        self._returned = [0.0] * BUCKETS
        """Tokens used again, by age since they were used before."""
        self._used = 0.0
        """Tokens of all prompts."""
        self._prompts = 0.0
        self._unit = 1.0
        """What a token counts now: instead of making the old ones less, new ones are made more."""

    def used(self, tokens: int) -> None:
        """A prompt of so many tokens is sent."""
        self._unit *= 1.0 + 1.0 / MEMORY_REQUESTS
        if self._unit > _MOST_UNIT:
            for bucket in range(BUCKETS):
                self._returned[bucket] /= self._unit
            self._used /= self._unit
            self._prompts /= self._unit
            self._unit = 1.0
        self._used += tokens * self._unit
        self._prompts += self._unit

    def returned(self, tokens: int, age_s: float) -> None:
        """So many of that prompt's tokens were last used so long ago."""
        self._returned[int(_place(age_s))] += tokens * self._unit

    def ratio(self, age_s: float) -> float:
        """The share, 0 to 1, of what was last used so long ago that will be used again."""
        if self._used <= 0.0:
            return 0.0
        place = _place(age_s)
        bucket = int(place)
        sooner = later = 0.0
        for other in range(bucket):
            sooner += self._returned[other]
        for other in range(bucket + 1, BUCKETS):
            later += self._returned[other]
        part = (place - bucket) * self._returned[bucket]
        sooner += part
        later += self._returned[bucket] - part
        left = self._used - sooner
        if left < later:
            left = later
        return later / (left + self._unit * self._used / self._prompts)


def _place(age_s: float) -> float:
    if age_s <= LEAST_AGE_S:
        return 0.0
    place = 2.0 * log2(age_s / LEAST_AGE_S)
    return place if place < BUCKETS - 1 else BUCKETS - 1.0
