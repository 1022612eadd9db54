"""Requests whose prompt an engine computes whatever it holds: nothing is predicted of them, and they teach nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.wire_fleet import WireFleet, plain
from warmroute.core.types import Api
from warmroute.dialects import parse

SYSTEM = "You are a scorer. " * 600
CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
COMPLETION: dict[str, Any] = {"model": "m", "prompt": "hello"}


@pytest.mark.parametrize(
    ("fields", "reads"),
    [
        ({}, True),
        ({"prompt_logprobs": None}, True),
        ({"prompt_logprobs": 0}, False),
        ({"prompt_logprobs": 1}, False),
        ({"prompt_logprobs": "2"}, False),
        ({"logprobs": True, "top_logprobs": 5}, True),
        ({"echo": False, "logprobs": True}, True),
        ({"echo": True}, False),
        ({"echo": True, "logprobs": True, "top_logprobs": 1}, False),
        ({"echo": True, "top_logprobs": None}, True),
    ],
)
def test_chat(fields: dict[str, Any], reads: bool) -> None:
    assert parse(Api.CHAT, json.dumps({**CHAT, **fields}).encode()).reads_cache is reads


@pytest.mark.parametrize(
    ("fields", "reads"),
    [
        ({}, True),
        ({"prompt_logprobs": 0}, False),
        ({"prompt_logprobs": None, "echo": None, "logprobs": None}, True),
        ({"logprobs": 5}, True),
        ({"echo": True}, True),
        ({"echo": True, "logprobs": None}, True),
        ({"echo": True, "logprobs": 0}, False),
        ({"echo": 1, "logprobs": 5}, False),
        ({"echo": False, "logprobs": 5}, True),
    ],
)
def test_completions(fields: dict[str, Any], reads: bool) -> None:
    assert parse(Api.COMPLETIONS, json.dumps({**COMPLETION, **fields}).encode()).reads_cache is reads


def answer(prompt_tokens: int, cached_tokens: int) -> bytes:
    usage = {
        "prompt_tokens": prompt_tokens,
        "total_tokens": prompt_tokens + 1,
        "completion_tokens": 1,
        "prompt_tokens_details": {"cached_tokens": cached_tokens},
    }
    body = {"id": "c", "object": "chat.completion", "choices": [], "usage": usage}
    return plain(200, json.dumps(body, separators=(",", ":")).encode())


def test_what_could_not_be_cached_moves_no_belief() -> None:
    now_s = 1_800_000_000.0
    fleet = WireFleet(1)
    fleet.gateway.clock = lambda: now_s
    (replica,) = fleet.replicas

    def ask(question: str, cached_tokens: int, **fields: Any) -> int:
        """What was predicted."""
        nonlocal now_s
        now_s += 3.0
        fleet.answer(0, answer(2700, cached_tokens))
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
        client, exchange = fleet.begin({"model": "m", "messages": messages, **fields})
        assert exchange.decision is not None
        predicted = exchange.decision.predicted_tokens
        fleet.reply(exchange)
        assert client.output.startswith(b"HTTP/1.1 200 ")
        return predicted

    ask("a", 0)
    for question in "bcd":
        assert ask(question, 2680) > 2000
    believed = (replica.survival.lifetime_s(), replica.survival.found_age_s(), replica.prefill_tokens_per_s)
    funnel = fleet.gateway.metrics.funnel_rows()
    for question in "efghij":
        assert ask(question, 0, prompt_logprobs=1) == 0
    assert funnel == fleet.gateway.metrics.funnel_rows()
    assert believed == (
        replica.survival.lifetime_s(),
        replica.survival.found_age_s(),
        replica.prefill_tokens_per_s,
    )
    assert ask("k", 2680) > 2000
    assert fleet.wire.at_rest()


def test_it_is_noted_all_the_same_since_the_engine_keeps_what_it_computed() -> None:
    fleet = WireFleet(4)
    messages = [{"role": "user", "content": SYSTEM}]
    _, exchange = fleet.begin({"model": "m", "messages": messages, "prompt_logprobs": 1})
    number = fleet.replica_of(exchange)
    fleet.answer(number, answer(2700, 0))
    fleet.reply(exchange)
    assert fleet.holders(exchange) == {number}
    _, exchange = fleet.begin({"model": "m", "messages": messages})
    assert fleet.replica_of(exchange) == number
    assert exchange.decision is not None
    assert exchange.decision.predicted_tokens > 2000
