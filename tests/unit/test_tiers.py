"""Tiers below the GPU's cache: what falls where, what it is worth, and that a faster one is gone to first."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from tests.support.wire import Wire
from warmroute.config.cache_tiers import CacheTierConfig
from warmroute.core.beliefs.residency import MAX_BUCKETS, Residency
from warmroute.core.beliefs.tiers import Tier, TieredResidency
from warmroute.core.choice.cost import CostParameters
from warmroute.core.choice.policies import POLICIES
from warmroute.core.fleet.fleet import Decision, Fleet, ProbeSucceeded, ReplicaAdded
from warmroute.core.health.health import HealthParameters
from warmroute.core.learning.learner import Learner, LearningParameters
from warmroute.core.types import FingerprintHash, Incarnation, Records, ReplicaId, RequestShape

COMPUTE_S = 100e-6
HOST = Tier("host", 2_000, 10e-6)
DISK = Tier("disk", 4_000, 40e-6)


def filled(tiers: tuple[Tier, ...], prompts: int) -> TieredResidency:
    """A cache of 1,000 tokens that was sent a prompt of 500 every second."""
    residency = TieredResidency(tiers)
    residency.price(COMPUTE_S)
    residency.resize(1_000)
    for second in range(prompts):
        residency.touch(500, float(second))
    return residency


def test_what_the_gpu_gives_up_is_worth_what_its_load_saves() -> None:
    residency = filled((HOST, DISK), 20)
    ratios = [residency.resident_ratio(float(second)) for second in range(20)]
    assert ratios[18:] == [1.0, 1.0]
    assert ratios[14:18] == pytest.approx([0.9] * 4)
    assert ratios[6:14] == pytest.approx([0.6] * 8)
    assert ratios[:6] == [0.0] * 6


def test_a_part_that_fell_counts_as_a_part() -> None:
    residency = filled((HOST,), 2)
    residency.touch(100, 2.0)
    assert residency.resident_ratio(0.0) == pytest.approx(0.8 + 0.2 * 0.9)
    assert filled((), 4).resident_ratio(0.0) == 0.0


def test_a_tier_that_is_slower_than_computing_is_worth_nothing() -> None:
    residency = filled((Tier("remote", 9_000, 200e-6),), 9)
    assert residency.resident_ratio(0.0) == 0.0
    residency.price(400e-6)
    assert residency.resident_ratio(0.0) == pytest.approx(0.5)


def test_what_is_used_again_is_on_the_gpu_again() -> None:
    residency = filled((HOST,), 6)
    counted = residency.begin(500, [500], [0.0], 10.0)
    assert residency.resident_ratio(10.0) == 1.0
    residency.end(counted, 10.0, 10.5, True)
    held = residency.tokens + sum(level.held for level in residency._levels)
    assert held == 6 * 500, "it is counted once"
    residency.touch(500, 11.0)
    assert residency.resident_ratio(10.0) == 1.0


def test_a_restart_empties_all_tiers_and_keeps_their_price() -> None:
    residency = filled((HOST,), 6)
    residency.clear()
    assert [(level.held, level.worth) for level in residency._levels] == [(0, pytest.approx(0.9))]
    for second in range(20, 26):
        residency.touch(500, float(second))
    assert residency.resident_ratio(20.0) == pytest.approx(0.9)


def test_without_tiers_it_is_what_it_was() -> None:
    rng = Random(3)
    plain, tiered = Residency(), TieredResidency(())
    open_: list[tuple[tuple[int, int, int], tuple[int, int, int], float]] = []
    for residency in (plain, tiered):
        residency.resize(5_000)
    for step in range(3_000):
        now_s = step / 7.0
        tokens, back_s = rng.randrange(1, 900), rng.random() * now_s
        both = [residency.begin(tokens, [tokens], [back_s], now_s) for residency in (plain, tiered)]
        open_.append((both[0], both[1], now_s))
        if rng.random() < 0.8:
            first, second, begun_s = open_.pop(rng.randrange(len(open_)))
            computed = rng.random() < 0.9
            plain.end(first, begun_s, now_s, computed)
            tiered.end(second, begun_s, now_s, computed)
        assert plain.resident_ratio(back_s) == tiered.resident_ratio(back_s)
        assert plain.tokens == tiered.tokens


def test_tiers_never_hold_more_than_they_can_whatever_is_used() -> None:
    rng = Random(5)
    residency = TieredResidency((HOST, DISK))
    residency.price(COMPUTE_S)
    residency.resize(3_000)
    for step in range(5_000):
        now_s = step * rng.choice((0.01, 0.1, 3.0))
        tokens = rng.randrange(1, 600)
        counted = residency.begin(tokens, [tokens], [rng.random() * now_s], now_s)
        residency.end(counted, now_s, now_s + 0.2, rng.random() < 0.9)
        for level in residency._levels:
            assert 0 <= level.held == sum(level.buckets.values()) <= level.tier.tokens
            assert all(there >= 0 for there in level.buckets.values())
        assert 0.0 <= residency.resident_ratio(rng.random() * now_s) <= 1.0


# -- choices ---------------------------------------------------------------------------------------------------------

GRID = (2_000, 4_000, 8_000)
RUNGS = [FingerprintHash(n) for n in (1, 2, 3)]


class World:
    """Two replicas of 4,000 tokens, and who was sent the prompt when."""

    def __init__(self, tiers: tuple[Tier, ...]) -> None:
        parameters = CostParameters(prefill_tokens_per_s=10_000.0, attention_context_tokens=0.0)
        self.fleet = Fleet(
            POLICIES["prefix-cost"](parameters),
            Random(1),
            parameters,
            HealthParameters(),
            GRID,
            Learner(LearningParameters()),
            tiers=tiers,
        )
        for number in range(2):
            replica_id = ReplicaId(f"r{number}")
            self.fleet.apply(ReplicaAdded(replica_id, f"http://{replica_id}"))
        self.probe(0.0)
        self.replicas = list(self.fleet.replicas.values())

    def probe(self, now_s: float) -> None:
        """Both are well."""
        for number, replica_id in enumerate(self.fleet.replicas):
            life = Incarnation(number + 1)
            self.fleet.apply(ProbeSucceeded(replica_id, life, {"m"}, 16, 4_000, now_s, life_told=True))

    def held(self, number: int, at_s: float, pushed_tokens: int) -> Any:
        """One held the prompt then, and was sent so much since."""
        replica = self.replicas[number]
        replica.residency.touch(2_000, at_s)
        replica.residency.touch(pushed_tokens, at_s + 10.0)
        return ((replica.incarnation, at_s),)

    def choose(self, record: Any, now_s: float = 100.0) -> Decision:
        shape = RequestShape("m", RUNGS, 8_000, 2_001)
        records: Records = [record, record, record]
        return self.fleet.choose_and_reserve(shape, records, now_s)


def test_a_hit_in_a_tier_beats_computing_anew_and_loses_to_the_gpu() -> None:
    for number in (0, 1):
        world = World((Tier("disk", 50_000, 20e-6),))
        decision = world.choose(world.held(number, 10.0, 4_000))
        assert decision.replica is world.replicas[number]
        assert decision.predicted_tokens == pytest.approx(0.8 * 2_000, abs=16)
        world = World((Tier("disk", 50_000, 20e-6),))
        on_disk, on_gpu = world.held(number, 10.0, 4_000), world.held(1 - number, 10.5, 0)
        decision = world.choose((*on_disk, *on_gpu))
        assert decision.replica is world.replicas[1 - number]
        assert decision.predicted_tokens > 1_980
    world = World(())
    assert world.choose(world.held(1, 10.0, 4_000)).predicted_tokens == 0


@pytest.mark.parametrize("load_s", [20e-6, 60e-6])
def test_what_is_loaded_says_nothing_of_how_fast_it_computes(load_s: float) -> None:
    world = World((Tier("disk", 50_000, 20e-6),))
    fleet, replica = world.fleet, world.replicas[0]
    now_s = 100.0
    shape = RequestShape("m", RUNGS, 8_000, 2_001)
    for _ in range(30):
        record = world.held(0, now_s, 4_000)
        # In turns: one of which all has to be computed, and one that is on the disk.
        for records, cached_tokens in (([None] * 3, 0), ([record] * 3, 1_984)):
            now_s += 60.0
            world.probe(now_s)
            decision = fleet.reserve_on(replica.id, shape, now_s, records)
            assert (decision.predicted_tokens > 0) is (cached_tokens > 0)
            first_s = now_s + cached_tokens * load_s + (2_001 - cached_tokens) * COMPUTE_S
            fleet.started(decision, first_s)
            fleet.settle(decision, first_s + 0.1)
            fleet.learn(decision, shape, 2_001, cached_tokens, 10, 10)
            fleet.confirm(decision, cached_tokens, 10, first_s + 0.1)
        now_s += 60.0
    assert replica.prefill_tokens_per_s == pytest.approx(10_000.0, rel=0.05)
    assert replica.base_latency_s < 0.01


def test_a_router_takes_its_tiers_from_the_settings() -> None:
    settings = (CacheTierConfig(name="host", tokens=5_000, tokens_per_s=200_000),)
    for replica in Wire(replicas=2, cache_tiers=settings).replicas:
        assert isinstance(replica.residency, TieredResidency)
        (level,) = replica.residency._levels
        assert level.tier == Tier("host", 5_000, 1 / 200_000)
        assert level.worth == pytest.approx(1.0 - replica.prefill_tokens_per_s / 200_000)
    assert type(Wire().replicas[0].residency) is Residency


def test_a_large_tier_remembers_no_more_moments_than_a_gpu() -> None:
    """A GPU that turns over within seconds never has many moments; what fell from it in a day is in the tier."""
    residency = TieredResidency((Tier("remote", 10**12, 10e-6), DISK))
    residency.price(COMPUTE_S)
    residency.resize(1_000)
    for number in range(20_000):
        residency.touch(500, number / 16)
    (remote, _) = residency._levels
    assert len(remote.buckets) <= MAX_BUCKETS
    assert remote.held == sum(remote.buckets.values()) == 500 * (20_000 - 2)
    assert residency.resident_ratio(0.0) == pytest.approx(0.9)
    assert residency.resident_ratio(19_999 / 16) == 1.0
    residency.begin(500, [500], [100.0], 1251.0)
    assert remote.held == 500 * (20_000 - 2) - 500 + 500, "one came up, and pushed another down"


def test_a_tier_follows_where_the_gpus_own_moments_become_longer() -> None:
    residency = TieredResidency((Tier("host", 10**9, 10e-6),))
    residency.price(COMPUTE_S)
    residency.resize(1_000)
    for number in range(3_000):
        residency.touch(500, number / 16)
    residency.resize(10**9)
    for number in range(3_000, 6_000):
        residency.touch(500, number / 16)
    (host,) = residency._levels
    assert host.held == sum(host.buckets.values()) == 500 * 2_998
    for number in (0, 1_000, 2_900):
        assert residency.resident_ratio(number / 16) == pytest.approx(0.9)
    assert residency.resident_ratio(4_000 / 16) == 1.0
