"""The line of those that wait: shares by weight, nobody starves, nobody is passed over, and who makes room."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warmroute.core.holding.line import AGED_RATIO, BATCH, CLASSES, DEFAULT, INTERACTIVE, Claim, Cursor, Line
from warmroute.core.holding.shares import MOST_AHEAD, QUANTUM_TOKENS, Flow, Shares
from warmroute.core.types import RequestShape

PACE_TOKENS_S = 8000.0
BEGIN_S = 1000.0


class World:
    """A line, and one engine that takes whoever is next as soon as it is through with the last."""

    def __init__(self, aged_s: float = 15.0, shares: Shares | None = None) -> None:
        self.shares = Shares() if shares is None else shares
        self.line = Line(self.shares, aged_s)
        self.now_s = BEGIN_S
        self.served: Counter[int] = Counter()
        self.served_of_class: Counter[int] = Counter()
        self._number = 0

    def put(self, key: int, tokens: float = 1000.0, level: int = DEFAULT, weight: float = 1.0) -> Claim:
        self._number += 1
        cost_s = tokens / PACE_TOKENS_S
        claim = Claim(
            RequestShape("m", prompt_tokens=int(tokens)),
            None,
            lambda _: None,
            (cost_s + 0.25 * self.now_s, self._number),
            self.now_s,
            level,
            self.shares.flow(key, weight),
            self.now_s + 1e9,
            100,
            cost_s,
            tokens,
        )
        self.line.put(claim, self.now_s)
        return claim

    def told(self) -> tuple[int, float]:
        """The key of the first, as other routers hear it."""
        first = self.line.first(self.now_s)
        assert first is not None
        return self.shares.round_of(first.flow, 0.0, self.now_s), first.key[0]

    def serve(self) -> Claim | None:
        claim = self.line.first(self.now_s)
        if claim is not None:
            self.line.granted(claim, self.now_s)
            self.line.remove(claim)
            self.served[claim.flow.key] += int(claim.tokens)
            self.served_of_class[claim.level] += int(claim.tokens)
            self.now_s += claim.cost_s
        return claim


sizes = st.integers(500, 8000)
few = settings(max_examples=15)


@few
@given(
    st.lists(st.sampled_from([0.5, 1.0, 2.0, 4.0]), min_size=2, max_size=4),
    st.lists(sizes, min_size=4, max_size=10),
)
def test_tenants_that_always_wait_are_served_by_their_weights(
    weights: list[float], tokens: list[int]
) -> None:
    world = World()
    for number in range(120):
        for key, weight in enumerate(weights):
            while world.shares.flow(key, weight).waiting < 4:
                world.put(key, tokens[(number + 7 * key) % len(tokens)], weight=weight)
        world.serve()
    world.line.validate()
    each = [world.served[key] / weight for key, weight in enumerate(weights)]
    # Within a round of each other, and one request more.
    assert max(each) - min(each) <= 2 * QUANTUM_TOKENS + 2 * max(tokens) / min(weights)


@few
@given(st.integers(2, 20), st.lists(sizes, min_size=2, max_size=8))
def test_a_tenant_that_asks_for_less_than_its_share_never_waits_for_those_that_ask_for_more(
    excess: int, tokens: list[int]
) -> None:
    world = World()
    waited: list[int] = []
    for number in range(60):
        while world.shares.flow(1, 1.0).waiting < excess:
            world.put(1, tokens[number % len(tokens)])
        if number % 4 == 0:  # a third of what the other is served, or less
            small = world.put(2, min(tokens))
            ahead = 0
            while small.open and world.shares.flow(2, 1.0).waiting:
                served = world.serve()
                ahead += served is not None and served.flow.key == 1
            waited.append(ahead)
        world.serve()
    assert max(waited) <= 1 + QUANTUM_TOKENS // min(tokens)


def test_nobody_saves_up_more_than_some_rounds() -> None:
    world = World()
    for _ in range(300):
        while world.shares.flow(1, 1.0).waiting < 4:
            world.put(1)
        world.serve()
    before = world.served[1]
    for _ in range(100):
        for key in (1, 2):
            while world.shares.flow(key, 1.0).waiting < 4:
                world.put(key)
        world.serve()
    assert abs(world.served[2] - (world.served[1] - before)) <= (MOST_AHEAD + 1) * QUANTUM_TOKENS


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4), sizes), max_size=60))
def test_all_that_wait_are_passed_once_and_higher_classes_first(
    waiting: list[tuple[int, int, int]],
) -> None:
    world = World()
    put = [world.put(key, tokens, level) for level, key, tokens in waiting]
    cursor = Cursor(world.line, world.now_s)
    passed: list[Claim] = []
    while (claim := cursor.next()) is not None:
        passed.append(claim)
    assert sorted(map(id, passed)) == sorted(map(id, put))
    assert [claim.level for claim in passed] == sorted(claim.level for claim in passed)
    world.line.validate()


@pytest.mark.parametrize("tokens", [[1000], [500, 8000], [4000, 700, 2000]])
def test_a_lower_class_that_waits_too_long_is_served_its_least_and_no_more(tokens: list[int]) -> None:
    world = World(aged_s=2.0)
    served = 0
    while world.now_s < BEGIN_S + 150.0:
        for level in (INTERACTIVE, BATCH):
            while world.line.counts[level] < 3:
                served += 1
                world.put(level, tokens[served % len(tokens)], level)
        world.serve()
    ratio = world.served_of_class[BATCH] / world.served_of_class[INTERACTIVE]
    assert AGED_RATIO * 0.7 <= ratio <= AGED_RATIO * 1.3


def test_within_a_round_the_shortest_goes_first() -> None:
    world = World()
    long, short = world.put(1, 4000), world.put(2, 100)
    assert world.serve() is short
    assert world.serve() is long


@pytest.mark.parametrize("routers", [1, 3])
@pytest.mark.parametrize("late", [0, 20])
@pytest.mark.parametrize("tokens", [[1000], [500, 8000, 2000]])
def test_several_routers_are_as_fair_as_one(routers: int, late: int, tokens: list[int]) -> None:
    """A tenant that floods all of them against one that uses only the first. The router whose first request goes first
    by the key that they tell each other is served; what each served is heard some requests later."""
    worlds = [World() for _ in range(routers)]
    now_s = BEGIN_S
    mail: list[tuple[int, int, int, int]] = []
    for number in range(250):
        for world in worlds:
            world.now_s = now_s
            while world.shares.flow(1, 1.0).waiting < 3:
                world.put(1, tokens[number % len(tokens)])
        while worlds[0].shares.flow(2, 1.0).waiting < 3:
            worlds[0].put(2, tokens[(number + 1) % len(tokens)])

        keys = [world.told() for world in worlds]
        chosen = keys.index(min(keys))
        served = worlds[chosen].serve()
        assert served is not None
        now_s += served.cost_s
        mail += [(number + late, chosen, key, count) for key, count in worlds[chosen].shares.untold(100)]
        for _, sender, key, count in [one for one in mail if one[0] <= number]:
            for index, world in enumerate(worlds):
                if index != sender:
                    world.shares.heard(key, count, now_s)
        mail = [one for one in mail if one[0] > number]
    flooding, other = sum(world.served[1] for world in worlds), worlds[0].served[2]
    unheard = (late + 1) * max(tokens)
    assert abs(flooding - other) <= 2 * QUANTUM_TOKENS + 2 * unheard + 2 * max(tokens)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3)), min_size=1, max_size=40), st.integers(0, 2))
def test_room_is_made_by_lower_classes_first_and_then_by_who_has_most_waiting(
    waiting: list[tuple[int, int]], level: int
) -> None:
    world = World()
    for number, (class_, key) in enumerate(waiting):
        world.put(key, 1000.0 + number, class_)
    flow = world.shares.flow(9, 1.0)
    victim = world.line.gives_way(level, flow, 0.125, "m", lambda _: 1)
    lowest = max(class_ for class_, _ in waiting)
    if victim is None:
        assert lowest <= level
        if lowest == level:
            of_tenants = Counter(key for class_, key in waiting if class_ == level)
            assert max(of_tenants.values()) == 1
        return
    assert victim.level == lowest >= level
    sums: Counter[int] = Counter()
    for number, (class_, key) in enumerate(waiting):
        if class_ == lowest:
            sums[key] += 1000 + number
    assert sums[victim.flow.key] == max(sums.values())


def test_a_tenant_that_sends_too_much_turns_away_its_own_requests() -> None:
    world = World()
    for _ in range(20):
        world.put(1)
    for _ in range(2):
        world.put(2)
    noisy, quiet = world.shares.flow(1, 1.0), world.shares.flow(2, 1.0)
    assert world.line.gives_way(DEFAULT, noisy, 0.125, "m", lambda _: 1) is None
    victim = world.line.gives_way(DEFAULT, quiet, 0.125, "m", lambda _: 1)
    assert victim is not None
    assert victim.flow is noisy
    assert world.line.ahead_s(DEFAULT, quiet, {"m": 1.0}, PACE_TOKENS_S, world.now_s) < world.line.ahead_s(
        DEFAULT, noisy, {"m": 1.0}, PACE_TOKENS_S, world.now_s
    )


def test_classes_have_three_names() -> None:
    assert CLASSES[INTERACTIVE] == "interactive"
    assert CLASSES[BATCH] == "batch"


@given(st.lists(st.tuples(st.floats(-100.0, 5000.0), st.integers(0, 2), sizes), max_size=60))
def test_what_was_served_fades_and_never_falls_below_nothing(steps: list[tuple[float, int, int]]) -> None:
    shares = Shares()
    flows: list[Flow] = [shares.flow(key, 1.0 + key) for key in range(3)]
    now_s = BEGIN_S
    for pause_s, key, tokens in steps:
        now_s = max(0.0, now_s + pause_s)
        before = [shares.round_of(flow, 0.0, now_s) for flow in flows]
        shares.charge(flows[key], tokens, now_s)
        shares.charge(flows[key], -tokens // 2, now_s)
        for flow, earlier in zip(flows, before, strict=True):
            later = shares.round_of(flow, 0.0, now_s)
            assert later >= earlier
            assert 0.0 <= flow.use < 1e30
