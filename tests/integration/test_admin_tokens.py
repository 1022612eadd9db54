"""The admin port's tokens, keys over it, and that no secret comes out anywhere."""

from __future__ import annotations

import json
import logging
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.router_thread import RouterThread, running, wait_until
from tests.support.sim_fleet import fleet
from warmroute.cli.main import main
from warmroute.config.schema import (
    AccessLogConfig,
    Address,
    AdminAuthConfig,
    Config,
    FingerprintConfig,
    HealthConfig,
    KeysConfig,
    ReplicaConfig,
    TenantConfig,
    UsageConfig,
)

OPERATOR, READER = "canary-operator-token", "canary-reader-token"
OTHERS = ("canary-upstream-key", "canary-fingerprint-secret", "canary-health-key")


def call(
    router: RouterThread, method: str, path: str, token: str = "", body: Any = None, data_port: bool = False
) -> tuple[int, bytes, dict[str, str]]:
    url = (router.url if data_port else router.admin_url) + path
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(), dict(error.headers)


@pytest.fixture
def router(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[RouterThread]:
    with fleet(1) as sims:
        urls = [url for sim in sims for url in sim.urls]
        config = Config(
            listen=Address("127.0.0.1:0"),
            admin=Address("127.0.0.1:0"),
            replicas=tuple(ReplicaConfig(url=url, id=url.removeprefix("http://")) for url in urls),
            keys=KeysConfig(url=str(tmp_path / "keys"), upstream_key=OTHERS[0], poll_interval_s=0.05),
            fingerprint=FingerprintConfig(secret=OTHERS[1]),
            health=HealthConfig(api_key=OTHERS[2]),
            admin_auth=AdminAuthConfig(
                operator_tokens=(OPERATOR,), read_tokens=(READER,), open_metrics=False
            ),
            usage=UsageConfig(enabled=True),
            tenants=(TenantConfig(id="a"),),
            access_log=AccessLogConfig(enabled=True, path=str(tmp_path / "access")),
        )
        caplog.set_level(logging.DEBUG)
        with running(config, 1) as router:
            yield router


ENDPOINTS = [
    ("GET", "/", "reader"),
    ("GET", "/replicas", "reader"),
    ("GET", "/metrics", "reader"),
    ("GET", "/usage", "reader"),
    ("GET", "/keys", "reader"),
    ("POST", "/explain", "reader"),
    ("POST", "/keys", "operator"),
    ("DELETE", "/keys/none", "operator"),
    ("POST", "/sleep", "operator"),
    ("GET", "/server_info", "operator"),
    ("POST", "/v1/load_lora_adapter", "operator"),
    ("GET", "/nothing", "operator"),
    ("GET", "/health", ""),
    ("GET", "/ready", ""),
]


def test_each_endpoint_asks_for_what_it_needs_and_secrets_come_out_nowhere(
    router: RouterThread, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    seen: list[bytes] = []
    for method, path, needed in ENDPOINTS:
        answers = {}
        for token in ("", "wrong-token-of-some-length", READER, OPERATOR):
            body = {"tenant": "a"} if method == "POST" else None
            status, answer, headers = call(router, method, path, token, body)
            answers[token] = status
            if path != "/keys" or method != "POST":
                seen += [answer, str(headers).encode()]
            if status == 401:
                assert headers["WWW-Authenticate"] == "Bearer"
        refused = {token for token, status in answers.items() if status in (401, 403)}
        allowed = {"operator": {OPERATOR}, "reader": {OPERATOR, READER}, "": set(answers)}[needed]
        assert refused == set(answers) - allowed, (method, path, answers)
        # Nothing of it is on the data port, with whatever token.
        if needed and path not in ("/", "/metrics", "/v1/load_lora_adapter"):
            assert call(router, method, path, OPERATOR, {}, data_port=True)[0] in (401, 403, 404, 405)
    keys = [key["id"] for key in json.loads(call(router, "GET", "/keys", READER)[1])["keys"]]
    assert len(keys) == 1

    status, answer, _ = call(
        router, "POST", "/keys", OPERATOR, {"tenant": "a", "name": "ci", "models": ["nothing"]}
    )
    assert status == 201
    made = json.loads(answer)
    key = made["key"]
    chat = {"model": "nothing", "messages": [{"role": "user", "content": "canary-prompt"}]}
    wait_until(lambda: call(router, "POST", "/v1/chat/completions", key, chat, data_port=True)[0] != 401)
    seen.append(call(router, "POST", "/v1/chat/completions", key + "x", chat, data_port=True)[1])
    seen.append(call(router, "GET", "/v1/models", key, data_port=True)[1])
    for path in ("/replicas", "/metrics", "/usage?by=tenant,key,model", "/keys"):
        seen.append(call(router, "GET", path, READER)[1])
    seen.append(call(router, "POST", "/keys", OPERATOR, {"tenant": "a b", "canary": key})[1])
    assert call(router, "DELETE", f"/keys/{made['id']}", OPERATOR)[0] == 200
    wait_until(lambda: call(router, "GET", "/v1/models", key, data_port=True)[0] == 401)
    seen.append(caplog.text.encode())
    seen += [str(record.__dict__).encode() for record in caplog.records]
    seen.append((tmp_path / "keys").read_bytes())
    seen.append(repr(router.worker.config).encode())
    seen.append(Path(f"/proc/{os.getpid()}/cmdline").read_bytes())
    wait_until(lambda: made["id"].encode() in (tmp_path / "access").read_bytes())
    seen.append((tmp_path / "access").read_bytes())
    secrets = [OPERATOR, READER, *OTHERS, key, "canary-prompt"]
    for text in seen:
        for secret in secrets:
            assert secret.encode() not in text, (secret[:9], text[:200])
    assert b'"tenant":"a"' in seen[-1]
    assert made["id"].encode() in seen[-1]


def test_a_reload_takes_other_tokens_over(router: RouterThread) -> None:
    import dataclasses

    new = dataclasses.replace(
        router.worker.config, admin_auth=AdminAuthConfig(operator_tokens=("another-operator-token",))
    )
    router.call(lambda: router.worker.reload(new))
    assert call(router, "GET", "/replicas", OPERATOR)[0] == 401
    assert call(router, "GET", "/replicas", "another-operator-token")[0] == 200
    assert call(router, "GET", "/metrics")[0] == 200


def test_commands_send_the_token_that_the_environment_gives_a_router(
    router: RouterThread, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    operators, readers = "WARMROUTE_ADMIN_AUTH__OPERATOR_TOKENS", "WARMROUTE_ADMIN_AUTH__READ_TOKENS"
    admin = ["--admin", router.admin_url.removeprefix("http://")]
    (replica,) = (one.id for one in router.worker.config.replicas)
    for variable in (operators, readers):
        monkeypatch.delenv(variable, raising=False)
    assert main(["replicas", *admin]) == 2
    assert f"put an operator's token into {operators}" in capsys.readouterr().err
    monkeypatch.setenv(operators, "a token with blanks")
    assert main(["replicas", *admin]) == 2
    said = capsys.readouterr().err
    assert operators in said
    assert "blanks" not in said
    monkeypatch.delenv(operators)
    monkeypatch.setenv(readers, READER)
    assert main(["replicas", *admin]) == 0
    assert main(["drain", replica, *admin]) == 2
    assert "this token may only look" in capsys.readouterr().err
    monkeypatch.setenv(operators, f"{OPERATOR}, another")
    assert main(["drain", replica, "--wait", "30", *admin]) == 0
    assert main(["undrain", replica, *admin]) == 0


def test_what_was_used_is_told_by_the_admin_port(router: RouterThread) -> None:
    key = json.loads(call(router, "POST", "/keys", OPERATOR, {"tenant": "a"})[1])["key"]
    models = []

    def known() -> bool:
        status, answer, _ = call(router, "GET", "/v1/models", key, data_port=True)
        models[:] = [card["id"] for card in json.loads(answer).get("data", [])]
        return status == 200

    wait_until(known)
    told = []
    for _ in range(3):
        body = {"model": models[0], "max_tokens": 3, "messages": [{"role": "user", "content": "word " * 300}]}
        status, answer, _ = call(router, "POST", "/v1/chat/completions", key, body, data_port=True)
        assert status == 200
        told.append(json.loads(answer)["usage"])
    rows = json.loads(call(router, "GET", "/usage?by=tenant,model", READER)[1])["usage"]
    (row,) = rows
    assert (row["tenant"], row["model"], row["requests"], row["begun"]) == ("a", models[0], 3, 3)
    assert row["prompt_tokens"] == sum(one["prompt_tokens"] for one in told)
    assert row["output_tokens"] == sum(one["completion_tokens"] for one in told)
    assert row["cached_tokens"] == sum(one["prompt_tokens_details"]["cached_tokens"] for one in told) > 0
    status, text, headers = call(router, "GET", "/usage?format=csv&bucket=hour&from=7d", READER)
    assert headers["Content-Type"].startswith("text/csv")
    assert text.decode().splitlines()[1].split(",")[2:5] == ["a", "3", "3"]
    for wrong in ("by=prompt", "bucket=week", "from=x", "from=9999999999"):
        assert call(router, "GET", f"/usage?{wrong}", READER)[0] == 400
