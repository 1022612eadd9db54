"""Cached contents over real servers: in both manners, tenant by tenant, and without their Redis."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import SimProcess
from tests.support.redis_server import RedisServer
from tests.support.router_thread import RouterThread, running, wait_until
from warmroute.config.schema import (
    Address,
    CachedContentsConfig,
    Config,
    IsolationConfig,
    KeepWarmConfig,
    KeysConfig,
    RegistryConfig,
    ReplicaConfig,
    TenantConfig,
)
from warmroute.tenants.keys import KeyRecord, digest_of, encoded

ANY = Address("127.0.0.1:0")
LONG = "handbook " * 1_500
GOOGLE = {"model": "models/sim", "contents": [{"parts": [{"text": LONG}]}], "ttl": "600s"}
OPENAI = {"model": "sim", "messages": [{"role": "user", "content": LONG}], "ttl": 600, "name": "handbook"}
ASKED = {"contents": [{"parts": [{"text": "Well?"}]}], "generationConfig": {"maxOutputTokens": 2}}
KEYS = {"a": "key-of-a-that-is-long-enough", "b": "key-of-b-that-is-long-enough"}
GENERATE = "/v1beta/models/sim:generateContent"


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def sims() -> Iterator[SimProcess]:
    with SimProcess(2, "--speed", "50") as started:
        yield started


def config(redis: RedisServer, sims: SimProcess, **settings: Any) -> Config:
    return Config(
        listen=ANY,
        admin=ANY,
        replicas=tuple(ReplicaConfig(url=url, id=url[7:]) for url in sims.urls),
        registry=RegistryConfig(url=redis.url, namespace=settings.pop("namespace")),
        cached_contents=CachedContentsConfig(enabled=True),
        keep_warm=KeepWarmConfig(interval_s=0.1),
        **settings,
    )


@pytest.fixture(scope="module")
def router(redis: RedisServer, sims: SimProcess) -> Iterator[RouterThread]:
    with running(config(redis, sims, namespace="open"), 2) as started:
        yield started


def call(
    router: RouterThread, method: str, path: str, body: Any = None, **headers: str
) -> tuple[int, dict[str, str], Any]:
    data = None if body is None else json.dumps(body).encode()
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(router.url + path, data, fields, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, dict(answer.headers), json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), json.loads(error.read())


def test_a_content_of_either_api_is_used_in_both(router: RouterThread) -> None:
    status, _, made = call(router, "POST", "/v1/caches", OPENAI)
    assert (status, made["object"], made["name"]) == (200, "cache", "handbook")
    status, fields, answer = call(router, "POST", GENERATE, {**ASKED, "cachedContent": made["id"]})
    assert status == 200, answer
    usage = answer["usageMetadata"]
    assert usage["cachedContentTokenCount"] >= 0.95 * usage["promptTokenCount"]
    assert fields["x-warmroute-cached-content"] == f"{made['id']}; promise=kept"

    _, _, other = call(router, "POST", "/v1/cachedContents", GOOGLE)
    chat = {"cached_content": other["name"], "messages": [{"role": "user", "content": "q"}], "max_tokens": 2}
    status, fields, answer = call(router, "POST", "/v1/chat/completions", chat)
    assert (status, answer["object"]) == (200, "chat.completion")
    assert (
        answer["usage"]["prompt_tokens_details"]["cached_tokens"] >= 0.95 * answer["usage"]["prompt_tokens"]
    )
    assert "promise=kept" in fields["x-warmroute-cached-content"]
    router.assert_at_rest()


def test_the_resource_in_openais_manner(router: RouterThread) -> None:
    ids = sorted([call(router, "POST", "/v1/caches", OPENAI)[2]["id"] for _ in range(2)])
    _, _, page = call(router, "GET", "/v1/caches?limit=1000")
    assert set(ids) <= {row["id"] for row in page["data"]}
    _, _, shown = call(router, "GET", f"/v1/caches/{ids[0]}")
    _, _, longer = call(router, "POST", f"/v1/caches/{ids[0]}", {"ttl": "900s"})
    assert longer["expires_at"] > shown["expires_at"]
    status, _, refused = call(router, "PATCH", f"/v1/caches/{ids[0]}", {"name": "other"})
    assert (status, refused["error"]["param"]) == (400, "ttl")
    assert call(router, "DELETE", f"/v1/caches/{ids[0]}")[2] == {
        "id": ids[0],
        "object": "cache",
        "deleted": True,
    }
    status, _, gone = call(router, "GET", f"/v1/caches/{ids[0]}")
    assert (status, gone["error"]["code"]) == (404, "cached_content_not_found")
    chat = {"model": "sim", "cached_content": ids[0], "messages": [{"role": "user", "content": "q"}]}
    status, _, gone = call(router, "POST", "/v1/chat/completions", chat)
    assert (status, gone["error"]["code"]) == (404, "cached_content_not_found")


def test_a_stream_of_a_chat_with_a_content_is_the_engines_own(router: RouterThread) -> None:
    _, _, made = call(router, "POST", "/v1/caches", OPENAI)
    chat = {
        "cached_content": made["id"],
        "messages": [{"role": "user", "content": "q"}],
        "max_tokens": 3,
        "stream": True,
    }
    status, fields, body = router.post("/v1/chat/completions", chat)
    assert (status, fields["content-type"].partition(";")[0]) == (200, "text/event-stream")
    assert body.endswith(b"data: [DONE]\n\n")
    assert "x-warmroute-cached-content" in fields
    router.assert_at_rest()


def test_whoever_sends_another_key_sees_nothing(router: RouterThread) -> None:
    _, _, made = call(router, "POST", "/v1beta/cachedContents", GOOGLE, x_goog_api_key="one")
    name = made["name"]
    assert call(router, "GET", f"/v1beta/{name}?key=one")[0] == 200
    assert call(router, "GET", f"/v1beta/{name}", Authorization="Bearer one")[0] == 200
    assert call(router, "GET", f"/v1beta/{name}", x_goog_api_key="two")[0] == 404
    assert call(router, "GET", f"/v1beta/{name}")[0] == 404
    assert call(router, "GET", "/v1beta/cachedContents", x_goog_api_key="two")[2] == {}


def test_a_content_that_no_engine_takes_is_not_kept(router: RouterThread) -> None:
    long = {**GOOGLE, "contents": [{"parts": [{"text": "word " * 200_000}]}]}
    status, _, refused = call(router, "POST", "/v1beta/cachedContents", long, x_goog_api_key="long")
    assert (status, refused["error"]["status"]) == (400, "INVALID_ARGUMENT")
    status, _, refused = call(router, "POST", "/v1beta/cachedContents", {**GOOGLE, "model": "models/nobody"})
    assert (status, refused["error"]["status"]) == (404, "NOT_FOUND")
    assert call(router, "GET", "/v1beta/cachedContents", x_goog_api_key="long")[2] == {}


def test_tenants_are_apart_in_contents_and_in_engines_caches(
    redis: RedisServer, sims: SimProcess, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    records = [
        KeyRecord(id=f"k{name}", tenant=name, sha256=digest_of(key.encode()).hex())
        for name, key in KEYS.items()
    ]
    keys.write_bytes(b"\n".join(encoded(record).strip() for record in records) + b"\n")
    settings = config(
        redis,
        sims,
        namespace="tenants",
        keys=KeysConfig(url=str(keys)),
        isolation=IsolationConfig(enabled=True),
        tenants=(TenantConfig(id="a"), TenantConfig(id="b")),
    )
    with running(settings, 2) as router:
        wait_until(lambda: call(router, "GET", "/v1/models", x_api_key=KEYS["a"])[0] == 200)
        status, _, refused = call(router, "POST", GENERATE, ASKED)
        assert (status, refused["error"]["status"]) == (401, "UNAUTHENTICATED")
        assert call(router, "POST", GENERATE, ASKED, x_goog_api_key="wrong")[0] == 401
        _, _, made = call(router, "POST", "/v1beta/cachedContents", GOOGLE, x_goog_api_key=KEYS["a"])
        name = made["name"]
        use = {**ASKED, "cachedContent": name}
        _, _, answer = call(router, "POST", f"{GENERATE}?key={KEYS['a']}", use)
        usage = answer["usageMetadata"]
        assert usage["cachedContentTokenCount"] >= 0.95 * usage["promptTokenCount"]
        assert call(router, "POST", GENERATE, use, x_goog_api_key=KEYS["b"])[0] == 404
        _, _, own = call(router, "POST", GENERATE, {"contents": GOOGLE["contents"]}, x_goog_api_key=KEYS["b"])
        assert own["usageMetadata"]["cachedContentTokenCount"] == 0, "another's blocks are not told by speed"


def test_without_its_redis_a_content_is_used_on_and_nothing_is_denied(sims: SimProcess) -> None:
    with RedisServer() as own, running(config(own, sims, namespace="away"), 2) as router:
        _, _, known = call(router, "POST", "/v1beta/cachedContents", GOOGLE)
        assert call(router, "POST", GENERATE, {**ASKED, "cachedContent": known["name"]})[0] == 200
        own.kill()
        wait_until(lambda: not router.call(lambda: router.worker.warmth.contents.store.healthy))
        assert call(router, "POST", GENERATE, {**ASKED, "cachedContent": known["name"]})[0] == 200
        for method, path, body in (
            ("POST", GENERATE, {**ASKED, "cachedContent": "cachedContents/abcdefghijkl"}),
            ("POST", "/v1beta/cachedContents", GOOGLE),
            ("GET", f"/v1beta/{known['name']}", None),
            ("DELETE", f"/v1beta/{known['name']}", None),
        ):
            status, fields, refused = call(router, method, path, body)
            assert (status, refused["error"]["status"]) == (503, "UNAVAILABLE"), path
            assert refused["error"]["details"][0]["reason"] == "CACHE_STORE_AWAY"
            assert fields["retry-after"] == "1"
        assert call(router, "POST", GENERATE, ASKED)[0] == 200
        router.assert_at_rest()
