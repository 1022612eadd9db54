"""One suite over everything whose promises are kept warm: cached contents, and prompts with breakpoints."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

import pytest

from tests.support.promised_prompts import LONG, PromptWorld, marked
from warmroute.adapters.caching.memory import MemoryContents
from warmroute.caching.content import Prefix
from warmroute.caching.prefilled import Prefilled
from warmroute.caching.promise import Promise
from warmroute.dialects.cached_contents import Wanted
from warmroute.service.cached_contents import Bounds, CachedContents
from warmroute.service.content_promises import ContentPromises
from warmroute.service.keep_warm import Promises


class Source(Protocol):
    """Where promises are made, and who tells of them."""

    promises: Promises
    world: PromptWorld

    async def make(self, text: str) -> None:
        """One for 300 seconds."""

    async def use(self, text: str) -> bool:
        """A client uses it. Returns whether it is told that the promise is given up."""

    async def forget(self, text: str) -> None:
        """It is over before its time."""


class Prompts:
    def __init__(self) -> None:
        self.world = PromptWorld()
        self.promises = self.world.promises

    async def make(self, text: str) -> None:
        self.world.ask(marked(text))

    async def use(self, text: str) -> bool:
        return b"x-warmroute-promise: given-up" in self.world.ask(marked(text, "Again?"))

    async def forget(self, text: str) -> None:
        for key in self.world.texts:
            self.world.texts.drop(key)


class Contents:
    def __init__(self) -> None:
        self.world = PromptWorld()
        bounds = Bounds(1000, 1 << 30, 1 << 30, 0, 600.0, 600.0)
        self._contents = CachedContents(
            MemoryContents(), bounds, clock=lambda: self.world.now_s, entropy=lambda count: bytes(count)
        )
        self.promises = ContentPromises(self._contents)

    async def make(self, text: str) -> None:
        async def warm(body: bytes) -> Prefilled:
            return Prefilled(200, prompt_tokens=2_500, cached_tokens=0)

        prefix = Prefix([{"role": "user", "content": text}])
        await self._contents.create("t.a", "", Wanted("m", prefix, "", self.world.now_s + 300.0), warm)

    async def use(self, text: str) -> bool:
        (one,), _ = await self._contents.page("t.a", 10, "")
        kept, _ = await self._contents.use("t.a", one.name)
        return kept.lapsed

    async def forget(self, text: str) -> None:
        (one,), _ = await self._contents.page("t.a", 10, "")
        await self._contents.delete("t.a", one.name)


@pytest.fixture(params=[Contents, Prompts])
def source(request: pytest.FixtureRequest) -> Source:
    made: Source = request.param()
    return made


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(test())  # type: ignore[arg-type]


async def only(source: Source) -> Promise:
    (promise,) = await source.promises.all(source.world.now_s)
    return promise


def test_what_was_promised_is_told_until_it_is_over(source: Source) -> None:
    async def test() -> None:
        assert list(await source.promises.all(source.world.now_s)) == []
        await source.make(LONG)
        promise = await only(source)
        assert (promise.model, promise.uses, promise.lapsed) == ("m", 0, False)
        assert 2_000 < promise.tokens < 3_000
        assert promise.expires_s == pytest.approx(source.world.now_s + 300.0)
        assert promise.tenant
        source.world.now_s += 299.0
        assert (await only(source)).key == promise.key
        source.world.now_s += 1.5
        assert list(await source.promises.all(source.world.now_s)) == []

    run(test)


def test_its_prompt_is_one_that_the_sender_can_recognise(source: Source) -> None:
    async def test() -> None:
        await source.make(LONG)
        promise = await only(source)
        body = await source.promises.prompt(promise)
        assert body is not None
        shape = source.world.sender.shape(body, promise.sharing, promise.api)
        assert shape.model == "m"
        assert shape.prompt_bytes >= len(LONG)
        assert b'"max_tokens":1' in body

    run(test)


def test_uses_are_counted(source: Source) -> None:
    async def test() -> None:
        await source.make(LONG)
        before = await only(source)
        for _ in range(3):
            await source.use(LONG)
        after = await only(source)
        assert (after.key, after.uses - before.uses) == (before.key, 3)

    run(test)


def test_whoever_uses_it_is_told_whether_it_is_given_up(source: Source) -> None:
    async def test() -> None:
        await source.make(LONG)
        assert not await source.use(LONG)
        await source.promises.lapse(await only(source), True)
        assert (await only(source)).lapsed
        assert await source.use(LONG)
        await source.promises.lapse(await only(source), False)
        assert not await source.use(LONG)

    run(test)


def test_what_is_forgotten_has_no_prompt_and_cannot_be_given_up(source: Source) -> None:
    async def test() -> None:
        await source.make(LONG)
        promise = await only(source)
        await source.forget(LONG)
        assert list(await source.promises.all(source.world.now_s)) == []
        assert await source.promises.prompt(promise) is None
        await source.promises.lapse(promise, True)

    run(test)
