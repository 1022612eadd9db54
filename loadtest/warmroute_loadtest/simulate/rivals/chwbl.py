"""KubeAI hashes consistently, with bounded loads, on the first 100 characters.

For chat these are the characters of the first *user* message; the system prompt is ignored. The ring has 256 virtual
nodes for each replica. A replica takes at most 1.25 times the mean number of requests in flight; beyond that the ring's
next replica takes the request. Source: KubeAI `internal/loadbalancer/balance_chwbl.go`,
`docs/concepts/load-balancing.md`; bound from Mirrokni et al. 2016.
"""

from __future__ import annotations

from bisect import bisect_left
from math import ceil

from warmroute_loadtest.simulate.chooser import Chooser, Site
from warmroute_loadtest.simulate.workload import Turn, rung_hash

VNODES = 256
LOAD_FACTOR = 1.25


class Chwbl(Chooser):
    """Consistent hashing with bounded loads: the first replica on the ring that has room."""

    name = "kubeai-chwbl"

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self._ring = sorted((rung_hash(i + 1, v), i) for i in range(site.replicas) for v in range(VNODES))

    def choose(self, turn: Turn, now_s: float) -> int:
        """Walk the ring from the key's place to the first replica with room."""
        limit = ceil(LOAD_FACTOR * (sum(self.in_flight) + 1) / self.site.replicas)
        start = bisect_left(self._ring, (rung_hash(turn.user_key, -9), 0))
        for step in range(len(self._ring)):
            replica = self._ring[(start + step) % len(self._ring)][1]
            if self.in_flight[replica] < limit:
                return replica
        return self.least(self.in_flight.__getitem__)
