"""The simulated replica over HTTP: metrics, other endpoints, clients old and slow, and its command."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import struct
import subprocess

import aiohttp
import pytest
import uvloop
from prometheus_client.parser import text_string_to_metric_families

from tests.support.processes import python_command
from tests.support.sim_client import SYSTEM, Client, against, chat, config, events, raw_exchange
from warmroute_replica.sim.command import serving
from warmroute_replica.sim.step_time import StepTime


def test_metrics_are_vllm_s_and_parse():
    async def scenario(client: Client) -> None:
        body = chat(("user", SYSTEM), max_tokens=5)
        answers = [await client.ok("/v1/chat/completions", body) for _ in range(2)]
        text = await client.text("/metrics")
        samples = {
            (sample.name, sample.labels.get("le") or sample.labels.get("source")): sample
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        prompt = sum(answer["usage"]["prompt_tokens"] for answer in answers)
        cached = answers[1]["usage"]["prompt_tokens_details"]["cached_tokens"]
        assert samples["vllm:prefix_cache_queries_total", None].value == prompt
        assert samples["vllm:prefix_cache_hits_total", None].value == cached
        assert samples["vllm:generation_tokens_total", None].value == 10
        assert samples["vllm:time_to_first_token_seconds_count", None].value == 2
        assert samples["vllm:inter_token_latency_seconds_bucket", "+Inf"].value == 8
        assert samples["vllm:num_requests_running", None].value == 0
        cache = samples["vllm:cache_config_info", None].labels
        assert (cache["block_size"], cache["num_gpu_blocks"]) == ("16", "8192")
        assert cache["kv_cache_size_tokens"] == "131072"
        assert samples["process_start_time_seconds", None].value > 1e9
        models = (await client.get("/v1/models"))["data"]
        assert [(model["id"], model["parent"]) for model in models] == [
            ("sim", None),
            ("other", None),
            ("alpha", "sim"),
        ]
        assert models[0]["max_model_len"] == 131_072
        assert (await client.get("/load"))["server_load"] == 0
        assert "version" in await client.get("/version")

    against(scenario)


def test_embeddings_rerank_and_score():
    async def scenario(client: Client) -> None:
        floats = await client.ok("/v1/embeddings", {"input": ["one", "two"], "dimensions": 4})
        vectors = [entry["embedding"] for entry in floats["data"]]
        assert sum(value * value for value in vectors[0]) == pytest.approx(1)
        assert vectors[0] != vectors[1]
        packed = await client.ok(
            "/v1/embeddings", {"input": "one", "dimensions": 4, "encoding_format": "base64"}
        )
        assert struct.unpack("<4f", base64.b64decode(packed["data"][0]["embedding"])) == pytest.approx(
            vectors[0]
        )
        ranked = await client.ok("/v1/rerank", {"query": "q", "documents": ["a", "b", "c"], "top_n": 2})
        scores = [entry["relevance_score"] for entry in ranked["results"]]
        assert len(scores) == 2
        assert scores == sorted(scores, reverse=True)
        scored = await client.ok("/v1/score", {"text_1": "q", "text_2": ["a", "b"]})
        assert [entry["index"] for entry in scored["data"]] == [0, 1]

    against(scenario)


def test_old_clients_get_a_stream_without_chunked_coding():
    async def scenario(client: Client) -> None:
        answer = await raw_exchange(client.servers[0], chat(("user", "x"), max_tokens=4, stream=True), "1.0")
        head, _, rest = answer.partition(b"\r\n\r\n")
        assert b"chunked" not in head.lower()
        assert len(events(rest.decode())) == 6

    against(scenario)


def test_a_client_that_reads_slowly_gets_every_token_and_bounds_the_buffer():
    async def scenario(client: Client) -> None:
        server = client.servers[0]
        data = json.dumps(chat(("user", "x"), max_tokens=30_000, stream=True)).encode()
        reader, writer = await asyncio.open_connection(server.host, server.port, limit=2**16)
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n")
        writer.write(b"Content-Length: %d\r\n\r\n" % len(data) + data)
        await client.until(lambda stats: stats["answered"] == 1)
        connections = server.open_connections()
        assert max(transport.get_write_buffer_size() for transport in connections) < 2_000_000
        answer = await reader.read()
        writer.close()
        assert answer.count(b"data: ") == 30_002
        assert answer.endswith(b"0\r\n\r\n")

    against(scenario, config(StepTime(speed=5000.0)))


def test_statistics_show_headers_and_can_be_reset():
    async def scenario(client: Client) -> None:
        body = chat(("user", SYSTEM), max_tokens=2)
        for number in range(40):
            await client.ok("/v1/chat/completions", body, headers={"X-Session-Id": f"s{number}"})
        stats = await client.stats()
        assert stats["requests"] == 40
        assert stats["models"]["sim"]["output_tokens"] == 80
        assert len(stats["headers"]) == 32
        assert stats["headers"][-1]["X-Session-Id"] == "s39"
        await client.ok("/sim/reset", {})
        stats = await client.stats()
        assert (stats["requests"], stats["cached_blocks"], stats["headers"]) == (0, 0, [])

    against(scenario)


def test_the_command_serves_until_sigterm_and_exits_0():
    command = python_command("warmroute_replica.cli", *"sim --port 0 --port 0 --model m --speed 9".split())
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ}) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline().split() for _ in range(2)]
        assert all(line[:3] == ["replica", "ready", "on"] for line in lines)

        async def models() -> list[str]:
            async with aiohttp.ClientSession() as session:
                names = []
                for line in lines:
                    async with session.get(line[3] + "/v1/models") as response:
                        names.append((await response.json())["data"][0]["id"])
                return names

        assert uvloop.run(models()) == ["m", "m"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_contradictory_arguments_and_taken_ports_are_errors():
    command = python_command("warmroute_replica.cli", "sim", "--port", "0", "--max-num-seqs", "9000")
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 2
    assert "max_num_batched_tokens" in done.stderr
    for fault in ('{"kind": "implode"}', "{", '{"kind": "status", "status": 42}'):
        command = python_command("warmroute_replica.cli", "sim", "--port", "0", "--fault", fault)
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 2
        assert f"--fault {fault}" in done.stderr

    async def scenario(client: Client) -> None:
        with pytest.raises(OSError, match="in use"):
            async with serving(config(), [client.servers[0].port]):
                pass

    against(scenario)
