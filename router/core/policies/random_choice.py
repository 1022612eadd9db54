"""Policy `random`: any replica, all alike likely. A baseline; sees neither prefixes nor load."""

from __future__ import annotations

from router.core.cost import CostParameters
from router.core.ranking import Overlaps, View
from router.core.replica import Replica
from router.core.types import DecisionKind, RequestShape


class RandomChoice:
    """See the module."""

    needs_records = False

    def __init__(self, parameters: CostParameters) -> None:
        pass

    def choose(self, shape: RequestShape, overlaps: Overlaps, view: View) -> tuple[Replica, DecisionKind]:
        """A throw of the view's dice."""
        members = view.members
        return members[int(view.rng.random() * len(members))], DecisionKind.LOAD
