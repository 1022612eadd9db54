"""Streams of a real engine that was asked for usage are, for a client that did not ask, those of one that was not."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.support.vllm_fleet import Answer, RouterProcess, call, text, told
from warmroute_replica.vllm.launch import Fleet

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

TOOL = {
    "type": "function",
    "function": {
        "name": "note",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
    },
}
BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hello"}]}),
    "chat logprobs": (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": "Hello"}], "logprobs": True, "top_logprobs": 3},
    ),
    "chat tools": (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": "Hello"}], "tools": [TOOL], "tool_choice": "required"},
    ),
    "chat choices": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hello"}], "n": 3}),
    "chat token ids": (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": "Hello"}], "return_token_ids": True},
    ),
    "completion": ("/v1/completions", {"prompt": "Once upon a time"}),
    "completion echo": ("/v1/completions", {"prompt": "Once upon", "echo": True, "logprobs": 2}),
    "completion batch": ("/v1/completions", {"prompt": ["Once upon", "a time"]}),
    "stop at once": ("/v1/completions", {"prompt": "Once upon a time", "max_tokens": 1}),
    "too long": ("/v1/completions", {"prompt": text(20_000, "long")}),
}


def ask(url: str, path: str, fields: dict[str, Any]) -> Answer:
    body = {"model": "tiny", "stream": True, "max_tokens": 12, "temperature": 0, "seed": 7, **fields}
    return call(url, path, body, headers={"X-Request-Id": "same"})


def test_nothing_shows_in_streams_of_any_kind(whole_fleet: Fleet) -> None:
    engine = whole_fleet.urls[0]
    with RouterProcess([engine]) as router:
        for path, fields in BODIES.values():
            for _ in range(2):  # the first is watched; and from then on every prompt is cached
                ask(router.url, path, fields)
        for name, (path, fields) in BODIES.items():
            direct, through = ask(engine, path, fields), ask(router.url, path, fields)
            assert through.status == direct.status, name
            if through.status == 200:
                assert told(through.body) == told(direct.body), name
            else:
                assert through.body == direct.body, name
        metrics = call(router.admin_url, "/metrics").body.decode()
    confirmed = re.search(r'warmroute_confirmed_prompt_tokens_total\{model="tiny"\} (\d+)', metrics)
    assert confirmed is not None
    assert int(confirmed[1]) > 0, "the engine was asked"
