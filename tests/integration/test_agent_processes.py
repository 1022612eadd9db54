"""The commands `agent` and `serve` with an engine whose answers the test sets, and what they do with the children."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agents import AgentProcess
from tests.support.fake_engine import FakeEngine
from tests.support.redis_server import RedisServer
from tests.support.router_thread import wait_until


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


def record(redis: RedisServer, replica_id: str = "a") -> dict[str, object]:
    found: dict[str, object] = json.loads(redis.command("GET", f"w:member:{replica_id}") or "{}")
    return found


def test_an_engine_is_ready_once_it_answers_and_told_as_it_is(redis: RedisServer) -> None:
    with FakeEngine() as engine:
        engine.statuses = {"/health": 503}
        flags = (
            "--engine",
            engine.url,
            "--id",
            "a",
            "--advertise",
            "http://10.1.2.3:8000",
            "--check-request",
        )
        with AgentProcess(redis.url, *flags, "--engine-api-key", "word") as agent:
            wait_until(lambda: record(redis).get("state") == "starting")
            assert agent.ask("/healthz")[0] == 200
            assert agent.ask("/readyz")[0] == 503
            engine.statuses = {"/v1/models": 401}
            wait_until(lambda: "engine-api-key" in agent.output)
            engine.statuses = {"/v1/completions": 500}
            wait_until(lambda: engine.posts > 0)
            assert record(redis)["state"] == "starting"
            engine.statuses = {}
            wait_until(agent.ready)
            wait_until(lambda: record(redis).get("state") == "ready")
            told = record(redis)
            assert told["url"] == "http://10.1.2.3:8000"
            assert (told["models"], told["adapters"]) == (["m"], ["m-lora"])
            assert (told["block_tokens"], told["cache_blocks"], told["incarnation"]) == (32, 256, 1000.0)
            assert set(engine.keys) == {"Bearer word"}
            posts = engine.posts
            engine.running, engine.waiting = 3, 2
            wait_until(lambda: (record(redis).get("running"), record(redis).get("waiting")) == (3, 2))
            assert engine.posts == posts, "a request of one token is asked for once a life"
            engine.start_s = 2000.0
            wait_until(lambda: record(redis).get("incarnation") == 2000.0)
            wait_until(lambda: engine.posts == posts + 1)
            engine.awake = False
            wait_until(lambda: record(redis).get("state") == "starting")
            engine.awake = True
            wait_until(lambda: record(redis).get("state") == "ready")
            engine.running = engine.waiting = 0
            assert agent.terminate() == 0
            assert redis.command("KEYS", "w:member:*") == []
            assert redis.command("ZRANGE", "w:members", 0, -1) == []


def test_a_second_signal_ends_the_wait_for_what_is_under_way(redis: RedisServer) -> None:
    with FakeEngine() as engine:
        engine.running = 1
        flags = ("--as-is", "--engine", engine.url, "--id", "a")
        with AgentProcess(redis.url, *flags, command=["sleep", "1000"]) as launcher:
            launcher.wait_ready()
            launcher.process.send_signal(signal.SIGTERM)
            wait_until(lambda: record(redis).get("state") == "draining")
            assert launcher.process.poll() is None
            launcher.process.send_signal(signal.SIGTERM)
            assert launcher.process.wait(60) == 128 + signal.SIGTERM, "the status is the engine's"
            assert "drain_incomplete" in launcher.output
            assert record(redis) == {}


def test_the_grace_of_a_drain_has_an_end(redis: RedisServer) -> None:
    with FakeEngine() as engine:
        engine.running = 1
        with AgentProcess(redis.url, "--engine", engine.url, "--id", "a", "--drain-grace", "0.5") as agent:
            agent.wait_ready()
            status, body = agent.ask("/drain", post=True)
            assert (status, json.loads(body)) == (200, {"drained": False, "running": 1, "waiting": 0})
            assert record(redis)["state"] == "draining"


ENGINE = """
import signal, sys, time
signal.signal(signal.SIGUSR1, lambda *_: print("usr1", flush=True))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
print("begun", flush=True)
while True:
    time.sleep(1000)
"""


def test_a_launcher_ends_as_its_engine_does_and_passes_signals_on(redis: RedisServer) -> None:
    flags = ("--as-is", "--engine", "http://127.0.0.1:1", "--id", "a")
    with AgentProcess(redis.url, *flags, command=["sh", "-c", "echo said; exit 3"]) as launcher:
        assert launcher.process.wait(60) == 3
        assert "said" in launcher.output
        assert record(redis) == {}
    with AgentProcess(redis.url, *flags, command=[sys.executable, "-Sc", ENGINE]) as launcher:
        wait_until(lambda: "begun" in launcher.output)
        launcher.process.send_signal(signal.SIGUSR1)
        wait_until(lambda: "usr1" in launcher.output)
        assert launcher.terminate() == 7


FAKE_VLLM = """#!/bin/sh
case "$*" in
*--help=all) echo "  --enable-prefix-caching, --no-enable-prefix-caching"; echo "  --enable-prompt-tokens-details"
             echo "  --kv-events-config JSON  --shutdown-timeout S" ;;
*) echo "ran: $*" ;;
esac
"""


def test_flags_that_routing_wants_are_added_and_said(redis: RedisServer, tmp_path: Path) -> None:
    vllm = tmp_path / "vllm"
    vllm.write_text(FAKE_VLLM)
    vllm.chmod(0o755)
    command = [str(vllm), "serve", "MODEL", "--port", "1234", "--no-enable-prefix-caching"]
    with AgentProcess(redis.url, "--drain-grace", "20", command=command) as launcher:
        assert launcher.process.wait(60) == 0
        output = launcher.output
    assert "engine=http://127.0.0.1:1234 " in output
    (ran,) = [line for line in output.splitlines() if line.startswith("ran: ")]
    assert "serve MODEL --port 1234 --no-enable-prefix-caching --enable-prompt-tokens-details" in ran
    assert "kv-events" not in ran, "nobody opens ports that show what is cached without being asked"
    assert ran.endswith("--shutdown-timeout 20")
    assert "--enable-request-id-headers" not in ran
    assert "set_by_you=--enable-prefix-caching" in output
    assert 'unknown_to_the_engine="--enable-request-id-headers --enable-server-load-tracking ' in output
