"""Policy `least-loaded` chooses the replica with the fewest requests under way, whoever sent them.

It is a baseline and sees no prefixes. Dice break ties, since list order would send every request of a quiet fleet to
one replica. Its time is linear in the replicas, 0.05 µs each.
"""

from __future__ import annotations

from operator import attrgetter

from warmroute.core.beliefs.belief import Belief
from warmroute.core.choice.policies.baseline import Baseline
from warmroute.core.choice.view import Prices, View
from warmroute.core.fleet.replica import Replica
from warmroute.core.types import DecisionKind

_load = attrgetter("load")


class LeastLoaded(Baseline):
    """See the module."""

    def choose(self, belief: Belief, view: View, prices: Prices) -> tuple[Replica, DecisionKind]:
        """One of those with the fewest under way."""
        loads = list(map(_load, view.members))
        least = min(loads)
        ties = loads.count(least)
        skip = int(view.rng.random() * ties) if ties > 1 else 0
        i = loads.index(least)
        while skip:
            i = loads.index(least, i + 1)
            skip -= 1
        return view.members[i], DecisionKind.LOAD
