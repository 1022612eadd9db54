"""Power of two choices takes the less loaded of two replicas drawn by lot.

Source: Mitzenmacher 1996; SGLang gateway `power_of_two`.
"""

from __future__ import annotations

from warmroute_loadtest.simulate.chooser import Chooser
from warmroute_loadtest.simulate.workload import Turn


class PowerOfTwo(Chooser):
    """The rule that compares two replicas drawn by lot."""

    name = "power-of-two"

    def choose(self, turn: Turn, now_s: float) -> int:
        """Draw two replicas, and choose the one with fewer requests in flight."""
        count = self.site.replicas
        first = self.site.rng.randrange(count)
        second = (first + 1 + self.site.rng.randrange(count - 1)) % count if count > 1 else first
        return second if self.in_flight[second] < self.in_flight[first] else first
