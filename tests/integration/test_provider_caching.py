"""Prompt caching by OpenAI's, Anthropic's and DeepSeek's interfaces, by the official clients over simulated replicas.

What the clients are told equals what the engines count in their own metrics, to the token.
"""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from itertools import count
from typing import Any

import anthropic
import openai
import pytest

from tests.support.router_thread import RouterThread, running
from tests.support.sim_fleet import SimProcess
from warmroute.config.provider_caching import CachingConfig
from warmroute.config.schema import Address, Config, ReplicaConfig

ANY = Address("127.0.0.1:0")
EPHEMERAL: Any = {"type": "ephemeral"}
HOUR: Any = {"type": "ephemeral", "ttl": "1h"}
CACHING = CachingConfig(openai=True, anthropic=True, deepseek=True)
_texts = count()


@pytest.fixture(scope="module")
def sims() -> Iterator[SimProcess]:
    with SimProcess("--speed", "50", ports=2) as sims:
        yield sims


@pytest.fixture(scope="module")
def router(sims: SimProcess) -> Iterator[RouterThread]:
    replicas = tuple(ReplicaConfig(url=url, id=name) for url, name in zip(sims.urls, sims.ids, strict=True))
    with running(Config(listen=ANY, admin=ANY, replicas=replicas, caching=CACHING), 2) as started:
        yield started
        started.assert_at_rest()


@pytest.fixture
def client(router: RouterThread) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{router.url}/v1", api_key="none", max_retries=0, timeout=60.0) as client:
        yield client


@pytest.fixture
def claude(router: RouterThread) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=router.url, api_key="none", max_retries=0, timeout=60.0) as client:
        yield client


class Counted:
    """What engines count themselves, since it was last asked."""

    def __init__(self, urls: list[str]) -> None:
        self._urls = urls
        self._before = self._sums()

    def _sums(self) -> tuple[int, int]:
        hits = queries = 0.0
        for url in self._urls:
            with urllib.request.urlopen(f"{url}/metrics", timeout=30) as answer:
                text = answer.read().decode()
            hits += sum(map(float, re.findall(r"^vllm:prefix_cache_hits_total\{.*\} (\S+)", text, re.M)))
            queries += sum(
                map(float, re.findall(r"^vllm:prefix_cache_queries_total\{.*\} (\S+)", text, re.M))
            )
        return int(hits), int(queries)

    def __call__(self) -> tuple[int, int]:
        """Tokens found in caches, and tokens asked for."""
        before, self._before = self._before, self._sums()
        return self._before[0] - before[0], self._before[1] - before[1]


@pytest.fixture
def counted(sims: SimProcess) -> Counted:
    return Counted(list(sims.urls))


def long_text(words: int = 2000) -> str:
    """As no other test has it."""
    return f"text {next(_texts)} " + "word " * words


# -- OpenAI ---------------------------------------------------------------------------------------------------------


def test_openai_is_told_what_was_read_and_written(client: openai.OpenAI, counted: Counted) -> None:
    messages: Any = [{"role": "system", "content": long_text()}, {"role": "user", "content": "Hi"}]
    fields: Any = {"model": "sim", "messages": messages, "max_tokens": 4}
    first = client.chat.completions.create(**fields, prompt_cache_key="app")
    again = client.chat.completions.create(**fields, prompt_cache_key="app")
    with client.chat.completions.create(
        **fields, prompt_cache_key="app", stream=True, stream_options={"include_usage": True}
    ) as stream:
        streamed = list(stream)[-1]
    found = [answer.usage for answer in (first, again, streamed)]
    details = [usage.prompt_tokens_details for usage in found if usage is not None]
    read = [d.cached_tokens for d in details if d is not None]
    written = [d.cache_write_tokens for d in details if d is not None]
    assert read[0] == 0
    assert read[1] == read[2] == written[0]
    assert (written[0] or 0) > 1900
    assert written[1:] == [0, 0]
    prompts = sum(usage.prompt_tokens for usage in found if usage is not None)
    assert counted() == (sum(r or 0 for r in read), prompts)


def test_openai_responses_are_told_too(client: openai.OpenAI) -> None:
    fields: Any = {"model": "sim", "input": long_text(), "max_output_tokens": 4}
    first = client.responses.create(**fields, prompt_cache_retention="24h").usage
    again = client.responses.create(**fields, prompt_cache_options={"mode": "implicit"}).usage
    assert first is not None
    assert again is not None
    assert again.input_tokens_details.cached_tokens == first.input_tokens_details.cache_write_tokens > 1900
    assert first.input_tokens_details.cached_tokens == again.input_tokens_details.cache_write_tokens == 0


def test_openais_options_are_judged_as_there(client: openai.OpenAI, router: RouterThread) -> None:
    messages: Any = [{"role": "user", "content": "Hi"}]
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model="sim", messages=messages, extra_body={"prompt_cache_retention": "1h"}
        )
    assert (caught.value.code, caught.value.param) == ("invalid_value", "prompt_cache_retention")
    assert caught.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError, match="implicit"):
        client.responses.create(
            model="sim", input="Hi", extra_body={"prompt_cache_options": {"mode": "always"}}
        )


def test_openais_breakpoints_are_promised(client: openai.OpenAI, router: RouterThread) -> None:
    caching = router.worker.gateway.caching
    assert caching is not None
    before = len(caching.promises)
    shared: Any = {"type": "text", "text": long_text(), "prompt_cache_breakpoint": {"mode": "explicit"}}
    for question in ("One?", "Two?"):
        client.chat.completions.create(
            model="sim",
            messages=[{"role": "user", "content": [shared, {"type": "text", "text": question}]}],
            max_tokens=2,
            prompt_cache_options={"mode": "explicit"},
        )
    assert len(caching.promises) == before + 1


# -- Anthropic ------------------------------------------------------------------------------------------------------


def parts(usage: Any) -> tuple[int, int, int]:
    return usage.cache_read_input_tokens, usage.cache_creation_input_tokens, usage.input_tokens


def test_anthropic_is_told_what_was_read_and_created(claude: anthropic.Anthropic, counted: Counted) -> None:
    system: Any = [
        {"type": "text", "text": long_text(3000), "cache_control": HOUR},
        {"type": "text", "text": long_text(1000), "cache_control": EPHEMERAL},
    ]
    told = []
    for question in ("First?", "Second?"):
        answer = claude.messages.create(
            model="sim", system=system, messages=[{"role": "user", "content": question}], max_tokens=4
        )
        told.append(answer.usage)
    read, created, rest = parts(told[0])
    assert read == 0
    assert created > 3900
    split = told[0].cache_creation
    assert split is not None
    assert split.ephemeral_1h_input_tokens + split.ephemeral_5m_input_tokens == created
    assert split.ephemeral_1h_input_tokens == pytest.approx(0.75 * (created + rest), rel=0.02)
    found = told[1].cache_read_input_tokens
    assert created - 32 < found <= created
    assert counted() == (found, sum(map(sum, map(parts, told))))


def test_an_anthropic_stream_tells_the_same(claude: anthropic.Anthropic, counted: Counted) -> None:
    system = long_text()
    finals = []
    for _ in range(2):
        with claude.messages.stream(
            model="sim",
            system=system,
            messages=[{"role": "user", "content": "Say something"}],
            max_tokens=6,
            extra_body={"cache_control": {"type": "ephemeral"}},
        ) as stream:
            assert "".join(stream.text_stream)
            finals.append(stream.get_final_message().usage)
    assert finals[0].cache_creation_input_tokens == finals[1].cache_read_input_tokens
    assert (finals[1].cache_read_input_tokens or 0) > 1900
    assert counted() == (finals[1].cache_read_input_tokens, sum(map(sum, map(parts, finals))))


def test_a_prewarm_computes_the_prompt_and_answers_nothing(claude: anthropic.Anthropic) -> None:
    fields: Any = {
        "model": "sim",
        "system": [{"type": "text", "text": long_text(), "cache_control": EPHEMERAL}],
        "messages": [{"role": "user", "content": "Hi"}],
    }
    warmed = claude.messages.with_raw_response.create(**fields, max_tokens=0)
    answer = warmed.parse()
    assert (answer.content, answer.stop_reason, answer.usage.output_tokens) == ([], "max_tokens", 0)
    assert (answer.usage.cache_creation_input_tokens or 0) > 1900
    used = claude.messages.with_raw_response.create(**fields, max_tokens=4)
    assert used.headers["x-warmroute-replica"] == warmed.headers["x-warmroute-replica"]
    assert used.parse().usage.cache_read_input_tokens == answer.usage.cache_creation_input_tokens
    for more in ({"stream": True}, {"tool_choice": {"type": "any"}}):
        with pytest.raises(anthropic.BadRequestError, match="max_tokens: 0"):
            claude.messages.create(**fields, max_tokens=0, **more)


def test_a_fifth_breakpoint_is_refused_as_there(claude: anthropic.Anthropic) -> None:
    content: Any = [{"type": "text", "text": str(n), "cache_control": EPHEMERAL} for n in range(5)]
    with pytest.raises(anthropic.BadRequestError) as caught:
        claude.messages.create(model="sim", messages=[{"role": "user", "content": content}], max_tokens=4)
    body: Any = caught.value.body
    assert body["type"] == "error"
    assert body["error"]["type"] == "invalid_request_error"
    assert body["error"]["message"].startswith("A maximum of 4 blocks")


def test_a_breakpoint_between_two_rungs_is_as_good_as_any(claude: anthropic.Anthropic) -> None:
    """The prefix ends where no rung does; all of its whole blocks are found all the same, on the same replica."""
    for words in (1100, 1437, 2219):
        system: Any = [{"type": "text", "text": long_text(words), "cache_control": EPHEMERAL}]
        answers = [
            claude.messages.with_raw_response.create(
                model="sim",
                system=system,
                messages=[{"role": "user", "content": f"{letter} " * 600}],
                max_tokens=2,
            )
            for letter in ("a", "b")
        ]
        assert len({answer.headers["x-warmroute-replica"] for answer in answers}) == 1
        assert (answers[1].parse().usage.cache_read_input_tokens or 0) > words * 0.97


# -- DeepSeek -------------------------------------------------------------------------------------------------------


def test_deepseeks_words_are_told_to_those_who_ask(client: openai.OpenAI, counted: Counted) -> None:
    messages: Any = [{"role": "user", "content": long_text()}]
    fields: Any = {
        "model": "sim",
        "messages": messages,
        "max_tokens": 3,
        "extra_headers": {"X-Warmroute-Usage": "deepseek"},
    }
    first = client.chat.completions.create(**fields).usage
    with client.chat.completions.create(
        **fields, stream=True, stream_options={"include_usage": True}
    ) as stream:
        second = list(stream)[-1].usage
    assert first is not None
    assert second is not None
    told: list[Any] = [first.model_extra, second.model_extra]
    assert told[0]["prompt_cache_hit_tokens"] == 0
    assert told[0]["prompt_cache_miss_tokens"] == first.prompt_tokens
    hits = told[1]["prompt_cache_hit_tokens"]
    assert hits + told[1]["prompt_cache_miss_tokens"] == second.prompt_tokens
    assert counted() == (hits, first.prompt_tokens + second.prompt_tokens)
    del fields["extra_headers"]
    usage = client.chat.completions.create(**fields).usage
    assert usage is not None
    assert "prompt_cache_hit_tokens" not in (usage.model_extra or {})


def test_what_is_not_asked_for_passes_byte_for_byte(router: RouterThread, sims: SimProcess) -> None:
    body = json.dumps(
        {"model": "sim", "max_tokens": 4, "messages": [{"role": "user", "content": "Hello"}], "seed": 1}
    ).encode()

    def ask(url: str) -> Any:
        request = urllib.request.Request(
            f"{url}/v1/messages", body, {"Content-Type": "application/json", "X-Request-Id": "same"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())

    first = ask(router.url)
    assert first.keys() == ask(sims.urls[0]).keys()
    assert "cache_creation" not in first["usage"]
