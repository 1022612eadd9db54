"""A policy is shown what is believed of a request and who may be chosen, and answers with one replica.

A policy ranks: it neither counts nor logs nor reserves, and keeps no state. What it needs to take turns or roll dice is
in the view. It answers with one replica, since nothing else is needed while requests succeed. The next in order is what
it answers when it is asked again without the replicas that were tried.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from warmroute.core.beliefs.belief import Belief
from warmroute.core.choice.view import Prices, View
from warmroute.core.fleet.replica import Replica
from warmroute.core.types import DecidedBy, DecisionKind


@dataclass(frozen=True, slots=True)
class Tie:
    """Which replicas a policy took for equally cheap, and what decided between them."""

    least_s: float
    """The smallest cost."""
    limit_s: float
    """The largest cost that is equal to it."""
    replicas: tuple[Replica, ...]
    """Those that cost at most so much, cheapest first; never empty."""
    decided_by: DecidedBy
    why: str
    """The same in a sentence, for people."""

    def as_dict(self) -> dict[str, object]:
        """For `/explain`."""
        return {
            "least_s": round(self.least_s, 6),
            "limit_s": round(self.limit_s, 6),
            "replicas": [replica.id for replica in self.replicas],
            "decided_by": self.decided_by.value,
            "why": self.why,
        }


class Policy(Protocol):
    """One rule of choice."""

    needs_records: bool
    """False if the policy makes no use of overlaps. The request path then neither looks prompts up in the registry
    nor notes them there, and predicts nothing of caches."""

    def choose(self, belief: Belief, view: View, prices: Prices) -> tuple[Replica, DecisionKind]:
        """The member of the view to send the request to, and why."""

    def tie(self, belief: Belief, view: View, prices: Prices) -> Tie | None:
        """Between which replicas `choose` decides, and by what; None if it compares no costs. Off the request path."""
