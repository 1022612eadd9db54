"""How long records are kept, by how long caches turned out to keep prefixes."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.support.fleet_simulation import ready_fleet
from warmroute.adapters.registry.memory import MemoryRegistry
from warmroute.core.beliefs.idle_time import MARGIN_RATIO, IdleTime
from warmroute.core.beliefs.survival import LEAST_LESSONS
from warmroute.core.fleet.fleet import Fleet, ProbeSucceeded, ReplicaAdded
from warmroute.core.fleet.replica import Replica
from warmroute.core.types import Incarnation, ReplicaId
from warmroute.service.expiry import Expiry
from warmroute.tasks import Tasks

LEAST_S = 300.0
MOST_S = 3600.0


def replicas(fleet: Fleet) -> list[Replica]:
    return list(fleet.replicas.values())


def idle_s(fleet: Fleet) -> float:
    return IdleTime(LEAST_S, MOST_S).idle_s(fleet.replicas.values(), 0.0)


def teach(replica: Replica, kept_s: float, oldest_s: int = 2000) -> None:
    """Prefixes of every age were asked for; those older than `kept_s` were gone."""
    for age_s in range(4, oldest_s, 4):
        replica.survival.learn(float(age_s), 1.0 if age_s <= kept_s else 0.0)


def serves(fleet: Fleet, name: str, life: int, model: str) -> Replica:
    fleet.apply(ReplicaAdded(ReplicaId(name), f"http://{name}"))
    fleet.apply(ProbeSucceeded(ReplicaId(name), Incarnation(life), [model], 16, None, 0.0))
    return fleet.replicas[ReplicaId(name)]


def test_while_nothing_is_known_records_are_kept_as_long_as_is_allowed() -> None:
    assert idle_s(ready_fleet(3)) == MOST_S
    assert IdleTime(LEAST_S, MOST_S).idle_s([], 0.0) == MOST_S


def test_prefixes_that_are_found_are_no_reason_to_forget_any() -> None:
    fleet = ready_fleet(2)
    for replica in replicas(fleet):
        teach(replica, kept_s=1e9, oldest_s=100)
    assert idle_s(fleet) == MOST_S


def test_records_are_kept_for_a_margin_longer_than_the_longest_cache() -> None:
    fleet = ready_fleet(2)
    one, other = replicas(fleet)
    teach(one, kept_s=100.0)
    teach(other, kept_s=256.0)
    assert idle_s(fleet) == MARGIN_RATIO * 256.0


def test_the_bounds_hold_for_caches_that_keep_nothing_and_for_such_that_keep_it_long() -> None:
    fleet = ready_fleet(1)
    (replica,) = replicas(fleet)
    teach(replica, kept_s=0.0)
    assert idle_s(fleet) == LEAST_S
    replica.survival.clear()
    teach(replica, kept_s=1200.0, oldest_s=9000)
    assert idle_s(fleet) == MOST_S


def test_a_new_replica_is_taken_to_be_like_its_fellows() -> None:
    fleet = ready_fleet(2)
    teach(replicas(fleet)[0], kept_s=128.0)
    assert idle_s(fleet) == MARGIN_RATIO * 128.0


def test_replicas_of_another_model_are_not_like_it() -> None:
    fleet = ready_fleet(1)
    teach(replicas(fleet)[0], kept_s=128.0)
    other = serves(fleet, "other", 9, "another model")
    assert idle_s(fleet) == MOST_S
    teach(other, kept_s=256.0)
    assert idle_s(fleet) == MARGIN_RATIO * 256.0


def test_a_replica_that_was_never_seen_holds_nothing_and_counts_for_nothing() -> None:
    fleet = ready_fleet(1)
    teach(replicas(fleet)[0], kept_s=128.0)
    fleet.apply(ReplicaAdded(ReplicaId("new"), "http://new"))
    assert idle_s(fleet) == MARGIN_RATIO * 128.0


def test_a_few_misses_are_not_believed() -> None:
    fleet = ready_fleet(1)
    (replica,) = replicas(fleet)
    for _ in range(LEAST_LESSONS - 1):
        replica.survival.learn(20.0, 0.0)
    assert idle_s(fleet) == MOST_S
    replica.survival.learn(20.0, 0.0)
    assert idle_s(fleet) == LEAST_S


def test_misses_among_the_young_do_not_count_where_older_prefixes_are_found() -> None:
    fleet = ready_fleet(1)
    (replica,) = replicas(fleet)
    for _ in range(50):
        replica.survival.learn(5.0, 0.0)
        replica.survival.learn(600.0, 1.0)
    assert replica.survival.lifetime_s() == 4.0
    assert idle_s(fleet) == MOST_S


def test_what_was_missed_long_ago_no_longer_holds() -> None:
    fleet = ready_fleet(1)
    (replica,) = replicas(fleet)
    teach(replica, kept_s=20.0)
    idle_time = IdleTime(LEAST_S, MOST_S)
    assert idle_time.idle_s(fleet.replicas.values(), 1000.0) == LEAST_S
    assert idle_time.idle_s(fleet.replicas.values(), 999.0 + MOST_S) == LEAST_S
    assert idle_time.idle_s(fleet.replicas.values(), 1001.0 + MOST_S) == MOST_S, "no miss for so long"
    replica.survival.learn(600.0, 0.0)
    assert idle_time.idle_s(fleet.replicas.values(), 1002.0 + MOST_S) == LEAST_S


def test_bounds_out_of_order_are_refused() -> None:
    for bounds in ((0.0, 1.0), (2.0, 1.0)):
        with pytest.raises(ValueError, match="in order"):
            IdleTime(*bounds)


def expiry(fleet: Fleet, registry: MemoryRegistry, least_s: float = LEAST_S) -> Expiry:
    return Expiry(fleet, registry, Tasks(), least_s=least_s, most_s=MOST_S, clock=lambda: 0.0)


def test_the_registry_follows_what_is_learnt() -> None:
    fleet, registry = ready_fleet(1), MemoryRegistry(idle_s=MOST_S)
    keeper = expiry(fleet, registry)
    keeper.step()
    assert registry.statistics()["idle_s"] == MOST_S
    teach(replicas(fleet)[0], kept_s=128.0)
    keeper.step()
    assert registry.statistics()["idle_s"] == MARGIN_RATIO * 128.0
    replicas(fleet)[0].survival.clear()
    keeper.step()
    assert registry.statistics()["idle_s"] == MOST_S


def test_a_fixed_time_needs_no_task() -> None:
    async def scenario() -> None:
        for least_s, count in ((LEAST_S, 1), (MOST_S, 0)):
            tasks = Tasks()
            fleet, registry = ready_fleet(1), MemoryRegistry(idle_s=MOST_S)
            Expiry(fleet, registry, tasks, least_s=least_s, most_s=MOST_S, clock=lambda: 0.0).start()
            assert len(tasks) == count
            await tasks.stop()

    asyncio.run(scenario())


def test_caches_that_come_to_keep_prefixes_longer_are_found_out_through_the_registry() -> None:
    """What the registry has forgotten, nothing can be learnt of: the margin has to reach it."""
    fleet, registry, dice = ready_fleet(1), MemoryRegistry(idle_s=MOST_S), random.Random(1)
    keeper = expiry(fleet, registry)
    survival = replicas(fleet)[0].survival
    for kept_s in (30.0, 3000.0):
        for _ in range(3000):
            age_s = 4.0 * 1.01 ** dice.randrange(700)
            if age_s <= registry.statistics()["idle_s"]:
                survival.learn(age_s, 1.0 if age_s <= kept_s else 0.0)
            keeper.step()
        assert registry.statistics()["idle_s"] == (LEAST_S if kept_s < 100 else MOST_S)
