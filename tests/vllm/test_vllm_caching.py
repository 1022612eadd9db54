"""OpenAI's, Anthropic's and DeepSeek's caching, and prompts by schema, by the official clients over real engines: told
as engines count."""

from __future__ import annotations

import json
import re
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from tests.clients.install import clean_environment, missing, place
from tests.support.langchain_caching import LANGCHAIN_CACHES, told
from tests.support.router_thread import wait_until
from tests.support.vllm_fleet import RouterProcess, call, text
from warmroute_replica.vllm.launch import Fleet

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

_HITS = re.compile(r"^vllm:prefix_cache_hits_total\{.*\} (\S+)", re.MULTILINE)
_QUERIES = re.compile(r"^vllm:prefix_cache_queries_total\{.*\} (\S+)", re.MULTILINE)


@pytest.fixture
def caching(whole_fleet: Fleet, tmp_path: Path) -> Iterator[RouterProcess]:
    settings = tmp_path / "router.yaml"
    interfaces = {"openai": True, "anthropic": True, "deepseek": True}
    settings.write_text(json.dumps({"caching": interfaces, "prompt_schemas": True}))
    with RouterProcess(whole_fleet.urls, "--config", str(settings)) as router:
        yield router


@pytest.fixture
def engines_count(whole_fleet: Fleet) -> Callable[[int, int], None]:
    """Waits until the engines themselves have counted so many tokens found, and asked for, since the test began."""

    def sums() -> tuple[int, int]:
        pages = [call(url, "/metrics").body.decode() for url in whole_fleet.urls]
        return tuple(  # type: ignore[return-value]
            int(sum(float(value) for page in pages for value in pattern.findall(page)))
            for pattern in (_HITS, _QUERIES)
        )

    before = sums()

    def counted(hits: int, queries: int) -> None:
        def equal() -> bool:
            now = sums()
            return (now[0] - before[0], now[1] - before[1]) == (hits, queries)

        try:
            wait_until(equal, 10.0)
        except AssertionError:
            now = sums()
            assert (now[0] - before[0], now[1] - before[1]) == (hits, queries)  # says more

    return counted


def test_openai_and_deepseek(
    caching: RouterProcess, whole_fleet: Fleet, engines_count: Callable[[int, int], None]
) -> None:
    messages: Any = [{"role": "user", "content": text(1500, uuid.uuid4().hex)}]
    fields: Any = {
        "model": whole_fleet.model_name,
        "messages": messages,
        "max_tokens": 2,
        "prompt_cache_key": "app",
        "prompt_cache_retention": "24h",
        "prompt_cache_options": {"mode": "implicit", "ttl": "30m"},
        "extra_headers": {"X-Warmroute-Usage": "deepseek"},
    }
    with openai.OpenAI(base_url=f"{caching.url}/v1", api_key="none", max_retries=0, timeout=400.0) as client:
        first = client.chat.completions.create(**fields).usage
        again = client.chat.completions.create(**fields).usage
        with client.chat.completions.create(
            **fields, stream=True, stream_options={"include_usage": True}
        ) as stream:
            streamed = list(stream)[-1].usage
        told: list[Any] = [first, again, streamed]
        details = [usage.prompt_tokens_details for usage in told]
        written = details[0].cache_write_tokens
        assert written > 1024
        assert [d.cached_tokens for d in details] == [0, written, written]
        assert [d.cache_write_tokens for d in details] == [written, 0, 0]
        assert [usage.model_extra["prompt_cache_hit_tokens"] for usage in told] == [0, written, written]
        assert all(
            usage.model_extra["prompt_cache_hit_tokens"] + usage.model_extra["prompt_cache_miss_tokens"]
            == usage.prompt_tokens
            for usage in told
        )
        engines_count(2 * written, 3 * first.prompt_tokens if first is not None else 0)
        part = {"type": "text", "text": "Hi", "prompt_cache_breakpoint": {"mode": "explicit"}}
        marked: Any = {**fields, "messages": [*messages, {"role": "user", "content": [part]}]}
        usage = client.chat.completions.create(**marked).usage
        assert usage is not None
        assert usage.prompt_tokens_details is not None
        assert (usage.prompt_tokens_details.cached_tokens or 0) > 1024
        for more in ({"prompt_cache_retention": "24h"}, {"prompt_cache_options": {"mode": "explicit"}}):
            response = client.responses.create(
                model=whole_fleet.model_name, input="Hi", max_output_tokens=16, extra_body=more
            )
            assert response.usage is not None


def test_anthropic_with_a_prewarm(
    caching: RouterProcess, whole_fleet: Fleet, engines_count: Callable[[int, int], None]
) -> None:
    fields: Any = {
        "model": whole_fleet.model_name,
        "system": [
            {
                "type": "text",
                "text": text(1500, uuid.uuid4().hex),
                "cache_control": {"type": "ephemeral", "ttl": "1h"},
            }
        ],
        "messages": [{"role": "user", "content": "Say something"}],
    }
    with anthropic.Anthropic(base_url=caching.url, api_key="none", max_retries=0, timeout=400.0) as client:
        warmed = client.messages.create(**fields, max_tokens=0)
        assert (warmed.content, warmed.stop_reason, warmed.usage.output_tokens) == ([], "max_tokens", 0)
        whole = client.messages.create(**fields, max_tokens=2)
        with client.messages.stream(**fields, max_tokens=2) as stream:
            streamed = stream.get_final_message()
    usages: list[Any] = [warmed.usage, whole.usage, streamed.usage]
    created = warmed.usage.cache_creation_input_tokens
    assert created is not None
    assert created > 1024
    assert warmed.usage.cache_creation is not None
    assert warmed.usage.cache_creation.ephemeral_1h_input_tokens == created
    assert [usage.cache_read_input_tokens for usage in usages] == [0, created, created]
    assert [usage.cache_creation_input_tokens for usage in usages] == [created, 0, 0]
    prompt = created + warmed.usage.input_tokens
    engines_count(2 * created, 3 * prompt)


def test_langchains_openai(
    caching: RouterProcess,
    whole_fleet: Fleet,
    engines_count: Callable[[int, int], None],
) -> None:
    """Optional: `python -m tests.clients.install langchain` installs it."""
    problem = missing("langchain")
    if problem is not None:
        pytest.skip(problem)
    arguments = (caching.url, whole_fleet.model_name, text(1500, uuid.uuid4().hex))
    done = subprocess.run(
        [place("langchain") / "bin" / "python", "-c", LANGCHAIN_CACHES, *arguments],
        env={**clean_environment(), "NO_PROXY": "127.0.0.1"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    prompts, found = told(done.stdout)
    engines_count(found, prompts)


def test_a_template_with_slots_in_its_middle(
    caching: RouterProcess, whole_fleet: Fleet, engines_count: Callable[[int, int], None]
) -> None:
    model, name = whole_fleet.model_name, f"order-{uuid.uuid4().hex[:8]}"
    lines = "".join(
        f'Line <parameter name="no{n}" length="4"/> asks for <parameter name="quantity{n}" length="4"/> pieces of'
        f' <parameter name="item{n}" length="8"/>, to be packed apart. {text(12, f"r{n}")}\n'
        for n in range(30)
    )
    pml = f'<schema name="{name}" parameters="last"><system>You check orders.</system>{lines}</schema>'
    mine = {"Authorization": "Bearer none"}  # whoever sends another key has schemas of their own
    made = call(caching.url, "/v1/prompt_schemas", {"pml": pml, "model": model}, headers=mine).json
    shared = made["prewarm"]["tokens"]
    assert (made["version"], made["prewarm"]["warmed"]) == (1, 1)
    assert shared > 1024

    def values(order: int) -> dict[str, str]:
        kinds = {"no": "{}", "quantity": "{}", "item": "boxes {}"}
        return {f"{kind}{n}": told.format(order * n + 7) for n in range(30) for kind, told in kinds.items()}

    usages = []
    go: Any = [{"role": "user", "content": "Is it complete?"}]
    with openai.OpenAI(base_url=f"{caching.url}/v1", api_key="none", max_retries=0, timeout=400.0) as client:
        for order in (1, 2):
            given = values(order)
            by_schema = {"prompt_schema": {"name": name, "parameters": given}}
            usages.append(
                client.chat.completions.create(
                    model=model, messages=go, max_tokens=2, extra_body=by_schema
                ).usage
            )
            filled = lines
            for slot in re.findall(r'<parameter name="\w+" length="\d"/>', lines):
                filled = filled.replace(slot, given[slot.split('"')[1]])
            naive: Any = [
                {"role": "system", "content": "You check orders."},
                {"role": "user", "content": filled},
            ]
            usages.append(client.chat.completions.create(model=model, messages=naive, max_tokens=2).usage)
    told: list[Any] = usages
    cached = [usage.prompt_tokens_details.cached_tokens for usage in told]
    assert min(cached[0], cached[2]) >= 0.9 * shared, "from the first use on: it was computed at registration"
    assert max(cached[1], cached[3]) <= 0.1 * shared, "up to the first slot"
    engines_count(sum(cached), shared + sum([usage.prompt_tokens for usage in told]))
