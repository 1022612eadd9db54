"""Caches emptied at our request: another incarnation, that every router comes to know."""

from __future__ import annotations

import asyncio
from random import Random

from warmroute.adapters.registry.memory import MemoryRegistry
from warmroute.core.choice.cost import CostParameters
from warmroute.core.choice.policies import POLICIES
from warmroute.core.fleet.fleet import Fleet, ProbeSucceeded, ReplicaAdded, ReplicaRemoved
from warmroute.core.health.health import HealthParameters
from warmroute.core.types import Incarnation, ReplicaId
from warmroute.service.lives import RENEW_S, Lives
from warmroute.tasks import Tasks

A = ReplicaId("a:1")
TOLD = Incarnation(5)


class Router:
    """What one router has of it, before a registry that others share."""

    def __init__(self, registry: MemoryRegistry, clock: list[float]) -> None:
        parameters = CostParameters()
        self.fleet = Fleet(POLICIES["round-robin"](parameters), Random(1), parameters, HealthParameters())
        self.lives = Lives(self.fleet, registry, Tasks(), lambda: clock[0], shared=True)
        self.clock = clock
        self.fleet.apply(ReplicaAdded(A, "http://a:1"))
        self.probe()

    def probe(self, told: Incarnation = TOLD) -> None:
        incarnation = self.lives.now(A, told)
        self.fleet.apply(ProbeSucceeded(A, incarnation, ["m"], None, None, self.clock[0], True, told))

    @property
    def incarnation(self) -> Incarnation | None:
        return self.fleet.replicas[A].incarnation

    def look(self) -> None:
        asyncio.run(self.lives.look())


def routers(count: int) -> tuple[list[Router], list[float], MemoryRegistry]:
    clock = [1000.0]
    registry = MemoryRegistry(idle_s=300.0, max_entries=1000, clock=lambda: clock[0])
    return [Router(registry, clock) for _ in range(count)], clock, registry


def test_an_emptied_cache_has_another_incarnation_which_probes_do_not_take_back() -> None:
    (one,), _, _ = routers(1)
    assert one.incarnation == TOLD
    one.lives.emptied([A, ReplicaId("never heard of")])
    renewed = one.incarnation
    assert renewed not in (TOLD, None)
    one.probe()
    assert one.incarnation == renewed
    assert one.fleet.servers[A].restarts == 0


def test_other_routers_follow_and_those_that_start_later_too() -> None:
    (one, two), clock, registry = routers(2)
    one.lives.emptied([A])
    assert two.incarnation == TOLD
    two.look()
    assert two.incarnation == one.incarnation
    clock[0] += 1.0
    two.lives.emptied([A])
    late = Router(registry, clock)
    for router in (one, late):
        router.look()
        assert router.incarnation == two.incarnation
    one.look()
    assert one.incarnation == two.incarnation, "the latest counts, however often one looks"


def test_the_note_lives_as_long_as_the_process() -> None:
    (one,), clock, registry = routers(1)
    one.lives.emptied([A])
    for _ in range(20):
        clock[0] += RENEW_S + 1.0
        one.look()
    late = Router(registry, clock)
    late.look()
    assert late.incarnation == one.incarnation
    one.probe(Incarnation(6))
    assert one.incarnation == 6, "a restarted engine is what its probe tells"
    assert one.fleet.servers[A].restarts == 1


def test_nothing_is_kept_of_servers_that_left() -> None:
    (one,), _, _ = routers(1)
    one.lives.emptied([A])
    one.fleet.apply(ReplicaRemoved(A))
    for number in range(5):
        server = ReplicaId(f"b:{number}")
        one.fleet.apply(ReplicaAdded(server, f"http://b:{number}"))
        one.lives.now(server, Incarnation(100 + number))
        one.fleet.apply(ReplicaRemoved(server))
    assert len(one.lives._told) <= 2
    assert not one.lives._renewed
