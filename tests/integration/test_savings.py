"""What each interface read, wrote and missed, over a real router and simulated replicas: to the token, and saved."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest

from tests.support.redis_server import RedisServer
from tests.support.router_thread import RouterThread, running
from tests.support.sim_fleet import SimProcess
from warmroute.config.provider_caching import CachingConfig
from warmroute.config.schema import (
    Address,
    CachedContentsConfig,
    Config,
    KeepWarmConfig,
    PriceConfig,
    RegistryConfig,
    ReplicaConfig,
    UsageConfig,
)
from warmroute.config.tenant_schema import PriceInterface

ANY = Address("127.0.0.1:0")
INTERFACES: tuple[PriceInterface, ...] = ("openai", "anthropic", "google", "deepseek")
PRICES = tuple(
    PriceConfig(model="*", prompt=2.0, output=8.0, structure=name, interface=name, storage=1.0)  # type: ignore[arg-type]
    for name in INTERFACES
)
Told = dict[str, list[tuple[int, int, int]]]
"""Prompt, read and written tokens of each answer, as clients were told, by interface."""


@pytest.fixture(scope="module", params=["memory", "redis"])
def router(request: pytest.FixtureRequest) -> Iterator[RouterThread]:
    with SimProcess("--speed", "50", ports=2) as sims, RedisServer() as redis:
        config = Config(
            listen=ANY,
            admin=ANY,
            replicas=tuple(
                ReplicaConfig(url=url, id=name) for url, name in zip(sims.urls, sims.ids, strict=True)
            ),
            registry=RegistryConfig(url="memory" if request.param == "memory" else redis.url),
            caching=CachingConfig(openai=True, anthropic=True, deepseek=True),
            cached_contents=CachedContentsConfig(enabled=True),
            keep_warm=KeepWarmConfig(budget_ratio=0.0),
            usage=UsageConfig(enabled=True, prices=PRICES),
        )
        with running(config, 2) as started:
            yield started


def read(router: RouterThread, path: str) -> str:
    with urllib.request.urlopen(router.admin_url + path, timeout=30) as answer:
        return str(answer.read().decode())


def call(router: RouterThread, method: str, path: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        router.url + path, data, {"Content-Type": "application/json"}, method=method
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def by_openai(router: RouterThread, *, deepseek: bool) -> list[tuple[int, int, int]]:
    told = []
    headers = {"X-Warmroute-Usage": "deepseek"} if deepseek else {}
    with openai.OpenAI(base_url=f"{router.url}/v1", api_key="none", max_retries=0) as client:
        for document in range(6):
            text = f"{'deep' if deepseek else 'open'} {document} " + "word " * 1500
            for question in "ab":
                with client.chat.completions.create(
                    model="sim", max_tokens=2, stream=True, stream_options={"include_usage": True},
                    messages=[{"role": "user", "content": text + question}], extra_headers=headers,
                ) as stream:  # fmt: skip
                    usage = list(stream)[-1].usage
                assert usage is not None
                details: Any = usage.prompt_tokens_details
                if deepseek:
                    assert (usage.model_extra or {})["prompt_cache_hit_tokens"] == details.cached_tokens
                told.append((usage.prompt_tokens, details.cached_tokens, details.cache_write_tokens))
    return told


def by_anthropic(router: RouterThread) -> tuple[list[tuple[int, int, int]], int]:
    told, hour = [], 0
    with anthropic.Anthropic(base_url=router.url, api_key="none", max_retries=0) as client:
        for number, ttl in enumerate(("5m", "1h", "1h")):
            system: Any = [{"type": "text", "text": f"anthropic {number} " + "word " * 1500,
                            "cache_control": {"type": "ephemeral", "ttl": ttl}}]  # fmt: skip
            for question in "ab":
                usage = client.messages.create(
                    model="sim", system=system, max_tokens=2, messages=[{"role": "user", "content": question}]
                ).usage
                read_tokens, written = (
                    usage.cache_read_input_tokens or 0,
                    usage.cache_creation_input_tokens or 0,
                )
                told.append((usage.input_tokens + read_tokens + written, read_tokens, written))
                assert usage.cache_creation is not None
                hour += usage.cache_creation.ephemeral_1h_input_tokens
    return told, hour


def by_google(router: RouterThread) -> list[tuple[int, int, int]]:
    content = call(
        router, "POST", "/v1beta/cachedContents",
        {"model": "models/sim", "ttl": "600s",
         "contents": [{"role": "user", "parts": [{"text": "google " + "word " * 1500}]}]},
    )  # fmt: skip
    told = []
    for question in "ab":
        usage = call(
            router, "POST", "/v1beta/models/sim:generateContent",
            {"cachedContent": content["name"], "contents": [{"role": "user", "parts": [{"text": question}]}],
             "generationConfig": {"maxOutputTokens": 2}},
        )["usageMetadata"]  # fmt: skip
        told.append((usage["promptTokenCount"], usage["cachedContentTokenCount"], 0))
    call(router, "PATCH", f"/v1beta/{content['name']}?updateMask=ttl", {"ttl": "1200s"})
    call(router, "DELETE", f"/v1beta/{content['name']}")
    return told


@pytest.fixture(scope="module")
def asked(router: RouterThread) -> tuple[Told, int]:
    """What clients were told through each interface, and how many of Anthropic's tokens were written for an hour."""
    told: Told = {"openai": by_openai(router, deepseek=False), "deepseek": by_openai(router, deepseek=True)}
    told["anthropic"], hour = by_anthropic(router)
    told["google"] = by_google(router)
    return told, hour


def test_each_interface_is_counted_to_the_token_and_beside_its_promise(
    router: RouterThread, asked: tuple[Told, int]
) -> None:
    told, hour = asked
    usage = {row["interface"]: row for row in json.loads(read(router, "/usage?by=interface"))["usage"]}
    (whole,) = json.loads(read(router, "/usage?by=tenant"))["usage"]
    rows = {row["interface"]: row for row in json.loads(read(router, "/savings?from=1h"))["savings"]}
    assert set(rows) == set(told)
    for name in ("openai", "anthropic", "deepseek"):
        prompt, cached, written = (sum(column) for column in zip(*told[name], strict=True))
        row, of = rows[name], usage[name]
        assert (row["prompt_tokens"], row["read_tokens"], row["written_tokens"]) == (prompt, cached, written)
        assert row["missed_tokens"] == of["missed_tokens"] == prompt - cached
        write = {"openai": 1.25, "anthropic": 1.25, "deepseek": 1.0}[name]
        hours = hour if name == "anthropic" else 0
        paid = prompt - cached - written + 0.1 * cached + write * (written - hours) + 2.0 * hours
        assert of["prompt_cost"] == pytest.approx(paid * 2.0 / 1e6, rel=1e-9)
        assert row["saved"] == pytest.approx((prompt - paid) * 2.0 / 1e6, rel=1e-9)
        assert row["reached"]["cost_saved_share"] == pytest.approx(1 - paid / prompt, abs=1e-4)
        assert row["reached"]["cost_saved_share_at_provider"] == row["reached"]["cost_saved_share"]
        assert row["prefill_saved_s"] > 0
        assert 0.4 < row["reached"]["read_share"] < 0.6
        assert row["promised"]["cost_saved_share_up_to"] == 0.9
    assert usage["anthropic"]["written_hour_tokens"] == hour > 2900
    google = rows["google"]
    assert google["prompt_tokens"] >= sum(one[0] for one in told["google"])
    assert google["read_tokens"] >= sum(one[1] for one in told["google"]) > 2900
    assert 0 <= usage["google"]["stored_token_hours"] < 1500 * 10 / 3600, "its lifetime was given back"
    for name in (
        "prompt_tokens",
        "cached_tokens",
        "missed_tokens",
        "written_tokens",
        "requests",
        "output_tokens",
    ):
        assert sum(row[name] for row in usage.values()) == whole[name]
    assert sum(round(row["cost"] * 1e9) for row in usage.values()) == round(whole["cost"] * 1e9)


@pytest.mark.usefixtures("asked")
def test_times_to_the_first_token_are_compared_at_like_sizes(router: RouterThread) -> None:
    rows = {row["interface"]: row["reached"] for row in json.loads(read(router, "/savings"))["savings"]}
    (size,) = rows["openai"]["latency_by_size"]
    assert (size["prompt_tokens_from"], size["cold_requests"], size["warm_requests"]) == (1024, 6, 6)
    assert size["cold_ttft_s"] > 0
    assert rows["openai"]["latency_saved_share"] == size["saved_share"]
    assert rows["anthropic"]["latency_saved_share"] is None, "its answers did not stream"
    metrics = read(router, "/metrics")
    assert (
        'warmroute_interface_ttft_requests_total{interface="openai",size="1024",warmth="warm"} 6.0' in metrics
    )
    assert 'warmroute_interface_prompt_tokens_total{interface="anthropic",kind="written"}' in metrics


def test_what_cannot_be_asked_is_refused(router: RouterThread) -> None:
    for query in ("from=never", "from=0&to=1&by=interface", "to=1&from=2"):
        path = f"/savings?{query}"
        if query.startswith("from=0"):
            assert json.loads(read(router, path))["savings"] == []
            continue
        with pytest.raises(urllib.error.HTTPError) as caught:
            read(router, path)
        with caught.value as error:
            assert error.code == 400
