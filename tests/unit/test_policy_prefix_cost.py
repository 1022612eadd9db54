"""Policy prefix-cost: single choices, and where whole workloads end up."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from router.core.fleet import Fleet, ProbeSucceeded, ReplicaAdded
from router.core.types import DecisionKind, FingerprintHash, Incarnation, Record, ReplicaId, RequestShape
from tests.support.fleet_simulation import Simulation, prompt, ready_fleet


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
        a.replica.fade(0.0)
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
        decision.replica.fade(0.0)
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


@pytest.mark.parametrize("replicas", [4, 32])
@pytest.mark.parametrize("found_ratio", [0.0, 1.0])
def test_a_rare_hit_is_worth_more_waiting_in_a_small_fleet(found_ratio: float, replicas: int) -> None:
    warm = [holders(3)] * 8
    fleet = ready_fleet(replicas)
    fleet.found_ratio = found_ratio
    busy(fleet, "r2", 3000 if replicas == 4 else 6000)
    decision = fleet.choose_and_reserve(shape(), warm, 1.0)
    assert (decision.replica.id == "r2") == (found_ratio == 0.0 and replicas == 4)


@pytest.mark.parametrize(("tokens", "waits"), [(2_500, True), (2_700, False)])
def test_what_many_may_share_is_no_rare_hit(tokens: int, waits: bool) -> None:
    fleet = ready_fleet(4)
    fleet.found_ratio = 0.0
    busy(fleet, "r2", 12_000)
    ranking = fleet.rank(shape(tokens=tokens), [holders(3)] * 8, 1.0)
    assert max(row.predicted_tokens for row in ranking.candidates) == 1024, "41 % and 38 % of the prompts"
    assert (ranking.choice.replica.id == "r2") == waits


@pytest.mark.parametrize(("ahead_s", "waits"), [(15.0, True), (17.5, False)])
def test_nobody_waits_more_than_16_s_for_a_rare_hit(ahead_s: float, waits: bool) -> None:
    fleet = ready_fleet(2)
    fleet.found_ratio = 0.0
    fleet.replicas[ReplicaId("r1")].planned_s = ahead_s
    decision = fleet.choose_and_reserve(shape(), [holders(2)] * 8, 1.0)
    assert (decision.replica.id == "r1") == waits, "the miss would cost 20 s"


def test_what_a_rare_miss_costs_is_told() -> None:
    fleet = ready_fleet(4)
    warm = [holders(3), holders(3)] + [holders(3, 4)] * 2 + [holders(3)] * 4
    usual = {row.replica.id: row.terms for row in fleet.rank(shape(), warm, 1.0).candidates}
    assert all(terms.rare_s == 0.0 for terms in usual.values())
    fleet.found_ratio = 0.0
    ranking = fleet.rank(shape(), warm, 1.0)
    assert ranking.choice.replica.id == "r2"
    home_s = usual[ReplicaId("r2")].prefill_s
    for row in ranking.candidates:
        before = usual[row.replica.id]
        assert row.terms.rare_s == pytest.approx(10 * 4 * (before.prefill_s - home_s))
        assert row.terms.total_s == pytest.approx(before.total_s + row.terms.rare_s)
    assert len({row.terms.rare_s for row in ranking.candidates}) == 3, "all, a part, nothing"
    cold = fleet.rank(shape(), None, 1.0)
    assert all(row.terms.rare_s == 0.0 for row in cold.candidates), "nobody holds it"


@pytest.mark.parametrize("held", [None, [holders(*range(1, 9))]])
@pytest.mark.parametrize(
    ("found_ratio", "tokens", "meet"), [(0.0, 45_000, True), (0.0, 20_000, False), (1.0, 45_000, False)]
)
def test_long_prompts_meet_at_one_end_of_the_fleet_where_prompts_seldom_come_back(
    held: list[Record | None] | None, found_ratio: float, tokens: int, meet: bool
) -> None:
    fleet = ready_fleet(8)
    fleet.found_ratio = found_ratio
    rng = random.Random(3)
    chosen = Counter()
    for _ in range(30):
        decision = fleet.choose_and_reserve(shape(rng.getrandbits(64), tokens), held, 1.0)
        fleet.settle(decision, 1.0)
        decision.replica.fade(0.0)
        chosen[decision.replica.id] += 1
    assert (len(chosen) == 1) == meet


def test_the_longer_a_prompt_the_less_of_its_cost_may_go_to_the_end_of_the_long_ones() -> None:
    fleet = ready_fleet(8)
    fleet.found_ratio = 0.0
    first = fleet.choose_and_reserve(shape(tokens=45_000), None, 1.0)
    fleet.settle(first, 1.0)
    assert fleet.choose_and_reserve(shape(tokens=45_000), None, 1.0).replica is not first.replica
    assert fleet.choose_and_reserve(shape(tokens=100_000), None, 1.0).replica is not first.replica


@pytest.mark.parametrize("found_ratio", [0.0, 1.0])
def test_the_ring_is_worth_some_waiting_only_where_prompts_come_back(found_ratio: float) -> None:
    everybody = [holders(*range(1, 9))]
    asked = shape(tokens=60_000)
    fleet = ready_fleet(8)
    first = fleet.choose_and_reserve(asked, everybody, 1.0)
    fleet.settle(first, 1.0)
    first.replica.fade(0.0)
    busy(fleet, first.replica.id, 1500)
    fleet.found_ratio = found_ratio
    again = fleet.choose_and_reserve(asked, everybody, 1.0)
    assert (again.replica is first.replica) == (found_ratio == 1.0)


def test_a_fleet_learns_how_much_of_its_prompts_comes_back() -> None:
    fleet = ready_fleet(2)

    def ask(first_rung: int) -> None:
        rungs = [FingerprintHash(first_rung + depth) for depth in range(8)]
        asked = RequestShape("m", rungs, 8 * 256, 512, first_rung, first_rung)
        fleet.settle(fleet.choose_and_reserve(asked, None, 1.0), 1.0)

    for number in range(400):
        ask(1000 * number)
    assert fleet.found_ratio < 0.3
    for _ in range(400):
        ask(1000)
    assert fleet.found_ratio > 0.6


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
        decision.replica.fade(0.0)


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


def test_where_others_may_wait_for_the_same_replica_a_rare_hit_is_worth_less_waiting() -> None:
    fleet = ready_fleet(4)
    fleet.found_ratio = 0.0
    alone = fleet.rank(shape(), [holders(3)] * 8, 1.0).candidates[-1].terms.rare_s
    fleet.routers = 3
    assert fleet.rank(shape(), [holders(3)] * 8, 1.0).candidates[-1].terms.rare_s == pytest.approx(alone / 2)


def test_many_routers_learn_as_fast_as_one_that_little_comes_back() -> None:
    asked = 0

    def learn(fleet: Fleet, requests: int) -> float:
        nonlocal asked
        for _ in range(requests):
            asked += 1
            rungs = [FingerprintHash(asked * 8 + depth) for depth in range(8)]
            decision = fleet.choose_and_reserve(
                RequestShape("m", rungs, 8 * 256, 512, asked, asked), None, 1.0
            )
            fleet.settle(decision, 1.0)
        return fleet.found_ratio

    alone, one_of_four = ready_fleet(2), ready_fleet(2)
    one_of_four.routers = 4
    assert learn(alone, 400) == pytest.approx(learn(one_of_four, 100), rel=0.05)


def test_a_retry_goes_where_the_ranking_says_also_for_a_rare_hit() -> None:
    for work_s in (1.0, 3.0, 6.0, 9.0, 12.0, 15.0):
        fleet = ready_fleet(3)
        fleet.found_ratio = 0.1
        fleet.replicas[ReplicaId("r1")].planned_s = work_s
        warm: list[Record | None] = [holders(1, 2)] * 5 + [holders(1)] * 3
        head, second, _ = fleet.rank(shape(), warm, 1.0).candidates
        assert head.replica.id == "r0"
        retried = fleet.choose_and_reserve(shape(), warm, 1.0, tried=[head.replica])
        assert retried.replica is second.replica
