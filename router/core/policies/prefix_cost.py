"""Policy `prefix-cost`: the replica with the smallest expected time to first token plus the price of a miss to others.

The cost is `router.core.cost`'s; smallest wins. Costs that differ by less than `tie_ratio` of what the request would
cost cold are equal, and among equals the ring decides, so that routers which know the same choose the same:

- Somebody holds part of the prompt: the ring's most preferred of the equals.
- Nobody does: the same, but only while it has fewer than `bounded_load_factor` times the mean in flight. If none of the
  equals has, the smallest cost wins after all, and the ring decides between costs that are exactly the same.

Where less than half of what prompts bring was ever seen before (`View.found_ratio`):

- To miss what somebody holds is dearer (`router.core.rarity`).
- The ring's preference is worth little: of a prompt of more than `LONG_S` of prefill only those are equals that also
  wait equally, to `EVEN_WAIT_S`.
- Among these, in fleets of up to `EXACT`, prompts of more than `ONE_END_S` all have the same order of preference, and
  ties as narrow as one of that length. They meet at one end of the fleet, and the homes that grow at the other are not
  closed for many seconds by what has no home anyway.

What follows without further rules: a conversation goes home; a home that is too busy loses, and the prefix is copied
where the work goes; a prefix that everybody shares is copied to all replicas, since its miss is small beside the crowd
that it draws (`crowd_weight`).

In fleets beyond `EXACT` replicas only these are looked at: all that hold part of the prompt, the ring's first few, and
a few drawn by dice (with 16 random choices the least loaded of them is close to the least loaded of all).
Complexity: at most about 40 candidates whatever the fleet's size, holders included (a record names at most 16).
"""

from __future__ import annotations

from itertools import islice
from math import inf
from typing import Final

from router.core.bounded_load import capacity
from router.core.cost import CostParameters
from router.core.ranking import Overlaps, View
from router.core.rarity import LOYAL_RATIO, deep_tokens, rare_s
from router.core.replica import Replica
from router.core.types import DecisionKind, RequestShape

_WARM: Final = DecisionKind.WARM
_RING: Final = DecisionKind.RING
_SPILL: Final = DecisionKind.SPILL

EXACT: Final = 32
"""Up to so many replicas, all are candidates: about 0.2 µs each."""
EVEN_WAIT_S: Final = 0.05
"""An engine step and two hops: waits that differ by no more are equal."""
LONG_S: Final = 1.0
ONE_END_S: Final = 6.0
ONE_END_KEY: Final = 0x9E3779B97F4A7C15
"""Any point of the ring."""
RING_HEAD: Final = 8
SAMPLE: Final = 8


class PrefixCost:
    """See the module."""

    needs_records = True

    def __init__(self, parameters: CostParameters) -> None:
        self._tie_ratio = parameters.tie_ratio
        self._factor = parameters.bounded_load_factor

    def choose(self, shape: RequestShape, overlaps: Overlaps, view: View) -> tuple[Replica, DecisionKind]:
        """`WARM` if the choice holds part of the prompt; `SPILL` if others do, or the ring's first choice lost."""
        members = view.members
        large = len(members) > EXACT
        pool = self._pool(shape, overlaps, view) if large else members
        tokens = shape.prompt_tokens
        now_s = view.now_s
        queued = view.queued_price
        rare_price = view.rare_price
        deepest = deep_tokens(overlaps, tokens) if overlaps and rare_price > 0.0 else 0
        costs: list[float] = []
        best = pool[0]
        least = second = inf
        for replica in pool:
            held = overlaps.get(replica, 0) if overlaps else 0
            price = replica.price + queued
            cost = replica.delay_s + replica.wait_s(now_s) + price * replica.prefill_s(tokens, held)
            if held < deepest:
                cost += rare_s(replica, tokens, held, deepest, rare_price)
            costs.append(cost)
            if cost < least:
                least, second, best = cost, least, replica
            elif cost < second:
                second = cost
        prefill_s = best.prefill_s(tokens, overlaps.get(best, 0))
        tied_s = prefill_s
        most_wait_s = inf
        one_end = False
        if prefill_s > LONG_S and view.found_ratio < LOYAL_RATIO:
            most_wait_s = best.wait_s(now_s) + EVEN_WAIT_S
            if prefill_s > ONE_END_S and not large:
                one_end = True
                tied_s = ONE_END_S  # or the one end would be given a tenth more work than the other
        limit = least + self._tie_ratio * (best.base_latency_s + (best.price + queued) * tied_s)
        if overlaps:
            if second <= limit:
                near = [
                    r
                    for r, cost in zip(pool, costs, strict=True)
                    if cost <= limit and r.wait_s(now_s) <= most_wait_s
                ]
                # Siblings under one shared prompt meet at its holders; which of these, their own text decides.
                key = shape.rungs[-1] if shape.rungs else view.key(shape)
                if one_end:
                    key = ONE_END_KEY
                best = near[0] if large else (view.ring.first_of(key, near) or best)
            return best, _WARM if best in overlaps else _SPILL
        key = ONE_END_KEY if one_end else view.key(shape)
        first = pool[0] if large else view.first(key)
        in_flight = first.in_flight
        fits = costs[pool.index(first)] <= limit and first.wait_s(now_s) <= most_wait_s
        if fits and in_flight == 0:
            return first, _RING
        most = capacity(sum([r.in_flight for r in pool]), len(pool), self._factor)
        if fits and in_flight < most:
            return first, _RING
        near = [
            r
            for r, cost in zip(pool, costs, strict=True)
            if cost <= limit and r.in_flight < most and r.wait_s(now_s) <= most_wait_s
        ]
        if not near:
            near = [r for r, cost in zip(pool, costs, strict=True) if cost == least]
        best = near[0] if large or len(near) == 1 else (view.ring.first_of(key, near) or best)
        return best, _RING if best is first else _SPILL

    def _pool(self, shape: RequestShape, overlaps: Overlaps, view: View) -> list[Replica]:
        """Candidates in a large fleet, most preferred first: the ring's first few, holders deepest first, a sample."""
        pool = dict.fromkeys(islice(view.rank(view.key(shape)), RING_HEAD))
        pool.update(dict.fromkeys(overlaps))
        members = view.members
        random = view.rng.random
        count = len(members)
        for _ in range(SAMPLE):
            pool[members[int(random() * count)]] = None
        return list(pool)
