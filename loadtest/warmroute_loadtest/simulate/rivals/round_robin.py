"""Round robin takes the replicas in turn.

Source: every load balancer; vLLM production-stack `roundrobin`.
"""

from __future__ import annotations

from warmroute_loadtest.simulate.chooser import Chooser, Site
from warmroute_loadtest.simulate.workload import Turn


class RoundRobin(Chooser):
    """The rule that takes the replicas in turn."""

    name = "round-robin"

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self._next = -1

    def choose(self, turn: Turn, now_s: float) -> int:
        """Choose the replica after the last one chosen."""
        self._next = (self._next + 1) % self.site.replicas
        return self._next
