"""The policies without prefixes, and prefix-hash: each does what its name says, ties included."""

from __future__ import annotations

import random
from collections import Counter

from tests.support.fleet_simulation import ready_fleet
from warmroute.core.choice.policies import POLICIES
from warmroute.core.fleet.peer_load import PeerLoad
from warmroute.core.types import DecisionKind, ReplicaId, RequestShape

SHAPE = RequestShape("m", prompt_tokens=100, ring_key=5, head_key=5)


def test_the_table_names_every_policy() -> None:
    assert list(POLICIES) == [
        "prefix-cost",
        "prefix-hash",
        "round-robin",
        "random",
        "least-loaded",
        "power-of-two",
    ]


def test_round_robin_takes_turns_and_asking_does_not_advance_it() -> None:
    fleet = ready_fleet(3, "round-robin")
    served = []
    for _ in range(6):
        expected = fleet.rank(SHAPE, None, 1.0).choice.replica
        decision = fleet.choose_and_reserve(SHAPE, None, 1.0)
        assert decision.replica is expected
        served.append(decision.replica.id)
    assert served == ["r0", "r1", "r2"] * 2


def test_random_reaches_everybody_about_evenly() -> None:
    fleet = ready_fleet(4, "random")
    counts = Counter(fleet.choose_and_reserve(SHAPE, None, 1.0).replica.id for _ in range(800))
    assert set(counts) == set(fleet.replicas)
    assert max(counts.values()) < 260


def test_least_loaded_takes_the_fewest_in_flight_and_spreads_ties() -> None:
    fleet = ready_fleet(4, "least-loaded")
    for name in ("r0", "r1"):
        fleet.reserve_on(ReplicaId(name), SHAPE, 1.0)
    firsts = set()
    for _ in range(40):
        decision = fleet.choose_and_reserve(SHAPE, None, 1.0)
        firsts.add(decision.replica.id)
        fleet.settle(decision, 1.0)
    assert firsts == {"r2", "r3"}
    for _ in range(22):
        fleet.choose_and_reserve(SHAPE, None, 1.0)
    assert {replica.in_flight for replica in fleet.replicas.values()} == {6}


def test_power_of_two_never_takes_the_most_loaded_of_three() -> None:
    fleet = ready_fleet(3, "power-of-two")
    for _ in range(3):
        fleet.reserve_on(ReplicaId("r1"), SHAPE, 1.0)
    for _ in range(60):
        decision = fleet.choose_and_reserve(SHAPE, None, 1.0)
        assert decision.replica.id != "r1"
        fleet.settle(decision, 1.0)


def test_policies_without_prefixes_say_so() -> None:
    for name in ("round-robin", "random", "least-loaded", "power-of-two"):
        fleet = ready_fleet(2, name)
        assert fleet.choose_and_reserve(SHAPE, None, 1.0).kind is DecisionKind.LOAD
        assert not POLICIES[name](fleet._parameters).needs_records


def test_prefix_hash_sends_the_same_head_to_the_same_replica() -> None:
    fleet = ready_fleet(8, "prefix-hash")
    for key in range(30):
        homes = set()
        for depth in (100, 9000):
            shape = RequestShape("m", prompt_tokens=depth, ring_key=depth, head_key=key << 58)
            decision = fleet.choose_and_reserve(shape, None, 1.0)
            homes.add(decision.replica.id)
            assert decision.kind is DecisionKind.RING
            fleet.settle(decision, 1.0)
        assert len(homes) == 1


def test_prefix_hash_spills_to_the_next_on_the_ring_when_its_first_is_full() -> None:
    fleet = ready_fleet(8, "prefix-hash")
    order = [c.replica.id for c in fleet.rank(SHAPE, None, 1.0).candidates]
    kinds = []
    places = []
    for _ in range(4):
        decision = fleet.choose_and_reserve(SHAPE, None, 1.0)
        kinds.append(decision.kind)
        places.append(decision.replica.id)
    assert kinds == [DecisionKind.RING, DecisionKind.SPILL, DecisionKind.SPILL, DecisionKind.SPILL]
    assert places == order[:4]


def test_prefix_hash_keeps_everyone_within_the_bound() -> None:
    fleet = ready_fleet(8, "prefix-hash")
    rng = random.Random(2)
    for placed in range(1, 200):
        shape = RequestShape("m", prompt_tokens=10, head_key=rng.choice([1 << 50, 1 << 60, 1 << 63]))
        fleet.choose_and_reserve(shape, None, 1.0)
        most = max(replica.in_flight for replica in fleet.replicas.values())
        assert most <= -(-1.25 * placed // 8)


def test_what_other_routers_sent_counts_like_what_this_one_sent() -> None:
    def choices(policy: str, busy: str) -> set[str]:
        fleet = ready_fleet(3, policy)
        fleet.note_peer_load(fleet.replicas[ReplicaId(busy)], PeerLoad(0, 50, 0, 0, 0, 0.0, 0), 1.0)
        found = set()
        for _ in range(40):
            decision = fleet.choose_and_reserve(SHAPE, None, 1.0)
            found.add(decision.replica.id)
            fleet.settle(decision, 1.0)
        return found

    assert choices("least-loaded", "r1") == {"r0", "r2"}
    assert "r1" not in choices("power-of-two", "r1")
    home = ready_fleet(3, "prefix-hash").choose_and_reserve(SHAPE, None, 1.0).replica.id
    assert choices("prefix-hash", home).isdisjoint({home})
