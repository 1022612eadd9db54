"""SIGHUP: settings and logs anew, in one process and under a supervisor, with traffic under way."""

from __future__ import annotations

import contextlib
import json
import signal
import ssl
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.processes import RouterProcess, SimProcess
from tests.support.redis_server import RedisServer
from tests.support.router_thread import RouterThread, wait_until
from warmroute.config.errors import ConfigError
from warmroute.config.load import load
from warmroute.config.schema import Config


@pytest.fixture(scope="module")
def sims() -> Iterator[SimProcess]:
    with SimProcess(2, "--speed", "5") as sims:
        yield sims


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


BODY = b'{"model":"sim","max_tokens":2,"messages":[{"role":"user","content":"x"}]}'


class Settings:
    """The file that a router is started with."""

    def __init__(self, directory: Path, **values: Any) -> None:
        self.path = directory / "config.yaml"
        self.values: dict[str, Any] = {"health": {"probe_interval_s": 0.1}, **values}
        self.write()

    def write(self, **values: Any) -> None:
        self.values |= values
        self.path.write_text(yaml.safe_dump(self.values))


def ids(router: RouterProcess) -> set[str]:
    """Replicas that are ready."""
    rows = json.loads(router.admin("/replicas")[1])["replicas"]
    return {row["id"] for row in rows if row["state"] == "ready"}


def hang_up(router: RouterProcess, event: str = "reloaded") -> str:
    """Send the signal; returns what is logged once each process has said so, the supervisor included."""
    before = len(router.output)
    router.process.send_signal(signal.SIGHUP)
    told = 1 if router.workers == 1 or event != "reloaded" else router.workers + 1
    wait_until(lambda: router.output[before:].count(f" {event} ") >= told)
    return router.output[before:]


def forwarded(router: RouterProcess, by: str) -> None:
    """One request as a proxy passes it on."""
    body = json.dumps({"model": "sim", "max_tokens": 2, "messages": [{"role": "user", "content": "x"}]})
    request = urllib.request.Request(
        f"http://127.0.0.1:{router.port}/v1/chat/completions",
        body.encode(),
        {"Content-Type": "application/json", "X-Forwarded-For": by},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert answer.status == 200


@contextlib.contextmanager
def router_of(settings: Settings, sims: SimProcess, workers: int, *flags: str) -> Iterator[RouterProcess]:
    words = ["--config", str(settings.path), *flags]
    with RouterProcess([], *words, workers=workers, well=sims.urls[:1]) as router:
        yield router
        assert router.terminate() == 0, router.output


@pytest.fixture(params=[1, 2])
def flags(request: pytest.FixtureRequest) -> tuple[int, list[str]]:
    """Workers, and the flags that they need."""
    workers: int = request.param
    if workers == 1:
        return 1, []
    return workers, ["--registry", request.getfixturevalue("redis").url]


def test_replicas_come_and_go_while_requests_are_under_way(
    flags: tuple[int, list[str]], sims: SimProcess, tmp_path: Path
) -> None:
    workers, words = flags
    settings = Settings(tmp_path, replicas=sims.urls[:1])
    first, second = (url.removeprefix("http://") for url in sims.urls)
    with router_of(settings, sims, workers, *words) as router:
        pids = router.worker_pids()
        answers: list[int] = []

        def long() -> None:
            answers.append(router.chat("long", max_tokens=300)[0])

        asking = [threading.Thread(target=long) for _ in range(4)]
        for thread in asking:
            thread.start()
        wait_until(lambda: router.metrics()["warmroute_in_flight"] == 4)
        settings.write(replicas=sims.urls)
        assert "changed=replicas needs_restart=none" in hang_up(router)
        wait_until(lambda: ids(router) == {first, second})
        settings.write(replicas=sims.urls[1:])
        hang_up(router)
        wait_until(lambda: ids(router) == {second})
        status, answer = router.chat("for the second one")
        assert status == 200, answer
        for thread in asking:
            thread.join(60)
        assert answers == [200] * 4, "what the first one was doing it has finished"
        assert router.worker_pids() == pids
        assert router.process.poll() is None


def test_a_wrong_file_changes_nothing_and_says_all_that_is_wrong(
    flags: tuple[int, list[str]], sims: SimProcess, tmp_path: Path
) -> None:
    workers, words = flags
    settings = Settings(tmp_path, replicas=sims.urls[:1])
    with router_of(settings, sims, workers, *words) as router:
        settings.write(replicas=sims.urls[1:], max_attempts="many", drain_grace_s=-1)
        hang_up(router, "reload_failed")
        wait_until(lambda: router.output.count(" reload_failed ") == 2)
        said = router.output
        assert "config.yaml:" in said
        assert "max_attempts: must be a whole number, not 'many'" in said
        assert "drain_grace_s: must be from" in said
        assert ids(router) == {sims.urls[0].removeprefix("http://")}
        assert router.metrics()["warmroute_settings_current"] == 0
        settings.write(max_attempts=2, drain_grace_s=7.0, policy="random", limits={"body_bytes": 300})
        said = hang_up(router)
        assert "changed=replicas,max_attempts,drain_grace_s,limits.body_bytes" in said
        assert "needs_restart=policy.name" in said
        wait_until(lambda: ids(router) == {sims.urls[1].removeprefix("http://")})
        assert router.metrics()["warmroute_settings_current"] == 1
        assert router.chat("x" * 400)[0] == 413
        assert router.chat("x")[0] == 200


def test_a_moved_access_log_is_opened_anew(
    flags: tuple[int, list[str]], sims: SimProcess, tmp_path: Path
) -> None:
    workers, words = flags
    path, rotated = tmp_path / "access.json", tmp_path / "access.json.1"
    settings = Settings(tmp_path, replicas=sims.urls[:1])
    with router_of(settings, sims, workers, *words, "--access-log", str(path)) as router:
        assert router.chat("one")[0] == 200
        wait_until(lambda: path.read_text().count("\n") == 1)
        path.rename(rotated)
        hang_up(router)
        wait_until(path.exists)
        assert router.chat("two")[0] == 200
        wait_until(lambda: path.read_text().count("\n") == 1)
        assert rotated.read_text().count("\n") == 1


def test_an_access_log_can_be_switched_on_moved_and_off(sims: SimProcess, tmp_path: Path) -> None:
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    settings = Settings(tmp_path, replicas=sims.urls[:1])
    with router_of(settings, sims, 1) as router:
        settings.write(access_log={"enabled": True, "path": str(one)})
        hang_up(router)
        assert router.chat("one")[0] == 200
        wait_until(lambda: one.read_text().count("\n") == 1)
        settings.write(access_log={"enabled": True, "path": str(two), "trusted_proxies": ["127.0.0.1"]})
        hang_up(router)
        forwarded(router, "203.0.113.9, 198.51.100.4")
        wait_until(lambda: two.exists() and two.read_text().count("\n") == 1)
        assert json.loads(two.read_text())["client"] == "198.51.100.4"
        settings.write(access_log={"enabled": True, "path": str(tmp_path / "none" / "x")})
        assert "access_log.path: " in hang_up(router, "reload_failed")
        settings.write(access_log=False)
        hang_up(router)
        assert router.chat("three")[0] == 200
    assert [json.loads(line)["client"] for line in one.read_text().splitlines()] == ["127.0.0.1"]
    assert two.read_text().count("\n") == 1


def test_a_worker_that_is_started_later_has_the_new_settings(
    redis: RedisServer, sims: SimProcess, tmp_path: Path
) -> None:
    settings = Settings(tmp_path, replicas=sims.urls[:1])
    second = sims.urls[1].removeprefix("http://")
    with router_of(settings, sims, 2, "--registry", redis.url) as router:
        settings.write(replicas=sims.urls[1:])
        hang_up(router)
        wait_until(lambda: ids(router) == {second})
        for pid in router.worker_pids().values():
            subprocess.run(["kill", "-9", str(pid)], check=True)
        wait_until(lambda: router.output.count(" listening ") == 4)
        # Whichever worker answers the admin port's next requests, both are new.
        for _ in range(4):
            wait_until(lambda: ids(router) == {second})
        # A signal to all processes, as `systemctl kill` sends it, ends none of them.
        for pid in router.children():
            subprocess.run(["kill", "-HUP", str(pid)], check=True)
        assert router.chat("x")[0] == 200
        assert router.output.count(" worker_died ") == 2


def test_what_is_reloaded_is_in_effect_where_it_is_read(sims: SimProcess) -> None:
    def config(*settings: tuple[str, str]) -> Config:
        fixed = [("listen", "127.0.0.1:0"), ("admin", "127.0.0.1:0"), ("replicas", sims.urls[0])]
        return load([("--set", key, value) for key, value in [*fixed, *settings]], environ={})

    with RouterThread(config()) as router:
        router.wait_ready(1)
        worker = router.worker
        assert router.post("/v1/chat/completions", json.loads(BODY))[0] == 200  # makes a pool
        new = config(
            ("max_attempts", "7"),
            ("headers.explain", "false"),
            ("headers.early", "true"),
            ("feedback.ask_usage", "false"),
            ("limits.connections", "77"),
            ("upstream.pool_size", "5"),
            ("upstream.connect_timeout_s", "0.7"),
            ("health.failures", "9"),
            ("health.probe_interval_s", "0.3"),
            ("health.probe_timeout_s", "0.9"),
            ("drain_grace_s", "3"),
        )
        router.call(lambda: worker.reload(new))
        gateway = worker.gateway
        (pool,) = gateway.pools.values()
        (replica,) = worker.fleet.replicas.values()
        assert (gateway.max_attempts, gateway.limits.connections) == (7, 77)
        assert (gateway.explain_headers, gateway.early_heads, gateway.ask_usage) == (False, True, False)
        assert replica.health.parameters.failures_to_eject == 9
        assert worker._membership.interval_s == 0.3
        assert worker._engine._timeout_s == 0.9
        assert worker.config.drain_grace_s == 3.0
        assert pool.idle == [], "made anew, in the new way"
        status, headers, _ = router.post("/v1/chat/completions", json.loads(BODY))
        assert (status, "x-warmroute-replica" in headers) == (200, False)


# -- certificates ---------------------------------------------------------------------------------------------------


def certificate(folder: Path, name: str, key: str) -> tuple[str, str]:
    cert, private = folder / f"{name}.cert", folder / f"{name}.key"
    subject = ["-nodes", "-days", "2", "-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", *key.split(), *subject, "-keyout", private, "-out", cert],
        check=True,
        capture_output=True,
    )
    return str(cert), str(private)


def shown(router: RouterThread, *, name: str | None) -> bytes:
    """The certificate that a new connection is shown, with or without SNI, after an answer over it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with context.wrap_socket(router.connect(), server_hostname=name) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: r\r\nConnection: close\r\n\r\n")
        assert sock.recv(65536).startswith(b"HTTP/1.1 200")
        der = sock.getpeercert(binary_form=True)
        assert der is not None
        return der


def test_a_renewed_certificate_is_shown_to_new_connections_whatever_its_kind(
    sims: SimProcess, tmp_path: Path
) -> None:
    old = certificate(tmp_path, "old", "ec -pkeyopt ec_paramgen_curve:prime256v1")
    new = certificate(tmp_path, "new", "rsa:2048")
    place = tmp_path / "cert.pem", tmp_path / "key.pem"

    def put(pair: tuple[str, str]) -> None:
        for source, target in zip(pair, place, strict=True):
            target.write_bytes(Path(source).read_bytes())

    put(old)

    def config() -> Config:
        return load(
            [
                ("--replica", "replicas", sims.urls[:1]),
                ("--listen", "listen", "127.0.0.1:0"),
                ("--admin", "admin", "127.0.0.1:0"),
                ("--set", "tls.cert_file", str(place[0])),
                ("--set", "tls.key_file", str(place[1])),
            ],
            environ={},
        )

    der = [ssl.PEM_cert_to_DER_cert(Path(pair[0]).read_text()) for pair in (old, new)]
    with RouterThread(config()) as router:
        router.wait_ready(1)
        assert shown(router, name=None) == shown(router, name="localhost") == der[0]
        put(new)
        router.call(lambda: router.worker.reload(config()))
        assert shown(router, name=None) == shown(router, name="localhost") == der[1]
        place[0].write_text("no certificate")
        with pytest.raises(ConfigError, match=r"tls.cert_file: cannot be loaded"):
            router.call(lambda: router.worker.reload(config()))
        assert shown(router, name=None) == shown(router, name="localhost") == der[1]
