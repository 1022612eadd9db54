"""A view has the replicas that may be chosen for one model, with the ring over them.

`fleet.eligibility` makes it when it is first asked for, and keeps it until a replica comes, goes or changes its health.
So nothing in it belongs to one request: what is believed of a request's prompt is in its `Belief`, and what each second
costs the others at the moment is in `Prices`. This module decides nothing but the order in which a key prefers.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from typing import TYPE_CHECKING, Final

from warmroute.core.choice.ring import Ring
from warmroute.core.fleet.replica import Replica
from warmroute.core.types import Incarnation, RequestShape

if TYPE_CHECKING:
    from random import Random

_GOLDEN: Final = 0x9E3779B97F4A7C15
_MASK: Final = (1 << 64) - 1


class View:
    """The replicas that may be chosen for one model, and the order in which a key prefers them. Requests share it."""

    __slots__ = (
        "_make_ring",
        "_ring",
        "by_incarnation",
        "eligible",
        "members",
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

    def preferred(self, key: int, count: int) -> list[Replica]:
        """So many eligible replicas, or all, most preferred first."""
        return self.ring.preferred(key, count, self.eligible)

    def without(self, tried: Container[Replica]) -> View | None:
        """The same view less some replicas; None if none is left."""
        members = [replica for replica in self.members if replica not in tried]
        if not members:
            return None
        return View(members, lambda: self.ring, self.rng, self.turn)


class Prices:
    """What counts for all replicas alike in one choice; the fleet says it anew for each."""

    __slots__ = ("alike_tokens", "apart", "paid", "queued", "recent_load_scale", "spared")

    def __init__(self, queued: float = 0.0, recent_load_scale: float = 1.0, apart: bool = False) -> None:
        self.queued = queued
        """What a second of prefill that another replica would save costs the requests held at routers, in seconds."""
        self.recent_load_scale = recent_load_scale
        """The factor that makes seconds of `Replica.recent_load_s`, which is in a growing unit."""
        self.apart = apart
        """Routers cannot tell each other at the moment what they place: only the ring is theirs in common."""
        self.spared = 0.0
        """Which part of the held begin as this request does (`fleet.held`): of the price to others, so much is spared
        for what it shares with them."""
        self.alike_tokens = 0
        """What it shares with them, in leading tokens."""
        self.paid = 1.0
        """As far as this, 0 to 1, what they have left of their own pays for a copy, so that the price to whoever comes
        later is spared as well as that to the held."""

    def spared_s(self, replica: Replica, prompt_tokens: int, overlap_tokens: int) -> float:
        """Of a request's prefill on a replica that holds so much of it, what is in nobody's way, in seconds."""
        alike_tokens = self.alike_tokens
        if overlap_tokens >= alike_tokens:
            return 0.0
        prefill_s = replica.prefill_s(prompt_tokens, overlap_tokens)
        return self.spared * (prefill_s - replica.prefill_s(prompt_tokens, alike_tokens))

    def queued_s(self, replica: Replica, prompt_tokens: int, overlap_tokens: int, known_tokens: int) -> float:
        """The price of a request's prefill to the held, on a replica that holds so much of it, in seconds.

        Args:
            known_tokens: The most that any replica holds: the rest is computed wherever it goes.
        """
        if overlap_tokens >= known_tokens:
            return 0.0
        saved_s = replica.prefill_s(prompt_tokens, overlap_tokens) - replica.prefill_s(
            prompt_tokens, known_tokens
        )
        return self.queued * (saved_s - self.spared_s(replica, prompt_tokens, overlap_tokens))
