"""Policy `round-robin` chooses the replicas in turn. It is a baseline and sees neither prefixes nor load.

The turn is the view's count of placed requests, so each model has its own turn, and asking does not advance it.
"""

from __future__ import annotations

from warmroute.core.beliefs.belief import Belief
from warmroute.core.choice.policies.baseline import Baseline
from warmroute.core.choice.view import Prices, View
from warmroute.core.fleet.replica import Replica
from warmroute.core.types import DecisionKind


class RoundRobin(Baseline):
    """See the module."""

    def choose(self, belief: Belief, view: View, prices: Prices) -> tuple[Replica, DecisionKind]:
        """The next in turn."""
        members = view.members
        return members[view.turn % len(members)], DecisionKind.LOAD
