"""Several routers before one simulated fleet: what each knows of the others, and that together they do as one does."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.fleet_simulation import ready_fleet
from warmroute.config.schema import RegistryConfig
from warmroute.core.types import FingerprintHash, Incarnation
from warmroute.service.expiry import INTERVAL_S
from warmroute_loadtest.simulate.generators import multi_turn
from warmroute_loadtest.simulate.metrics import figures
from warmroute_loadtest.simulate.registry import VISIBLE_S, VirtualRegistry
from warmroute_loadtest.simulate.routers import several
from warmroute_loadtest.simulate.simulation import FleetConfig, simulate
from warmroute_loadtest.simulate.warm import Warm, warm
from warmroute_loadtest.simulate.workload import Session, Turn, Workload

SMALL = FleetConfig(replicas=4, cache_tokens=400_000)
RUNGS = [FingerprintHash(1), FingerprintHash(2)]


def registries(count: int, **settings: float) -> list[VirtualRegistry]:
    """That tell each other, of routers with a fleet of two."""
    made = [VirtualRegistry(ready_fleet(2), replace(RegistryConfig(), **settings)) for _ in range(count)]
    for registry in made:
        registry.share(made)
    return made


def test_a_placement_is_seen_at_once_by_its_router_and_a_little_later_by_others() -> None:
    one, two, three = registries(3)
    assert one.lookup(RUNGS, 1.0) == [None, None]
    one.touch(RUNGS[:1], Incarnation(7), 1.0)
    assert one.lookup(RUNGS, 1.0) == [((7, 1.0),), None]
    two.touch(RUNGS, Incarnation(8), 1.0 + VISIBLE_S / 2)
    assert two.lookup(RUNGS, 1.0 + VISIBLE_S / 2) == [((8, 1.0 + VISIBLE_S / 2),)] * 2
    assert two.lookup(RUNGS[:1], 1.0 + VISIBLE_S) == [((8, 1.0 + VISIBLE_S / 2), (7, 1.0))]
    assert three.lookup(RUNGS, 1.0 + VISIBLE_S) == [((7, 1.0),), None]
    assert three.lookup(RUNGS, 1.0 + 2 * VISIBLE_S) == [
        ((7, 1.0), (8, 1.0 + VISIBLE_S / 2)),
        ((8, 1.0 + VISIBLE_S / 2),),
    ]


def test_a_registry_alone_tells_nobody_and_forgets_by_the_settings() -> None:
    (alone,) = registries(1, idle_min_s=60.0, idle_max_s=60.0)
    alone.touch(RUNGS, Incarnation(7), 5.0)
    assert alone.lookup(RUNGS, 64.0) == [((7, 5.0),)] * 2
    assert alone.lookup(RUNGS, 66.0) == [None, None]


def test_what_answers_teach_shortens_how_long_placements_are_kept() -> None:
    fleet = ready_fleet(1)
    registry = VirtualRegistry(fleet)
    assert registry.idle_s == RegistryConfig().idle_max_s
    (replica,) = fleet.replicas.values()
    for _ in range(20):
        replica.survival.learn(50.0, 1.0)
        replica.survival.learn(200.0, 0.0)
    registry.lookup(RUNGS, INTERVAL_S + 1.0)
    assert registry.idle_s == 512.0
    registry.touch(RUNGS, Incarnation(7), 20.0)
    assert registry.lookup(RUNGS, 531.0) == [((7, 20.0),)] * 2
    assert registry.lookup(RUNGS, 533.0) == [None, None]


def test_a_simulated_router_learns_how_long_to_keep_placements() -> None:
    run = simulate(
        multi_turn(600).at_rate(2.0), replace(SMALL, replicas=2, cache_tokens=120_000), warm("prefix-cost")
    )
    assert isinstance(run.chooser, Warm)
    assert RegistryConfig().idle_min_s <= run.chooser.registry.idle_s < RegistryConfig().idle_max_s


@pytest.mark.parametrize("policy", ["prefix-cost", "least-loaded"])
def test_several_routers_serve_every_request_once(policy: str) -> None:
    workload = multi_turn(120)
    run = simulate(workload, SMALL, several(policy, 3))
    assert sorted(s.turn.id for s in run.served) == sorted(t.id for s in workload.sessions for t in s.turns)


def test_the_same_seed_gives_the_same_run() -> None:
    times = [
        [s.ttft_s for s in simulate(multi_turn(60), SMALL, several("prefix-cost", 3)).served]
        for _ in range(2)
    ]
    assert times[0] == times[1]


def test_four_routers_find_what_one_finds_and_leave_as_even_a_fleet() -> None:
    workload = multi_turn(1500).at_rate(2.0)
    alone = figures(simulate(workload, SMALL, warm("prefix-cost", hold=None)))
    four = figures(simulate(workload, SMALL, several("prefix-cost", 4, hold=None)))
    assert abs(four.cached_ratio - alone.cached_ratio) < 0.01
    assert four.ttft_mean_s < 1.1 * alone.ttft_mean_s
    assert four.uncached_imbalance < alone.uncached_imbalance + 0.1


def test_starts_of_one_moment_are_spread_until_the_next() -> None:
    starts_s = [0.0, 0.0, 3.0, 3.0, 3.0, 9.0, 9.0]
    sessions = [Session(at_s, [Turn(str(i), 10, 1, ())]) for i, at_s in enumerate(starts_s)]
    spread = Workload("test", 16, sessions).spread()
    assert [session.start_s for session in spread.sessions] == [0.0, 1.5, 3.0, 5.0, 7.0, 9.0, 12.0]
    assert [session.turns[0].id for session in spread.sessions] == [s.turns[0].id for s in sessions]
