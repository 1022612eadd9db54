"""A policy is shown a view of the fleet, and answers with one replica; people are shown the whole order and the tie.

A policy ranks: it neither counts nor logs nor reserves, and keeps no state. What it needs to take turns or roll dice is
in the view. It answers with one replica, since nothing else is needed while requests succeed. The next in order is what
it answers when it is asked again without the replicas that were tried.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from warmroute.core.choice.ring import Ring
from warmroute.core.fleet.replica import Replica
from warmroute.core.types import DecidedBy, DecisionKind, Incarnation, RequestShape

if TYPE_CHECKING:
    from random import Random

Overlaps = dict[Replica, int]
"""Tokens each replica is believed to hold of the prompt, at least one block; only replicas of the view."""

_GOLDEN: Final = 0x9E3779B97F4A7C15
_MASK: Final = (1 << 64) - 1


class View:
    """The replicas that may be chosen for one model, and the order in which a key prefers them."""

    __slots__ = (
        "_make_ring",
        "_ring",
        "by_incarnation",
        "recent_load_scale",
        "eligible",
        "members",
        "now_s",
        "queued_price",
        "rng",
        "turn",
    )

    def __init__(
        self,
        members: list[Replica],
        make_ring: Callable[[], Ring[Replica]],
        rng: Random,
        turn: int,
    ) -> None:
        """Args:
        members: The eligible replicas, at least one, by order of joining.
        make_ring: Makes, or finds, a ring of the members and possibly others; called when first needed.
        """
        self.members = members
        self.eligible = frozenset(members)
        self.by_incarnation: dict[Incarnation, Replica] = {
            r.incarnation: r for r in members if r.incarnation is not None
        }
        self._make_ring = make_ring
        self._ring: Ring[Replica] | None = None
        self.rng = rng
        self.turn = turn
        """Requests that were placed by this view; what policies that take turns go by."""
        self.now_s = 0.0
        """Time of the choice; set by the fleet."""
        self.queued_price = 0.0
        """What a second of prefill costs the requests held at routers, in seconds; set by the fleet."""
        self.recent_load_scale = 1.0
        """The factor that makes seconds of `Replica.recent_load_s`, which is in a growing unit; set by the fleet."""

    @property
    def ring(self) -> Ring[Replica]:
        """Holds every member, and possibly replicas that are not eligible."""
        ring = self._ring
        if ring is None:
            ring = self._ring = self._make_ring()
        return ring

    def key(self, shape: RequestShape) -> int:
        """The request's ring key; one that has none gets another at each turn, and so spreads."""
        return shape.ring_key or (self.turn + 1) * _GOLDEN & _MASK

    def first(self, key: int) -> Replica:
        """The eligible replica that the key prefers."""
        ring = self._ring
        if ring is None:
            ring = self.ring
        replica = ring.first(key)
        if replica in self.eligible:
            return replica
        return ring.first_of(key, self.eligible) or self.members[0]

    def rank(self, key: int) -> Iterator[Replica]:
        """Every eligible replica once, most preferred first."""
        eligible = self.eligible
        # A loop, since mypyc makes a whole list of a generator expression: the walk ends at the first that will do.
        for replica in self.ring.rank(key):
            if replica in eligible:
                yield replica

    def without(self, tried: Container[Replica]) -> View | None:
        """The same view less some replicas; None if none is left."""
        members = [replica for replica in self.members if replica not in tried]
        if not members:
            return None
        view = View(members, lambda: self.ring, self.rng, self.turn)
        view.now_s = self.now_s
        view.queued_price = self.queued_price
        view.recent_load_scale = self.recent_load_scale
        return view


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

    def choose(self, shape: RequestShape, overlaps: Overlaps, view: View) -> tuple[Replica, DecisionKind]:
        """The member of the view to send the request to, and why."""

    def tie(self, shape: RequestShape, overlaps: Overlaps, view: View) -> Tie | None:
        """Between which replicas `choose` decides, and by what; None if it compares no costs. Off the request path."""
