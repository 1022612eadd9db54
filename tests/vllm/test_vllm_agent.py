"""A real vLLM under `warmroute-replica serve`: found through Redis, warm at the second request, drained by SIGTERM."""

from __future__ import annotations

import json
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.support.processes import python_command
from tests.support.vllm_fleet import RouterProcess, call, raw_request, text, wait_until
from warmroute_replica.ports import free_ports
from warmroute_replica.vllm.install import ensure_installed
from warmroute_replica.vllm.model import ensure_model
from warmroute_replica.vllm.server import Options, Replica

pytestmark = [pytest.mark.vllm, pytest.mark.vllm_long]

START_S = 500.0


class Launched:
    """`warmroute-replica serve -- vllm serve …`, with no flag that the launcher should add."""

    def __init__(self, redis_url: str, log: Path) -> None:
        venv = ensure_installed(print)
        model = ensure_model(venv, print, preset="small", lora=["alpha"])
        self.engine_port, self.port = free_ports(2)
        self.log = log
        engine = [str(venv / "bin" / "vllm"), "serve", model.path.name, "--served-model-name", "tiny"]
        engine += ["--host", "127.0.0.1", "--port", str(self.engine_port), "--enforce-eager"]
        engine += ["--max-model-len", "4096", "--max-num-seqs", "4", "--max-num-batched-tokens", "2048"]
        engine += ["--block-size", "32", "--kv-cache-memory-bytes", "16M"]
        agent = [
            "--redis",
            redis_url,
            "--id",
            "real",
            "--listen",
            f"127.0.0.1:{self.port}",
            "--check-request",
        ]
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                python_command("warmroute_replica.cli", "serve", *agent, "--", *engine),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # As the fleets of these tests are started: no packages of ours for the engine's interpreter.
                env=Replica(venv, model, Options())._environment(),
                cwd=model.path.parent,
            )

    def ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=10) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


@pytest.fixture
def launched(redis_url: str, tmp_path: Path) -> Iterator[Launched]:
    launcher = Launched(redis_url, tmp_path / "log")
    yield launcher
    if launcher.process.poll() is None:
        launcher.process.terminate()
        launcher.process.send_signal(signal.SIGTERM)
        launcher.process.wait(60)


def test_a_launched_engine_is_found_gets_warm_and_drains_with_its_stream(
    launched: Launched, redis_url: str
) -> None:
    wait_until(launched.ready, "the agent says ready", timeout_s=START_S)
    said = launched.log.read_text()
    for flag in (
        "--enable-prefix-caching",
        "--enable-prompt-tokens-details",
        "--enable-server-load-tracking",
    ):
        assert flag in said.partition("engine_flags")[2].splitlines()[0]
    assert "unknown_to_the_engine" not in said
    with (
        redis.Redis.from_url(redis_url) as client,
        RouterProcess([], "--discover", redis_url, replicas=1) as router,
    ):
        told = json.loads(client.get("w:member:real") or b"{}")
        assert (told["state"], told["models"], told["block_tokens"]) == ("ready", ["tiny"], 32)
        assert told["cache_blocks"] > 100
        assert abs(told["incarnation"] - time.time()) < 2 * START_S
        messages = [{"role": "system", "content": text(600, "agent")}]
        for question in ("one", "two"):
            body = {
                "model": "tiny",
                "max_tokens": 2,
                "messages": [*messages, {"role": "user", "content": question}],
            }
            answer = call(router.url, "/v1/chat/completions", body)
            assert (answer.status, answer.replica) == (200, "real")
        usage = answer.json["usage"]
        assert usage["prompt_tokens_details"]["cached_tokens"] > 0.8 * usage["prompt_tokens"]

        fields = {"model": "tiny", "prompt": "count", "max_tokens": 400, "ignore_eos": True, "stream": True}
        with raw_request(router.url, "/v1/completions", fields) as connection:
            received = connection.recv(65536)
            launched.process.send_signal(signal.SIGTERM)
            while not received.endswith(b"0\r\n\r\n"):
                piece = connection.recv(65536)
                assert piece, "the stream was cut"
                received += piece
        assert b"data: [DONE]" in received
        assert b'"finish_reason":"length"' in received
        assert b'"error"' not in received
        # Idle as it is, vLLM takes 6 s to end, on a busy machine 28; after 30 the launcher kills it.
        assert launched.process.wait(120) in (0, 128 + signal.SIGKILL), launched.log.read_text()[-3000:]
        said = launched.log.read_text()
        assert "drain_incomplete" not in said
        assert said.index(" draining ") < said.index(" drained ") < said.index(" withdrawn ")
        assert client.keys("w:member:*") == []
