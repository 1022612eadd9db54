"""This module shows why one request of a workload goes where it goes: the tied candidates, and each candidate's terms.

It decides nothing: it plays the workload up to the request under our policy, and asks the core's own ranking.
"""

from __future__ import annotations

from typing import Any

from warmroute.core.learning.learner import Learner
from warmroute_loadtest.simulate.chooser import Chooser, Site
from warmroute_loadtest.simulate.simulation import FleetConfig, simulate
from warmroute_loadtest.simulate.warm import HOLD, LEARNING, Warm
from warmroute_loadtest.simulate.workload import Turn, Workload


class _Explaining(Warm):
    """Our policy; it takes down the ranking when the wanted request comes."""

    def __init__(self, site: Site, number: int, found: dict[str, Any]) -> None:
        super().__init__(site, "prefix-cost", hold=HOLD, learner=Learner(LEARNING))
        self._left = number
        self._found = found

    def choose(self, turn: Turn, now_s: float) -> int | None:
        self._left -= 1
        if self._left == 0:
            shape, records = self.ask(turn, now_s)
            self._found |= {
                "request": turn.id,
                "time_s": round(now_s, 3),
                "prompt_tokens": turn.prompt_tokens,
            }
            self._found |= self.fleet.rank(shape, records, now_s).as_dict()
        return super().choose(turn, now_s)


def explain(workload: Workload, fleet: FleetConfig, number: int) -> dict[str, Any]:
    """Return the ranking of candidates for the `number`-th request to come, counted from 1.

    Raises:
        ValueError: The workload has fewer requests.
    """
    if not 1 <= number <= workload.requests:
        raise ValueError(f"--explain takes a request from 1 to {workload.requests}, got {number}")
    found: dict[str, Any] = {}

    def make(site: Site) -> Chooser:
        return _Explaining(site, number, found)

    simulate(workload, fleet, make)
    return found
