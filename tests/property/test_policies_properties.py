"""Promises of every policy, over any load and belief; and of prefix-cost, that it is what its formula says."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.fleet_simulation import GRID, ready_fleet
from warmroute.core.choice.bounded_load import capacity
from warmroute.core.choice.cost import CostParameters
from warmroute.core.choice.policies import POLICIES
from warmroute.core.fleet.fleet import Fleet
from warmroute.core.types import DecidedBy, DecisionKind, Incarnation, Record, ReplicaId, RequestShape

PARAMETERS = CostParameters()

keys = st.integers(0, (1 << 64) - 1)
loads = st.lists(
    st.tuples(st.integers(0, 6), st.integers(0, 20_000), st.floats(0, 2), st.sampled_from([2000.0, 8000.0])),
    min_size=1,
    max_size=10,
)
beliefs = st.lists(st.none() | st.lists(st.integers(1, 12), min_size=1, max_size=4, unique=True), max_size=12)


def loaded(name: str, load: list[tuple[int, int, float, float]]) -> Fleet:
    fleet = ready_fleet(len(load), name)
    for i, (in_flight, tokens, recent_load_s, rate) in enumerate(load):
        replica = fleet.replicas[ReplicaId(f"r{i}")]
        replica.set_rates(rate, 0.03)
        for _ in range(in_flight):
            fleet.reserve_on(replica.id, RequestShape("m", prompt_tokens=tokens), 1.0)
        replica.recent_load_tokens = recent_load_s * rate * fleet._recent_load_unit
        replica.refresh()
    return fleet


def asked(belief: list[list[int] | None], key: int) -> tuple[RequestShape, list[Record | None]]:
    records: list[Record | None] = [
        None if names is None else tuple((Incarnation(i), 1.0) for i in names) for names in belief
    ]
    prompt_bytes = GRID[len(belief)] - 100
    return RequestShape("m", [], prompt_bytes, prompt_bytes // 4, key, key), records


@settings(max_examples=60)
@pytest.mark.parametrize("name", list(POLICIES))
@given(load=loads, belief=beliefs, key=keys)
def test_a_ranking_is_a_permutation_of_the_eligible_headed_by_the_choice(
    name: str, load: list[tuple[int, int, float, float]], belief: list[list[int] | None], key: int
) -> None:
    fleet = loaded(name, load)
    shape, records = asked(belief, key)
    ranking = fleet.rank(shape, records, 1.0)
    assert sorted(c.replica.id for c in ranking.candidates) == sorted(fleet.replicas)
    decision = fleet.choose_and_reserve(shape, records, 1.0)
    head = ranking.choice
    assert decision.replica is head.replica
    assert decision.kind is head.kind
    assert decision.predicted_tokens == head.predicted_tokens
    assert decision.uncached_tokens == head.uncached_tokens


@settings(max_examples=150)
@given(load=loads, peer_load=st.lists(st.integers(0, 5), min_size=10, max_size=10), belief=beliefs, key=keys)
def test_prefix_cost_takes_the_least_cost_but_for_ties_and_the_bound(
    load: list[tuple[int, int, float, float]], peer_load: list[int], belief: list[list[int] | None], key: int
) -> None:
    fleet = loaded("prefix-cost", load)
    for replica, others in zip(fleet.replicas.values(), peer_load, strict=False):
        replica.peer_in_flight = others
        replica.refresh()
    shape, records = asked(belief, key)
    rows = {c.replica: c for c in fleet.rank(shape, records, 1.0).candidates}
    total = sum(replica.load for replica in rows)
    most = capacity(total, len(rows), PARAMETERS.bounded_load_factor)
    loads_before = {replica: replica.load for replica in rows}
    decision = fleet.choose_and_reserve(shape, records, 1.0)
    best = min(rows.values(), key=lambda c: c.terms.total_s)
    own = best.terms
    own_s = own.base_s + own.prefill_s + own.miss_s + own.eviction_s
    limit_s = own.total_s + PARAMETERS.tie_ratio * own_s
    equals = {r: loads_before[r] for r, c in rows.items() if c.terms.total_s <= limit_s + 1e-9}
    chosen = rows[decision.replica]
    assert decision.replica in equals
    if any(c.predicted_tokens for c in rows.values()):
        surely = [r for r, c in rows.items() if c.terms.total_s <= limit_s - 1e-9]
        assert equals[decision.replica] <= min([loads_before[r] for r in surely], default=1000)
        assert decision.kind is (DecisionKind.WARM if chosen.predicted_tokens else DecisionKind.SPILL)
    else:
        assert decision.kind in (DecisionKind.RING, DecisionKind.SPILL)
        if equals[decision.replica] >= most:
            assert chosen.terms.total_s <= own.total_s + 1e-9, "none of the equals has room"


@settings(max_examples=150)
@given(load=loads, peer_load=st.lists(st.integers(0, 5), min_size=10, max_size=10), belief=beliefs, key=keys)
def test_an_explanation_names_the_equals_and_the_key_that_decides(
    load: list[tuple[int, int, float, float]], peer_load: list[int], belief: list[list[int] | None], key: int
) -> None:
    fleet = loaded("prefix-cost", load)
    for replica, others in zip(fleet.replicas.values(), peer_load, strict=False):
        replica.peer_in_flight = others
        replica.refresh()
    shape, records = asked(belief, key)
    ranking = fleet.rank(shape, records, 1.0)
    tie = ranking.tie
    assert tie is not None
    total = sum(replica.load for replica in fleet.replicas.values())
    most = capacity(total, len(fleet.replicas), PARAMETERS.bounded_load_factor)
    held = any(c.predicted_tokens for c in ranking.candidates)
    loads_before = {replica: replica.load for replica in fleet.replicas.values()}
    choice = fleet.choose_and_reserve(shape, records, 1.0).replica
    cheapest = min(ranking.candidates, key=lambda c: c.terms.total_s).terms
    assert tie.least_s == pytest.approx(cheapest.total_s)
    assert tie.limit_s == pytest.approx(tie.least_s + PARAMETERS.tie_ratio * cheapest.own_s)
    assert choice in tie.replicas
    near = {replica: loads_before[replica] for replica in tie.replicas}
    roomy = [replica for replica, count in near.items() if count < most]
    ring = fleet._eligibility.view("m").ring
    by_ring = list(ring.rank(shape.ring_key)) if shape.ring_key else []
    match tie.decided_by:
        case DecidedBy.ONLY_ONE:
            assert len(fleet.replicas) == 1
        case DecidedBy.COST:
            assert len(near) == 1 or not (held or roomy)
            assert choice is tie.replicas[0]
        case DecidedBy.REQUESTS:
            assert held
            assert [r for r, count in near.items() if count == min(near.values())] == [choice]
        case DecidedBy.RING if held:
            assert len([r for r, count in near.items() if count == min(near.values())]) > 1
            assert near[choice] == min(near.values())
        case DecidedBy.RING:
            assert len(near) > 1
            if by_ring:
                assert choice is next(r for r in by_ring if r in roomy)
                assert by_ring[0] is choice or by_ring[0] not in near
        case DecidedBy.BOUND:
            assert not held
            assert near[choice] < most
            assert max(near.values()) >= most


@settings(max_examples=100)
@given(load=loads, peer_load=st.lists(st.integers(0, 9), min_size=10, max_size=10), key=keys)
def test_cold_requests_respect_the_bound_wherever_there_is_a_choice(
    load: list[tuple[int, int, float, float]], peer_load: list[int], key: int
) -> None:
    fleet = loaded("prefix-cost", [(in_flight, 0, 0.0, 8000.0) for in_flight, _, _, _ in load])
    for replica, others in zip(fleet.replicas.values(), peer_load, strict=False):
        replica.peer_in_flight = others
    shape, _ = asked([None] * 10, key)
    total = sum(replica.load for replica in fleet.replicas.values())
    most = capacity(total, len(fleet.replicas), PARAMETERS.bounded_load_factor)
    decision = fleet.choose_and_reserve(shape, None, 1.0)
    assert decision.replica.load <= most


@settings(max_examples=40)
@given(load=loads, belief=beliefs, key=keys)
@example(load=[(1, 12, 0.0, 2000.0), (5, 0, 0.0, 8000.0), (5, 0, 0.0, 8000.0)], belief=[], key=0)
def test_routers_that_know_the_same_choose_the_same_whatever_order_they_learned_it_in(
    load: list[tuple[int, int, float, float]], belief: list[list[int] | None], key: int
) -> None:
    shape, records = asked(belief, key)
    one, two = loaded("prefix-cost", load), ready_fleet(0)
    for name in reversed(list(one.replicas)):
        two._replicas[name] = one.replicas[name]
        two._eligibility.joined(one.replicas[name])
    two._recent_load_unit = one._recent_load_unit  # what is remembered of a replica is in it
    assert two.rank(shape, records, 1.0).choice.replica is one.rank(shape, records, 1.0).choice.replica
