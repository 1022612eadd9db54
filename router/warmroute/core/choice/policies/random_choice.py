"""Policy `random` chooses any replica, all alike likely. It is a baseline and sees neither prefixes nor load."""

from __future__ import annotations

from warmroute.core.beliefs.belief import Belief
from warmroute.core.choice.policies.baseline import Baseline
from warmroute.core.choice.view import Prices, View
from warmroute.core.fleet.replica import Replica
from warmroute.core.types import DecisionKind


class RandomChoice(Baseline):
    """See the module."""

    def choose(self, belief: Belief, view: View, prices: Prices) -> tuple[Replica, DecisionKind]:
        """A throw of the view's dice."""
        members = view.members
        return members[int(view.rng.random() * len(members))], DecisionKind.LOAD
