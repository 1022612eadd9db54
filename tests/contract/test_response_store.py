"""One suite over every place that keeps recorded responses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from itertools import count

import pytest

from tests.support.redis_server import RedisServer
from warmroute.adapters.caching import responses_redis
from warmroute.adapters.caching.responses_memory import (
    ENTRY_BYTES,
    GROUP_PART,
    GROUP_RECORDS,
    MemoryResponses,
)
from warmroute.adapters.caching.responses_redis import RedisResponses
from warmroute.adapters.resp.link import RedisLink
from warmroute.ports import ResponseStore

NOW_S = 1_900_000_000.25
PATIENT_S = 30.0
Test = Callable[[ResponseStore], Awaitable[None]]
Run = Callable[..., None]
_namespaces = count()


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


@pytest.fixture(params=["memory", "redis"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a test against a store of its own."""

    def started(test: Test, records: int = 10_000, records_bytes: int = 1 << 30) -> None:
        async def whole() -> None:
            store: ResponseStore = MemoryResponses(records, records_bytes)
            if request.param == "redis":
                link = RedisLink(request.getfixturevalue("server").url, name="responses")
                name = f"c{next(_namespaces)}"
                store = RedisResponses(link, records, records_bytes, deadline_s=PATIENT_S, namespace=name)
            await store.start()
            assert store.healthy
            await test(store)
            await store.stop()

        asyncio.run(whole())

    return started


def test_what_was_added_is_found_until_it_expires(run: Run) -> None:
    async def test(store: ResponseStore) -> None:
        assert (await store.find("a", NOW_S)).record is None
        assert await store.add("a", b"\x00one\r\n", NOW_S, NOW_S + 10.0)
        assert (await store.find("a", NOW_S + 9.9)).record == b"\x00one\r\n"
        assert (await store.find("b", NOW_S)).record is None
        assert store.figures()["records"] == 1
        assert (await store.find("a", NOW_S + 10.0)).record is None
        await store.find("b", NOW_S + 10.0)
        assert store.figures() == {"records": 0, "bytes": 0, "late": 0}
        assert not await store.add("a", b"late", NOW_S, NOW_S)

    run(test)


def test_a_key_has_one_record_the_latest(run: Run) -> None:
    async def test(store: ResponseStore) -> None:
        await store.add("a", b"x" * 100, NOW_S, NOW_S + 10.0, group="g", near=b"1")
        await store.add("a", b"y", NOW_S + 1.0, NOW_S + 20.0, group="h", near=b"22")
        assert (await store.find("a", NOW_S + 15.0)).record == b"y"
        assert store.figures() == {"records": 1, "bytes": 1 + 2 + ENTRY_BYTES, "late": 0}
        assert (await store.find("-", NOW_S + 15.0, group="g")).near == []
        ((_, key, near),) = (await store.find("-", NOW_S + 15.0, group="h")).near
        assert (key, near) == ("a", b"22")
        await store.remove("a")
        await store.remove("a")
        assert (await store.find("a", NOW_S, group="h")) == (await store.find("nobody", NOW_S))
        assert store.figures()["bytes"] == 0

    run(test)


def test_the_least_used_give_way_to_a_bound_of_records(run: Run) -> None:
    async def test(store: ResponseStore) -> None:
        for at, key in enumerate("abc"):
            await store.add(key, b"x", NOW_S + at, NOW_S + 100.0)
        assert (await store.find("a", NOW_S + 4.0)).record == b"x"
        await store.add("d", b"x", NOW_S + 5.0, NOW_S + 100.0)
        found = [key for key in "abcd" if (await store.find(key, NOW_S + 6.0)).record]
        assert found == ["a", "c", "d"]
        assert store.figures()["records"] == 3

    run(test, records=3)


def test_the_least_used_give_way_to_a_bound_of_bytes(run: Run) -> None:
    async def test(store: ResponseStore) -> None:
        for at, key in enumerate("abc"):
            assert await store.add(key, b"x" * 1000, NOW_S + at, NOW_S + 100.0)
        assert await store.add("d", b"x" * 1500, NOW_S + 5.0, NOW_S + 100.0)
        found = [key for key in "abcd" if (await store.find(key, NOW_S + 6.0)).record]
        assert found == ["c", "d"]
        assert store.figures()["bytes"] == 2500 + 2 * ENTRY_BYTES
        assert not await store.add("c", b"x" * 5000, NOW_S + 7.0, NOW_S + 100.0), (
            "more than there is room for"
        )
        assert (await store.find("d", NOW_S + 8.0)).record, "nobody gave way to it"

    run(test, records_bytes=3 * (1000 + ENTRY_BYTES))


def test_a_group_tells_what_is_new_in_it_part_by_part(run: Run) -> None:
    async def test(store: ResponseStore) -> None:
        for number in range(GROUP_PART + 2):
            await store.add(f"k{number}", b"r", NOW_S, NOW_S + 100.0, group="g", near=b"n%d" % number)
        await store.add("other", b"r", NOW_S, NOW_S + 100.0, group="h", near=b"n")
        first = (await store.find("-", NOW_S, group="g")).near
        assert [key for _, key, _ in first] == [f"k{number}" for number in range(GROUP_PART)]
        after = first[-1][0]
        rest = (await store.find("-", NOW_S, group="g", after=after)).near
        assert [(key, near) for _, key, near in rest] == [("k100", b"n100"), ("k101", b"n101")]
        numbers = [number for number, _, _ in (*first, *rest)]
        assert numbers == sorted(set(numbers))
        assert (await store.find("-", NOW_S, group="g", after=numbers[-1])).near == []
        found = await store.find("k0", NOW_S, group="g")
        assert (found.record, list(found.near)) == (b"r", []), "who has its answer needs no others"
        assert (await store.find("-", NOW_S + 100.0, group="g")).near == []

    run(test)


def test_a_group_is_bounded_and_what_gives_way_in_it_is_still_found(run: Run) -> None:
    async def test(store: ResponseStore) -> None:
        for number in range(GROUP_RECORDS + 1):
            await store.add(f"k{number}", b"r", NOW_S, NOW_S + 100.0, group="g", near=b"n")
        first = (await store.find("-", NOW_S, group="g")).near
        assert first[0][1] == "k1"
        assert (await store.find("k0", NOW_S)).record == b"r"

    run(test)


def test_what_gave_way_is_in_no_group(run: Run) -> None:
    async def test(store: ResponseStore) -> None:
        for at, key in enumerate("abc"):
            await store.add(key, b"r", NOW_S + at, NOW_S + 100.0, group="g", near=b"n")
        near = (await store.find("-", NOW_S + 9.0, group="g")).near
        assert [key for _, key, _ in near] == ["b", "c"]

    run(test, records=2)


def test_a_server_that_is_late_has_nothing_and_is_soon_not_waited_for() -> None:
    async def test() -> None:
        with RedisServer() as own:
            store = RedisResponses(RedisLink(own.url), 100, 1 << 20, deadline_s=0.02)
            await store.start()
            async with asyncio.timeout(60):
                while not await store.add("a", b"x", NOW_S, NOW_S + 100.0):
                    await asyncio.sleep(0.02)
                while (await store.find("a", NOW_S)).record is None:
                    await asyncio.sleep(0.02)
                own.pause()
                late = store.figures()["late"]
                while store.figures()["late"] == late or (began_s := time.monotonic()) <= 0.0:
                    assert (await store.find("a", NOW_S)).record is None
                while time.monotonic() - began_s > 0.005:  # now and then one is tried
                    began_s = time.monotonic()
                    assert (await store.find("a", NOW_S)).record is None
                own.resume()
                while (await store.find("a", NOW_S)).record is None:
                    await asyncio.sleep(0.02)
            await store.stop()

    asyncio.run(test())


def test_a_server_that_is_away_has_nothing_and_takes_nothing() -> None:
    async def test() -> None:
        with RedisServer() as own:
            store = RedisResponses(RedisLink(own.url), 100, 1 << 20, deadline_s=PATIENT_S)
            await store.start()
            assert await store.add("a", b"x", NOW_S, NOW_S + 100.0)
            own.kill()
            async with asyncio.timeout(60):
                while store.healthy:
                    await asyncio.sleep(0.02)
            assert (await store.find("a", NOW_S)).record is None
            assert not await store.add("b", b"x", NOW_S, NOW_S + 100.0)
            await store.remove("a")
            await store.stop()

    asyncio.run(test())


def test_a_server_that_forgot_everything_begins_anew() -> None:
    async def test() -> None:
        with RedisServer() as own:
            store = RedisResponses(RedisLink(own.url), 100, 1 << 20, deadline_s=PATIENT_S)
            await store.start()
            await store.add("a", b"x", NOW_S, NOW_S + 100.0, group="g", near=b"n")
            ((number, _, _),) = (await store.find("-", NOW_S, group="g")).near
            own.command("FLUSHALL")
            own.command("SCRIPT", "FLUSH")
            assert (await store.find("a", NOW_S)).record is None
            assert await store.add("b", b"x", NOW_S, NOW_S + 100.0, group="g", near=b"n")
            ((later, key, _),) = (await store.find("-", NOW_S, group="g", after=number)).near
            assert (key, later > number) == ("b", True)
            await store.stop()

    asyncio.run(test())


def test_a_record_that_the_server_evicted_is_counted_out() -> None:
    async def test() -> None:
        with RedisServer() as own:
            store = RedisResponses(RedisLink(own.url), 100, 1 << 20, deadline_s=PATIENT_S)
            await store.start()
            await store.add("a", b"x", NOW_S, NOW_S + 100.0, group="g", near=b"n")
            assert 0 < own.command("PTTL", "w:{responses}:r:a") <= 100_000
            own.command("DEL", "w:{responses}:r:a")
            assert (await store.find("-", NOW_S, group="g")).near == []
            assert store.figures() == {"records": 0, "bytes": 0, "late": 0}
            await store.stop()

    asyncio.run(test())


def test_where_a_bound_was_lowered_the_server_is_not_held_up(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(responses_redis, "MOST_GONE", 10)

    async def test() -> None:
        link = RedisLink(server.url, name="responses")
        before, after = (
            RedisResponses(link, records, 1 << 30, deadline_s=PATIENT_S, namespace="lowered")
            for records in (100, 5)
        )
        await before.start()
        for number in range(20):
            assert await before.add(f"k{number}", b"x", NOW_S + number, NOW_S + 1000.0)
        kept = []
        for number in range(3):
            kept.append(await after.add(f"n{number}", b"x", NOW_S + 100.0 + number, NOW_S + 1000.0))
            kept.append(after.figures()["records"])
        assert kept == [False, 10, True, 5, True, 5]
        await before.stop()

    asyncio.run(test())
