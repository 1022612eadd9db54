"""Prompt schemas as clients register and use them: the service over its store, and chats through the data plane."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Awaitable, Callable
from hashlib import sha256
from typing import Any

import pytest

from tests.support.wire import ClientWire, ParsedAnswers, Wire
from warmroute.adapters.caching.schemas_memory import MemorySchemas
from warmroute.caching.content import ContentLostError, StoreAwayError
from warmroute.caching.prefilled import Prefilled
from warmroute.caching.schemas.record import SchemaRecord
from warmroute.config.schema import CachedContentsConfig, LimitsConfig, PromptSchemasConfig
from warmroute.core.errors import ClientError, NotFoundError
from warmroute.dialects.prompt_schemas import Asked, asked, registration
from warmroute.ports import KeptSchema
from warmroute.service import prompt_schemas
from warmroute.service.prompt_schemas import Bounds, PromptSchemas, Registered
from warmroute.service.schema_promises import SchemaPromises

NOW_S = 1_800_000_000.0
TRIP: dict[str, Any] = {
    "name": "trip",
    "content": [
        "Plan a trip.",
        {"module": "rome", "content": " To Rome."},
        {"module": "miami", "content": [" To Miami", {"parameter": "how", "length": 4}]},
    ],
}


class Store(MemorySchemas):
    """One that can be away, or lose what it holds."""

    away = False
    read = 0

    async def find(
        self, scope: str, name: str, version: int, now_s: float, *, use: bool = False
    ) -> KeptSchema | None:
        if self.away:
            raise StoreAwayError("away")
        return await super().find(scope, name, version, now_s, use=use)

    async def document(self, scope: str, name: str, version: int) -> bytes | None:
        self.read += 1
        return await super().document(scope, name, version)

    def lose(self) -> None:
        self._documents.clear()


class World:
    def __init__(self, **bounds: int) -> None:
        self.now_s = NOW_S
        self.store = Store()
        limits = {
            "versions": 9,
            "versions_bytes": 1000,
            "schema_bytes": 300,
            "prompt_bytes": 1000,
            "prefixes": 4,
        }
        self.schemas = PromptSchemas(
            self.store, Bounds(**{**limits, **bounds}), clock=lambda: self.now_s, bytes_per_token=4.0
        )
        self.warmed: list[Any] = []
        self.answer = Prefilled(200, prompt_tokens=100, cached_tokens=0)

    async def _warm(self, body: bytes) -> Prefilled:
        self.warmed.append(json.loads(body)["messages"][0]["content"])
        return self.answer

    async def register(self, model: str = "m", scope: str = "all", **document: Any) -> Registered:
        wanted = registration({**TRIP, **document})
        return await self.schemas.register(scope, "t:a", wanted, model, self._warm)

    async def use(self, scope: str = "all", **fields: Any) -> str:
        _, messages = await self.schemas.use(scope, asked({"name": "trip", **fields}))
        return str(messages[0]["content"])


def run(test: Callable[[World], Awaitable[None]], world: World | None = None) -> None:
    asyncio.run(test(world or World()))  # type: ignore[arg-type]


def test_what_is_registered_is_computed_first_and_then_used_in_its_version() -> None:
    async def test(world: World) -> None:
        made = await world.register()
        assert world.warmed == ["Plan a trip. To Rome.", "Plan a trip. To Miami"]
        assert (made.record.version, made.record.prefix_tokens, made.warmed) == (1, (100, 100), 2)
        await world.register(content="Plan another.")
        assert await world.use() == "Plan another."
        assert await world.use(version=1, modules=["rome"]) == "Plan a trip. To Rome."
        assert await world.use(version=1, modules=["rome"]) == "Plan a trip. To Rome."
        assert world.store.read == 2, "a version is read once"
        with pytest.raises(NotFoundError, match="version 3") as raised:
            await world.use(version=3)
        assert raised.value.code == "prompt_schema_not_found"
        with pytest.raises(NotFoundError):
            await world.use("k.other")
        with pytest.raises(ClientError):
            await world.use(modules=["paris"])
        assert (world.schemas.prompts, world.schemas.refused) == (3, 1)

    run(test)


def test_only_what_is_asked_for_is_computed_ahead() -> None:
    async def test(world: World) -> None:
        await world.register(prewarm=[["rome", "miami"]])
        assert world.warmed == ["Plan a trip. To Rome. To Miami"]
        await world.register(prewarm=False)
        await world.register(model="")
        assert len(world.warmed) == 1
        with pytest.raises(ClientError, match="paris"):
            await world.register(prewarm=[["paris"]])

    run(test)


@pytest.mark.parametrize("status", [400, 404])
def test_what_no_model_takes_is_not_kept(status: int) -> None:
    async def test(world: World) -> None:
        world.answer = Prefilled(status, "too long", "context")
        with pytest.raises(ClientError, match="too long") as raised:
            await world.register()
        assert raised.value.status == status
        assert await world.schemas.page("all", 0, "") == ([], False)

    run(test)


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_what_cannot_be_computed_now_is_kept_all_the_same(status: int) -> None:
    async def test(world: World) -> None:
        world.answer = Prefilled(status, "busy")
        made = await world.register()
        assert (made.warmed, made.beginnings) == (0, 2)
        assert made.record.prefix_tokens == (6, 6), "estimated"

    run(test)


def test_bounds() -> None:
    async def test(world: World) -> None:
        with pytest.raises(ClientError) as raised:
            await world.register(content="x" * 300)
        assert (raised.value.status, raised.value.code) == (413, "prompt_schema_too_large")
        await world.register(content=[{"parameter": "p", "length": 1000}])
        with pytest.raises(ClientError) as raised:
            await world.use(parameters={"p": "x" * 1001})
        assert raised.value.code == "request_too_large"

    run(test)


def test_without_its_store_known_versions_are_used_on_and_nothing_is_denied() -> None:
    async def test(world: World) -> None:
        await world.register()
        assert await world.use(modules=["rome"])
        world.store.away = True
        assert await world.use(modules=["miami"], parameters={"how": ""})
        with pytest.raises(StoreAwayError):
            await world.use(version=1, modules=["rome"])
        world.store.away = False
        assert await world.schemas.delete("all", "trip", 0) == [1]
        world.store.away = True
        with pytest.raises(StoreAwayError):
            await world.use(modules=["rome"])

    run(test)


def test_text_that_is_gone_before_its_time_is_said_to_be() -> None:
    async def test(world: World) -> None:
        await world.register()
        world.store.lose()
        with pytest.raises(ContentLostError, match="allkeys"):
            await world.use(modules=["rome"])

    run(test)


def test_little_used_schemas_are_let_go_of(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: World) -> None:
        monkeypatch.setattr(prompt_schemas, "REMEMBERED_BYTES", 3100)
        for name in "abc":
            await world.register(name=name)
        for name in "abcba":
            await world.use(name=name, modules=["rome"])
        assert world.store.read == 4, "a was let go of for c"

    run(test)


def test_what_several_read_at_once_is_counted_once() -> None:
    class Slow(Store):
        async def document(self, scope: str, name: str, version: int) -> bytes | None:
            await asyncio.sleep(0)
            return await super().document(scope, name, version)

    async def test(world: World) -> None:
        world.schemas.store = slow = Slow()
        await world.register()
        await asyncio.gather(*[world.use(modules=["rome"]) for _ in range(5)])
        assert slow.read == 5
        entries = world.schemas._entries.values()
        assert world.schemas._entries_bytes == sum(entry.size_bytes for entry in entries)

    run(test)


def test_a_number_that_was_given_anew_while_its_text_was_read_shows_no_others_text() -> None:
    async def test(world: World) -> None:
        await world.register()
        kept = await world.store.find("all", "trip", 1, NOW_S)
        assert kept is not None
        await world.schemas.delete("all", "trip", 0)
        await world.register(content="Another.")
        with pytest.raises(NotFoundError):
            await world.schemas.entry(kept.record)
        assert await world.use() == "Another."

    run(test)


@pytest.mark.parametrize("name", ["b/trip", "../trip", "trip\n", "", "x" * 65])
def test_what_is_no_name_is_not_looked_for_beside_the_scope(name: str) -> None:
    async def test(world: World) -> None:
        await world.register(scope="t.a/b")
        world.store.away = True  # whoever asks the store is told so
        for call in (
            world.schemas.use("t.a", Asked(name, 0, ["rome"], {}, [])),
            world.schemas.get("t.a", name, 0),
            world.schemas.versions("t.a", name, 0),
            world.schemas.delete("t.a", name, 0),
        ):
            with pytest.raises(NotFoundError):
                await call

    run(test)


def test_beginnings_are_put_together_once_for_all_their_promises(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: World) -> None:
        promises = SchemaPromises(world.schemas, 3600.0)
        await world.register()
        told = await promises.all(world.now_s)
        first = [await promises.prompt(promise) for promise in told]
        monkeypatch.setattr(world.schemas, "beginnings", None)
        assert [await promises.prompt(promise) for promise in told] == first
        assert None not in first

    run(test)


def test_versions_in_use_are_promised_and_others_are_not() -> None:
    async def test(world: World) -> None:
        promises = SchemaPromises(world.schemas, 3600.0)
        await world.register()
        await world.register(model="", name="for-any")
        one, two = await promises.all(world.now_s)
        assert (one.model, one.tenant, one.tokens, one.sharing, one.uses) == ("m", "all", 100, "t:a", 0)
        assert one.expires_s == NOW_S + 3600.0
        body = await promises.prompt(two)
        assert body is not None
        assert json.loads(body)["messages"][0]["content"] == "Plan a trip. To Miami"
        await promises.lapse(one, True)
        assert [promise.lapsed for promise in await promises.all(world.now_s)] == [True, False]
        await promises.lapse(one, False)
        world.now_s += 1800.0
        await world.use(modules=["rome"])
        world.now_s += 1801.0
        assert [(promise.uses, promise.lapsed) for promise in await promises.all(world.now_s)] == [
            (1, False)
        ] * 2
        world.now_s += 1800.0
        assert await promises.all(world.now_s) == []
        assert await promises.prompt(one) is None

    run(test)


# -- through the data plane ------------------------------------------------------------------------------------------


def send(client: ClientWire, method: str, target: str, body: Any, *fields: str) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = "".join(f"{field}\r\n" for field in fields)
    client.feed(
        f"{method} {target} HTTP/1.1\r\nHost: r\r\n{lines}Content-Length: {len(data)}\r\n\r\n".encode() + data
    )


def test_a_chat_by_schema_reaches_the_replica_as_the_chat_that_it_means() -> None:
    async def test() -> None:
        wire = Wire(prompt_schemas=PromptSchemasConfig(enabled=True))
        schemas = wire.gateway.schemas
        assert schemas is not None
        document = json.dumps(TRIP).encode()
        digest = sha256(document).hexdigest()
        record = SchemaRecord(scope="all", name="trip", version=0, digest=digest, created_s=0.0, model="tiny")
        await schemas.store.add(record, document, 0.0, most=1, most_bytes=1000)
        client = wire.connect()
        connection, upstream = wire.add_upstream()
        chat = {
            "prompt_schema": {"name": "trip", "modules": ["rome"]},
            "messages": [{"role": "user", "content": "Go"}],
        }
        send(client, "POST", "/v1/chat/completions", {**chat, "max_tokens": 3})
        while not upstream.written:
            await asyncio.sleep(0)
        head, _, body = bytes(upstream.written).partition(b"\r\n\r\n")
        assert head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
        assert json.loads(body) == {
            "max_tokens": 3,
            "messages": [{"role": "user", "content": "Plan a trip. To Rome.\n\nGo"}],
            "model": "tiny",
        }
        connection.data_received(
            b"HTTP/1.1 200 X\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
        )
        ((status, fields, answer),) = ParsedAnswers(client.output).answers
        assert (status, answer) == (200, b"{}")
        assert dict(fields)[b"x-warmroute-prompt-schema"] == b"trip; version=1"
        assert wire.at_rest()
        await wire.worker.tasks.stop()

    asyncio.run(test())


def test_without_a_schema_a_chat_is_sent_as_it_came() -> None:
    for settings in ({}, {"prompt_schemas": PromptSchemasConfig(enabled=True)}):
        wire = Wire(**settings)
        client = wire.connect()
        _, upstream = wire.add_upstream()
        for chat in (
            {"model": "m", "messages": [{"role": "user", "content": '"prompt_schema"'}]},
            {"model": "m", "messages": [{"role": "user", "content": "x"}], "prompt_schema": None},
        ):
            upstream.written.clear()
            send(client, "POST", "/v1/chat/completions", chat)
            assert bytes(upstream.written).endswith(json.dumps(chat).encode())
            wire.upstreams[0][0].data_received(b"HTTP/1.1 200 X\r\ncontent-length: 2\r\n\r\n{}")


def test_asked_by_markup() -> None:
    found = asked('<prompt schema="trip" version="1"><miami how="!"/>Go</prompt>')
    assert found == Asked("trip", 1, ["miami"], {"miami/how": "!"}, [{"role": "user", "content": "Go"}])


@pytest.mark.parametrize("coding", ["", "gzip"])
def test_a_chat_that_begins_with_a_cached_content_does_so_where_schemas_are_on(coding: str) -> None:
    async def test() -> None:
        wire = Wire(
            prompt_schemas=PromptSchemasConfig(enabled=True),
            cached_contents=CachedContentsConfig(enabled=True),
        )
        client = wire.connect()
        _, upstream = wire.add_upstream()
        chat = {
            "model": "m",
            "messages": [{"role": "user", "content": "x"}],
            "prompt_schema": None,
            "cached_content": "cachedContents/abcdefgh",
        }
        body = json.dumps(chat).encode()
        fields = [f"Content-Encoding: {coding}"] if coding else []
        send(client, "POST", "/v1/chat/completions", gzip.compress(body) if coding else body, *fields)
        for _ in range(5):
            await asyncio.sleep(0)
        assert not upstream.written, "it was sent without what it begins with"
        ((status, _, answer),) = ParsedAnswers(client.output).answers
        assert (status, json.loads(answer)["error"]["code"]) == (404, "cached_content_not_found")
        assert wire.at_rest()

    asyncio.run(test())


@pytest.mark.parametrize(
    ("method", "target", "status", "allow"),
    [
        ("GET", "?limit=" + "0" * 10 + "9" * 5000, 400, None),
        ("DELETE", "", 405, b"GET, POST"),
        ("HEAD", "/trip/versions", 405, b"GET"),
    ],
)
def test_a_call_that_cannot_be_is_answered(
    method: str, target: str, status: int, allow: bytes | None
) -> None:
    wire = Wire(prompt_schemas=PromptSchemasConfig(enabled=True))
    client = wire.connect()
    send(client, method, f"/v1/prompt_schemas{target}", b"")
    head = client.output.partition(b"\r\n\r\n")[0].split(b"\r\n")
    assert head[0].startswith(b"HTTP/1.1 %d " % status)
    assert (b"allow: %b" % allow in head) if allow else all(b"allow" not in line for line in head)


def test_a_short_request_for_a_long_prompt_needs_room_for_that() -> None:
    async def test() -> None:
        wire = Wire(
            LimitsConfig(body_bytes=200_000, buffered_body_bytes=150_000),
            prompt_schemas=PromptSchemasConfig(enabled=True),
        )
        client = wire.connect()
        _, upstream = wire.add_upstream()
        parameter = {"parameter": "p", "length": 1000}
        send(
            client,
            "POST",
            "/v1/prompt_schemas",
            {"name": "s", "model": "m", "prewarm": False, "content": [parameter] * 100},
        )
        for value in ("x" * 2000, "x" * 1000):
            send(
                client,
                "POST",
                "/v1/chat/completions",
                {"prompt_schema": {"name": "s", "parameters": {"p": value}}},
            )
            for _ in range(5):
                await asyncio.sleep(0)
        _, (status, _, answer) = ParsedAnswers(client.output).answers
        assert (status, json.loads(answer)["error"]["code"]) == (503, "buffers_full")
        assert upstream.written, "the one for which there is room is sent"
        client.lose()
        assert wire.at_rest()

    asyncio.run(test())
