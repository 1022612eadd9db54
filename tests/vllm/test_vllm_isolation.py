"""Tenants apart in a real engine's cache: what one has sent is cold for another, and warm within one group."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.vllm_fleet import RouterProcess, call, text
from warmroute.tenants.keys import KeyRecord, digest_of, encoded
from warmroute_replica.vllm.launch import Fleet

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

TENANTS = {"a": "", "b": "", "g1": "shared", "g2": "shared"}

BODIES: dict[str, Callable[[str], dict[str, Any]]] = {
    "/v1/chat/completions": lambda prompt: {
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": 2,
    },
    "/v1/completions": lambda prompt: {"prompt": prompt, "max_tokens": 2},
    "/v1/responses": lambda prompt: {"input": prompt, "max_output_tokens": 16},
    "/v1/messages": lambda prompt: {"messages": [{"role": "user", "content": prompt}], "max_tokens": 2},
}


def cached_tokens(answer: dict[str, Any]) -> int:
    """As the API tells them."""
    usage = answer["usage"]
    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details")
    return int(details["cached_tokens"]) if details else int(usage.get("cache_read_input_tokens") or 0)


@pytest.fixture
def apart(whole_fleet: Fleet, tmp_path: Path) -> Iterator[RouterProcess]:
    """A router before one replica, so that only the engine's cache can tell tenants apart."""
    keys = tmp_path / "keys"
    records = [
        KeyRecord(id=name, tenant=name, sha256=digest_of(key_of(name).encode()).hex()) for name in TENANTS
    ]
    keys.write_bytes(b"\n".join([encoded(record) for record in records]))
    settings = tmp_path / "router.yaml"
    tenants = [{"id": name, "group": group} for name, group in TENANTS.items()]
    settings.write_text(json.dumps({"keys": str(keys), "isolation": True, "tenants": tenants}))
    with RouterProcess(whole_fleet.urls[:1], "--config", str(settings)) as router:
        yield router


def key_of(name: str) -> str:
    return f"wr-{name}-a-key-for-tests-only"


@pytest.mark.parametrize("path", BODIES)
def test_a_prompt_is_warm_for_its_own_group_alone(
    apart: RouterProcess, whole_fleet: Fleet, path: str
) -> None:
    def ask(name: str, prompt: str, **more: str) -> int:
        body = {"model": whole_fleet.model_name, **BODIES[path](prompt), **more}
        answer = call(apart.url, path, body, headers={"Authorization": f"Bearer {key_of(name)}"})
        assert answer.status == 200, answer.body
        return cached_tokens(answer.json)

    prompt = text(400, f"isolation-{uuid.uuid4().hex}")
    cold = ask("a", text(400, f"cold-{uuid.uuid4().hex}"))
    assert ask("a", prompt) == cold
    warm = ask("a", prompt)
    if path == "/v1/messages" and warm == cold:
        pytest.skip("this engine does not tell Anthropic's clients what was cached")
    assert warm > cold + 100
    assert ask("b", prompt) == cold
    assert ask("b", prompt, cache_salt="of my own") == cold
    assert ask("b", prompt) == warm
    other = text(400, f"group-{uuid.uuid4().hex}")
    assert ask("g1", other) == cold
    assert ask("g2", other) == warm
