"""Cached contents as clients make, change and use them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from warmroute.adapters.caching.memory import MemoryContents
from warmroute.caching.content import (
    CachedContent,
    ContentLostError,
    Prefix,
    StoreAwayError,
    id_of,
    new_id,
    scope_of,
)
from warmroute.caching.prefilled import Prefilled
from warmroute.core.errors import ClientError, NotFoundError, ReplicaError, RouterError
from warmroute.dialects import cached_contents
from warmroute.dialects.cached_contents import Wanted
from warmroute.ports import Kept
from warmroute.service.cached_contents import Bounds, CachedContents

NOW_S = 1_800_000_000.0
BOUNDS = Bounds(3, 1000, 400, 0, 60.0, 600.0)
PREFIX = Prefix([{"role": "user", "content": "long"}])


class Store(MemoryContents):
    """One that can be away, or lose what it holds."""

    away = False
    asked = 0

    async def find(self, scope: str, content_id: str, now_s: float, *, use: bool = False) -> Kept | None:
        if self.away:
            raise StoreAwayError("away")
        return await super().find(scope, content_id, now_s, use=use)

    async def prefix(self, scope: str, content_id: str) -> bytes | None:
        self.asked += 1
        return await super().prefix(scope, content_id)

    def lose(self) -> None:
        for key in self._prefixes:
            self._prefixes[key] = None  # type: ignore[assignment]


class World:
    def __init__(self, bounds: Bounds = BOUNDS) -> None:
        self.now_s = NOW_S
        self.store = Store()
        self.numbers = 0
        self.warmed: list[bytes] = []
        self.answer = Prefilled(200, prompt_tokens=100, cached_tokens=0)
        self.caches = CachedContents(self.store, bounds, clock=lambda: self.now_s, entropy=self._entropy)

    def _entropy(self, count: int) -> bytes:
        self.numbers += 1
        return bytes([self.numbers]) * count

    async def _warm(self, body: bytes) -> Prefilled:
        self.warmed.append(body)
        return self.answer

    async def create(
        self, scope: str = "all", prefix: Prefix = PREFIX, lives_s: float = 60.0
    ) -> CachedContent:
        wanted = Wanted("m", prefix, "name", self.now_s + lives_s)
        return await self.caches.create(scope, "t:a", wanted, self._warm)


def run(test: Callable[[World], Awaitable[None]], world: World | None = None) -> None:
    asyncio.run(test(world or World()))  # type: ignore[arg-type]


def test_one_is_computed_before_it_is_kept_and_then_used() -> None:
    async def test(world: World) -> None:
        content = await world.create()
        assert (content.tokens, content.sharing, content.model) == (100, "t:a", "m")
        assert b'"max_tokens":1' in world.warmed[0]
        kept, prefix = await world.caches.use("all", content.name)
        assert (kept.content, kept.uses, prefix) == (content, 1, PREFIX)
        await world.caches.use("all", content.id)
        assert world.store.asked == 1, "what it holds is read once"
        with pytest.raises(NotFoundError):
            await world.caches.use("k.other", content.name)

    run(test)


@pytest.mark.parametrize(
    ("answer", "error", "status"),
    [
        (Prefilled(400, "too long", "context"), ClientError, 400),
        (Prefilled(503, "busy", "no_replica"), ReplicaError, 503),
        (Prefilled(499, "left"), ClientError, 400),
        (Prefilled(529, "overloaded"), ReplicaError, 502),
        (Prefilled(201, "made"), ReplicaError, 502),
    ],
)
def test_what_cannot_be_computed_is_not_kept(
    answer: Prefilled, error: type[RouterError], status: int
) -> None:
    async def test(world: World) -> None:
        world.answer = answer
        with pytest.raises(error, match=answer.message) as raised:
            await world.create()
        assert raised.value.status == status
        assert await world.caches.page("all", 0, "") == ([], False)

    run(test)


def test_bounds() -> None:
    async def test(world: World) -> None:
        with pytest.raises(ClientError, match=r"cached_contents\.content_bytes") as raised:
            await world.create(prefix=Prefix([{"role": "user", "content": "x" * 500}]))
        assert raised.value.status == 413
        assert world.warmed == [], "nothing is computed for it"
        for _ in range(3):
            await world.create()
        with pytest.raises(ClientError, match=r"cached_contents\.contents"):
            await world.create()
        await world.create("k.other")

    run(test)


def test_a_content_may_be_too_small() -> None:
    async def test(world: World) -> None:
        with pytest.raises(ClientError, match="100 tokens; 1024"):
            await world.create()

    run(test, World(Bounds(3, 1000, 400, 1024, 60.0, 600.0)))


def test_pages_changes_and_ends() -> None:
    async def test(world: World) -> None:
        made = sorted([(await world.create()).id for _ in range(3)])
        rows, more = await world.caches.page("all", 2, "")
        assert ([row.id for row in rows], more) == (made[:2], True)
        rows, more = await world.caches.page("all", 2, rows[-1].id)
        assert ([row.id for row in rows], more) == (made[2:], False)
        before, changed = await world.caches.extend("all", made[0], NOW_S + 500.0)
        assert before.expires_s == NOW_S + 60.0
        assert (await world.caches.get("all", made[0])) == changed
        assert (await world.caches.delete("all", made[1])).id == made[1]
        with pytest.raises(NotFoundError):
            await world.caches.get("all", made[1])
        world.now_s += 61.0
        assert [row.id for row in (await world.caches.page("all", 0, ""))[0]] == [made[0]]

    run(test)


def test_while_the_store_is_away_what_was_used_here_goes_on_and_nothing_else_is_denied() -> None:
    async def test(world: World) -> None:
        content = await world.create()
        await world.caches.use("all", content.name)
        world.store.away = True
        assert (await world.caches.use("all", content.name))[1] == PREFIX
        with pytest.raises(StoreAwayError):
            await world.caches.use("all", "abcdefgh1234")
        world.now_s += 61.0
        with pytest.raises(StoreAwayError):
            await world.caches.use("all", content.name)

    run(test)


def test_many_short_contents_take_no_more_memory_than_few_long_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("warmroute.service.cached_contents.REMEMBERED_BYTES", 10_000)

    async def test(world: World) -> None:
        names = [(await world.create(scope=f"t.{number}")).name for number in range(20)]
        for _ in range(2):
            for number, name in enumerate(names):
                await world.caches.use(f"t.{number}", name)
        assert world.store.asked == 40, (
            "each takes a kilobyte, and not its 50 bytes: it was given up meanwhile"
        )

    run(test)


def test_a_content_that_was_lost_is_no_content_that_never_was() -> None:
    async def test(world: World) -> None:
        content = await world.create()
        world.store.lose()
        with pytest.raises(ContentLostError, match="volatile-lru"):
            await world.caches.use("all", content.name)

    run(test)


def test_names_and_scopes() -> None:
    assert id_of("cachedContents/" + "a" * 24) == "a" * 24
    for wrong in (
        "",
        "cachedContents/",
        "../x",
        "A" * 24,
        "a" * 65,
        "cachedContents/cachedContents/aaaaaaaa",
    ):
        with pytest.raises(NotFoundError):
            id_of(wrong)
    assert id_of(new_id(bytes(range(24)))) == "abcdefghijklmnopqrstuvwx"
    assert [scope_of("a", "b"), scope_of(None, "b"), scope_of(None, "")] == ["t.a", "k.b", "all"]


def lifetime(**request: Any) -> float:
    return cached_contents.lifetime(request, NOW_S, 60.0, 600.0) - NOW_S


def test_lifetimes_in_every_form() -> None:
    assert lifetime() == 60.0
    assert lifetime(ttl="300s") == 300.0
    assert lifetime(ttl="1.5s") == 1.5
    assert lifetime(ttl=30) == 30.0
    assert lifetime(expireTime="2027-01-15T08:01:40.123456789Z") == pytest.approx(100.123456)
    assert lifetime(expire_time="2027-01-15T09:01:40+01:00") == 100.0
    assert lifetime(expires_at=NOW_S + 5) == 5.0


@pytest.mark.parametrize(
    "request_",
    [
        {"ttl": "0s"},
        {"ttl": "-3s"},
        {"ttl": "5m"},
        {"ttl": True},
        {"ttl": "601s"},
        {"ttl": "5s", "expireTime": "2027-01-15T08:01:40Z"},
        {"expireTime": "soon"},
        {"expireTime": "2020-01-01T00:00:00Z"},
        {"expires_at": "x"},
        {"expires_at": 10**400},
        {"ttl": 10**400},
    ],
)
def test_lifetimes_that_cannot_be(request_: dict[str, Any]) -> None:
    with pytest.raises(ClientError):
        lifetime(**request_)


def test_what_a_chat_with_a_content_means() -> None:
    content = CachedContent(id="a" * 24, scope="all", model="m", created_s=0.0, updated_s=0.0, expires_s=9.0)
    prefix = Prefix(
        [{"role": "system", "content": "S"}, {"role": "user", "content": "long"}], [{"t": 1}], "auto"
    )
    chat = {"cached_content": content.id, "messages": [{"role": "user", "content": "q"}], "seed": 1}
    assert cached_contents.joined(chat, content, prefix) == {
        "model": "m",
        "seed": 1,
        "messages": [
            {"role": "system", "content": "S"},
            {"role": "user", "content": [{"type": "text", "text": "long"}, {"type": "text", "text": "q"}]},
        ],
        "tools": [{"t": 1}],
        "tool_choice": "auto",
    }
    wrongs: tuple[dict[str, Any], ...] = (
        {"model": "other"},
        {"tools": [{}]},
        {"messages": [{"role": "system", "content": "x"}]},
        {"messages": "x"},
    )
    for wrong in wrongs:
        with pytest.raises(ClientError):
            cached_contents.joined({**chat, **wrong}, content, prefix)


def test_both_manners_show_the_same_content() -> None:
    content = CachedContent(
        id="a" * 24, scope="all", model="m", created_s=NOW_S, updated_s=NOW_S, expires_s=NOW_S + 1, tokens=7
    )
    assert cached_contents.shown(content, google=True) == {
        "name": "cachedContents/" + "a" * 24,
        "model": "models/m",
        "createTime": "2027-01-15T08:00:00.000000Z",
        "updateTime": "2027-01-15T08:00:00.000000Z",
        "expireTime": "2027-01-15T08:00:01.000000Z",
        "usageMetadata": {"totalTokenCount": 7},
    }
    assert cached_contents.shown(content, google=False) == {
        "id": "a" * 24,
        "object": "cache",
        "model": "m",
        "name": "",
        "created_at": NOW_S,
        "updated_at": NOW_S,
        "expires_at": NOW_S + 1,
        "usage": {"total_tokens": 7},
    }
    assert cached_contents.shown_page([], False, google=True) == {}
    assert cached_contents.shown_page([content], True, google=True)["nextPageToken"] == content.id
