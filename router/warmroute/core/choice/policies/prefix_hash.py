"""Policy `prefix-hash` places the hash of the first 1,024 tokens on the consistent-hash ring with bounded load.

It is the strongest policy without any shared state, and a baseline here. It sees no depth beyond those tokens, and its
bound counts requests under way, whoever sent them, and not the work in them. Its parameter is `bounded_load_factor`.
"""

from __future__ import annotations

from operator import attrgetter

from warmroute.core.beliefs.belief import Belief
from warmroute.core.choice.bounded_load import BoundedLoad
from warmroute.core.choice.cost import CostParameters
from warmroute.core.choice.policies.baseline import Baseline
from warmroute.core.choice.view import Prices, View
from warmroute.core.fleet.replica import Replica
from warmroute.core.types import DecisionKind

_load = attrgetter("load")


class PrefixHash(Baseline):
    """See the module."""

    def __init__(self, parameters: CostParameters) -> None:
        super().__init__(parameters)
        self._factor = parameters.bounded_load_factor

    def choose(self, belief: Belief, view: View, prices: Prices) -> tuple[Replica, DecisionKind]:
        """`RING` where the ring's first choice has room, else `SPILL` to the next that has."""
        key = belief.shape.head_key or view.key(belief.shape)
        replica: Replica = BoundedLoad(view, self._factor, _load).first(key)
        return replica, DecisionKind.RING if replica is view.first(key) else DecisionKind.SPILL
