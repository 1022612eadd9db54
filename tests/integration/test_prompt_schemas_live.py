"""Prompt schemas over real servers: registered, used, refused, by tenant, over routers' lives, without Redis."""

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
    BlendConfig,
    Config,
    IsolationConfig,
    KeepWarmConfig,
    KeysConfig,
    PromptSchemasConfig,
    RegistryConfig,
    ReplicaConfig,
    TenantConfig,
)
from warmroute.tenants.keys import KeyRecord, digest_of, encoded

ANY = Address("127.0.0.1:0")
KEYS = {"a": "key-of-a-that-is-long-enough", "b": "key-of-b-that-is-long-enough"}
ROOT = "/v1/prompt_schemas"
CHAT = "/v1/chat/completions"
SLOTS = 60
ORDERS = "".join(
    f'Line {n} of the order asks the warehouse for <parameter name="quantity{n}" length="2"/> pieces of'
    f' <parameter name="item{n}" length="8"/>, which are to be packed apart from all others.\n'
    for n in range(SLOTS)
)
PML = (
    f'<schema name="order" parameters="last"><system>You check orders.</system><user>{ORDERS}</user></schema>'
)
DOCUMENTS = {
    "name": "documents",
    "content": ["Answer by these documents.\n"]
    + [{"module": f"d{n}", "content": f"Document {n}. " + f"word{n} " * 400} for n in range(3)],
}


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def sims() -> Iterator[SimProcess]:
    with SimProcess(2, "--speed", "50") as started:
        yield started


def config(redis: RedisServer, sims: SimProcess, **settings: Any) -> Config:
    settings.setdefault("prompt_schemas", PromptSchemasConfig(enabled=True))
    return Config(
        listen=ANY,
        admin=ANY,
        replicas=tuple(ReplicaConfig(url=url, id=url[7:]) for url in sims.urls),
        registry=RegistryConfig(url=redis.url, namespace=settings.pop("namespace")),
        keep_warm=KeepWarmConfig(interval_s=0.1),
        **settings,
    )


@pytest.fixture(scope="module")
def router(redis: RedisServer, sims: SimProcess) -> Iterator[RouterThread]:
    with running(config(redis, sims, namespace="open"), 2) as started:
        for schema in ({"pml": PML}, DOCUMENTS):
            assert call(started, "POST", ROOT, schema)[0] == 200
        yield started


def call(
    router: RouterThread, method: str, path: str, body: Any = None, **headers: str
) -> tuple[int, dict[str, str], Any]:
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(router.url + path, data, fields, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, dict(answer.headers), json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), json.loads(error.read())


def values(order: int) -> dict[str, str]:
    return {f"item{n}": f"item {order * n}" for n in range(SLOTS)} | {
        f"quantity{n}": str(n + order) for n in range(SLOTS)
    }


def cached_ratio(answer: Any) -> float:
    usage = answer["usage"]
    return float(usage["prompt_tokens_details"]["cached_tokens"] / usage["prompt_tokens"])


def test_a_template_whose_middle_varies_is_found_cached_by_schema_and_not_else(router: RouterThread) -> None:
    status, _, made = call(router, "POST", ROOT, PML.encode(), Content_Type="application/xml")
    assert (status, made["name"], made["version"], made["parameters"]) == (200, "order", 1, "last")
    assert made["prewarm"]["prefixes"] == made["prewarm"]["warmed"] == 1
    shared_tokens = made["prewarm"]["tokens"]
    go = [{"role": "user", "content": "Is it complete?"}]
    inline = {"name": "inline", "pml": PML.replace(' parameters="last"', "").replace('"order"', '"inline"')}
    assert call(router, "POST", ROOT, inline)[0] == 200
    for order in (1, 2):
        cached = {}
        for name in ("order", "inline"):
            chat = {
                "prompt_schema": {"name": name, "parameters": values(order)},
                "messages": go,
                "max_tokens": 2,
            }
            status, fields, answer = call(router, "POST", CHAT, chat)
            assert status == 200, answer
            assert fields["x-warmroute-prompt-schema"] == f"{name}; version=1"
            cached[name] = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
        assert cached["order"] >= 0.9 * shared_tokens, "the first one, too: it was computed at registration"
        assert cached["inline"] <= 0.1 * shared_tokens
    router.assert_at_rest()


def test_modules_are_computed_at_registration_and_used_in_markup(router: RouterThread) -> None:
    status, _, made = call(router, "POST", ROOT, DOCUMENTS)
    assert (status, made["prewarm"]["warmed"]) == (200, 3)
    assert [row["module"] for row in made["modules"]] == ["d0", "d1", "d2"]
    chat = {
        "model": "sim",
        "prompt_schema": '<prompt schema="documents"><d1/>What is it?</prompt>',
        "max_tokens": 2,
    }
    _, _, answer = call(router, "POST", CHAT, chat)
    assert cached_ratio(answer) >= 0.9
    chat |= {"stream": True, "stream_options": {"include_usage": True}}
    status, fields, body = router.post(CHAT, chat)
    assert (status, fields["x-warmroute-prompt-schema"]) == (200, "documents; version=1")
    assert body.endswith(b"data: [DONE]\n\n")


def test_the_resource(router: RouterThread) -> None:
    for text in ("one", "two", "two"):
        status, _, made = call(
            router, "POST", ROOT, {"name": "res", "content": [text, {"module": "m", "content": "x"}]}
        )
        assert status == 200
    assert made["version"] == 2, "the same again is no new version"
    _, _, page = call(router, "GET", f"{ROOT}?limit=1000")
    assert {row["name"]: row["version"] for row in page["data"]}["res"] == 2
    _, _, page = call(router, "GET", f"{ROOT}?limit=1&after=o")
    assert ([row["name"] for row in page["data"]], page["has_more"]) == (["order"], True)
    _, _, shown = call(router, "GET", f"{ROOT}/res?version=1")
    assert shown["schema"]["content"][0] == "one"
    _, _, versions = call(router, "GET", f"{ROOT}/res/versions")
    assert [row["version"] for row in versions["data"]] == [2, 1]
    _, _, rendered = call(router, "POST", f"{ROOT}/res/render", {"version": 1, "modules": ["m"]})
    assert rendered["messages"] == [{"role": "user", "content": "onex"}]
    _, _, gone = call(router, "DELETE", f"{ROOT}/res?version=1")
    assert gone == {"object": "prompt_schema", "name": "res", "versions": [1], "deleted": True}
    assert call(router, "GET", f"{ROOT}/res?version=1")[0] == 404
    assert call(router, "DELETE", f"{ROOT}/res")[2]["versions"] == [2]
    status, _, refused = call(router, "DELETE", f"{ROOT}/res")
    assert (status, refused["error"]["code"]) == (404, "prompt_schema_not_found")
    router.assert_at_rest()


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", ROOT, {"name": "s", "content": [{"union": []}]}, 400, "invalid_prompt_schema"),
        ("POST", ROOT, {"pml": "<schema name='s'>"}, 400, "invalid_prompt_schema"),
        ("POST", ROOT, [], 400, "invalid_json"),
        ("POST", ROOT, {"name": "s", "model": "nobody", "content": "x"}, 404, "model_not_found"),
        ("POST", ROOT, {"name": "s", "content": "x " * 600_000}, 413, "prompt_schema_too_large"),
        ("PUT", ROOT, {}, 405, "method_not_allowed"),
        ("GET", f"{ROOT}/s/else", None, 404, "unknown_endpoint"),
        ("GET", f"{ROOT}?limit=x", None, 400, "invalid_prompt_schema"),
        ("GET", f"{ROOT}/nobody", None, 404, "prompt_schema_not_found"),
        ("POST", CHAT, {"prompt_schema": {"name": "nobody"}}, 404, "prompt_schema_not_found"),
        ("POST", CHAT, {"prompt_schema": {"name": "order"}}, 400, "invalid_prompt_schema"),
        ("POST", CHAT, {"prompt_schema": 3}, 400, "invalid_prompt_schema"),
        (
            "POST",
            CHAT,
            {"prompt_schema": {"name": "order", "parameters": values(1) | {"item3": "x" * 40}}},
            400,
            "parameter_too_long",
        ),
        (
            "POST",
            CHAT,
            {"prompt_schema": {"name": "documents"}, "messages": [{"role": "system", "content": "x"}]},
            400,
            "invalid_request",
        ),
    ],
)
def test_what_cannot_be_is_refused(
    router: RouterThread, method: str, path: str, body: Any, status: int, code: str
) -> None:
    found, _, refused = call(router, method, path, body)
    assert (found, refused["error"]["code"]) == (status, code)
    assert len(refused["error"]["message"]) > 20
    router.assert_at_rest()


def test_whoever_sends_another_key_sees_nothing(router: RouterThread) -> None:
    schema = {"name": "own", "content": "x"}
    assert call(router, "POST", ROOT, schema, Authorization="Bearer one")[0] == 200
    assert call(router, "GET", f"{ROOT}/own", Authorization="Bearer one")[0] == 200
    assert call(router, "GET", f"{ROOT}/own", Authorization="Bearer two")[0] == 404
    assert call(router, "GET", f"{ROOT}/own")[0] == 404
    assert call(router, "GET", ROOT, Authorization="Bearer two")[2]["data"] == []
    chat = {"prompt_schema": {"name": "own"}}
    assert call(router, "POST", CHAT, chat, Authorization="Bearer two")[0] == 404


def test_tenants_are_apart_and_registrations_outlive_their_router(
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
        prompt_schemas=PromptSchemasConfig(enabled=True, versions=1),
        blend=BlendConfig(separator=" # # "),
    )
    authorizations = {name: f"Bearer {key}" for name, key in KEYS.items()}
    with running(settings, 2) as router:
        wait_until(lambda: call(router, "GET", "/v1/models", Authorization=authorizations["a"])[0] == 200)
        assert call(router, "POST", ROOT, DOCUMENTS)[0] == 401
        assert call(router, "POST", ROOT, DOCUMENTS, Authorization=authorizations["a"])[0] == 200
        status, _, full = call(
            router, "POST", ROOT, {"name": "x", "content": "x"}, Authorization=authorizations["a"]
        )
        assert (status, full["error"]["code"]) == (429, "prompt_schemas_full")
    with running(settings, 2) as router:
        wait_until(lambda: call(router, "GET", "/v1/models", Authorization=authorizations["a"])[0] == 200)
        chat = {"prompt_schema": {"name": "documents", "modules": ["d0", "d2"]}, "max_tokens": 2}
        status, _, answer = call(router, "POST", CHAT, chat, Authorization=authorizations["a"])
        assert (status, answer["object"]) == (200, "chat.completion")
        assert cached_ratio(answer) >= 0.4, "d0 was computed at registration, as this tenant's"
        assert call(router, "POST", CHAT, chat, Authorization=authorizations["b"])[0] == 404
        _, _, rendered = call(
            router,
            "POST",
            f"{ROOT}/documents/render",
            {"modules": ["d2", "d0"]},
            Authorization=authorizations["a"],
        )
        (message,) = rendered["messages"]
        assert message["content"].count(" # # Document") == 2, "replicas are said to reuse chunks"
        assert message["content"].index("Document 0") < message["content"].index("Document 2")


def test_without_its_redis_a_schema_is_used_on_and_nothing_is_denied(sims: SimProcess) -> None:
    with RedisServer() as own, running(config(own, sims, namespace="away"), 2) as router:
        assert call(router, "POST", ROOT, {"name": "s", "content": "Say yes."})[0] == 200
        chat = {"prompt_schema": {"name": "s"}, "max_tokens": 2}
        assert call(router, "POST", CHAT, chat)[0] == 200
        own.kill()
        wait_until(lambda: not router.call(lambda: router.worker.warmth.schemas.store.healthy))
        assert call(router, "POST", CHAT, chat)[0] == 200
        for method, path, body in (
            ("POST", CHAT, {"prompt_schema": {"name": "other"}}),
            ("POST", ROOT, {"name": "s", "content": "x"}),
            ("GET", f"{ROOT}/s", None),
            ("DELETE", f"{ROOT}/s", None),
        ):
            status, _, refused = call(router, method, path, body)
            assert (status, refused["error"]["code"]) == (503, "cache_store_away"), (method, path)
        with urllib.request.urlopen(f"{router.admin_url}/metrics", timeout=60) as page:
            text = page.read().decode()
        assert "\nwarmroute_prompt_schemas_up 0" in text
        assert 'warmroute_prompt_schema_prompts_total{outcome="derived"} 2' in text
