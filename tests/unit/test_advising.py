"""Advice and rewrites on the request path: what answers tell, what replicas are sent, and what it costs off."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
from dataclasses import replace
from typing import Any

import pytest

from tests.support.prompt_corpus import chat, tool, words
from tests.support.tenants import KeyedFleet, bearer
from tests.support.wire import Wire
from tests.support.wire_fleet import BREAKS, WireFleet, plain
from warmroute.config.advice import AdviceConfig, RewriteConfig
from warmroute.config.errors import ConfigError
from warmroute.config.load import load
from warmroute.config.provider_caching import CachingConfig
from warmroute.config.schema import CachedContentsConfig, HeadersConfig, PromptSchemasConfig, UsageConfig
from warmroute.dataplane.accounts import Accounts
from warmroute.dataplane.advising import MOST_UNDER_WAY, AdvisedCaching

ADVICE = AdviceConfig(sample=1.0, budget_ratio=1.0, minimum_tokens=128)
RARE = AdviceConfig(sample=1e-9, budget_ratio=1.0, minimum_tokens=128)
SHARED = words(random.Random(1), 400)
ASKS = b"X-Warmroute-Advice: 1\r\n"


def dated(day: int, question: str = "Hi") -> dict[str, Any]:
    return chat(f"It is 2026-11-{day}. {SHARED}", question)


def answer(prompt_tokens: int = 900, cached_tokens: int = 0) -> bytes:
    return plain(200, json.dumps({"id": "c", "choices": [], "usage": {
        "prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens + 1, "completion_tokens": 1,
        "prompt_tokens_details": {"cached_tokens": cached_tokens}}}, separators=(",", ":")).encode())  # fmt: skip


def asked(fleet: WireFleet, body: dict[str, Any] | bytes, fields: bytes = b"") -> tuple[bytes, bytes]:
    """The answer's head in lower case, and the body that the replica was sent."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    client = fleet.wire.connect()
    client.feed(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: r\r\n%bContent-Length: %d\r\n\r\n%b"
        % (fields, len(data), data)
    )
    sent = b""
    while (exchange := client.connection.exchange) is not None and exchange.connection is not None:
        sent = bytes(exchange.connection.transport.written).partition(b"\r\n\r\n")[2]  # type: ignore[attr-defined]
        fleet.reply(exchange)
    return client.output.partition(b"\r\n\r\n")[0].lower(), sent


def advised(fleet: WireFleet) -> AdvisedCaching:
    caching = fleet.gateway.caching
    assert isinstance(caching, AdvisedCaching)
    return caching


def report(fleet: WireFleet) -> Any:
    advisor = advised(fleet).advisor
    assert advisor is not None
    return advisor.report(0.0)


def test_off_nothing_stands_in_the_way() -> None:
    fleet = WireFleet(1)
    assert fleet.gateway.caching is None
    assert type(fleet.gateway.accounts) is Accounts
    head, _ = asked(fleet, dated(1), ASKS)
    assert b"advice" not in head
    assert (
        type(WireFleet(1, rewrites=(RewriteConfig(tenants=("*",), sort_tools=True),)).gateway.accounts)
        is Accounts
    )


@pytest.mark.parametrize(
    "caching", [CachingConfig(), CachingConfig(openai=True, anthropic=True, deepseek=True)]
)
def test_an_answer_tells_what_was_found_if_it_is_asked(caching: CachingConfig) -> None:
    fleet = WireFleet(1, advice=RARE, caching=caching)
    fleet.answer(0, answer())
    assert b"x-warmroute-advice: none; 0" in asked(fleet, dated(1), ASKS)[0]
    head, _ = asked(fleet, dated(2), ASKS)
    assert b"x-warmroute-advice: timestamp; " in head
    assert int(head.partition(b"advice: timestamp; ")[2].split(b"\r")[0]) == pytest.approx(
        len(SHARED) / 4, rel=0.15
    )
    assert b"advice" not in asked(fleet, dated(3))[0]
    assert not advised(fleet).under_way


def test_answers_tell_nothing_where_they_may_not_explain() -> None:
    fleet = WireFleet(1, advice=ADVICE, headers=HeadersConfig(explain=False))
    fleet.answer(0, answer())
    for day in (1, 2):
        assert b"advice" not in asked(fleet, dated(day), ASKS)[0]
    assert report(fleet)["advice"][0]["causes"]


def test_a_reload_says_anew_whether_answers_explain() -> None:
    fleet = WireFleet(1, advice=ADVICE)
    fleet.answer(0, answer())
    fleet.gateway.configure(replace(fleet.wire.worker.config, headers=HeadersConfig(explain=False)), None)
    assert b"advice" not in asked(fleet, dated(1), ASKS)[0]
    fleet.gateway.configure(fleet.wire.worker.config, None)
    assert b"advice" in asked(fleet, dated(1), ASKS)[0]


def test_what_is_counted_is_what_engines_computed() -> None:
    fleet = WireFleet(1, advice=ADVICE)
    fleet.answer(0, answer(900, 0))
    for day in (1, 2):
        asked(fleet, dated(day))
    fleet.answer(0, answer(900, 896))
    asked(fleet, dated(3))
    (row,) = report(fleet)["advice"]
    assert (row["tenant"], row["model"], row["looked_at"]) == ("", "m", 3)
    assert (row["prompt_tokens"], row["missed_tokens"]) == (2700, 1804)
    (cause,) = row["causes"]
    assert (cause["cause"], cause["requests"]) == ("timestamp", 1)


def test_requests_that_fail_are_not_counted_and_nothing_of_them_stays() -> None:
    fleet = WireFleet(2, advice=ADVICE)
    for number in (0, 1):
        fleet.answer(number, BREAKS)
    asked(fleet, dated(1))
    for number in (0, 1):
        fleet.answer(number, plain(400))
    asked(fleet, dated(2))
    assert not advised(fleet).under_way
    assert report(fleet)["advice"] == []


def test_what_is_under_way_is_bounded() -> None:
    fleet = WireFleet(1, advice=ADVICE)
    caching = advised(fleet)
    for _ in range(3):
        fleet.begin("hello there")
    assert len(caching.under_way) == 3
    assert MOST_UNDER_WAY > 3


@pytest.mark.parametrize("caching", [CachingConfig(), CachingConfig(openai=True, deepseek=True)])
def test_tenants_prompts_are_compared_with_their_own_only(caching: CachingConfig) -> None:
    fleet = KeyedFleet(advice=ADVICE, caching=caching)
    fleet.answer(0, answer())
    for day, tenant in ((1, "a"), (2, "b"), (3, "a")):
        fleet.answered(bearer(tenant) + ASKS, dated(day))
    rows = {row["tenant"]: row["causes"] for row in report(fleet)["advice"]}
    assert rows["b"] == []
    assert rows["a"][0]["requests"] == 1
    keyless = WireFleet(1, advice=ADVICE, caching=caching)
    for fields in (b"Authorization: Bearer one\r\n", b"Authorization: Bearer two\r\n", b""):
        asked(keyless, dated(1), fields)
    names = [row["tenant"] for row in report(keyless)["advice"]]
    assert len(set(names)) == 3
    assert b"one" not in json.dumps(names).encode()


def test_tools_are_sorted_for_those_tenants_that_ask_for_it() -> None:
    tools = [tool(random.Random(n), n) for n in (2, 0, 1)]
    body = chat("System.", "Hi", tools=tools, tool_choice="auto")
    fleet = KeyedFleet(rewrites=(RewriteConfig(tenants=("a",), sort_tools=True),))
    for tenant, changed in (("a", True), ("b", False)):
        _, exchange = fleet.send(bearer(tenant), body)
        assert exchange is not None
        assert exchange.connection is not None
        sent = bytes(exchange.connection.transport.written)  # type: ignore[attr-defined]
        head, _, got = sent.partition(b"\r\n\r\n")
        fleet.reply(exchange)
        assert int(head.lower().partition(b"content-length: ")[2].split(b"\r")[0]) == len(got)
        found = json.loads(got)
        order = [one["function"]["name"] for one in found["tools"]]
        assert order == (["tool_0", "tool_1", "tool_2"] if changed else ["tool_2", "tool_0", "tool_1"])
        assert {**found, "tools": None} == {**body, "tools": None}


def test_rewritten_prompts_are_placed_and_advised_as_they_are_sent() -> None:
    tools = [tool(random.Random(n), n) for n in range(6)]
    fleet = WireFleet(1, advice=ADVICE, rewrites=(RewriteConfig(tenants=("*",), sort_tools=True),))
    fleet.answer(0, answer())
    for order in (tools, tools[::-1]):
        _, sent = asked(fleet, chat(SHARED, "Hi", tools=order))
        assert json.loads(sent)["tools"] == tools
    assert report(fleet)["advice"][0]["causes"] == []


def test_bodies_in_a_coding_and_those_that_nothing_changes_in_pass_byte_for_byte() -> None:
    fleet = WireFleet(1, rewrites=(RewriteConfig(tenants=("*",), sort_tools=True, sort_keys=True),))
    body = json.dumps(
        chat("System.", "Hi", tools=[tool(random.Random(n), n) for n in (1, 0)]), indent=2
    ).encode()
    coded = gzip.compress(body)
    assert asked(fleet, coded, b"Content-Encoding: gzip\r\n")[1] == coded
    untooled = json.dumps(chat("System.", "Hi"), indent=2).encode()
    assert asked(fleet, untooled)[1] == untooled


def test_faults_of_the_settings_are_named(tmp_path: Any) -> None:
    path = tmp_path / "router.yaml"
    path.write_text(
        json.dumps({
            "replicas": ["http://127.0.0.1:1"],
            "rewrites": [
                {"tenants": [], "sort_tools": True},
                {"tenants": ["a b"], "passages_begin": "<p>"},
                {"tenants": ["*"]},
            ],
        })
    )  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        load(path=str(path), environ={})
    text = str(caught.value)
    for told in (
        "rewrites[0]",
        "names no tenants",
        "rewrites[1].tenants",
        "need each other",
        "rewrites nothing",
    ):
        assert told in text
    path.write_text(json.dumps({"replicas": ["http://127.0.0.1:1"], "advice": 0.25}))
    assert load(path=str(path), environ={}).advice.sample == 0.25


async def written(wire: Wire, target: str, body: Any, *fields: str) -> Any:
    """The body of the one request that the replica is sent for it, answered."""
    connection, transport = wire.upstreams[0]
    transport.written.clear()
    data = json.dumps(body).encode()
    lines = "".join(f"{field}\r\n" for field in fields)
    wire.connect().feed(
        f"POST {target} HTTP/1.1\r\nHost: r\r\n{lines}Content-Length: {len(data)}\r\n\r\n".encode() + data
    )
    for _ in range(8):
        await asyncio.sleep(0)
    sent = json.loads(bytes(transport.written).partition(b"\r\n\r\n")[2])
    connection.data_received(answer(5_000))
    for _ in range(8):
        await asyncio.sleep(0)
    return sent


def test_what_is_computed_and_kept_warm_for_a_content_is_rewritten_as_its_uses_are() -> None:
    async def test() -> None:
        tools = [tool(random.Random(n), n) for n in range(3)]
        wire = Wire(
            advice=ADVICE,
            rewrites=(RewriteConfig(tenants=("*",), sort_tools=True),),
            cached_contents=CachedContentsConfig(enabled=True),
            usage=UsageConfig(enabled=True),
        )
        wire.add_upstream()
        content = {"model": "m", "tools": tools[::-1], "messages": [{"role": "user", "content": SHARED * 8}]}
        made = await written(wire, "/v1/caches", content)
        assert made["tools"] == tools
        (keeper,) = wire.worker.warmth.keepers
        (source,) = keeper._sources
        (promise,) = await source.all(wire.gateway.clock())
        body = await source.prompt(promise)
        assert body is not None
        assert json.loads(body)["tools"] == tools
        caching = wire.gateway.caching
        assert isinstance(caching, AdvisedCaching)
        assert caching.advisor is not None
        assert caching.advisor.report(0.0)["requests_seen"] == 0, "no client wrote it"

    asyncio.run(test())


def test_what_is_computed_ahead_for_a_schema_counts_as_its_uses_do() -> None:
    async def test() -> None:
        wire = Wire(prompt_schemas=PromptSchemasConfig(enabled=True), usage=UsageConfig(enabled=True))
        wire.add_upstream()
        await written(wire, "/v1/prompt_schemas", {"name": "s", "model": "m", "content": SHARED * 8})
        admission = wire.gateway.admission
        assert admission is not None
        assert admission.ledger is not None
        assert {key[3] for key in admission.ledger.drain() if not key[4]} == {"openai"}

    asyncio.run(test())
