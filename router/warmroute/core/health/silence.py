"""How long a replica may say nothing before a request is tried on another one as well.

Decides by what was predicted of the request, times a factor, and by how much such predictions have lately been too
short on this replica; bounded by a floor and a ceiling. Time is an argument. Does not decide what follows: a request
that is late is asked of a second replica and keeps the first, so that a long prefill is never lost for being long;
whether a replica is ejected is `health`'s.
"""

from __future__ import annotations

from math import inf
from typing import Final

MOST_RATIO: Final = 32.0
"""Predictions are never taken to be shorter than the truth by more than this."""
FADE: Final = 0.004
"""Share of what a replica was later than predicted that one sweep forgets: half of it in 90 s."""
PLAIN_FADE: Final = 0.0002
"""The same of the longest answer that did not stream: half of it in half an hour."""
LEAST_EXPECTED_S: Final = 0.02
"""A shorter prediction is within what an event loop takes."""
HEARD_TIMES: Final = 4.0
"""A replica that answers others is alive, and the request in its queue: it is late after so many times as long."""
COLD_TIMES: Final = 1.5
"""A prompt that a cache has evicted since takes as long as a cold one, which happens too often to call it silence: such
a request is late after so many times that."""
UNKNOWN: Final = -1.0
"""Where nothing is predicted."""


MEAN_WEIGHT: Final = 0.02
"""Of one answer in the mean of those that do not stream."""
MEAN_TIMES: Final = 4.0
"""So many times the mean is longer than most answers take, where a few take much longer than all others."""


class SilenceParameters:
    """What the settings say (`upstream.late_*`)."""

    __slots__ = ("ceiling_s", "factor", "floor_s")

    def __init__(self, factor: float = 4.0, floor_s: float = 1.0, ceiling_s: float = 60.0) -> None:
        self.factor = factor
        """Of the predicted time to the first byte; 0: no request is ever late."""
        self.floor_s = floor_s
        self.ceiling_s = ceiling_s


class Patience:
    """What one replica has taught of its silences."""

    __slots__ = ("ratio", "suspected_s")

    def __init__(self) -> None:
        self.ratio = 1.0
        """How many times later than predicted first bytes have lately been, of those that were late; at least 1."""
        self.suspected_s = 0.0
        """Monotonic time at which its silence became suspicious; 0 when it was heard of since."""

    def allowed_s(
        self,
        expected_s: float,
        parameters: SilenceParameters,
        doubtful: bool = False,
        surprise_s: float = 0.0,
    ) -> float:
        """Longest silence of a request whose first byte was predicted after `expected_s` (`UNKNOWN`: not predicted).

        Args:
            doubtful: The replica is on trial. It is also doubtful while it is suspected; then the floor is halved.
            surprise_s: How much longer it takes if caches hold nothing of what they should.
        """
        if parameters.factor <= 0.0:
            return inf
        if expected_s < 0.0:
            return parameters.ceiling_s
        factor = parameters.factor
        allowed_s = self.ratio * max(factor * expected_s, min(factor, COLD_TIMES) * (expected_s + surprise_s))
        floor_s = 0.5 * parameters.floor_s if doubtful or self.suspected_s > 0.0 else parameters.floor_s
        if allowed_s < floor_s:
            return floor_s
        return allowed_s if allowed_s < parameters.ceiling_s else parameters.ceiling_s

    def answered(self, expected_s: float, took_s: float) -> None:
        """A request that was waited for has its first byte."""
        if expected_s <= 0.0:
            return
        ratio = took_s / expected_s
        if ratio > self.ratio:
            self.ratio = ratio if ratio < MOST_RATIO else MOST_RATIO

    def suspect(self, now_s: float) -> None:
        """Its silence has become suspicious."""
        if self.suspected_s <= 0.0:
            self.suspected_s = now_s

    def swept(self, heard_s: float) -> None:
        """Half a second has passed. A replica that is heard of after it was suspected was alive: wait longer for it."""
        self.ratio += (1.0 - self.ratio) * FADE
        if 0.0 < self.suspected_s < heard_s:
            self.suspected_s = 0.0
            doubled = 2.0 * self.ratio
            self.ratio = doubled if doubled < MOST_RATIO else MOST_RATIO


def mean_of(mean_s: float, took_s: float) -> float:
    """The mean of lately once another answer took so long; 0 before there was any."""
    return mean_s + (took_s - mean_s) * MEAN_WEIGHT if mean_s > 0.0 else took_s


def plain_usual_s(longest_s: float, mean_s: float, parameters: SilenceParameters) -> float:
    """What nearly all answers take that do not stream: for where there is more to go by than that one takes longer.
    Unlimited before there was any."""
    if parameters.factor <= 0.0 or longest_s <= 0.0:
        return inf
    usual_s = MEAN_TIMES * mean_s
    return max(parameters.floor_s, usual_s if 0.0 < usual_s < longest_s else longest_s)


def plain_allowed_s(longest_s: float, parameters: SilenceParameters) -> float:
    """Longest silence of a request that is answered as a whole, by the longest such answer lately; no ceiling, since
    how much an answer says is not known before. Unlimited before there was any (0)."""
    if parameters.factor <= 0.0 or longest_s <= 0.0:
        return inf
    return max(parameters.floor_s, parameters.factor * longest_s)
