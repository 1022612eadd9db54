"""Baselines are policies to compare with: they compare no costs, and ask nobody where a prefix is cached."""

from __future__ import annotations

from warmroute.core.beliefs.belief import Belief
from warmroute.core.choice.cost import CostParameters
from warmroute.core.choice.ranking import Tie
from warmroute.core.choice.view import Prices, View


class Baseline:
    """Base of the policies that others are compared with."""

    needs_records = False

    def __init__(self, parameters: CostParameters) -> None:
        pass

    def tie(self, belief: Belief, view: View, prices: Prices) -> Tie | None:
        """None: no costs are compared."""
        return None
