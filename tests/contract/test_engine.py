"""What everybody who asks replicas how they are does: the HTTP adapter, and the fake that other tests use."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tests.support.engines import WORLDS, EngineWorld
from warmroute.core.health.health import FailureReason
from warmroute.core.types import ReplicaId

Scenario = Callable[[EngineWorld], Awaitable[None]]
Play = Callable[[Scenario], None]


@pytest.fixture(params=list(WORLDS))
def play(request: pytest.FixtureRequest) -> Play:
    """Runs a scenario in a world that is up, and sees to it that it leaves no task behind."""

    async def played(scenario: Scenario) -> None:
        world = WORLDS[request.param]()
        await world.start()
        try:
            async with asyncio.timeout(60):
                await scenario(world)
        finally:
            await world.stop()

    def run(scenario: Scenario) -> None:
        asyncio.run(played(scenario))

    return run


def test_a_well_replica_is_alive_and_tells_who_it_is_and_what_it_serves(play: Play) -> None:
    async def scenario(world: EngineWorld) -> None:
        result = await world.probe()
        assert result.alive
        assert result.failure is None
        assert result.detail is None
        assert result.incarnation is not None
        assert 0 < result.incarnation < 1 << 48
        assert result.models is not None
        assert world.model in result.models
        assert result.block_tokens is None or result.block_tokens > 0
        assert result.cache_tokens is None or result.cache_tokens > 0

    play(scenario)


def test_one_life_has_one_incarnation(play: Play) -> None:
    async def scenario(world: EngineWorld) -> None:
        lives = {(await world.probe()).incarnation for _ in range(3)}
        world.engine.read_again(world.replica_id)
        lives.add((await world.probe()).incarnation)
        assert len(lives) == 1

    play(scenario)


def test_a_restart_is_told_by_another_incarnation_however_short_the_absence(play: Play) -> None:
    async def scenario(world: EngineWorld) -> None:
        lives = []
        for _ in range(3):
            result = await world.probe()
            assert result.alive
            lives.append(result.incarnation)
            await world.restart()
        assert len(set(lives)) == 3

    play(scenario)


def test_a_replica_that_is_gone_is_not_alive_for_a_reason_and_raises_nothing(play: Play) -> None:
    async def scenario(world: EngineWorld) -> None:
        await world.probe()
        await world.go_down()
        for _ in range(2):
            result = await world.probe()
            assert not result.alive
            assert result.failure is FailureReason.REFUSED
            assert result.detail
            assert result.incarnation is None

    play(scenario)


def test_models_are_told_as_the_next_probes_will_tell_them(play: Play) -> None:
    async def scenario(world: EngineWorld) -> None:
        await world.probe()
        await world.serve_also("sql")
        told = await world.models()
        assert told is not None
        assert {world.model, "sql"} <= set(told)
        assert (await world.probe()).models == told

    play(scenario)


def test_nothing_is_told_of_a_replica_that_was_never_probed_or_is_forgotten(play: Play) -> None:
    async def scenario(world: EngineWorld) -> None:
        assert await world.models() is None
        await world.probe()
        assert await world.models() is not None
        world.engine.forget(world.replica_id)
        assert await world.models() is None

    play(scenario)


def test_what_may_have_changed_is_read_at_the_next_probe(play: Play) -> None:
    async def scenario(world: EngineWorld) -> None:
        await world.probe()
        await world.serve_also("sql")
        world.engine.read_again(world.replica_id)
        models = (await world.probe()).models
        assert models is not None
        assert "sql" in models

    play(scenario)


def test_a_forgotten_replica_is_probed_as_a_new_one(play: Play) -> None:
    async def scenario(world: EngineWorld) -> None:
        before = await world.probe()
        world.engine.forget(world.replica_id)
        world.engine.forget(ReplicaId("never seen"))
        world.engine.read_again(ReplicaId("never seen"))
        assert await world.probe() == before

    play(scenario)


def test_models_may_be_asked_beside_a_probe(play: Play) -> None:
    async def scenario(world: EngineWorld) -> None:
        first = await world.probe()
        result, told = await asyncio.gather(world.probe(), world.models())
        assert result == first
        assert told == first.models

    play(scenario)
