"""Policy `power-of-two` draws two replicas by dice and chooses the one with fewer requests under way, others' included.

It is a baseline and sees no prefixes.

Source: Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing" (2001).
"""

from __future__ import annotations

from warmroute.core.beliefs.belief import Belief
from warmroute.core.choice.policies.baseline import Baseline
from warmroute.core.choice.view import Prices, View
from warmroute.core.fleet.replica import Replica
from warmroute.core.types import DecisionKind


class PowerOfTwo(Baseline):
    """See the module."""

    def choose(self, belief: Belief, view: View, prices: Prices) -> tuple[Replica, DecisionKind]:
        """The less loaded of two different members; the first drawn if they are even."""
        members = view.members
        count = len(members)
        if count == 1:
            return members[0], DecisionKind.LOAD
        random = view.rng.random
        i = int(random() * count)
        j = int(random() * (count - 1))
        first = members[i]
        second = members[j if j < i else j + 1]
        return (second if second.load < first.load else first), DecisionKind.LOAD
