"""One suite over every place that keeps prompt schemas."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from itertools import count

import pytest

from tests.support.redis_server import RedisServer
from warmroute.adapters.caching.schemas_memory import MemorySchemas
from warmroute.adapters.caching.schemas_redis import RedisSchemas
from warmroute.adapters.resp.link import RedisLink
from warmroute.caching.content import StoreAwayError
from warmroute.caching.schemas.record import SchemaRecord, TooManyError
from warmroute.ports import KeptSchema, SchemaStore

NOW_S = 1_800_000_000.25
Run = Callable[[Callable[[SchemaStore], Awaitable[None]]], None]
_namespaces = count()


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


@pytest.fixture(params=["memory", "redis"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a test against a store of its own."""

    def started(test: Callable[[SchemaStore], Awaitable[None]]) -> None:
        async def whole() -> None:
            store: SchemaStore = MemorySchemas()
            if request.param == "redis":
                link = RedisLink(request.getfixturevalue("server").url, name="schemas")
                store = RedisSchemas(link, f"s{next(_namespaces)}")
            await store.start()
            assert store.healthy
            await test(store)
            await store.stop()

        asyncio.run(whole())

    return started


async def put(
    store: SchemaStore,
    name: str,
    text: str,
    scope: str = "t.a",
    *,
    at_s: float = NOW_S,
    most: int = 100,
    most_bytes: int = 1000,
) -> KeptSchema:
    record = SchemaRecord(
        scope=scope,
        name=name,
        version=0,
        digest=f"d-{text}",
        created_s=at_s,
        model="m/ü",
        size_bytes=len(text),
        prefix_tokens=(12, 34),
        sharing="t:a",
    )
    return await store.add(record, text.encode(), at_s, most=most, most_bytes=most_bytes)


def test_versions_are_numbered_and_found_by_their_scope_alone(run: Run) -> None:
    async def test(store: SchemaStore) -> None:
        one = await put(store, "trip", "one")
        assert (one.record.version, one.uses, one.used_s) == (1, 0, NOW_S)
        two = await put(store, "trip", "two", at_s=NOW_S + 1)
        other = await put(store, "trip", "three", "k.ß")
        assert (two.record.version, other.record.version) == (2, 1)
        assert await store.find("t.a", "trip", 1, NOW_S) == one
        assert await store.find("t.a", "trip", 0, NOW_S) == two
        assert await store.find("t.a", "trip", 3, NOW_S) is None
        assert await store.find("k.ß", "trip", 0, NOW_S) == other
        assert await store.find("t.b", "trip", 0, NOW_S) is None
        assert await store.find("t.a", "tri", 0, NOW_S) is None
        assert await store.document("t.a", "trip", 1) == b"one"
        assert await store.document("t.a", "trip", 3) is None
        assert [kept.record.version for kept in await store.versions("t.a", "trip", most=9)] == [2, 1]
        assert [kept.record.version for kept in await store.versions("t.a", "trip", most=1)] == [2]
        assert await store.versions("t.b", "trip", most=9) == []

    run(test)


def test_what_is_the_latest_already_is_no_new_version(run: Run) -> None:
    async def test(store: SchemaStore) -> None:
        one = await put(store, "trip", "one")
        await store.find("t.a", "trip", 0, NOW_S, use=True)
        again = await put(store, "trip", "one", at_s=NOW_S + 9, most=1)
        assert (again.record, again.uses, again.used_s) == (one.record, 1, NOW_S + 9)
        await put(store, "trip", "two")
        assert (await put(store, "trip", "one")).record.version == 3, "an older one again is new"

    run(test)


def test_uses_are_counted_by_version(run: Run) -> None:
    async def test(store: SchemaStore) -> None:
        await put(store, "trip", "one")
        await put(store, "trip", "two")
        for number in range(3):
            kept = await store.find("t.a", "trip", 1, NOW_S + number, use=True)
        assert kept is not None
        assert (kept.record.version, kept.uses) == (1, 3)
        latest = await store.find("t.a", "trip", 0, NOW_S + 9)
        assert latest is not None
        assert (latest.uses, latest.used_s) == (0, NOW_S)
        again = await store.find("t.a", "trip", 1, NOW_S + 9)
        assert again is not None
        assert again.used_s == NOW_S + 2

    run(test)


def test_those_used_lately_are_told_over_all_scopes(run: Run) -> None:
    async def test(store: SchemaStore) -> None:
        await put(store, "old", "x", at_s=NOW_S - 100)
        await put(store, "used", "x", "k.b", at_s=NOW_S - 100)
        await put(store, "new", "x", at_s=NOW_S)
        await store.find("k.b", "used", 1, NOW_S + 1, use=True)
        found = await store.all(NOW_S - 10, most=9)
        assert [(kept.record.scope, kept.record.name, kept.uses) for kept in found] == [
            ("k.b", "used", 1),
            ("t.a", "new", 0),
        ]
        assert [kept.record.name for kept in await store.all(NOW_S - 10, most=1)] == ["used"]

    run(test)


def test_removed_ones_make_room_and_numbers_are_not_given_again(run: Run) -> None:
    async def test(store: SchemaStore) -> None:
        await put(store, "trip", "x" * 50, most_bytes=100)
        await put(store, "trip", "y" * 50, most_bytes=100)
        with pytest.raises(TooManyError):
            await put(store, "other", "z", most_bytes=100)
        await put(store, "other", "z", "t.b", most_bytes=100)
        assert await store.remove("t.a", "trip", 2) == [2]
        assert await store.remove("t.a", "trip", 2) == []
        assert await store.document("t.a", "trip", 2) is None
        third = await put(store, "trip", "z" * 50, most_bytes=100)
        assert third.record.version == 3
        with pytest.raises(TooManyError) as raised:
            await put(store, "trip", "w", most=2)
        assert (raised.value.status, raised.value.code) == (429, "prompt_schemas_full")
        assert await store.remove("t.a", "trip", 0) == [1, 3]
        assert await store.find("t.a", "trip", 0, NOW_S) is None
        assert await store.listed("t.a", most=9) == []
        assert [kept.record.scope for kept in await store.all(0.0, most=9)] == ["t.b"]
        assert (await put(store, "trip", "anew", most=1, most_bytes=4)).record.version == 1

    run(test)


def test_a_list_has_the_latest_of_each_name_in_pages(run: Run) -> None:
    async def test(store: SchemaStore) -> None:
        for name in ("c", "a", "b"):
            await put(store, name, "one")
        await put(store, "b", "two")
        first = await store.listed("t.a", most=2)
        assert [(kept.record.name, kept.record.version) for kept in first] == [("a", 1), ("b", 2)]
        assert [kept.record.name for kept in await store.listed("t.a", after="b", most=2)] == ["c"]
        assert await store.listed("t.a", after="c", most=2) == []

    run(test)


def test_one_router_leads_and_a_server_that_is_away_says_so() -> None:
    async def test() -> None:
        with RedisServer() as own:
            store, other = (RedisSchemas(RedisLink(own.url)) for _ in range(2))
            await store.start()
            await other.start()
            assert await store.lead("one", 60.0)
            assert not await other.lead("two", 60.0)
            one = await put(store, "trip", "one")
            own.pause()
            with pytest.raises(StoreAwayError, match="prompt schemas") as raised:
                await store.find("t.a", "trip", 0, NOW_S)
            assert (raised.value.status, raised.value.code) == (503, "cache_store_away")
            own.resume()
            async with asyncio.timeout(60):
                while True:
                    try:
                        kept = await store.find("t.a", "trip", 0, NOW_S)
                        break
                    except StoreAwayError:
                        await asyncio.sleep(0.02)
            assert kept == one
            await store.stop()
            await other.stop()

    asyncio.run(test())
