"""Prompts that official clients ask to be kept stay warm: they survive a replica's end, each by its own API."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import openai
import pytest

from tests.support.router_thread import RouterThread, running, wait_until
from tests.support.sim_fleet import SimProcess, fleet
from warmroute.config.cached_contents import KeepWarmConfig
from warmroute.config.provider_caching import CachingConfig
from warmroute.config.schema import Address, Config, HealthConfig, ReplicaConfig

ANY = Address("127.0.0.1:0")
EPHEMERAL: Any = {"type": "ephemeral"}
TOOL: Any = {
    "name": "look",
    "description": "Look it up",
    "input_schema": {"type": "object", "properties": {}},
}


@pytest.fixture
def sims() -> Iterator[list[SimProcess]]:
    with fleet(2, "--speed", "20") as started:
        yield started


@pytest.fixture
def router(sims: list[SimProcess]) -> Iterator[RouterThread]:
    config = Config(
        listen=ANY,
        admin=ANY,
        replicas=tuple(ReplicaConfig(url=sim.urls[0], id=sim.ids[0]) for sim in sims),
        caching=CachingConfig(openai=True, anthropic=True),
        keep_warm=KeepWarmConfig(prompts_bytes=1 << 24, budget_ratio=0.5, tenant_ratio=0.5, interval_s=0.05),
        health=HealthConfig(probe_interval_s=0.2),
    )
    with running(config, 2) as started:
        yield started
        started.assert_at_rest()


def long_text(name: str) -> str:
    return f"{name} " + "word " * 2000


def test_promised_prompts_survive_their_replicas_end(router: RouterThread, sims: list[SimProcess]) -> None:
    (keeper,) = router.worker.warmth.keepers
    claude = anthropic.Anthropic(base_url=router.url, api_key="none", max_retries=0, timeout=60.0)
    client = openai.OpenAI(base_url=f"{router.url}/v1", api_key="none", max_retries=0, timeout=60.0)

    def message(question: str) -> tuple[float, str]:
        """The share that was cached, and where."""
        answer = claude.messages.with_raw_response.create(
            model="sim",
            max_tokens=2,
            tools=[TOOL],
            system=[{"type": "text", "text": long_text("system"), "cache_control": EPHEMERAL}],
            messages=[{"role": "user", "content": question}],
        )
        usage = answer.parse().usage
        read = usage.cache_read_input_tokens or 0
        created = usage.cache_creation_input_tokens or 0
        return read / (read + created + usage.input_tokens), answer.headers["x-warmroute-replica"]

    def chat(question: str) -> tuple[float, str]:
        answer = client.chat.completions.with_raw_response.create(
            model="sim",
            max_tokens=2,
            messages=[
                {"role": "system", "content": long_text("chat")},
                {"role": "user", "content": question},
            ],
            extra_body={"prompt_cache_retention": "24h"},
        )
        usage = answer.parse().usage
        assert usage is not None
        assert usage.prompt_tokens_details is not None
        cached = usage.prompt_tokens_details.cached_tokens or 0
        return cached / usage.prompt_tokens, answer.headers["x-warmroute-replica"]

    def response(question: str) -> tuple[float, str]:
        shared: Any = {
            "type": "input_text",
            "text": long_text("response"),
            "prompt_cache_breakpoint": {"mode": "explicit"},
        }
        answer = client.responses.with_raw_response.create(
            model="sim",
            max_output_tokens=16,
            input=[{"role": "user", "content": [shared, {"type": "input_text", "text": question}]}],
            extra_body={"prompt_cache_options": {"mode": "explicit"}},
        )
        usage = answer.parse().usage
        assert usage is not None
        return usage.input_tokens_details.cached_tokens / usage.input_tokens, answer.headers[
            "x-warmroute-replica"
        ]

    with claude, client:
        asked: list[Callable[[str], tuple[float, str]]] = [message, chat, response]
        holders = [ask("First?")[1] for ask in asked]
        assert all(ask("Second?")[0] > 0.95 for ask in asked)
        texts = router.worker.gateway.caching.texts  # type: ignore[union-attr]
        assert texts is not None
        assert len(texts) >= 3
        dies = max(sims, key=lambda sim: holders.count(sim.ids[0]))
        lost = holders.count(dies.ids[0])
        dies.kill()
        wait_until(lambda: keeper.prefills["copy"] >= lost and not keeper._under_way)
        for ask in asked:
            share, replica = ask("Third?")
            assert share > 0.95
            assert replica != dies.ids[0]
        assert keeper.given_up == {"budget": 0, "failed": 0}
        assert 0.0 < keeper.budget.spent_s

        def over() -> None:
            for promise in router.worker.gateway.caching.promises.live(0.0):  # type: ignore[union-attr]
                promise.until_s = 0.0

        router.call(over)
        wait_until(lambda: not len(texts) and not keeper.promises and not keeper._under_way)
        sent = sum(keeper.prefills.values())
        dies.start()
        router.wait_ready(2)
        assert sum(keeper.prefills.values()) == sent
