"""Which interface a request counts by, what its engine wrote, and what is told of savings."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.recorded import RECORDED
from tests.support.wire_fleet import OK, WireFleet, plain
from warmroute.config.errors import ConfigError
from warmroute.config.load import load
from warmroute.config.provider_caching import CachingConfig
from warmroute.config.schema import PriceConfig, UsageConfig
from warmroute.dialects.usage_told import written_tokens
from warmroute.tenants.savings import LEAST_REQUESTS, saving
from warmroute.tenants.usage import CACHED, COUNTERS, PROMPT, WRITTEN

ALL = CachingConfig(openai=True, anthropic=True, deepseek=True, anthropic_minimum_tokens=1)
PRICES = (
    PriceConfig(model="*", prompt=10.0, output=1.0, structure="openai"),
    PriceConfig(model="*", prompt=10.0, structure="anthropic", interface="anthropic"),
)
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
MESSAGES_OK = (
    b'{"id":"m","type":"message","role":"assistant","content":[],"usage":{"input_tokens":20,"output_tokens":1,'
    b'"cache_read_input_tokens":100,"cache_creation_input_tokens":80}}'
)
CHAT_OK = (
    b'{"id":"c","choices":[],"usage":{"prompt_tokens":200,"total_tokens":201,"completion_tokens":1,'
    b'"prompt_tokens_details":{"cached_tokens":100,"created_cache_tokens":80}}}'
)


def rows(fleet: WireFleet) -> dict[str, dict[str, int]]:
    admission = fleet.gateway.admission
    assert admission is not None
    assert admission.ledger is not None
    return {
        key[3]: dict(zip(COUNTERS, counts, strict=True))
        for key, counts in admission.ledger.drain().items()
        if not key[4]
    }


def ask(fleet: WireFleet, body: dict[str, Any], path: str, fields: bytes = b"") -> bytes:
    data = json.dumps(body).encode()
    client = fleet.wire.connect()
    client.feed(
        b"POST %b HTTP/1.1\r\nHost: r\r\n%bContent-Length: %d\r\n\r\n%b"
        % (path.encode(), fields, len(data), data)
    )
    exchange = client.connection.exchange
    assert exchange is not None
    fleet.reply(exchange)
    return client.output


@pytest.mark.parametrize(
    ("path", "body", "fields", "interface"),
    [
        ("/v1/chat/completions", CHAT, b"", "openai"),
        ("/v1/completions", {"model": "m", "prompt": "hi"}, b"", "openai"),
        ("/v1/responses", {"model": "m", "input": "hi"}, b"", "openai"),
        ("/v1/messages", {**CHAT, "max_tokens": 1}, b"", "anthropic"),
        ("/v1/chat/completions", CHAT, b"X-Warmroute-Usage: deepseek\r\n", "deepseek"),
        ("/v1/embeddings", {"model": "m", "input": "hi"}, b"", "other"),
    ],
)
@pytest.mark.parametrize("caching", [CachingConfig(), ALL])
def test_requests_count_by_the_interface_that_they_speak(
    path: str, body: dict[str, Any], fields: bytes, interface: str, caching: CachingConfig
) -> None:
    fleet = WireFleet(1, usage=UsageConfig(enabled=True), caching=caching)
    fleet.answer(0, plain(200, OK))
    ask(fleet, body, path, fields)
    if not caching.deepseek and interface == "deepseek":
        interface = "openai"
    counted = rows(fleet)
    assert set(counted) == {interface}
    assert (counted[interface]["begun"], counted[interface]["requests"]) == (1, 1)


@pytest.mark.parametrize("caching", [CachingConfig(), ALL])
def test_what_engines_wrote_is_counted_and_priced(caching: CachingConfig) -> None:
    fleet = WireFleet(1, usage=UsageConfig(enabled=True, prices=PRICES), caching=caching)
    fleet.answer(0, plain(200, CHAT_OK))
    ask(fleet, CHAT, "/v1/chat/completions")
    row = rows(fleet)["openai"]
    assert (row["prompt_tokens"], row["cached_tokens"], row["written_tokens"]) == (200, 100, 80)
    assert row["prompt_cost_nano"] == 20 * 10_000 + 100 * 1_000 + 80 * 12_500
    assert row["saved_nano"] == 200 * 10_000 - row["prompt_cost_nano"]
    assert row["cost_nano"] == row["prompt_cost_nano"] + 1_000
    assert row["written_hour_tokens"] == 0


@pytest.mark.parametrize(("ttl", "hour"), [("1h", 80), ("5m", 0)])
def test_what_anthropic_writes_for_an_hour_costs_twice(ttl: str, hour: int) -> None:
    fleet = WireFleet(1, usage=UsageConfig(enabled=True, prices=PRICES), caching=ALL)
    fleet.answer(0, plain(200, MESSAGES_OK))
    system = [{"type": "text", "text": "word " * 600, "cache_control": {"type": "ephemeral", "ttl": ttl}}]
    told = json.loads(
        ask(fleet, {**CHAT, "max_tokens": 1, "system": system}, "/v1/messages").partition(b"\r\n\r\n")[2]
    )
    row = rows(fleet)["anthropic"]
    split = told["usage"]["cache_creation"]
    assert row["written_hour_tokens"] == split["ephemeral_1h_input_tokens"] == hour
    assert row["written_tokens"] == sum(split.values()) == 80
    assert row["prompt_cost_nano"] == 20 * 10_000 + 100 * 1_000 + (80 - hour) * 12_500 + hour * 20_000


@pytest.mark.parametrize(
    ("seen", "written"),
    [
        (b'"usage":{"prompt_tokens_details":{"cached_tokens":8,"created_cache_tokens":16}}', 16),
        (b'"usage": {"cache_creation_input_tokens": 9}', 9),
        (b'"text":"\\"created_cache_tokens\\":99"', 0),
        (b'"created_cache_tokens":null', 0),
        (b'"created_cache_tokens":3},{"created_cache_tokens":5', 5),
        (b'"created_cache_tokens":5000', 92),
        (b"", 0),
    ],
)
def test_what_was_written_is_read_and_is_no_more_than_was_computed(seen: bytes, written: int) -> None:
    assert written_tokens(seen, 100, 8, 0.0) == (written, 0)


def test_recorded_answers_tell_what_was_written() -> None:
    found = {
        name: written_tokens(answer, 10**9, 0, 0.0)[0]
        for name, answer in RECORDED.items()
        if b"created_cache_tokens" in answer
    }
    assert len(found) > 3
    assert any(found.values())


def counts(**values: int) -> list[int]:
    return [values.get(name, 0) for name in COUNTERS]


def test_savings_stand_beside_what_is_promised() -> None:
    row: Any = saving(
        "anthropic",
        "m",
        counts(
            requests=4,
            prompt_tokens=1000,
            cached_tokens=800,
            written_tokens=100,
            prompt_cost_nano=305,
            saved_nano=695,
        ),
        {
            512: (LEAST_REQUESTS, LEAST_REQUESTS * 2_000_000, LEAST_REQUESTS, LEAST_REQUESTS * 500_000),
            1024: (10, 40_000_000, 15, 15_000_000),
            2048: (LEAST_REQUESTS - 1, 9_000_000, 50, 1_000_000),
        },
    )
    assert (row["read_tokens"], row["written_tokens"], row["missed_tokens"]) == (800, 100, 200)
    reached = row["reached"]
    assert (reached["read_share"], reached["cost_saved_share"]) == (0.8, 0.695)
    assert reached["cost_saved_share_at_provider"] == pytest.approx(1 - (100 + 800 * 0.1 + 100 * 1.25) / 1000)
    assert reached["latency_saved_share"] == pytest.approx((5 * 0.75 + 15 * 0.75) / 20)
    assert [one["prompt_tokens_from"] for one in reached["latency_by_size"]] == [512, 1024]
    assert row["promised"] == {"cost_saved_share_up_to": 0.9, "latency_saved_share_up_to": 0.85}


def test_nothing_counted_is_nothing_reached() -> None:
    row: Any = saving("other", "m", counts(), {})
    assert row["promised"] is None
    assert row["reached"]["read_share"] is row["reached"]["latency_saved_share"] is None
    assert row["reached"]["cost_saved_share"] is row["reached"]["cost_saved_share_at_provider"] is None


def test_faults_of_prices_are_named(tmp_path: Any) -> None:
    path = tmp_path / "router.yaml"
    row = {"model": "m", "prompt": 1.0}
    path.write_text(json.dumps({
        "replicas": ["http://127.0.0.1:1"],
        "usage": {"enabled": True, "prices": [
            row, {**row, "interface": "google"}, {**row, "interface": "google"}, {"model": ""},
            {"model": "n", "prompt": 1.0, "cached": 0.5, "structure": "deepseek"},
        ]},
    }))  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        load(path=str(path), environ={})
    text = str(caught.value)
    for told in (
        "usage.prices[2]",
        "'m' by google is named twice",
        "usage.prices[3]",
        "usage.prices[4]",
        "deepseek",
    ):
        assert told in text
    assert "usage.prices[1]" not in text


def test_counters_have_their_places() -> None:
    assert [COUNTERS[place] for place in (PROMPT, CACHED, WRITTEN)] == [
        "prompt_tokens", "cached_tokens", "written_tokens"
    ]  # fmt: skip
