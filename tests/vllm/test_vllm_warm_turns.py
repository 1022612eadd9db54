"""The product's promise on real engines: the second turn of a conversation finds its first turn's cache."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.vllm_fleet import Answer, RouterProcess, call, text
from warmroute_replica.vllm.launch import Fleet

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

CONVERSATIONS = 4
"""Enough that a router which ignores the cache passes once in 16 times, for each of six cases."""


@dataclass(frozen=True)
class Style:
    """How one API carries a conversation, and where it tells of the cache."""

    path: str
    turn: Callable[[list[str]], dict[str, Any]]
    """Request body for what was said so far: system prompt, user, assistant, user …"""
    said: Callable[[dict[str, Any]], str]
    prompt_tokens: Callable[[dict[str, Any]], int]
    cached_tokens: Callable[[dict[str, Any]], int]


def messages(said: list[str]) -> list[dict[str, str]]:
    return [
        {"role": "user" if at % 2 == 0 else "assistant", "content": part} for at, part in enumerate(said[1:])
    ]


STYLES = {
    "chat": Style(
        "/v1/chat/completions",
        lambda said: {
            "messages": [{"role": "system", "content": said[0]}, *messages(said)],
            "max_tokens": 16,
        },
        lambda answer: str(answer["choices"][0]["message"]["content"]),
        lambda answer: int(answer["usage"]["prompt_tokens"]),
        lambda answer: int(answer["usage"]["prompt_tokens_details"]["cached_tokens"]),
    ),
    "completions": Style(
        "/v1/completions",
        lambda said: {"prompt": "\n".join(said), "max_tokens": 16},
        lambda answer: str(answer["choices"][0]["text"]),
        lambda answer: int(answer["usage"]["prompt_tokens"]),
        lambda answer: int(answer["usage"]["prompt_tokens_details"]["cached_tokens"]),
    ),
    "responses": Style(
        "/v1/responses",
        lambda said: {"instructions": said[0], "input": messages(said), "max_output_tokens": 16},
        lambda answer: str(answer["output"][0]["content"][0]["text"]),
        lambda answer: int(answer["usage"]["input_tokens"]),
        lambda answer: int(answer["usage"]["input_tokens_details"]["cached_tokens"]),
    ),
    "messages": Style(
        "/v1/messages",
        lambda said: {"system": said[0], "messages": messages(said), "max_tokens": 16},
        lambda answer: str(answer["content"][0]["text"]),
        lambda answer: sum(
            int(answer["usage"].get(name) or 0)
            for name in ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
        ),
        lambda answer: int(answer["usage"]["cache_read_input_tokens"]),
    ),
}


@pytest.mark.parametrize("name", list(STYLES))
def test_second_turn_finds_nine_tenths_of_the_first_in_the_cache(router: RouterProcess, name: str) -> None:
    style = STYLES[name]
    first: list[tuple[list[str], Answer]] = []
    for number in range(CONVERSATIONS):
        said = [text(700, uuid.uuid4().hex), f"First question of {number}"]
        answer = call(router.url, style.path, {"model": "tiny", "temperature": 0, **style.turn(said)})
        assert answer.status == 200, answer.body
        assert answer.headers["x-warmroute-decision"] in ("ring", "spill")
        first.append((said, answer))
    for said, before in first:
        said = [*said, style.said(before.json), "And the second question?"]
        answer = call(router.url, style.path, {"model": "tiny", "temperature": 0, **style.turn(said)})
        assert answer.status == 200, answer.body
        shared_tokens = style.prompt_tokens(before.json)
        assert shared_tokens > 700
        assert style.cached_tokens(answer.json) > 0.9 * shared_tokens
        assert answer.replica == before.replica
        assert answer.headers["x-warmroute-decision"] == "warm"
        # The estimate works with four bytes a token; this tokenizer has five to six.
        predicted_tokens = int(answer.headers["x-warmroute-predicted-cached-tokens"])
        assert 0.5 * shared_tokens < predicted_tokens < 2.5 * shared_tokens


def test_second_turn_of_a_stream_is_warm_too(router: RouterProcess) -> None:
    for _ in range(CONVERSATIONS):
        said = [text(700, uuid.uuid4().hex), "First question"]
        body = {"model": "tiny", "stream": True, "stream_options": {"include_usage": True}}
        before = call(router.url, "/v1/chat/completions", {**body, **STYLES["chat"].turn(said)})
        spoken = "".join(
            choice["delta"].get("content") or "" for event in before.events for choice in event["choices"]
        )
        said = [*said, spoken, "Second question"]
        answer = call(router.url, "/v1/chat/completions", {**body, **STYLES["chat"].turn(said)})
        assert answer.body.endswith(b"data: [DONE]\n\n")
        usage = answer.events[-1]["usage"]
        shared_tokens = before.events[-1]["usage"]["prompt_tokens"]
        assert usage["prompt_tokens_details"]["cached_tokens"] > 0.9 * shared_tokens


def test_a_shared_system_prompt_is_warm_for_a_new_conversation(router: RouterProcess) -> None:
    system = text(700, uuid.uuid4().hex)
    style = STYLES["chat"]
    answers = [
        call(
            router.url, style.path, {"model": "tiny", **style.turn([system, f"Question of person {person}"])}
        )
        for person in range(4)
    ]
    shared_tokens = style.prompt_tokens(answers[0].json)
    for answer in answers[1:]:
        assert style.cached_tokens(answer.json) > 0.9 * shared_tokens


def test_round_robin_misses_what_prefix_cost_finds(router: RouterProcess, whole_fleet: Fleet) -> None:
    """The oracle of the tests above: under round robin the very same figures are bad."""
    style = STYLES["chat"]
    found = {}
    with RouterProcess(whole_fleet.urls, "--policy", "round-robin") as round_robin:
        for label, url in (("prefix-cost", router.url), ("round-robin", round_robin.url)):
            said = [[text(400, uuid.uuid4().hex), "Hello"] for _ in range(3)]
            cached = 0
            for _ in range(2):
                for conversation in said:
                    answer = call(url, style.path, {"model": "tiny", **style.turn(conversation)})
                    cached += style.cached_tokens(answer.json)
                    conversation += [style.said(answer.json), "Go on"]
            found[label] = cached
    assert found["round-robin"] < 0.5 * found["prefix-cost"]
