"""Least loaded takes the fewest requests in flight, by chance among equals.

Source: nginx `least_conn`, Envoy `LEAST_REQUEST` over all hosts, AIBrix `least-request`.
"""

from __future__ import annotations

from warmroute_loadtest.simulate.chooser import Chooser
from warmroute_loadtest.simulate.workload import Turn


class LeastLoaded(Chooser):
    """The rule that takes the smallest count of requests in flight."""

    name = "least-loaded"

    def choose(self, turn: Turn, now_s: float) -> int:
        """Choose the replica with the fewest requests in flight."""
        return self.least(self.in_flight.__getitem__)
