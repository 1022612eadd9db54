"""A client that leaves while a real engine computes its prompt: what the engine keeps of it, and who gets it next."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from tests.support.vllm_fleet import (
    RouterProcess,
    call,
    raw_request,
    server_load,
    text,
    used_tokens,
    wait_until,
)
from warmroute_replica.vllm.launch import Fleet

pytestmark = pytest.mark.vllm

STEP_TOKENS = 2048
"""The fleet's `--max-num-batched-tokens`."""
BLOCK_TOKENS = 32


def body(prompt: str) -> dict[str, Any]:
    return {
        "model": "tiny",
        "prompt": prompt,
        "max_tokens": 4,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_the_next_request_finds_what_was_computed_for_one_that_left(
    router: RouterProcess, whole_fleet: Fleet
) -> None:
    prompt = text(7000, uuid.uuid4().hex)
    with raw_request(router.url, "/v1/completions", body(prompt)):
        # The second step's blocks are taken once the first is over.
        wait_until(
            lambda: sum(map(used_tokens, whole_fleet.urls)) > 1.5 * STEP_TOKENS,
            "a step is over",
            timeout_s=60.0,
        )
        rows = call(router.admin_url, "/replicas").json["replicas"]
        (home,) = [row["id"] for row in rows if row["in_flight"]]
    wait_until(lambda: not sum(map(server_load, whole_fleet.urls)), "it was broken off", timeout_s=30.0)

    again = call(router.url, "/v1/completions", body(prompt))
    assert again.replica == home
    assert again.headers["x-warmroute-decision"].startswith("warm")
    usage = again.events[-1]["usage"]
    cached_tokens = usage["prompt_tokens_details"]["cached_tokens"]
    assert cached_tokens >= STEP_TOKENS - BLOCK_TOKENS, usage
