"""The line of requests that wait at the router: by class, by tenant, and within a tenant by the hold queue's own order.

This module decides who is next, and who is turned away where there is no room for all. It knows no replicas and grants
nothing (`admission_queue`). The rules it keeps:
1. Who is of a higher class goes first; within a class whoever was served less (`shares`); of those that were served
   alike, and of one tenant's, whoever the hold queue would let go first: short and warm ones.
2. A lower class is served at least `AGED_RATIO` of what the classes above it are while one of its requests has waited
   for longer than `aged_s`: nobody starves, and no class pays more than that for it.
3. Where there is no room, the lowest class gives way first; of one class the model that has most waiting for its
   replicas; and for one model the tenant that has most waiting for its weight: a tenant that sends too much turns away
   its own requests.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Final

from warmroute.core.errors import RouterError
from warmroute.core.fleet.decision import Decision
from warmroute.core.holding.shares import Flow, Shares
from warmroute.core.holding.ticket import Ticket
from warmroute.core.types import Records, RequestShape

INTERACTIVE: Final = 0
DEFAULT: Final = 1
BATCH: Final = 2
LEVELS: Final = 3
CLASSES: Final = ("interactive", "default", "batch")
"""Names of the classes, highest first."""

AGED_RATIO: Final = 0.1
"""What a class that waits for too long is served at the least, of what those above it are."""

MOST_CREDIT_S: Final = 10.0
"""Seconds of prefill that a class may be owed."""


class Claim(Ticket):
    """One request that waits in line."""

    __slots__ = ("body_bytes", "charged_tokens", "cost_s", "cost_us", "deadline_s", "flow", "level", "tokens")

    def __init__(
        self,
        shape: RequestShape,
        records: Records | None,
        granted: Callable[[Decision | RouterError], None],
        key: tuple[float, int],
        arrival_s: float,
        level: int,
        flow: Flow,
        deadline_s: float,
        body_bytes: int,
        cost_s: float,
        tokens: float,
    ) -> None:
        super().__init__(shape, records, granted, key, arrival_s)
        self.level = level
        """Its class, by number."""
        self.flow = flow
        self.deadline_s = deadline_s
        """When it is refused if it has not begun."""
        self.body_bytes = body_bytes
        self.cost_s = cost_s
        """Expected prefill time where most of it is cached, behind those that waited as it came."""
        self.cost_us = max(1, int(cost_s * 1e6))
        """The same as a whole number, so that sums of them are exact."""
        self.tokens = tokens
        """The same as tokens without context: what its tenant is charged when it goes."""
        self.charged_tokens = 0.0
        """What its tenant was charged."""


class Lane:
    """Requests of one tenant and one class, first ones first. Never empty."""

    __slots__ = ("claims", "cost_us", "costs_us", "flow", "level")

    def __init__(self, flow: Flow, level: int) -> None:
        self.flow = flow
        self.level = level
        self.claims: list[Claim] = []
        self.cost_us = 0
        """Their prefill."""
        self.costs_us: dict[str, int] = {}
        """The same by model."""

    def ahead_s(self, shares: dict[str, float]) -> float:
        """Of its prefill, such a share by model."""
        if len(self.costs_us) == 1:
            for model in self.costs_us:
                return self.cost_us * shares.get(model, 0.0) * 1e-6
        ahead_us = 0.0
        for model, cost_us in self.costs_us.items():
            ahead_us += cost_us * shares.get(model, 0.0)
        return ahead_us * 1e-6

    def last_of(self, model: str) -> Claim:
        """The last one for this model, which one waits for."""
        for claim in reversed(self.claims):
            if claim.shape.model == model:
                return claim
        raise AssertionError(model)


def _add(costs_us: dict[str, int], model: str, cost_us: int) -> None:
    """Count it in sums by model; one that has become nothing is not kept."""
    total_us = costs_us.get(model, 0) + cost_us
    if total_us:
        costs_us[model] = total_us
    else:
        del costs_us[model]


class Line:
    """All that wait."""

    __slots__ = ("_costs_us", "_credits_s", "_lanes", "aged_s", "body_bytes", "counts", "shares")

    def __init__(self, shares: Shares, aged_s: float) -> None:
        self.shares = shares
        self.aged_s = aged_s
        self.body_bytes = 0
        self.counts = [0] * LEVELS
        """Requests of each class."""
        self._costs_us: list[dict[str, int]] = [{}, {}, {}]
        """Their prefill, by model."""
        self._lanes: list[dict[Flow, Lane]] = [{}, {}, {}]
        self._credits_s = [0.0] * LEVELS
        """What each class is owed by those above it, as prefill; below 0: it has had more."""

    def __len__(self) -> int:
        return sum(self.counts)

    def put(self, claim: Claim, now_s: float) -> None:
        """It waits from now on."""
        lanes = self._lanes[claim.level]
        lane = lanes.get(claim.flow)
        if lane is None:
            lane = lanes[claim.flow] = Lane(claim.flow, claim.level)
        insort(lane.claims, claim)
        lane.cost_us += claim.cost_us
        _add(lane.costs_us, claim.shape.model, claim.cost_us)
        _add(self._costs_us[claim.level], claim.shape.model, claim.cost_us)
        self.counts[claim.level] += 1
        self.body_bytes += claim.body_bytes
        self.shares.begin_waiting(claim.flow, now_s)

    def remove(self, claim: Claim) -> None:
        """It waits no longer."""
        level = claim.level
        lanes = self._lanes[level]
        lane = lanes[claim.flow]
        lane.claims.remove(claim)
        lane.cost_us -= claim.cost_us
        _add(lane.costs_us, claim.shape.model, -claim.cost_us)
        _add(self._costs_us[level], claim.shape.model, -claim.cost_us)
        if not lane.claims:
            del lanes[claim.flow]
        self.counts[level] -= 1
        self.body_bytes -= claim.body_bytes
        self.shares.end_waiting(claim.flow)

    def granted(self, claim: Claim, now_s: float) -> None:
        """It was let go: its tenant is charged, and so is its class."""
        self.shares.charge(claim.flow, claim.tokens, now_s)
        claim.charged_tokens = claim.tokens
        level = claim.level
        for lower in range(LEVELS):
            credit_s = self._credits_s[lower]
            if lower == level:
                credit_s -= claim.cost_s
            elif lower > level and self.counts[lower]:
                credit_s += AGED_RATIO * claim.cost_s
            self._credits_s[lower] = max(-MOST_CREDIT_S, min(credit_s, MOST_CREDIT_S))

    def claims(self) -> list[Claim]:
        """All that wait, in no order that means anything."""
        return [claim for lanes in self._lanes for lane in lanes.values() for claim in lane.claims]

    def sort(self) -> None:
        """Keys have changed: put all in their places."""
        for lanes in self._lanes:
            for lane in lanes.values():
                lane.claims.sort()

    # -- who is next ------------------------------------------------------------------------------------------------

    def aged(self, now_s: float) -> Claim | None:
        """One of a lower class that goes before all others, if one has waited for too long and its class is owed
        something."""
        if not self.counts[DEFAULT] and not self.counts[BATCH]:
            return None
        above = self.counts[INTERACTIVE]
        for level in (DEFAULT, BATCH):
            if above and self.counts[level] and self._credits_s[level] > 0.0:
                first = self._oldest(level)
                if now_s - first.arrival_s > self.aged_s:
                    return first
            above += self.counts[level]
        return None

    def _oldest(self, level: int) -> Claim:
        """Of the first ones of each tenant."""
        return min([lane.claims[0] for lane in self._lanes[level].values()], key=_arrival_of)

    def lanes(self, level: int) -> list[Lane]:
        """Of one class."""
        return list(self._lanes[level].values())

    def first(self, now_s: float) -> Claim | None:
        """Who is next."""
        return Cursor(self, now_s).next()

    # -- who is turned away -----------------------------------------------------------------------------------------

    def gives_way(
        self, level: int, flow: Flow, cost_s: float, model: str, replicas: Callable[[str], int]
    ) -> Claim | None:
        """Who is to make room for another request; None: nobody, so that other is turned away itself.

        Args:
            replicas: How many serve a model.
        """
        for lower in range(BATCH, level - 1, -1):
            lanes = self._lanes[lower]
            if not lanes:
                continue
            costs_us = self._costs_us[lower]
            crowded, most_us = "", -1.0
            for name, waiting_us in costs_us.items():
                for_each_us = waiting_us / replicas(name)
                if for_each_us > most_us:
                    crowded, most_us = name, for_each_us
            if lower > level:
                return self._most_waiting(lower, crowded).last_of(crowded)
            if crowded != model and most_us > (cost_s * 1e6 + costs_us.get(model, 0)) / replicas(model):
                return self._most_waiting(lower, crowded).last_of(crowded)
            if model not in costs_us:
                return None
            whose = self._most_waiting(lower, model)
            own = lanes.get(flow)
            own_us = cost_s * 1e6 + (0 if own is None else own.costs_us.get(model, 0))
            if whose.flow is not flow and whose.costs_us[model] / whose.flow.weight > own_us / flow.weight:
                return whose.last_of(model)
        return None

    def _most_waiting(self, level: int, model: str) -> Lane:
        """Of the tenants that wait for this model, of which there is one: who has most waiting for its weight."""
        most_us, whose = 0.0, None
        for lane in self._lanes[level].values():
            cost_us = lane.costs_us.get(model)
            if cost_us is not None:
                waiting_us = cost_us / lane.flow.weight
                if whose is None or waiting_us > most_us:
                    most_us, whose = waiting_us, lane
        assert whose is not None
        return whose

    def ahead_s(
        self, level: int, flow: Flow, shares: dict[str, float], tokens_per_s: float, now_s: float
    ) -> float:
        """The prefill that goes before the next request of this class and tenant, as far as it is here.

        Args:
            shares: By model, what of its prefill goes where that request goes; of those not named none.
            tokens_per_s: What a second of prefill is in a tenant's share.
        """
        ahead_s = 0.0
        for higher in range(level):
            for model, cost_us in self._costs_us[higher].items():
                ahead_s += cost_us * shares.get(model, 0.0) * 1e-6
        lanes = self._lanes[level]
        own = lanes.get(flow)
        own_s = 0.0 if own is None else own.ahead_s(shares)
        weight = flow.weight
        others = [lane for lane in lanes.values() if lane.flow is not flow]
        if others:
            leads = self.shares.lead_tokens(flow, [lane.flow for lane in others], now_s)
            for lane, lead_tokens in zip(others, leads, strict=True):
                # Until its own are served each other gets as much, but for what it was served before, or all that it
                # asks for.
                share_s = (own_s / weight - lead_tokens / tokens_per_s) * lane.flow.weight
                if share_s > 0.0:
                    other_s = lane.ahead_s(shares)
                    ahead_s += share_s if share_s < other_s else other_s
        return ahead_s + own_s

    def validate(self) -> None:
        """Derive the sums anew. Raises AssertionError where they differ."""
        flows: dict[Flow, int] = {}
        for level, lanes in enumerate(self._lanes):
            count = 0
            for flow, lane in lanes.items():
                assert lane.claims, flow.key
                assert lane.claims == sorted(lane.claims), flow.key
                assert all(c.flow is flow and c.level == level for c in lane.claims)
                assert lane.cost_us == sum([c.cost_us for c in lane.claims]) == sum(lane.costs_us.values())
                assert set(lane.costs_us) == {c.shape.model for c in lane.claims}
                count += len(lane.claims)
                flows[flow] = flows.get(flow, 0) + len(lane.claims)
            assert self.counts[level] == count, level
            costs_us = self._costs_us[level]
            assert set(costs_us) == {model for lane in lanes.values() for model in lane.costs_us}, level
            assert sum(costs_us.values()) == sum([lane.cost_us for lane in lanes.values()]), level
        for flow, count in flows.items():
            assert flow.waiting == count, flow.key
        assert self.body_bytes == sum([c.body_bytes for c in self.claims()])


class Cursor:
    """Goes through the line, best first, as if each were granted when it is passed."""

    __slots__ = ("_heap", "_level", "_line", "_now_s", "aged")

    def __init__(self, line: Line, now_s: float) -> None:
        self._line = line
        self._now_s = now_s
        self._level = -1
        self._heap: list[tuple[int, float, int, int, float, Lane]] = []
        """Of each tenant of the class: its round, its next request's key and place in its lane, and what of it was
        passed."""
        self.aged = line.aged(now_s)
        """Who goes before all others for having waited for too long."""

    def next(self) -> Claim | None:
        """The next one; None at the end."""
        aged = self.aged
        if aged is not None and self._level < 0:
            self._level = 0
            self._begin(0)
            return aged
        while not self._heap:
            self._level += 1
            if self._level >= LEVELS:
                return None
            self._begin(self._level)
        _, _, _, place, passed_tokens, lane = heappop(self._heap)
        claim = lane.claims[place]
        if place + 1 < len(lane.claims):
            self._push(lane, place + 1, passed_tokens + claim.tokens)
        return self.next() if claim is aged else claim

    def _begin(self, level: int) -> None:
        for lane in self._line.lanes(level):
            self._push(lane, 0, 0.0)

    def _push(self, lane: Lane, place: int, passed_tokens: float) -> None:
        rank_s, number = lane.claims[place].key
        turn = self._line.shares.round_of(lane.flow, passed_tokens, self._now_s)
        heappush(self._heap, (turn, rank_s, number, place, passed_tokens, lane))


def _arrival_of(claim: Claim) -> float:
    return claim.arrival_s
