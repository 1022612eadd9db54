"""Policy prefix-cost: single choices, and where whole workloads end up."""

from __future__ import annotations

import random
from collections import Counter

import pytest

import warmroute.core.fleet.prefill as prefill_module
import warmroute.core.fleet.replica as replica_module
from tests.support.fleet_simulation import Simulation, forget_recent_load, prompt, ready_fleet
from warmroute.core.choice.cost import CostParameters
from warmroute.core.fleet.fleet import Fleet, ProbeSucceeded, ReplicaAdded
from warmroute.core.learning.sample import WAY_S
from warmroute.core.types import DecidedBy, DecisionKind, Incarnation, Record, ReplicaId, RequestShape


def holders(*incarnations: int) -> Record:
    return tuple((Incarnation(i), 1.0) for i in incarnations)


def shape(key: int = 1 << 62, tokens: int = 1050) -> RequestShape:
    return RequestShape("m", [], tokens * 4, tokens, key, key)


def busy(fleet: Fleet, name: str, tokens: int) -> None:
    fleet.reserve_on(ReplicaId(name), RequestShape("m", prompt_tokens=tokens), 1.0)


def test_an_idle_fleet_follows_the_ring_and_so_agrees_with_every_other_router() -> None:
    one, two = ready_fleet(8, seed=1), ready_fleet(8, seed=2)
    for name in reversed(list(two.replicas)):
        two.apply(ReplicaAdded(ReplicaId(name), "http://moved"))
        two.apply(ProbeSucceeded(ReplicaId(name), None, ["m"], None, None, 1.0))
    rng = random.Random(4)
    homes = Counter()
    for _ in range(300):
        asked = shape(rng.getrandbits(64))
        a, b = one.choose_and_reserve(asked, None, 1.0), two.rank(asked, None, 1.0).choice
        assert a.replica.id == b.replica.id
        assert a.kind is b.kind is DecisionKind.RING
        one.settle(a, 1.0)
        forget_recent_load(a.replica)
        homes[a.replica.id] += 1
    assert len(homes) == 8


def test_a_cold_request_spills_when_the_rings_first_choice_has_work() -> None:
    fleet = ready_fleet(8)
    first = fleet.rank(shape(), None, 1.0).choice.replica
    busy(fleet, first.id, 4000)
    decision = fleet.choose_and_reserve(shape(), None, 1.0)
    assert decision.replica is not first
    assert decision.kind is DecisionKind.SPILL


def test_a_cold_request_spills_when_the_rings_first_choice_has_more_than_its_share_of_requests() -> None:
    fleet = ready_fleet(8)
    first = fleet.rank(shape(), None, 1.0).choice.replica
    for _ in range(2):
        busy(fleet, first.id, 0)
    decision = fleet.choose_and_reserve(shape(), None, 1.0)
    assert decision.replica is not first
    assert decision.kind is DecisionKind.SPILL


def test_while_routers_are_apart_the_ring_is_worth_all_that_a_cold_request_costs() -> None:
    fleet = ready_fleet(8)
    first = fleet.rank(shape(), None, 1.0).choice.replica
    for name in fleet.replicas:
        busy(fleet, name, 1000 if name == first.id else 0)
    assert fleet.rank(shape(), None, 1.0).choice.replica is not first
    fleet.stand_apart(True)
    decision = fleet.rank(shape(), None, 1.0)
    assert (decision.choice.replica, decision.choice.kind) == (first, DecisionKind.RING)
    assert first in decision.tie.replicas
    assert decision.tie.decided_by == DecidedBy.RING
    assert fleet.choose_and_reserve(shape(), None, 1.0).replica is first
    assert fleet.rank(shape(), [holders(3)] * 3, 1.0).choice.kind is DecisionKind.WARM, (
        "what is known still counts"
    )
    busy(fleet, first.id, 20_000)
    assert fleet.rank(shape(), None, 1.0).choice.replica is not first, (
        "it costs more than another computation"
    )


def test_the_deeper_of_two_warm_replicas_wins() -> None:
    fleet = ready_fleet(8)
    decision = fleet.choose_and_reserve(shape(), [holders(2, 5), holders(2, 5), holders(5)], 1.0)
    assert decision.replica.id == "r4"
    assert decision.kind is DecisionKind.WARM


def test_equally_warm_replicas_share_by_ring_and_not_by_order() -> None:
    fleet = ready_fleet(8)
    rng = random.Random(1)
    chosen = Counter()
    for _ in range(200):
        decision = fleet.choose_and_reserve(shape(rng.getrandbits(64)), [holders(2, 5, 7)] * 3, 1.0)
        fleet.settle(decision, 1.0)
        forget_recent_load(decision.replica)
        chosen[decision.replica.id] += 1
    assert set(chosen) == {"r1", "r4", "r6"}
    assert min(chosen.values()) > 30


def test_a_warm_replica_keeps_its_conversation_while_the_queue_is_shorter_than_the_miss() -> None:
    warm = [holders(3)] * 8
    fleet = ready_fleet(8)
    busy(fleet, "r2", 1500)
    assert fleet.choose_and_reserve(shape(), warm, 1.0).replica.id == "r2"
    fleet = ready_fleet(8)
    busy(fleet, "r2", 3000)
    decision = fleet.choose_and_reserve(shape(), warm, 1.0)
    assert decision.replica.id != "r2"
    assert decision.kind is DecisionKind.SPILL


def test_a_spill_counts_the_whole_prompt_as_work() -> None:
    fleet = ready_fleet(8)
    busy(fleet, "r2", 9000)
    decision = fleet.choose_and_reserve(shape(), [holders(3)] * 8, 1.0)
    assert (decision.predicted_tokens, decision.uncached_tokens) == (0, 1050)
    assert decision.replica.waiting_tokens == 1050


def test_a_slow_replica_gets_less() -> None:
    fleet = ready_fleet(2)
    fleet.replicas[ReplicaId("r0")].set_rates(2000.0, 0.03)
    rng = random.Random(1)
    for _ in range(100):
        fleet.choose_and_reserve(shape(rng.getrandbits(64)), None, 1.0)
    slow, fast = (fleet.replicas[ReplicaId(name)].in_flight for name in ("r0", "r1"))
    assert 3 * slow <= fast
    assert slow > 5


def tied(waits_s: tuple[float, ...], loads: tuple[int, ...], at_peers: tuple[int, ...] = (0, 0)) -> Fleet:
    """Two replicas that hold 1,024 of 1,050 tokens: to compute 26 there costs 0.5 s of base and twice 0.026 s."""
    fleet = ready_fleet(
        2,
        parameters=CostParameters(
            prefill_tokens_per_s=1000.0, attention_context_tokens=0.0, crowd_weight=0.0
        ),
    )
    for replica in fleet.replicas.values():
        replica.set_rates(1000.0, 0.5)
    for replica, wait_s, count, others in zip(fleet.replicas.values(), waits_s, loads, at_peers, strict=True):
        for _ in range(count):
            busy(fleet, replica.id, 0)
        replica.planned_s = wait_s
        replica.peer_in_flight = others
        replica.refresh()
    return fleet


def chosen_of(fleet: Fleet, records: list[Record | None] | None, keys: int = 40) -> set[str]:
    rng = random.Random(3)
    return {fleet.rank(shape(rng.getrandbits(64)), records, 1.0).choice.replica.id for _ in range(keys)}


# A twentieth of 0.552 s are 27.6 ms.
@pytest.mark.parametrize(
    ("waits_s", "loads", "at_peers", "chosen"),
    [
        ((0.027, 0.0), (0, 1), (0, 0), {"r0"}),
        ((0.028, 0.0), (0, 1), (0, 0), {"r1"}),
        ((0.027, 0.0), (0, 0), (0, 1), {"r0"}),
        ((0.027, 0.0), (0, 1), (1, 0), {"r0", "r1"}),
        ((0.027, 0.0), (1, 1), (1, 0), {"r1"}),
        ((0.0, 0.0), (2, 1), (0, 1), {"r0", "r1"}),
    ],
)
def test_of_equal_costs_the_fewest_requests_decide_whoever_sent_them_and_then_the_ring(
    waits_s: tuple[float, ...], loads: tuple[int, ...], at_peers: tuple[int, ...], chosen: set[str]
) -> None:
    assert chosen_of(tied(waits_s, loads, at_peers), [holders(1, 2)] * 8) == chosen


# Cold, 1,050 tokens cost 0.5 s and twice 1.05 s, of which a twentieth are 130 ms.
@pytest.mark.parametrize(("wait_s", "chosen"), [(0.129, {"r0", "r1"}), (0.131, {"r1"})])
def test_the_ring_is_worth_a_twentieth_of_what_a_cold_request_costs(wait_s: float, chosen: set[str]) -> None:
    assert chosen_of(tied((wait_s, 0.0), (0, 0)), None) == chosen


def test_other_routers_requests_count_in_the_bound_of_the_ring() -> None:
    fleet = ready_fleet(8)
    first = fleet.rank(shape(), None, 1.0).choice.replica
    first.peer_in_flight = 1
    first.refresh()
    ranking = fleet.rank(shape(), None, 1.0)
    # Of the two requests that would be in flight each of eight may have ceil(1.25 x 2 / 8) = 1.
    assert ranking.choice.replica is not first
    assert ranking.choice.kind is DecisionKind.SPILL
    for replica in fleet.replicas.values():
        replica.peer_in_flight = 1
        replica.refresh()
    # Of nine each may have ceil(1.25 x 9 / 8) = 2.
    assert fleet.rank(shape(), None, 1.0).choice.replica is first


def test_where_no_equal_has_room_the_smallest_cost_wins() -> None:
    # Of four and one more each of two may have ceil(1.25 x 5 / 2) = 4: r1 has them, and r0 costs more.
    fleet = tied((1.0, 0.0), (0, 4))
    assert chosen_of(fleet, None) == {"r1"}


def test_who_pushes_out_what_is_asked_for_again_pays_for_it() -> None:
    fleet = ready_fleet(2)
    full, empty = fleet.replicas.values()
    fleet.rank(shape(), None, 1.0)
    full.eviction_ratio = 0.5
    full.refresh()
    rows = {row.replica: row.terms for row in fleet.rank(shape(), None, 1.0).candidates}
    assert rows[full].eviction_s == pytest.approx(1.5 * rows[full].prefill_s)
    assert rows[empty].eviction_s == 0.0
    assert chosen_of(fleet, None) == {empty.id}


def test_a_full_cache_has_the_price_of_what_it_would_lose_next() -> None:
    fleet = ready_fleet(1)
    replica = fleet.replicas[ReplicaId("r0")]
    replica.residency.resize(2000)
    asked = shape(tokens=1200)
    for at_s in (10.0, 11.0):
        decision = fleet.choose_and_reserve(asked, None, at_s)
        assert replica.eviction_ratio == 0.0, "there is room"
        fleet.started(decision, at_s)
        fleet.settle(decision, at_s)
    assert replica.residency.horizon_s == 10.0
    fleet.rank(asked, None, 31.0)
    assert replica.eviction_ratio == 0.0, "nothing has come back yet"
    for _ in range(3):
        fleet.returns.returned(300, 100.0)
    fleet.rank(asked, None, 33.0)
    # Of two prompts of 1,200 tokens 900 came back later, beside one that did not.
    assert replica.eviction_ratio == pytest.approx(900 / 3600, rel=1e-3)


@pytest.mark.parametrize("count", [33, 200])
def test_in_a_large_fleet_the_warm_replica_is_found_wherever_it_is(count: int) -> None:
    fleet = ready_fleet(count)
    for i in range(count):
        decision = fleet.choose_and_reserve(shape(i << 50), [holders(i + 1)] * 8, 1.0)
        assert decision.replica.id == f"r{i}"
        assert decision.kind is DecisionKind.WARM


def test_in_a_large_fleet_cold_requests_follow_the_ring_while_it_is_idle() -> None:
    fleet, other = ready_fleet(100, seed=1), ready_fleet(100, seed=2)
    rng = random.Random(1)
    for _ in range(200):
        asked = shape(rng.getrandbits(64))
        decision = fleet.choose_and_reserve(asked, None, 1.0)
        assert decision.kind is DecisionKind.RING
        assert other.rank(asked, None, 1.0).choice.replica.id == decision.replica.id
        fleet.settle(decision, 1.0)
        forget_recent_load(decision.replica)


def test_a_large_fleet_fills_evenly() -> None:
    fleet = ready_fleet(200)
    rng = random.Random(1)
    for _ in range(2000):
        fleet.choose_and_reserve(shape(rng.getrandbits(64)), None, 1.0)
    loads = [replica.in_flight for replica in fleet.replicas.values()]
    assert max(loads) <= 13
    assert min(loads) >= 5


def conversations(
    simulation: Simulation, gap_s: float, *, count: int = 200, turns: int = 3, system_bytes: int = 2048
) -> float:
    """Start `count` conversations that share one system prompt; returns the share of later turns that went home."""
    rng = random.Random(5)
    plan = sorted(
        (number * gap_s + turn * 20.0 + (rng.random() * 10.0 if turn else 0.0), number, turn)
        for number in range(count)
        for turn in range(turns)
    )
    home: dict[int, str] = {}
    returned = later = 0
    for at_s, number, turn in plan:
        parts = [("system", system_bytes)] + [(f"{number}.{i}", 3000) for i in range(turn + 1)]
        replica = simulation.send(prompt(*parts), at_s).replica.id
        if turn:
            later += 1
            returned += replica == home[number]
        home[number] = replica
    simulation.advance(1e9)
    simulation.fleet.validate()
    assert all(replica.in_flight == 0 for replica in simulation.fleet.replicas.values())
    return returned / later


@pytest.mark.parametrize("times", [1 / 16, 1 / 8, 8.0])
def test_the_choices_are_the_same_at_any_speed(times: float, monkeypatch: pytest.MonkeyPatch) -> None:
    # Powers of two, so that all times are exactly so many times as long; and the machine's own time with them.
    def homes(times: float) -> list[str]:
        for module in (prefill_module, replica_module):
            monkeypatch.setattr(module, "WAY_S", WAY_S * times)
        parameters = CostParameters(prefill_tokens_per_s=8000.0 / times, attention_context_tokens=0.0)
        simulation = Simulation(
            ready_fleet(6, parameters=parameters), rate=8000.0 / times, decode_s=2.0 * times
        )
        rng = random.Random(7)
        now_s, chosen = 0.0, []
        for _ in range(600):
            now_s += rng.expovariate(12.0)
            number = rng.randrange(150)
            turns = rng.randrange(1, 4)
            parts = [("system", 2048), *[(f"{number}.{turn}", 6000) for turn in range(turns)]]
            chosen.append(simulation.send(prompt(*parts), now_s * times).replica.id)
        return chosen

    assert homes(times) == homes(1.0)


@pytest.mark.parametrize("gap_s", [0.0, 0.005, 0.02, 0.05, 0.2])
def test_a_system_prompt_shared_by_all_does_not_draw_all_to_one_replica(gap_s: float) -> None:
    simulation = Simulation(ready_fleet(8))
    home_share = conversations(simulation, gap_s)
    assert simulation.imbalance() <= 1.3
    assert home_share >= 0.9


def test_even_a_trickle_spreads_in_the_end() -> None:
    simulation = Simulation(ready_fleet(8))
    conversations(simulation, 1.0)
    assert simulation.imbalance() <= 2.0
    assert sum(simulation.requests[name] > 10 for name in simulation.fleet.replicas) >= 6


def test_hits_and_first_bytes_beat_every_baseline_on_shared_system_prompts() -> None:
    cached: dict[str, float] = {}
    ttft_s: dict[str, float] = {}
    for name in ("prefix-cost", "prefix-hash", "round-robin", "least-loaded"):
        simulation = Simulation(ready_fleet(8, name))
        conversations(simulation, 0.05)
        cached[name] = 1 - sum(simulation.uncached_tokens.values()) / simulation.prompt_tokens
        ttft_s[name] = sorted(simulation.ttft_s)[len(simulation.ttft_s) * 9 // 10]
    for name in ("prefix-hash", "round-robin", "least-loaded"):
        assert cached["prefix-cost"] > 1.1 * cached[name], cached
        assert ttft_s["prefix-cost"] < 0.8 * ttft_s[name], ttft_s


def test_a_hot_prefix_is_copied_only_as_far_as_its_load_demands() -> None:
    simulation = Simulation(ready_fleet(8), decode_s=0.1)
    for i in range(2000):
        simulation.send(prompt(("document", 40_000), (f"question {i}", 400)), i * 0.005)
    # 200 questions a second of about 116 uncached tokens each are the prefill of 2.9 replicas.
    copies = sum(count > 0 for count in simulation.requests.values())
    assert 3 <= copies <= 6
    # Waiting for a holder never costs much more than computing the document elsewhere would: 2.5 s.
    assert max(simulation.ttft_s) < 3.0


def test_a_prefix_that_one_replica_can_serve_stays_there() -> None:
    simulation = Simulation(ready_fleet(8), decode_s=0.1)
    for i in range(400):
        simulation.send(prompt(("document", 40_000), (f"question {i}", 400)), i * 0.05)
    assert len(simulation.requests) == 1
