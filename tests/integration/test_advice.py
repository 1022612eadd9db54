"""Advice on prompts that miss, and the rewrites that mend it, over a real router and simulated replicas."""

from __future__ import annotations

import json
import random
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.prompt_corpus import chat, tool, words
from tests.support.router_thread import RouterThread, running
from tests.support.sim_fleet import SimProcess
from warmroute.config.advice import AdviceConfig, RewriteConfig
from warmroute.config.schema import Address, Config, ReplicaConfig

ANY = Address("127.0.0.1:0")
PASSAGES = ("<passage>", "</passage>")


@pytest.fixture(scope="module")
def sims() -> Iterator[SimProcess]:
    with SimProcess("--speed", "50", ports=2) as sims:
        yield sims


def router(sims: SimProcess, **settings: Any) -> Any:
    replicas = tuple(ReplicaConfig(url=url, id=name) for url, name in zip(sims.urls, sims.ids, strict=True))
    advice = AdviceConfig(sample=1.0, budget_ratio=1.0)
    return running(Config(listen=ANY, admin=ANY, replicas=replicas, advice=advice, **settings), 2)


def read(router: RouterThread, path: str) -> str:
    with urllib.request.urlopen(router.admin_url + path, timeout=30) as answer:
        return str(answer.read().decode())


def ask(router: RouterThread, body: dict[str, Any], **headers: str) -> tuple[dict[str, str], Any]:
    status, told, answer = router.post(
        "/v1/chat/completions", {**body, "model": "sim", "max_tokens": 2}, headers
    )
    assert status == 200
    return told, json.loads(answer)["usage"]


def cached_share(router: RouterThread, bodies: list[dict[str, Any]]) -> float:
    usages = [ask(router, body)[1] for body in bodies]
    cached = sum(usage["prompt_tokens_details"]["cached_tokens"] for usage in usages)
    return float(cached / sum(usage["prompt_tokens"] for usage in usages))


def test_the_router_says_why_prompts_miss_and_what_it_costs(sims: SimProcess) -> None:
    shared = words(random.Random("dated"), 500)
    with router(sims) as started:
        told = {}
        usage = None
        for minute in range(10, 16):
            body = chat(f"Now: 2026-11-29 02:{minute}. {shared}", f"Question {minute}?")
            told, usage = ask(started, body, **{"X-Warmroute-Advice": "1"})
        assert usage is not None
        cause, tokens = told["x-warmroute-advice"].split("; ")
        assert cause == "timestamp"
        assert int(tokens) == pytest.approx(usage["prompt_tokens"], rel=0.2)
        report = json.loads(read(started, "/advice?since=1h"))
        (row,) = report["advice"]
        (found,) = row["causes"]
        assert (row["model"], row["looked_at"], found["cause"], found["requests"]) == (
            "sim",
            6,
            "timestamp",
            5,
        )
        assert 0.8 * row["missed_tokens"] < found["tokens"] * 6 / 5 <= row["prompt_tokens"]
        assert found["example"] == "message 1 (system), word 3: «time»"
        assert "last user message" in found["remedy"]
        assert json.loads(read(started, "/advice?tenant=nobody"))["advice"] == []
        metrics = read(started, "/metrics")
        assert f'warmroute_advice_tokens_total{{cause="timestamp"}} {float(found["tokens"])}' in metrics
        assert 'warmroute_advice_looks_total{outcome="looked_at"} 6.0' in metrics
        assert 'warmroute_advice_requests_total{cause="id"} 0.0' in metrics


def shuffled_tools(seed: str) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    tools = [tool(rng, n) for n in range(12)]
    system = words(rng, 150)
    bodies = []
    for n in range(16):
        rng.shuffle(tools)
        bodies.append(chat(system, f"Question {n}: {words(rng, 20)}", tools=list(tools)))
    return bodies


def shuffled_passages(seed: str) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    passages = [f"{PASSAGES[0]}{words(rng, 100)}{PASSAGES[1]}" for _ in range(6)]
    system = words(rng, 50)
    bodies = []
    for n in range(16):
        rng.shuffle(passages)
        bodies.append(chat(system, "\n".join(passages) + f"\n\nQuestion {n}: {words(rng, 15)}"))
    return bodies


def test_sorted_tools_and_passages_are_found_cached(sims: SimProcess) -> None:
    with router(sims) as plain:
        before = {
            "tools": cached_share(plain, shuffled_tools("1")),
            "passages": cached_share(plain, shuffled_passages("2")),
        }
        causes = {
            cause["cause"] for row in json.loads(read(plain, "/advice"))["advice"] for cause in row["causes"]
        }
    assert causes == {"tools_order", "passages_order"}
    rewrite = RewriteConfig(
        tenants=("*",), sort_tools=True, sort_keys=True, passages_begin=PASSAGES[0], passages_end=PASSAGES[1]
    )
    with router(sims, rewrites=(rewrite,)) as sorting:
        after = {
            "tools": cached_share(sorting, shuffled_tools("3")),
            "passages": cached_share(sorting, shuffled_passages("4")),
        }
        report = json.loads(read(sorting, "/advice"))
    assert [row["causes"] for row in report["advice"]] == [[]]
    print({name: (round(before[name], 3), round(after[name], 3)) for name in before})
    for name in before:
        assert after[name] > 0.75, (name, before, after)
        assert after[name] > 2 * before[name], (name, before, after)


def test_without_the_setting_there_is_nothing(sims: SimProcess) -> None:
    replicas = tuple(ReplicaConfig(url=url, id=name) for url, name in zip(sims.urls, sims.ids, strict=True))
    with running(Config(listen=ANY, admin=ANY, replicas=replicas), 2) as started:
        told, _ = ask(started, chat("System", "Hi"), **{"X-Warmroute-Advice": "1"})
        assert "x-warmroute-advice" not in told
        with pytest.raises(urllib.error.HTTPError) as caught:
            read(started, "/advice")
        with caught.value as error:
            assert (error.code, json.loads(error.read())["error"]["code"]) == (404, "advice_off")
