"""Recorded responses over real servers: two routers with one Redis, tenants apart, streams given as streams, and what
is done without Redis."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.support.processes import SimProcess
from tests.support.redis_server import RedisServer
from tests.support.router_thread import RouterThread, running, wait_until
from warmroute.config.schema import (
    AccessLogConfig,
    Address,
    Config,
    KeysConfig,
    RegistryConfig,
    ReplicaConfig,
    ResponseCacheConfig,
    ResponseRuleConfig,
    TenantConfig,
    UsageConfig,
)
from warmroute.tenants.keys import KeyRecord, digest_of, encoded
from warmroute.tenants.usage import COUNTERS

ANY = Address("127.0.0.1:0")
CHATS = "/v1/chat/completions"
TOLD = "x-warmroute-response-cache"
KEYS = {"a": "key-of-a-that-is-long-enough", "b": "key-of-b-that-is-long-enough"}
RULES = (ResponseRuleConfig(),)
_texts = count()


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def sims() -> Iterator[SimProcess]:
    with SimProcess(2, "--speed", "50") as started:
        yield started


def config(redis: RedisServer, sims: SimProcess, namespace: str, **settings: Any) -> Config:
    settings.setdefault("response_cache", ResponseCacheConfig(rules=RULES, lookup_deadline_s=1.0))
    return Config(
        listen=ANY,
        admin=ANY,
        replicas=tuple(ReplicaConfig(url=url, id=url[7:]) for url in sims.urls),
        registry=RegistryConfig(url=redis.url, namespace=namespace),
        **settings,
    )


@pytest.fixture(scope="module")
def router(redis: RedisServer, sims: SimProcess) -> Iterator[RouterThread]:
    with running(config(redis, sims, "open"), 2) as started:
        yield started
        started.assert_at_rest()


def chat(**more: Any) -> dict[str, Any]:
    text = f"question {next(_texts)}"
    return {
        "model": "sim",
        "messages": [{"role": "user", "content": text}],
        "temperature": 0,
        "max_tokens": 8,
        **more,
    }


def kept(router: RouterThread) -> int:
    responses = router.worker.gateway.responses
    assert responses is not None
    return responses.kept


def ask(
    router: RouterThread, body: Any, path: str = CHATS, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    return router.post(path, body, {name.replace("_", "-"): value for name, value in headers.items()})


def record(router: RouterThread, body: Any, path: str = CHATS, **headers: str) -> bytes:
    """Ask once, and wait until the answer is recorded."""
    before = kept(router)
    status, fields, answer = ask(router, body, path, **headers)
    assert (status, fields[TOLD]) == (200, "miss")
    wait_until(lambda: kept(router) > before)
    return answer


def test_a_hit_needs_no_replica_and_serves_every_router(
    redis: RedisServer, sims: SimProcess, router: RouterThread
) -> None:
    body = chat()
    first = record(router, body)
    status, fields, again = ask(router, body)
    assert (status, fields[TOLD], again) == (200, "hit", first)
    assert "x-warmroute-replica" not in fields
    assert int(fields["age"]) >= 0
    with running(config(redis, sims, "open"), 2) as other:
        status, fields, again = ask(other, body)
        assert (status, fields[TOLD], again) == (200, "hit", first)
    assert ask(router, body, cache_control="no-store")[1][TOLD] == "bypass"
    assert ask(router, chat(temperature=1))[1][TOLD] == "bypass"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHATS, chat(stream=True)),
        (CHATS, chat(stream=True, stream_options={"include_usage": True})),
        (
            "/v1/completions",
            {"model": "sim", "prompt": "x", "temperature": 0, "max_tokens": 4, "stream": True},
        ),
        ("/v1/messages", chat(stream=True)),
        ("/v1/responses", {"model": "sim", "input": "x", "temperature": 0, "store": False, "stream": True}),
        ("/v1/responses", {"model": "sim", "input": "y", "temperature": 0, "store": False}),
        ("/v1/messages", chat()),
    ],
)
def test_streams_and_whole_answers_are_given_again_byte_by_byte(
    router: RouterThread, path: str, body: dict[str, Any]
) -> None:
    first = record(router, body, path)
    status, fields, again = ask(router, body, path)
    assert (status, fields[TOLD]) == (200, "hit")
    assert again == first
    if body.get("stream"):
        assert fields["content-type"].startswith("text/event-stream")
        assert first.count(b"data: ") > 2


def test_the_official_client_reads_a_recorded_stream(router: RouterThread) -> None:
    with openai.OpenAI(base_url=f"{router.url}/v1", api_key="none", max_retries=0, timeout=60.0) as client:
        body = chat()

        def said() -> tuple[str, str]:
            stream = client.chat.completions.with_raw_response.create(stream=True, **body)
            chunks = list(stream.parse())
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
            return stream.headers[TOLD], text

        before = kept(router)
        outcome, text = said()
        assert (outcome, bool(text)) == ("miss", True)
        wait_until(lambda: kept(router) > before)
        assert said() == ("hit", text)


def test_tenants_are_apart_and_a_hit_counts_as_answered_without_tokens(
    redis: RedisServer, sims: SimProcess, tmp_path: Path
) -> None:
    keys, log = tmp_path / "keys", tmp_path / "access.log"
    records = [
        KeyRecord(id=f"k{name}", tenant=name, sha256=digest_of(key.encode()).hex())
        for name, key in KEYS.items()
    ]
    keys.write_bytes(b"\n".join(encoded(record).strip() for record in records) + b"\n")
    settings = config(
        redis,
        sims,
        "tenants",
        keys=KeysConfig(url=str(keys)),
        tenants=(TenantConfig(id="a"), TenantConfig(id="b")),
        usage=UsageConfig(enabled=True),
        access_log=AccessLogConfig(enabled=True, path=str(log)),
        response_cache=ResponseCacheConfig(
            rules=(ResponseRuleConfig(tenant="a", model="sim"), ResponseRuleConfig(tenant="b")),
            lookup_deadline_s=1.0,
        ),
    )
    with running(settings, 2) as router:
        wait_until(lambda: router.worker.gateway.admission.keys_known)
        body = chat()
        record(router, body, x_api_key=KEYS["a"])
        record(router, body, x_api_key=KEYS["b"])
        for _ in range(3):
            assert ask(router, body, x_api_key=KEYS["a"])[1][TOLD] == "hit"
        assert ask(router, body)[0] == 401
        wait_until(lambda: log.read_text().count('"response_cache":"hit"') == 3)
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        (miss, *hits) = [line for line in lines if line["tenant"] == "a"]
        assert (miss["response_cache"], miss["attempts"]) == ("miss", 1)
        assert {(hit["attempts"], hit["replica"], hit["status"], hit["model"]) for hit in hits} == {
            (0, None, 200, "sim")
        }
        admission = router.worker.gateway.admission
        assert admission is not None
        assert admission.ledger is not None
        rows = router.call(admission.ledger.drain)
        row = dict(zip(COUNTERS, rows["a", "ka", "sim", "openai", ""], strict=True))
        assert (row["requests"], row["failed"], row["unreported"]) == (4, 0, 0)
        assert (
            row["prompt_tokens"] == rows["b", "kb", "sim", "openai", ""][COUNTERS.index("prompt_tokens")]
        ), "of one answer"
        router.assert_at_rest()


def test_without_its_redis_every_request_goes_to_a_replica(sims: SimProcess) -> None:
    with RedisServer() as own:
        settings = config(own, sims, "away", response_cache=ResponseCacheConfig(rules=RULES))
        with running(settings, 2) as router:
            body = chat()
            record(router, body)
            wait_until(lambda: ask(router, body)[1][TOLD] == "hit")
            own.pause()
            status, fields, _ = ask(router, body)
            assert (status, fields[TOLD]) == (200, "miss")
            own.resume()
            own.kill()
            responses = router.worker.gateway.responses
            assert responses is not None
            wait_until(lambda: not router.call(lambda: responses.store.healthy))
            status, fields, _ = ask(router, body)
            assert (status, fields[TOLD]) == (200, "miss")
            router.assert_at_rest()


def test_the_fleets_own_models_embed_and_judge(redis: RedisServer, sims: SimProcess) -> None:
    rules = (ResponseRuleConfig(semantic=True),)
    cache = ResponseCacheConfig(
        rules=rules,
        lookup_deadline_s=1.0,
        embedding_model="sim",
        embedding_deadline_s=60.0,
        judge_model="sim",
        judge_deadline_s=60.0,
        threshold=0.0,
    )
    asked = "How do I reset my password?"
    with running(config(redis, sims, "semantic", response_cache=cache), 2) as router:

        def vector(text: str) -> list[float]:
            answer = ask(router, {"model": "sim", "input": text}, "/v1/embeddings")[2]
            embedding: list[float] = json.loads(answer)["data"][0]["embedding"]
            return embedding

        # The simulator's embeddings are at random, but the same each time: one of these is on the same side.
        forms = [
            f"{hello} how can I reset my password{end}"
            for hello in ("Hi,", "Hey,", "Please,")
            for end in "?.!"
        ]
        known = vector(asked)
        like = next(
            form for form in forms if sum(a * b for a, b in zip(known, vector(form), strict=True)) > 0.01
        )
        first = record(router, chat(messages=[{"role": "user", "content": asked}]))
        status, fields, again = ask(router, chat(messages=[{"role": "user", "content": like}]))
        assert (status, again) == (200, first)
        assert fields[TOLD].startswith("hit; score=0.")
        responses = router.worker.gateway.responses
        assert responses is not None
        assert responses.likeness is not None
        before = dict(responses.likeness.compared)
        assert before["failed"] == 0
        other = chat(messages=[{"role": "user", "content": "How do I reset my secret phrase?"}])
        assert ask(router, other)[1][TOLD] == "miss"
        after = responses.likeness.compared
        assert after["judged"] + after["far"] == before["judged"] + before["far"] + 1
        router.assert_at_rest()
