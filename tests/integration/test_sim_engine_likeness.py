"""What engines do besides answering, as the simulated replica does it: caches not read, adapters, pause, sleep, and the
ways in which servers and proxies answer oddly."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
import uvloop

from warmroute_replica.sim.command import serving
from warmroute_replica.sim.engine_config import EngineConfig
from warmroute_replica.sim.server import ReplicaServer
from warmroute_replica.sim.simulated_replica import ReplicaConfig
from warmroute_replica.sim.step_time import StepTime

SYSTEM = "You are a careful assistant with a long list of rules. " * 40
FAST = ReplicaConfig(engine=EngineConfig(step_time=StepTime(speed=200)))
SLOW = ReplicaConfig(engine=EngineConfig(step_time=StepTime(prefill_tokens_per_s=2_000)))
"""A prompt of 4,000 tokens takes two seconds."""
LONG = "word " * 3200


class Client:
    """Sends requests to one replica."""

    def __init__(self, session: aiohttp.ClientSession, server: ReplicaServer) -> None:
        self.session = session
        self.server = server

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, bytes]:
        data = None if body is None else json.dumps(body)
        async with self.session.request(
            method,
            self.server.url + path,
            data=data,
            headers={name.replace("_", "-"): value for name, value in headers.items()},
            allow_redirects=False,
        ) as answer:
            return answer.status, answer.headers, await answer.read()

    async def post(self, path: str, body: Any = None, *, status: int = 200, **headers: str) -> Any:
        seen, fields, raw = await self.call("POST", path, body if body is not None else {}, **headers)
        assert seen == status, raw
        return json.loads(raw) if "json" in fields["Content-Type"] else raw.decode()

    async def get(self, path: str) -> Any:
        return json.loads((await self.call("GET", path))[2])

    async def chat(self, text: str = "hi", *, status: int = 200, **fields: Any) -> Any:
        return await self.post("/v1/chat/completions", chat(text, **fields), status=status)

    async def busy(self) -> None:
        """Wait until a request is under way."""
        async with asyncio.timeout(60):
            while not (await self.get("/sim/stats"))["in_flight"]:
                await asyncio.sleep(0.005)


def against(scenario: Callable[[Client], Awaitable[None]], config: ReplicaConfig = FAST) -> None:
    async def main() -> None:
        async with (
            serving(config, [0]) as (server,),
            aiohttp.ClientSession(auto_decompress=False, timeout=aiohttp.ClientTimeout(total=100)) as session,
        ):
            await scenario(Client(session, server))
        await asyncio.sleep(0)

    uvloop.run(main())


def chat(text: str, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]
    return {"model": "sim", "max_tokens": 4, "messages": messages, **fields}


def cached(answer: Any) -> int:
    tokens: int = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
    return tokens


# -- what is read of the cache ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "reads"),
    [
        ({"prompt_logprobs": 0}, False),
        ({"prompt_logprobs": 2}, False),
        ({"prompt_logprobs": -1}, False),
        ({"echo": True, "logprobs": True, "top_logprobs": 1}, False),
        ({"logprobs": True, "top_logprobs": 1}, True),
        ({}, True),
    ],
)
def test_logprobs_of_the_prompt_are_computed_whatever_is_cached_and_cached_after(
    fields: dict[str, Any], reads: bool
) -> None:
    async def scenario(client: Client) -> None:
        first = await client.chat(**fields)
        assert cached(first) == 0
        again = await client.chat(**fields)
        assert (cached(again) > 400) == reads
        assert (again["prompt_logprobs"] is None) == reads
        if not reads:
            assert len(again["prompt_logprobs"]) == again["usage"]["prompt_tokens"]
            assert again["prompt_logprobs"][0] is None
        # What it computed is there for others.
        assert cached(await client.chat()) > 400
        metrics = (await client.call("GET", "/metrics"))[2].decode()
        queried = float(
            metrics.split('prefix_cache_queries_total{engine="0",model_name="sim"} ')[1].split()[0]
        )
        assert (queried > 1000) == reads, "a request that looks nothing up is no query"

    against(scenario)


@pytest.mark.parametrize(
    ("fields", "reads"),
    [
        ({"echo": True, "logprobs": 1}, False),
        ({"echo": True, "logprobs": 0}, False),
        ({"echo": True}, True),
        ({"logprobs": 1}, True),
        ({"prompt_logprobs": 1}, False),
    ],
)
def test_an_echo_with_logprobs_reads_no_cache(fields: dict[str, Any], reads: bool) -> None:
    async def scenario(client: Client) -> None:
        body = {"model": "sim", "prompt": SYSTEM, "max_tokens": 2, **fields}
        await client.post("/v1/completions", body)
        assert (cached(await client.post("/v1/completions", body)) > 400) == reads

    against(scenario)


@pytest.mark.parametrize("fields", [{"prompt_logprobs": 1, "stream": True}, {"prompt_logprobs": -2}])
def test_what_vllm_refuses_is_refused(fields: dict[str, Any]) -> None:
    async def scenario(client: Client) -> None:
        assert "prompt_logprobs" in (await client.chat(status=400, **fields))["error"]["message"]

    against(scenario)


def test_claude_codes_billing_line_is_not_part_of_the_prompt() -> None:
    async def scenario(client: Client) -> None:
        def message(number: int | None, place: str = "first") -> dict[str, Any]:
            blocks = [{"type": "text", "text": SYSTEM}]
            if number is not None:
                billing = {"type": "text", "text": f"x-anthropic-billing-header: cc_version=2; cch={number};"}
                blocks.insert(0 if place == "first" else 1, billing)
            return {
                "model": "sim",
                "max_tokens": 2,
                "system": blocks,
                "messages": [{"role": "user", "content": "hi"}],
            }

        plain = (await client.post("/v1/messages", message(None)))["usage"]
        for number, place in ((1, "first"), (2, "first"), (3, "last")):
            usage = (await client.post("/v1/messages", message(number, place)))["usage"]
            assert usage["cache_read_input_tokens"] > 400
            assert sum(usage[key] for key in usage if key != "output_tokens") == sum(
                plain[key] for key in plain if key != "output_tokens"
            )
        counted = await client.post("/v1/messages/count_tokens", message(7))
        assert counted == await client.post("/v1/messages/count_tokens", message(None))
        inline = message(None) | {
            "messages": [
                {"role": "system", "content": "x-anthropic-billing-header: cch=4;"},
                {"role": "user", "content": "hi"},
            ]
        }
        assert counted == await client.post("/v1/messages/count_tokens", inline)
        # A system prompt that is plain text is taken as it is, as vLLM takes it.
        text = message(None) | {"system": "x-anthropic-billing-header: cch=5;"}
        assert (await client.post("/v1/messages/count_tokens", text))["input_tokens"] > 8

    against(scenario)


# -- failures ---------------------------------------------------------------------------------------------------------


def test_any_answer_can_be_scripted_for_every_so_many_th_request_or_for_those_that_hold_a_text() -> None:
    async def scenario(client: Client) -> None:
        fault = {"kind": "status", "status": 429, "count": -1, "every": 3, "headers": {"Retry-After": "7"}}
        await client.post("/sim/fault", fault)
        seen = [(await client.call("POST", "/v1/chat/completions", chat("x")))[0] for _ in range(6)]
        assert seen == [200, 200, 429, 200, 200, 429]
        await client.call("DELETE", "/sim/fault")
        await client.post("/sim/fault", {"kind": "status", "body": "oops", "marker": "bad", "count": -1})
        status, fields, raw = await client.call("POST", "/v1/chat/completions", chat("a bad one"))
        assert (status, fields["Content-Type"], raw) == (500, "application/json", b"oops")
        assert (await client.chat("a good one"))["usage"]
        await client.call("DELETE", "/sim/fault")
        await client.post("/sim/fault", {"kind": "status", "status": 503, "path": "/v1/messages"})
        error = await client.post("/v1/messages", chat("x"), status=503)
        assert error["error"]["type"] == "ServiceUnavailableError"
        await client.post("/sim/fault", {"kind": "empty"})
        status, fields, raw = await client.call("POST", "/v1/chat/completions", chat("x", stream=True))
        assert (status, raw) == (200, b"")
        assert fields["Content-Type"].startswith("text/event-stream")

    against(scenario)


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "status", "status": 99},
        {"kind": "status", "status": "x"},
        {"kind": "status", "seen": 4},
        {"kind": "status", "headers": 5},
        {"kind": "cut", "after_s": "soon"},
    ],
)
def test_what_is_no_fault_is_refused(fault: dict[str, Any]) -> None:
    async def scenario(client: Client) -> None:
        assert (await client.post("/sim/fault", fault, status=400))["error"]["type"] == "BadRequestError"

    against(scenario)


def test_a_request_can_kill_its_engine_and_what_else_it_has() -> None:
    async def scenario(client: Client) -> None:
        await client.post("/sim/fault", {"kind": "die", "marker": "poison", "count": -1, "down_s": 0.2})
        start = (await client.get("/sim/stats"))["start_time_s"]
        other = asyncio.ensure_future(client.chat("another's", max_tokens=4000))
        await client.busy()
        with pytest.raises(aiohttp.ClientError):
            await client.chat("poison")
        with pytest.raises(aiohttp.ClientError):
            await other
        with pytest.raises(aiohttp.ClientConnectorError):
            await client.chat("too early")
        async with asyncio.timeout(60):
            while True:
                try:
                    stats = await client.get("/sim/stats")
                    break
                except aiohttp.ClientError:
                    await asyncio.sleep(0.02)
        assert stats["start_time_s"] > start
        assert (await client.chat("harmless"))["usage"]
        with pytest.raises(aiohttp.ClientError):
            await client.chat("poison again")

    against(scenario, replace(SLOW, engine=EngineConfig()))


@pytest.mark.parametrize("kind", ["hang", "status"])
def test_health_can_be_silent_or_503_while_requests_are_under_way(kind: str) -> None:
    async def scenario(client: Client) -> None:
        assert (await client.call("GET", "/health"))[0] == 200
        asking = asyncio.ensure_future(client.chat(LONG))
        await client.busy()
        began_s = time.monotonic()
        status = (await client.call("GET", "/health"))[0]
        if kind == "hang":
            assert (status, asking.done() or time.monotonic() - began_s > 0.3) == (200, True)
        else:
            assert status == 503
        await asking
        assert (await client.call("GET", "/health"))[0] == 200

    fault = {"kind": kind, "path": "/health", "status": 503, "count": -1, "while_busy": True}
    against(scenario, replace(SLOW, faults=(json.dumps(fault),)))


# -- streams and codings ----------------------------------------------------------------------------------------------


def test_a_silent_stream_gets_comments_and_can_be_cut_before_its_first_token() -> None:
    async def scenario(client: Client) -> None:
        _, _, raw = await client.call("POST", "/v1/chat/completions", chat(LONG, stream=True))
        before, _, after = raw.partition(b"data: ")
        assert before.count(b": keep-alive\n\n") >= 3, "while the prompt is computed"
        assert before.replace(b": keep-alive\n\n", b"") == b""
        assert after.endswith(b"data: [DONE]\n\n")
        await client.post("/sim/fault", {"kind": "cut", "after_s": 0.35})
        seen = b""
        broken = False
        async with client.session.post(
            client.server.url + "/v1/chat/completions", json=chat("other " + LONG, stream=True)
        ) as answer:
            try:
                async for piece in answer.content.iter_any():
                    seen += piece
            except aiohttp.ClientError:
                broken = True
        assert broken
        assert seen.startswith(b": keep-alive\n\n")
        assert b"data:" not in seen
        async with asyncio.timeout(60):
            while (await client.get("/sim/stats"))["in_flight"]:
                await asyncio.sleep(0.01)

    against(scenario, replace(SLOW, keep_alive_s=0.1))


@pytest.mark.parametrize(("coding", "read"), [("gzip", gzip.decompress), ("deflate", zlib.decompress)])
def test_answers_can_be_compressed_and_each_piece_can_be_read_when_it_comes(
    coding: Any, read: Callable[[bytes], bytes]
) -> None:
    async def scenario(client: Client) -> None:
        status, fields, raw = await client.call("POST", "/v1/chat/completions", chat("x"))
        assert (status, fields["Content-Encoding"]) == (200, coding)
        assert json.loads(read(raw))["object"] == "chat.completion"
        decoder = zlib.decompressobj(31 if coding == "gzip" else 15)
        text = b""
        pieces = 0
        async with client.session.post(
            client.server.url + "/v1/chat/completions", json=chat("x", stream=True, max_tokens=20)
        ) as answer:
            assert answer.headers["Content-Encoding"] == coding
            async for piece, ends in answer.content.iter_chunks():
                if ends and piece:
                    text += decoder.decompress(piece)
                    assert text.endswith(b"\n\n"), "whole events"
                    pieces += 1
        assert decoder.eof
        assert text.endswith(b"data: [DONE]\n\n")
        assert pieces > 5

    against(scenario, replace(FAST, compress=coding, engine=EngineConfig()))


# -- adapters, keys, paths --------------------------------------------------------------------------------------------


def test_adapters_come_and_go_each_with_a_cache_of_its_own() -> None:
    async def scenario(client: Client) -> None:
        async def models() -> dict[str, str]:
            return {card["id"]: card["root"] for card in (await client.get("/v1/models"))["data"]}

        assert await models() == {"sim": "sim", "given": "/adapters/given"}
        await client.chat("x", model="blue", status=404)
        load = {"lora_name": "blue", "lora_path": "/lora/blue"}
        said = await client.post("/v1/load_lora_adapter", load)
        assert said == "Success: LoRA adapter 'blue' added successfully."
        assert (await models())["blue"] == "/lora/blue"
        assert cached(await client.chat("x")) == 0
        assert cached(await client.chat("x", model="blue")) == 0
        assert cached(await client.chat("x", model="blue")) > 400
        refused = await client.post("/v1/load_lora_adapter", load, status=400)
        assert "already been loaded" in refused["error"]["message"]
        await client.post("/v1/load_lora_adapter", load | {"load_inplace": True})
        assert cached(await client.chat("x", model="blue")) > 400, "from the same path: stale, and found"
        moved = {"lora_name": "blue", "lora_path": "/lora/blue-2", "load_inplace": True}
        await client.post("/v1/load_lora_adapter", moved)
        assert cached(await client.chat("x", model="blue")) == 0
        for bad in ({"lora_name": "sim", "lora_path": "/x"}, {"lora_name": "y"}, {"lora_name": 5}):
            await client.post("/v1/load_lora_adapter", bad, status=400)
        said = await client.post("/v1/unload_lora_adapter", {"lora_name": "blue"})
        assert said == "Success: LoRA adapter 'blue' removed successfully."
        await client.post("/v1/unload_lora_adapter", {"lora_name": "blue"}, status=404)
        await client.chat("x", model="blue", status=404)
        await client.post("/sim/fault", {"kind": "restart"})
        assert await models() == {"sim": "sim", "given": "/adapters/given"}

    against(scenario, replace(FAST, loras=("given",)))


def test_a_resolver_finds_adapters_that_no_list_has() -> None:
    async def scenario(client: Client) -> None:
        assert len((await client.get("/v1/models"))["data"]) == 1
        assert (await client.chat("x", model="org/blue"))["model"] == "org/blue"
        assert [card["id"] for card in (await client.get("/v1/models"))["data"]] == ["sim", "org/blue"]
        await client.chat("x", model="other", status=404)

    against(scenario, replace(FAST, lora_resolver="org/"))


def test_a_key_is_asked_for_below_v1_only() -> None:
    async def scenario(client: Client) -> None:
        for path in ("/v1/models", "/v1/none"):
            status, _, raw = await client.call("GET", path)
            assert (status, json.loads(raw)) == (401, {"error": "Unauthorized"})
        await client.chat("x", status=401)
        await client.post("/v1/chat/completions", chat("x"), Authorization="Bearer key-1")
        await client.post("/v1/chat/completions", chat("x"), status=401, Authorization="Bearer key-2")
        for path in ("/health", "/metrics", "/version"):
            assert (await client.call("GET", path))[0] == 200

    against(scenario, replace(FAST, api_key="key-1"))


def test_a_last_slash_too_many_is_redirected_to_the_servers_own_address() -> None:
    async def scenario(client: Client) -> None:
        status, fields, _ = await client.call("POST", "/v1/chat/completions/?a=1", chat("x"))
        assert (status, fields["Location"]) == (307, f"{client.server.url}/v1/chat/completions?a=1")
        assert (await client.call("GET", "/v1/none/"))[0] == 404

    against(scenario)


# -- pause and sleep --------------------------------------------------------------------------------------------------


def finish(answer: Any) -> str:
    reason: str = answer["choices"][0]["finish_reason"]
    return reason


async def is_silent(asking: asyncio.Future[Any]) -> bool:
    done, _ = await asyncio.wait({asking}, timeout=0.3)
    return not done


@pytest.mark.parametrize("end", ["pause", "sleep"])
def test_what_is_aborted_ends_as_it_stands_and_what_comes_waits_silently(end: str) -> None:
    async def scenario(client: Client) -> None:
        stopped, goes_on = ("/pause", "/resume") if end == "pause" else ("/sleep", "/wake_up")
        whole = asyncio.ensure_future(client.chat("x", max_tokens=4000))
        streamed = asyncio.ensure_future(
            client.call("POST", "/v1/chat/completions", chat("y", max_tokens=4000, stream=True))
        )
        async with asyncio.timeout(60):
            while (await client.get("/sim/stats"))["running"] < 2:
                await asyncio.sleep(0.01)
        await client.post(stopped)
        assert finish(await whole) == "abort"
        raw = (await streamed)[2]
        assert b'"finish_reason":"abort"' in raw
        assert raw.endswith(b"data: [DONE]\n\n")
        assert (await client.call("GET", "/health"))[0] == 200
        state = await client.get("/is_paused" if end == "pause" else "/is_sleeping")
        assert list(state.values()) == [True]
        metrics = (await client.call("GET", "/metrics"))[2].decode()
        awake = 'vllm:engine_sleep_state{engine="0",model_name="sim",sleep_state="awake"} '
        assert awake + ("1.0" if end == "pause" else "0.0") in metrics
        waiting = asyncio.ensure_future(client.chat("z"))
        assert await is_silent(waiting)
        await client.post(goes_on)
        answer = await waiting
        assert (finish(answer), cached(answer)) == ("length", 0), "the cache was emptied"
        assert cached(await client.chat("z")) > 400
        state = await client.get("/is_paused" if end == "pause" else "/is_sleeping")
        assert list(state.values()) == [False]

    against(scenario, replace(FAST, engine=EngineConfig()))


def test_what_is_kept_goes_on_where_it_was() -> None:
    async def scenario(client: Client) -> None:
        asking = asyncio.ensure_future(client.chat("x", max_tokens=200))
        await client.busy()
        await client.post("/pause?mode=keep")
        new = asyncio.ensure_future(client.chat("x"))
        assert await is_silent(asking)
        assert await is_silent(new)
        await client.post("/resume")
        assert finish(await asking) == "length"
        assert cached(await new) >= 0
        assert cached(await client.chat("x")) > 400, "the cache was kept"

    against(scenario, replace(FAST, engine=EngineConfig()))


def test_what_is_waited_for_ends_by_itself_and_what_comes_meanwhile_waits() -> None:
    async def scenario(client: Client) -> None:
        asking = asyncio.ensure_future(client.chat(LONG))
        await client.busy()
        pausing = asyncio.ensure_future(client.post("/pause?mode=wait"))
        await asyncio.sleep(0.1)
        new = asyncio.ensure_future(client.chat("x"))
        assert finish(await asking) == "length"
        assert await pausing == {"status": "paused"}
        assert await is_silent(new)
        await client.post("/resume")
        assert finish(await new) == "length"
        await client.post("/pause?mode=never", status=400)
        await client.post("/sleep?level=3", status=400)

    against(scenario, SLOW)


def test_a_paused_engine_may_refuse_as_newer_ones_do() -> None:
    async def scenario(client: Client) -> None:
        await client.post("/pause")
        error = (await client.chat("x", status=503))["error"]
        assert error["message"] == "Generation is paused. Please retry after it resumes."
        assert error["type"] == "ServiceUnavailableError"
        await client.post("/resume")
        await client.chat("x")
        await client.post("/pause?mode=keep")
        waiting = asyncio.ensure_future(client.chat("x"))
        assert await is_silent(waiting)
        await client.post("/resume")
        await waiting

    against(scenario, replace(FAST, pause_refuses=True))
