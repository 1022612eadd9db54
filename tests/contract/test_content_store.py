"""One suite over every place that keeps cached contents."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from itertools import count

import pytest

from tests.support.redis_server import RedisServer
from warmroute.adapters.caching.memory import MemoryContents
from warmroute.adapters.caching.redis import RedisContents
from warmroute.adapters.resp.link import RedisLink
from warmroute.caching.content import CachedContent, StoreAwayError, TooMuchError
from warmroute.ports import ContentStore

NOW_S = 1_800_000_000.25
Run = Callable[[Callable[[ContentStore], Awaitable[None]]], None]
_namespaces = count()


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


@pytest.fixture(params=["memory", "redis"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a test against a store of its own."""

    def started(test: Callable[[ContentStore], Awaitable[None]]) -> None:
        async def whole() -> None:
            store: ContentStore = MemoryContents()
            if request.param == "redis":
                link = RedisLink(request.getfixturevalue("server").url, name="caches")
                store = RedisContents(link, f"c{next(_namespaces)}")
            await store.start()
            assert store.healthy
            await test(store)
            await store.stop()

        asyncio.run(whole())

    return started


def content(
    content_id: str, scope: str = "t.a", lives_s: float = 100.0, size_bytes: int = 10
) -> CachedContent:
    return CachedContent(
        id=content_id * 8,
        scope=scope,
        model="m/ü",
        created_s=NOW_S,
        updated_s=NOW_S,
        expires_s=NOW_S + lives_s,
        display_name='said "so"',
        tokens=1234,
        size_bytes=size_bytes,
    )


async def put(store: ContentStore, one: CachedContent, most: int = 100, most_bytes: int = 1000) -> None:
    await store.add(one, b"x" * one.size_bytes, NOW_S, most=most, most_bytes=most_bytes)


def test_what_was_added_is_found_by_its_scope_alone(run: Run) -> None:
    async def test(store: ContentStore) -> None:
        mine, other = content("a"), content("a", "k.ß")
        await put(store, mine)
        assert await store.find("k.ß", mine.id, NOW_S) is None
        await put(store, other)
        kept = await store.find("t.a", mine.id, NOW_S)
        assert kept is not None
        assert (kept.content, kept.uses, kept.lapsed) == (mine, 0, False)
        assert await store.prefix("t.a", mine.id) == b"x" * 10
        assert await store.prefix("t.b", mine.id) is None
        assert await store.listed("k.ß", NOW_S, most=10) == [other]

    run(test)


def test_uses_are_counted_and_a_promise_given_up_is_told(run: Run) -> None:
    async def test(store: ContentStore) -> None:
        one = content("a")
        await put(store, one)
        for _ in range(3):
            kept = await store.find("t.a", one.id, NOW_S, use=True)
        assert kept is not None
        assert kept.uses == 3
        await store.lapse("t.a", one.id, True)
        (told,) = await store.all(NOW_S, most=10)
        assert (told.uses, told.lapsed) == (3, True)
        await store.lapse("t.a", one.id, False)
        found = await store.find("t.a", one.id, NOW_S)
        assert found is not None
        assert not found.lapsed
        await store.lapse("t.a", "nobodyshere", True)

    run(test)


def test_what_has_expired_is_gone_and_what_is_extended_stays(run: Run) -> None:
    async def test(store: ContentStore) -> None:
        short, longer = content("a", lives_s=1.0), content("b", lives_s=2.0)
        await put(store, short)
        await put(store, longer)
        changed = await store.extend("t.a", longer.id, NOW_S + 50.0, NOW_S + 0.5)
        assert changed is not None
        before, extended = changed
        assert before == longer
        assert (extended.expires_s, extended.updated_s) == (NOW_S + 50.0, NOW_S + 0.5)
        assert [kept.content.id for kept in await store.all(NOW_S + 0.5, most=10)] == [short.id, longer.id]
        later_s = NOW_S + 1.0
        assert await store.find("t.a", short.id, later_s) is None
        assert await store.extend("t.a", short.id, NOW_S + 9.0, later_s) is None
        assert [kept.content for kept in await store.all(later_s, most=10)] == [extended]
        assert await store.listed("t.a", later_s, most=10) == [extended]
        assert await store.prefix("t.a", short.id) is None

    run(test)


def test_a_removed_one_makes_room(run: Run) -> None:
    async def test(store: ContentStore) -> None:
        one = content("a", size_bytes=90)
        await put(store, one, most_bytes=100)
        with pytest.raises(TooMuchError):
            await put(store, content("b", size_bytes=11), most_bytes=100)
        await put(store, content("c", "t.b", size_bytes=11), most_bytes=100)
        assert await store.remove("t.a", one.id) == one
        assert await store.remove("t.a", one.id) is None
        await put(store, content("b", size_bytes=100), most_bytes=100)
        with pytest.raises(TooMuchError):
            await put(store, content("d", size_bytes=0), most=1)

    run(test)


def test_of_changes_at_the_same_time_each_hears_what_it_has_changed(run: Run) -> None:
    async def test(store: ContentStore) -> None:
        one = content("a", lives_s=1000.0)
        await put(store, one)
        ends_s = [NOW_S + 10.0, NOW_S + 20.0, NOW_S + 30.0, NOW_S + 40.0]
        changes = await asyncio.gather(*[store.extend("t.a", one.id, end_s, NOW_S) for end_s in ends_s])
        moved_s = sum([change[1].expires_s - change[0].expires_s for change in changes if change is not None])
        kept = await store.find("t.a", one.id, NOW_S)
        assert kept is not None
        assert moved_s == kept.content.expires_s - one.expires_s
        gone = await asyncio.gather(*[store.remove("t.a", one.id) for _ in range(4)])
        assert [found for found in gone if found is not None] == [kept.content]

    run(test)


def test_expired_ones_take_no_room(run: Run) -> None:
    async def test(store: ContentStore) -> None:
        await put(store, content("a", lives_s=-1.0, size_bytes=90), most_bytes=100)
        await put(store, content("b", size_bytes=90), most=1, most_bytes=100)

    run(test)


def test_a_list_comes_in_pages(run: Run) -> None:
    async def test(store: ContentStore) -> None:
        letters = "cabedf"
        for letter in letters:
            await put(store, content(letter))
        first = await store.listed("t.a", NOW_S, most=4)
        assert [one.id[0] for one in first] == ["a", "b", "c", "d"]
        rest = await store.listed("t.a", NOW_S, after=first[-1].id, most=4)
        assert [one.id[0] for one in rest] == ["e", "f"]
        assert await store.listed("t.a", NOW_S, after="ffffffff", most=4) == []

    run(test)


def test_one_router_leads_until_its_lease_ends() -> None:
    async def test() -> None:
        with RedisServer() as own:
            one, two = (RedisContents(RedisLink(own.url)) for _ in range(2))
            await one.start()
            await two.start()
            assert await one.lead("one", 0.2)
            assert not await two.lead("two", 0.2)
            assert await one.lead("one", 0.2)
            async with asyncio.timeout(60):
                while not await two.lead("two", 10.0):
                    await asyncio.sleep(0.02)
            assert not await one.lead("one", 10.0)
            await one.stop()
            await two.stop()

    asyncio.run(test())


def test_a_store_that_is_away_says_so_and_loses_nothing() -> None:
    async def test() -> None:
        with RedisServer() as own:
            store = RedisContents(RedisLink(own.url))
            await store.start()
            one = content("a")
            await put(store, one)
            own.pause()
            with pytest.raises(StoreAwayError) as raised:
                await store.find("t.a", one.id, NOW_S)
            assert (raised.value.status, raised.value.code) == (503, "cache_store_away")
            own.resume()
            async with asyncio.timeout(60):
                while True:
                    try:
                        kept = await store.find("t.a", one.id, NOW_S)
                        break
                    except StoreAwayError:
                        await asyncio.sleep(0.02)
            assert kept is not None
            assert kept.content == one
            await store.stop()

    asyncio.run(test())


def test_a_full_server_that_may_forget_what_expires_keeps_contents() -> None:
    async def test() -> None:
        with RedisServer("--maxmemory", "6mb", "--maxmemory-policy", "volatile-lru") as own:
            store = RedisContents(RedisLink(own.url))
            await store.start()
            one = content("a", size_bytes=100_000)
            await put(store, one, most_bytes=1 << 20)
            for number in range(100):
                own.command("SET", f"w:record{number}", b"y" * 100_000, "EX", 1000)
            assert own.command("INFO", "stats")["evicted_keys"] > 0
            assert await store.prefix("t.a", one.id) == b"x" * 100_000
            assert await store.find("t.a", one.id, NOW_S) is not None
            await store.stop()

    asyncio.run(test())
