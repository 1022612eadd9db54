"""Policy `prefix-cost` chooses the smallest expected time to first token plus the price of a miss to others.

`choice.cost` defines the cost, and the smallest wins. Costs that exceed the smallest by at most `tie_ratio` of the
request's own cost on the cheapest replica are equal to it:

- Where somebody holds part of the prompt, the one of the equals with the fewest requests under way wins, and among
  several of those the one that the ring prefers, so that routers which know the same choose the same.
- Where nobody does, the ring's first choice wins, if it is among the equals and has fewer than `bounded_load_factor`
  times the mean under way; else the most preferred of the equals that have. If none has, the smallest cost wins after
  all, and the ring decides between costs that are exactly the same.
- While routers cannot tell each other what they place (`Prices.apart`), costs that exceed it by the request's whole own
  cost are equal where nobody holds any of it: a conversation whose turns come through other routers then finds its
  beginning by the ring alone, and pays its own cost again where it does not.

From this follows without further rules that a conversation goes home; that a home which is too busy loses, and the
prefix is copied where the work goes; and that a prefix which everybody shares is copied to all replicas, since its miss
is small beside the recent load that it draws (`crowd_weight`).

In fleets of more than `LOOKED_AT` replicas the policy looks only at so many that the ring prefers, and at all that hold
part of the prompt: of 32 that are drawn by a hash the least loaded is close to the least loaded of all. So there are
at most 48 candidates whatever the fleet's size, holders included (a record names at most 16); of a prompt with chunks,
whose records are several, at most 80 (`belief.MOST_HOLDERS`).
"""

from __future__ import annotations

from math import inf
from typing import Final

from warmroute.core.beliefs.belief import Belief
from warmroute.core.choice.bounded_load import capacity
from warmroute.core.choice.cost import CostParameters
from warmroute.core.choice.ranking import Tie
from warmroute.core.choice.view import Prices, View
from warmroute.core.fleet.replica import Replica
from warmroute.core.types import DecidedBy, DecisionKind

_WARM: Final = DecisionKind.WARM
_RING: Final = DecisionKind.RING
_SPILL: Final = DecisionKind.SPILL

LOOKED_AT: Final = 32
"""Candidates besides the holders: about 0.2 µs each."""


class PrefixCost:
    """See the module."""

    needs_records = True

    def __init__(self, parameters: CostParameters) -> None:
        self._tie_ratio = parameters.tie_ratio
        self._factor = parameters.bounded_load_factor

    def choose(self, belief: Belief, view: View, prices: Prices) -> tuple[Replica, DecisionKind]:
        """`WARM` if the choice holds part of the prompt; `SPILL` if others do, or the ring's first choice lost."""
        members = view.members
        large = len(members) > LOOKED_AT
        pool = self._pool(belief, view) if large else members
        shape, overlaps, now_s = belief.shape, belief.overlap, belief.now_s
        tokens = shape.prompt_tokens
        queued, recent_load_scale, spared = prices.queued, prices.recent_load_scale, prices.spared
        known_tokens = belief.known_tokens() if overlaps and queued > 0.0 else 0
        costs: list[float] = []
        best = pool[0]
        least = second = inf
        for replica in pool:
            overlap = overlaps.get(replica, 0) if overlaps else 0
            own_s = replica.prefill_s(tokens, overlap)
            priced_s = replica.price * own_s
            if known_tokens > overlap:
                priced_s += queued * (own_s - replica.prefill_s(tokens, known_tokens))
            if spared > 0.0:
                priced_s -= (prices.paid + queued) * prices.spared_s(replica, tokens, overlap)
            cost = (
                replica.delay_s
                + replica.begins_in_s(now_s, tokens, own_s)
                + replica.recent_load_s * recent_load_scale
                + priced_s
            )
            costs.append(cost)
            if cost < least:
                least, second, best = cost, least, replica
            elif cost < second:
                second = cost
        own_s = best.base_latency_s + _own_s(best, belief, prices)
        limit = least + (own_s if prices.apart and not overlaps else self._tie_ratio * own_s)
        if overlaps:
            if second <= limit:
                fewest = min([r.load for r, cost in zip(pool, costs, strict=True) if cost <= limit])
                near = [r for r, cost in zip(pool, costs, strict=True) if cost <= limit and r.load == fewest]
                # Siblings under one shared prompt meet at its holders; which of these, their own text decides.
                key = shape.rungs[-1] if shape.rungs else view.key(shape)
                best = near[0] if large or len(near) == 1 else (view.ring.first_of(key, near) or best)
            return best, _WARM if best in overlaps else _SPILL
        key = view.key(shape)
        first = pool[0] if large else view.first(key)
        load = first.load
        fits = costs[pool.index(first)] <= limit
        if fits and load == 0:
            return first, _RING
        most = capacity(sum([r.load for r in pool]), len(pool), self._factor)
        if fits and load < most:
            return first, _RING
        near = [r for r, cost in zip(pool, costs, strict=True) if cost <= limit and r.load < most]
        if not near:
            near = [r for r, cost in zip(pool, costs, strict=True) if cost == least]
        best = near[0] if large or len(near) == 1 else (view.ring.first_of(key, near) or best)
        return best, _RING if best is first else _SPILL

    def tie(self, belief: Belief, view: View, prices: Prices) -> Tie | None:
        """What `choose` goes by, told for people."""
        large = len(view.members) > LOOKED_AT
        pool = self._pool(belief, view) if large else view.members
        shape, overlaps = belief.shape, belief.overlap
        rows = sorted(
            [(_cost(r, belief, prices), place, r) for place, r in enumerate(pool)],
            key=lambda row: row[:2],
        )
        least, _, best = rows[0]
        own_s = best.base_latency_s + _own_s(best, belief, prices)
        limit = least + (own_s if prices.apart and not overlaps else self._tie_ratio * own_s)
        near = [r for cost, _, r in rows if cost <= limit]
        if len(pool) == 1:
            decided_by, why = DecidedBy.ONLY_ONE, "it is the only replica that may be chosen"
        elif overlaps:
            decided_by, why = _between_holders(near)
        else:
            first = pool[0] if large else view.first(view.key(shape))
            most = capacity(sum([r.load for r in pool]), len(pool), self._factor)
            decided_by, why = _between_cold(near, first, most)
        return Tie(least, limit, tuple(near), decided_by, why)

    def _pool(self, belief: Belief, view: View) -> list[Replica]:
        """Candidates in a large fleet, most preferred first: the ring's first, then holders, deepest first."""
        pool = dict.fromkeys(view.preferred(view.key(belief.shape), LOOKED_AT))
        pool.update(dict.fromkeys(belief.overlap))
        return list(pool)


def _own_s(replica: Replica, belief: Belief, prices: Prices) -> float:
    """What a request's prefill costs there, its price to whoever comes later included."""
    tokens, overlap = belief.shape.prompt_tokens, belief.overlap.get(replica, 0)
    cost = replica.price * replica.prefill_s(tokens, overlap)
    if prices.spared > 0.0:
        cost -= prices.paid * prices.spared_s(replica, tokens, overlap)
    return cost


def _cost(replica: Replica, belief: Belief, prices: Prices) -> float:
    """The sum that `choose` compares, to the last digit."""
    tokens = belief.shape.prompt_tokens
    prefill_s = replica.prefill_s(tokens, belief.overlap.get(replica, 0))
    return (
        replica.delay_s
        + replica.begins_in_s(belief.now_s, tokens, prefill_s)
        + replica.recent_load_s * prices.recent_load_scale
        + _own_s(replica, belief, prices)
        + prices.queued_s(replica, tokens, belief.overlap.get(replica, 0), belief.known_tokens())
    )


def _between_holders(near: list[Replica]) -> tuple[DecidedBy, str]:
    """What decides where somebody holds part of the prompt."""
    if len(near) == 1:
        return DecidedBy.COST, "no other replica costs as little"
    loads = [replica.load for replica in near]
    fewest = min(loads)
    if loads.count(fewest) == 1:
        return (
            DecidedBy.REQUESTS,
            f"{len(near)} replicas cost as little, and it has the fewest requests under way ({fewest})",
        )
    return (
        DecidedBy.RING,
        f"{len(near)} replicas cost as little, {loads.count(fewest)} of them have the fewest requests under way "
        f"({fewest}), and of those the ring prefers it",
    )


def _between_cold(near: list[Replica], first: Replica, most: int) -> tuple[DecidedBy, str]:
    """What decides where nobody holds part of the prompt."""
    bound = f"{most} requests under way (policy.bounded_load_factor times the mean)"
    roomy = [replica for replica in near if replica.load < most]
    if not roomy:
        return (
            DecidedBy.COST,
            f"all replicas that cost as little have {bound} or more, so the cheapest is taken",
        )
    if len(near) == 1:
        return DecidedBy.COST, "no other replica costs as little"
    if first in roomy:
        return DecidedBy.RING, f"{len(near)} replicas cost as little, and it is the ring's first choice"
    if first in near:
        return (
            DecidedBy.BOUND,
            f"{len(near)} replicas cost as little; the ring's first choice, {first.id}, has {bound} or more, "
            "and it is the next on the ring that has not",
        )
    if len(roomy) == 1:
        return (
            DecidedBy.BOUND,
            f"{len(near)} replicas cost as little, and all others of them have {bound} or more",
        )
    return (
        DecidedBy.RING,
        f"the ring's first choice, {first.id}, costs more; of the {len(near)} that cost as little it is the next on"
        " the ring",
    )
