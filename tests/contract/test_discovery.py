"""What every source of members does: the settings, and whatever else `router/warmroute/adapters/discovery` holds."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing
from typing import cast

import pytest

from tests.support.discovery_worlds import WORLDS, Report, World
from warmroute.ports import Discovery, Member

Members = tuple[Member, ...]
Scenario = Callable[[World, Report], Awaitable[None]]

PATIENCE_S = 60.0


THAT_DRAIN = [name for name, world in WORLDS.items() if world.drains]
THAT_FAIL = [name for name, world in WORLDS.items() if world.fails]


@pytest.fixture(params=list(WORLDS))
def play(request: pytest.FixtureRequest) -> Callable[[Scenario], None]:
    """Runs a scenario in a world that is up, and sees to it that it leaves nothing behind."""

    def run(scenario: Scenario) -> None:
        asyncio.run(played(WORLDS[request.param](), scenario))

    return run


async def played(world: World, scenario: Scenario) -> None:
    """Run a scenario in a world that is brought up for it, and see to it that it leaves nothing behind."""
    await world.start()
    try:
        before = asyncio.all_tasks()
        await scenario(world, Report())
        async with asyncio.timeout(PATIENCE_S):
            while asyncio.all_tasks() - before:  # the world's own see connections close a moment later
                await asyncio.sleep(0.001)
    finally:
        await world.stop()


def watching(discovery: Discovery) -> aclosing[AsyncGenerator[Members, None]]:
    return aclosing(cast("AsyncGenerator[Members, None]", discovery.watch()))


async def until_named(seen: AsyncGenerator[Members, None], *wanted: Member) -> None:
    """Read until exactly these are named; what is named on the way must at least be well formed."""
    async with asyncio.timeout(PATIENCE_S):
        async for members in seen:
            assert_well_formed(members)
            if plain(members) == plain(wanted):
                return
    pytest.fail("the source ended")


def assert_well_formed(members: Members) -> None:
    assert len({member.replica_id for member in members}) == len(members)
    for member in members:
        assert member.url.startswith(("http://", "https://"))
        assert member.replica_id


def plain(members: Iterable[Member]) -> set[tuple[str, str, bool]]:
    return {(member.replica_id, member.url, member.draining) for member in members}


def test_what_is_there_is_named_at_once(play: Callable[[Scenario], None]) -> None:
    async def scenario(world: World, report: Report) -> None:
        a, b, _ = world.candidates
        await world.name(a, b)
        async with watching(world.discovery(report)) as seen:
            await until_named(seen, a, b)

    play(scenario)


def test_every_change_is_named(play: Callable[[Scenario], None]) -> None:
    async def scenario(world: World, report: Report) -> None:
        a, b, c = world.candidates
        await world.name(a)
        async with watching(world.discovery(report)) as seen:
            await until_named(seen, a)
            for members in ((a, b), (b,), (b, c), (a, c), (a,)):
                await world.name(*members)
                await until_named(seen, *members)

    play(scenario)


def test_nobody_is_an_answer_too(play: Callable[[Scenario], None]) -> None:
    async def scenario(world: World, report: Report) -> None:
        a, b, _ = world.candidates
        await world.name(a, b)
        async with watching(world.discovery(report)) as seen:
            await until_named(seen, a, b)
            await world.name()
            await until_named(seen)
            await world.name(b)
            await until_named(seen, b)

    play(scenario)


def test_two_routers_name_the_same_ids(play: Callable[[Scenario], None]) -> None:
    async def scenario(world: World, report: Report) -> None:
        a, b, c = world.candidates
        await world.name(c, a, b)
        for discovery in (world.discovery(report), world.discovery(report)):
            async with watching(discovery) as seen:
                await until_named(seen, a, b, c)

    play(scenario)


def test_a_watch_that_ended_can_begin_anew(play: Callable[[Scenario], None]) -> None:
    async def scenario(world: World, report: Report) -> None:
        a, b, c = world.candidates
        await world.name(a)
        discovery = world.discovery(report)
        for members in ((a,), (b, c)):
            await world.name(*members)
            async with watching(discovery) as seen:
                await until_named(seen, *members)

    play(scenario)


def test_a_watch_that_is_cancelled_while_it_waits_leaves_nothing(play: Callable[[Scenario], None]) -> None:
    async def scenario(world: World, report: Report) -> None:
        a, _, _ = world.candidates
        await world.name(a)
        async with watching(world.discovery(report)) as seen:
            await until_named(seen, a)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(seen), 0.05)

    play(scenario)


@pytest.mark.parametrize("play", THAT_DRAIN, indirect=True)
def test_a_member_that_is_to_leave_is_named_as_draining(play: Callable[[Scenario], None]) -> None:
    async def scenario(world: World, report: Report) -> None:
        a, b, _ = world.candidates
        await world.name(a, b)
        async with watching(world.discovery(report)) as seen:
            await until_named(seen, a, b)
            leaving = dataclasses.replace(a, draining=True)
            await world.name(leaving, b)
            await until_named(seen, leaving, b)
            await world.name(b)
            await until_named(seen, b)

    play(scenario)


@pytest.mark.parametrize("play", THAT_FAIL, indirect=True)
def test_a_source_that_fails_names_nobody_says_so_and_catches_up(play: Callable[[Scenario], None]) -> None:
    async def scenario(world: World, report: Report) -> None:
        a, b, c = world.candidates
        await world.name(a, b)
        async with watching(world.discovery(report)) as seen:
            await until_named(seen, a, b)
            assert report.successes
            await world.fail()
            following = asyncio.create_task(anext(seen))
            async with asyncio.timeout(PATIENCE_S):
                while len(report.failures) < 2:
                    await asyncio.sleep(0.01)
            assert not following.done(), "the last members stay"
            assert all(detail for _, detail in report.failures)
            await world.name(b, c)
            await world.mend()
            async with asyncio.timeout(PATIENCE_S):
                members = await following
            if plain(members) != plain((b, c)):
                await until_named(seen, b, c)
            before = report.successes
            async with asyncio.timeout(PATIENCE_S):
                await world.name(a, b, c)
                await until_named(seen, a, b, c)
            assert report.successes > before

    play(scenario)


@pytest.mark.parametrize("play", THAT_FAIL, indirect=True)
def test_a_source_that_fails_from_the_start_is_used_once_it_is_there(
    play: Callable[[Scenario], None],
) -> None:
    async def scenario(world: World, report: Report) -> None:
        a, b, _ = world.candidates
        await world.name(a, b)
        await world.fail()
        async with watching(world.discovery(report)) as seen:
            first = asyncio.create_task(anext(seen))
            async with asyncio.timeout(PATIENCE_S):
                while not report.failures:
                    await asyncio.sleep(0.01)
            assert not first.done()
            await world.mend()
            async with asyncio.timeout(PATIENCE_S):
                members = await first
            if plain(members) != plain((a, b)):
                await until_named(seen, a, b)

    play(scenario)
