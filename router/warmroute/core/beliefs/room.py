"""The room in an engine's cache: what requests under way add to it, and how long until another one fits.

An engine begins a prompt when all of it fits beside what it is at, and what it decodes takes room as well. Where long
answers fill the cache, the next prompt waits until others have ended, however short its prefill would be; and if it
began, somebody else would be thrown out, and computed again. This module counts how old the requests under way are, and
learns from those that ended how long one lasts and how many tokens it adds meanwhile. Which tokens are in use already
`residency` knows, for this router's requests and those that others told of. Nothing here decides who is sent where.
"""

from __future__ import annotations

from math import sqrt

from warmroute.core.learning.answers import Mean


class Room:
    """Of one engine. All costs are O(1)."""

    __slots__ = ("_answer_tokens", "_begun_sum_s", "_lasts_s", "requests")

    def __init__(self) -> None:
        self.requests = 0
        """Requests under way, whoever sent them."""
        self._begun_sum_s = 0.0
        """Sum of the moments at which those began."""
        self._lasts_s = Mean(0.0)
        """How long one lasts from when it is sent."""
        self._answer_tokens = Mean(0.0)
        """How many tokens its answer has."""

    def clear(self) -> None:
        """None is under way any more."""
        self.requests = 0
        self._begun_sum_s = 0.0

    def begin(self, now_s: float) -> None:
        """One more is under way."""
        self.requests += 1
        self._begun_sum_s += now_s

    def end(self, begun_s: float) -> None:
        """One that began then is over."""
        self.requests -= 1
        self._begun_sum_s -= begun_s
        if self.requests <= 0:
            self.clear()

    def answered(self, lasted_s: float, tokens: int) -> None:
        """An answer of so many tokens is complete, so long after its request was sent; 0 or less where nobody heard it
        begin, or a clock was set back: that tells nothing."""
        if lasted_s > 0.0:
            self._lasts_s.add(lasted_s)
            self._answer_tokens.add(float(tokens))

    def grown_tokens(self, now_s: float) -> float:
        """What the answers under way should have added by now."""
        age_s = self.requests * now_s - self._begun_sum_s
        lasts_s = self._lasts_s.value
        return age_s * self._answer_tokens.value / lasts_s if age_s > 0.0 and lasts_s > 0.0 else 0.0

    def wait_s(self, over_tokens: float, cache_tokens: float) -> float:
        """Expected time until as many tokens come free as are lacking for another request.

        Requests that fill the cache give all of it back while one of them lasts. Their answers' lengths differ: the
        rule of square-root staffing leaves as much room as their sum varies, about the root of their number times
        their mean.

        Args:
            over_tokens: By how much what is in use and the new prompt exceed the cache; below 0 where they fit.
        """
        if self.requests <= 0 or cache_tokens <= 0.0:
            return 0.0
        over_tokens += sqrt(self.requests) * self._answer_tokens.value
        return over_tokens / cache_tokens * self._lasts_s.value if over_tokens > 0.0 else 0.0
