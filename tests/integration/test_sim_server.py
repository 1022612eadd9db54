"""The simulated replica over HTTP: vLLM's shapes, cached tokens, disconnects, and failures on demand."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import struct
import subprocess
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest
import uvloop
from prometheus_client.parser import text_string_to_metric_families

from tests.support.processes import python_command
from warmroute_replica.sim.command import serving
from warmroute_replica.sim.engine import EngineConfig, SchedulingPolicy
from warmroute_replica.sim.server import ReplicaServer
from warmroute_replica.sim.simulated_replica import ReplicaConfig
from warmroute_replica.sim.step_time import StepTime

FAST = StepTime(speed=50.0)
SLOW = StepTime(prefill_tokens_per_s=2000.0, decode_step_s=0.02, attention_context_tokens=0.0)
SYSTEM = "You answer at length and with care. " * 40
TOOL_SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "unit": {"enum": ["C", "F"]}},
}
CHAT_TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": TOOL_SCHEMA}}]


def config(step_time: StepTime = FAST, **fields: Any) -> ReplicaConfig:
    engine = {
        name: fields.pop(name)
        for name in ("cache_tokens", "max_num_seqs", "block_tokens", "scheduling_policy")
        if name in fields
    }
    return ReplicaConfig(
        models=("sim", "other"),
        loras=("alpha",),
        engine=EngineConfig(**engine, step_time=step_time),
        **fields,
    )


class Client:
    """The replica's ports, and the least code to call them."""

    def __init__(self, session: aiohttp.ClientSession, servers: list[ReplicaServer]) -> None:
        self.session = session
        self.servers = servers
        self.url = servers[0].url

    async def post(self, path: str, body: Any, **kwargs: Any) -> tuple[int, Any]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with self.session.post(self.url + path, data=data, **kwargs) as response:
            return response.status, json.loads(await response.read())

    async def ok(self, path: str, body: Any, **kwargs: Any) -> Any:
        status, answer = await self.post(path, body, **kwargs)
        assert status == 200, answer
        return answer

    async def get(self, path: str) -> Any:
        async with self.session.get(self.url + path) as response:
            return json.loads(await response.read())

    async def text(self, path: str, body: Any = None, **kwargs: Any) -> str:
        method = "GET" if body is None else "POST"
        data = None if body is None else json.dumps(body)
        async with self.session.request(method, self.url + path, data=data, **kwargs) as response:
            assert response.status == 200
            return (await response.read()).decode()

    async def stats(self) -> Any:
        return await self.get("/sim/stats")

    async def fault(self, kind: str, **fields: Any) -> None:
        await self.ok("/sim/fault", {"kind": kind, **fields})

    async def until(self, condition: Callable[[Any], bool]) -> Any:
        async with asyncio.timeout(60):
            while not condition(stats := await self.stats()):
                await asyncio.sleep(0.005)
        return stats


def against(
    scenario: Callable[[Client], Awaitable[None]], replica: ReplicaConfig | None = None, ports: int = 1
) -> None:
    async def main() -> None:
        connector = aiohttp.TCPConnector(force_close=False)
        timeout = aiohttp.ClientTimeout(total=100)
        async with (
            serving(replica or config(), [0] * ports) as servers,
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
        ):
            await scenario(Client(session, servers))
        await asyncio.sleep(0)

    uvloop.run(main())


def chat(*messages: tuple[str, str], **fields: Any) -> dict[str, Any]:
    return {
        "model": "sim",
        "messages": [{"role": role, "content": text} for role, text in messages],
        **fields,
    }


def events(text: str) -> list[tuple[str | None, Any]]:
    """Server-sent events as (name, data), `[DONE]` as a string."""
    found = []
    assert text.endswith("\n\n")
    for block in text[:-2].split("\n\n"):
        name = None
        for line in block.split("\n"):
            field, _, value = line.partition(": ")
            if field == "event":
                name = value
            else:
                assert field == "data"
                found.append((name, value if value == "[DONE]" else json.loads(value)))
    return found


def test_a_chat_answer_has_vllm_s_shape_and_counts_cached_tokens_in_whole_blocks():
    async def scenario(client: Client) -> None:
        body = chat(("system", SYSTEM), ("user", "Hello"), max_tokens=7)
        first = await client.ok("/v1/chat/completions", body, headers={"X-Request-Id": "my-1"})
        assert first["id"] == "chatcmpl-my-1"
        assert first["object"] == "chat.completion"
        assert first["choices"][0]["finish_reason"] == "length"
        usage = first["usage"]
        assert usage["completion_tokens"] == 7
        assert usage["total_tokens"] == usage["prompt_tokens"] + 7
        whole = usage["prompt_tokens"] // 16 * 16
        assert usage["prompt_tokens_details"] == {
            "cached_tokens": 0,
            "created_cache_tokens": whole,
            "multimodal_tokens": None,
        }
        again = await client.ok("/v1/chat/completions", body)
        assert (
            again["usage"]["prompt_tokens_details"]["cached_tokens"]
            == (usage["prompt_tokens"] - 1) // 16 * 16
        )
        assert again["choices"] == first["choices"]

    against(scenario)


def test_a_chat_stream_is_role_content_finish_usage_and_done():
    async def scenario(client: Client) -> None:
        body = chat(("user", "Hello"), max_tokens=9)
        plain = await client.ok("/v1/chat/completions", body)
        text = await client.text(
            "/v1/chat/completions",
            {**body, "stream": True, "stream_options": {"include_usage": True}},
            headers={"X-Request-Id": "s"},
        )
        chunks = [data for _name, data in events(text)]
        assert chunks.pop() == "[DONE]"
        usage = chunks.pop()
        assert usage["choices"] == []
        assert usage["usage"]["completion_tokens"] == 9
        assert usage["usage"]["prompt_tokens_details"] == {"cached_tokens": 0, "created_cache_tokens": 0}
        assert {chunk["id"] for chunk in chunks} == {"chatcmpl-s"}
        assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        assert len(chunks) == 10
        assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * 9 + ["length"]
        assert all("usage" not in chunk for chunk in chunks)
        content = "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks)
        assert content == plain["choices"][0]["message"]["content"]
        without = events(await client.text("/v1/chat/completions", {**body, "stream": True}))
        assert len(without) == 11

    against(scenario)


def test_the_next_turn_finds_the_blocks_of_the_answer_too():
    async def scenario(client: Client) -> None:
        turn = chat(("system", SYSTEM), ("user", "Hello"), max_tokens=64)
        first = await client.ok("/v1/chat/completions", turn)
        answer = first["choices"][0]["message"]["content"]
        followed = chat(("system", SYSTEM), ("user", "Hello"), ("assistant", answer), ("user", "And?"))
        usage = (await client.ok("/v1/chat/completions", {**followed, "max_tokens": 1}))["usage"]
        computed = first["usage"]["total_tokens"] - 1
        assert usage["prompt_tokens_details"]["cached_tokens"] == computed // 16 * 16

    against(scenario)


def test_model_adapter_and_salt_have_caches_of_their_own_and_the_routing_key_has_none():
    async def scenario(client: Client) -> None:
        async def cached(**fields: Any) -> int:
            answer = await client.ok(
                "/v1/chat/completions", {**chat(("user", SYSTEM), max_tokens=1), **fields}
            )
            return answer["usage"]["prompt_tokens_details"]["cached_tokens"]

        for fields in (
            {},
            {"model": "other"},
            {"model": "alpha"},
            {"cache_salt": "s1"},
            {"cache_salt": "s2"},
        ):
            assert await cached(**fields) == 0
            assert await cached(**fields) > 0
        assert await cached(prompt_cache_key="k") > 0
        status, error = await client.post("/v1/chat/completions", chat(("user", "x"), cache_salt=""))
        assert (status, error["error"]["param"]) == (400, "cache_salt")

    against(scenario)


def test_priority_orders_those_that_wait_where_the_engine_schedules_by_it():
    bodies = {
        "/v1/chat/completions": chat(("user", "x"), max_tokens=1),
        "/v1/completions": {"prompt": "x", "max_tokens": 1},
        "/v1/responses": {"input": "x", "max_output_tokens": 1},
    }

    async def scenario(client: Client) -> list[str]:
        done: list[str] = []

        async def one(name: str, path: str, body: dict[str, Any]) -> None:
            await client.ok(path, {"model": "sim", **body})
            done.append(name)

        engine = client.servers[0].replica.engine
        for path, body in bodies.items():
            runs = asyncio.ensure_future(
                one("runs", path, {**body, "max_tokens": 20, "max_output_tokens": 20})
            )
            while not engine.running:
                await asyncio.sleep(0.001)
            waiting = []
            for name, priority in (("late", 5), ("usual", 0), ("urgent", -(2**63))):
                waiting.append(asyncio.ensure_future(one(name, path, {**body, "priority": priority})))
                while engine.waiting < len(waiting):
                    await asyncio.sleep(0.001)
            await asyncio.gather(runs, *waiting)
        for odd in ("5", True, 1.5, None, 2**63):
            status, error = await client.post("/v1/completions", {"prompt": "x", "priority": odd})
            assert (status, error["error"]["param"]) == (400, "priority")
        return done

    for policy, order in (("fcfs", ["late", "usual", "urgent"]), ("priority", ["urgent", "usual", "late"])):
        seen: list[list[str]] = []

        async def noting(client: Client, seen: list[list[str]] = seen) -> None:
            seen.append(await scenario(client))

        against(noting, config(SLOW, max_num_seqs=1, scheduling_policy=SchedulingPolicy(policy)))
        assert seen == [["runs", *order] * len(bodies)]


def test_completions_take_text_lists_and_token_ids_of_the_same_cache():
    async def scenario(client: Client) -> None:
        tokens = (await client.ok("/tokenize", {"prompt": SYSTEM}))["tokens"]
        assert (await client.ok("/detokenize", {"tokens": tokens}))["prompt"] == SYSTEM
        text = await client.ok("/v1/completions", {"prompt": SYSTEM, "max_tokens": 2})
        assert text["object"] == "text_completion"
        assert text["id"].startswith("cmpl-")
        ids = await client.ok("/v1/completions", {"prompt": tokens, "max_tokens": 2})
        assert ids["usage"]["prompt_tokens_details"]["cached_tokens"] == (len(tokens) - 1) // 16 * 16
        assert ids["choices"][0]["text"] == text["choices"][0]["text"]
        lists = await client.ok("/v1/completions", {"prompt": [tokens, [1, 2]], "max_tokens": 2, "n": 2})
        assert [choice["index"] for choice in lists["choices"]] == [0, 1, 2, 3]
        assert lists["usage"]["prompt_tokens"] == len(tokens) + 2
        assert lists["usage"]["completion_tokens"] == 8
        streamed = events(
            await client.text("/v1/completions", {"prompt": SYSTEM, "max_tokens": 2, "stream": True})
        )
        assert streamed[-1] == (None, "[DONE]")
        chunks = [data["choices"][0] for _name, data in streamed[:-1]]
        assert "".join(chunk["text"] for chunk in chunks) == text["choices"][0]["text"]
        assert chunks[-1]["finish_reason"] == "length"

    against(scenario)


def test_several_answers_logprobs_and_stop_strings():
    async def scenario(client: Client) -> None:
        many = chat(("user", "Hello"), max_tokens=12, n=3, logprobs=True, top_logprobs=2)
        answer = await client.ok("/v1/chat/completions", many)
        texts = [choice["message"]["content"] for choice in answer["choices"]]
        assert len(set(texts)) == 3
        content = answer["choices"][0]["logprobs"]["content"]
        assert len(content) == 12
        assert bytes(sum((entry["bytes"] for entry in content), [])).decode() == texts[0]
        assert all(len(entry["top_logprobs"]) == 2 for entry in content)
        streamed = events(await client.text("/v1/chat/completions", {**many, "stream": True}))
        for index, text in enumerate(texts):
            mine = [d["choices"][0] for _n, d in streamed[:-1] if d["choices"][0]["index"] == index]
            assert "".join(chunk["delta"]["content"] for chunk in mine) == text
        stop = texts[0].split(" ")[1] + " "
        stopped = await client.ok("/v1/chat/completions", {**many, "n": 1, "stop": [stop]})
        assert stopped["choices"][0]["finish_reason"] == "stop"
        assert stopped["choices"][0]["stop_reason"] == stop
        assert stop not in stopped["choices"][0]["message"]["content"]
        logprobs = (await client.ok("/v1/completions", {"prompt": "x", "max_tokens": 3, "logprobs": 2}))[
            "choices"
        ][0]
        assert len(logprobs["logprobs"]["tokens"]) == 3

    against(scenario)


def test_messages_stream_the_event_sequence_of_anthropic_s_api():
    async def scenario(client: Client) -> None:
        body = {
            "model": "sim",
            "max_tokens": 6,
            "system": [{"type": "text", "text": SYSTEM}],
            "messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}],
        }
        plain = await client.ok("/v1/messages", body)
        assert (plain["type"], plain["role"], plain["stop_reason"]) == ("message", "assistant", "max_tokens")
        assert plain["usage"]["cache_read_input_tokens"] == 0
        found = events(await client.text("/v1/messages", {**body, "stream": True}))
        assert found.pop() == (None, "[DONE]")
        assert all(name == data["type"] for name, data in found)
        names = [name for name, _data in found]
        assert names == [
            "message_start",
            "content_block_start",
            *["content_block_delta"] * 6,
            "content_block_stop",
            "message_delta",
            "message_stop",
        ]
        text = "".join(data["delta"]["text"] for name, data in found if name == "content_block_delta")
        assert text == plain["content"][0]["text"]
        usage = found[-2][1]["usage"]
        assert usage["cache_read_input_tokens"] > 300
        total = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
        assert sum(usage[name] for name in total) == sum(plain["usage"][name] for name in total)
        counted = await client.ok("/v1/messages/count_tokens", body)
        assert counted["input_tokens"] == sum(usage[name] for name in total)

    against(scenario)


def test_messages_treat_a_generous_max_tokens_as_a_limit_not_a_length():
    async def scenario(client: Client) -> None:
        body = {"model": "sim", "max_tokens": 4096, "messages": [{"role": "user", "content": "Hello"}]}
        answer = await client.ok("/v1/messages", body)
        assert answer["stop_reason"] == "end_turn"
        assert 20 <= answer["usage"]["output_tokens"] <= 200

    against(scenario)


def test_responses_stream_numbered_events_and_are_kept_for_the_next_turn():
    async def scenario(client: Client) -> None:
        body = {"model": "sim", "instructions": SYSTEM, "input": "Hello"}
        first = await client.ok("/v1/responses", body, headers={"X-Request-Id": "one"})
        assert (first["id"], first["status"]) == ("resp_one", "completed")
        assert await client.get("/v1/responses/resp_one") == first
        found = events(await client.text("/v1/responses", {**body, "stream": True}))
        assert [data["sequence_number"] for _name, data in found] == list(range(len(found)))
        assert all(name == data["type"] for name, data in found)
        names = list(dict.fromkeys(name for name, _data in found))
        assert names == [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed",
        ]
        final = found[-1][1]["response"]
        assert final["output"][0]["content"] == first["output"][0]["content"]
        assert final["usage"]["input_tokens_details"]["cached_tokens"] > 300
        followed = {**body, "input": "And?", "previous_response_id": "resp_one"}
        usage = (await client.ok("/v1/responses", followed))["usage"]
        computed = first["usage"]["total_tokens"] - 1
        assert usage["input_tokens_details"]["cached_tokens"] == computed // 16 * 16
        cut = await client.ok("/v1/responses", {**body, "max_output_tokens": 3})
        assert (cut["status"], cut["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})

    against(scenario)


def test_stored_responses_can_be_missing_refused_and_cancelled():
    async def scenario(client: Client) -> None:
        body = {"model": "sim", "input": "Hello", "store": False}
        await client.ok("/v1/responses", body, headers={"X-Request-Id": "unstored"})
        async with client.session.get(client.url + "/v1/responses/resp_unstored") as response:
            assert response.status == 404
        status, error = await client.post("/v1/responses", {**body, "previous_response_id": "resp_no"})
        assert (status, error["error"]["code"]) == (404, 404)
        await client.ok("/v1/responses", {**body, "store": True}, headers={"X-Request-Id": "done"})
        status, error = await client.post("/v1/responses/resp_done/cancel", {})
        assert status == 400
        assert "synchronous" in error["error"]["message"]
        background = {**body, "store": True, "background": True}
        queued = await client.ok("/v1/responses", {**background, "max_output_tokens": 1000})
        assert queued["status"] == "queued"
        assert (await client.stats())["running"] + (await client.stats())["waiting"] == 1
        cancelled = await client.ok(f"/v1/responses/{queued['id']}/cancel", {})
        assert cancelled["status"] == "cancelled"
        stats = await client.stats()
        assert (stats["running"], stats["waiting"], stats["in_flight"]) == (0, 0, 0)
        quick = await client.ok("/v1/responses", {**background, "max_output_tokens": 2})
        await client.until(lambda stats: stats["in_flight"] == 0)
        assert (await client.get(f"/v1/responses/{quick['id']}"))["status"] == "incomplete"

    against(scenario, config(SLOW))


def check_arguments(text: str) -> None:
    arguments = json.loads(text)
    assert isinstance(arguments["city"], str)
    assert isinstance(arguments["days"], int)
    assert arguments["unit"] == "C"


def test_chat_calls_tools_when_told_to_and_renders_the_call_for_the_cache():
    async def scenario(client: Client) -> None:
        asked = chat(("user", "Please call the tool."), tools=CHAT_TOOLS)
        for fields in (
            asked,
            chat(("user", "Hi"), tools=CHAT_TOOLS, tool_choice="required"),
            chat(
                ("user", "Hi"),
                tools=CHAT_TOOLS,
                tool_choice={"type": "function", "function": {"name": "weather"}},
            ),
        ):
            answer = await client.ok("/v1/chat/completions", fields)
            choice = answer["choices"][0]
            assert choice["finish_reason"] == "tool_calls"
            call = choice["message"]["tool_calls"][0]
            assert (call["type"], call["function"]["name"]) == ("function", "weather")
            check_arguments(call["function"]["arguments"])
            streamed = events(await client.text("/v1/chat/completions", {**fields, "stream": True}))
            deltas = [data["choices"][0] for _name, data in streamed[:-1]]
            parts = [d["delta"]["tool_calls"][0] for d in deltas if "tool_calls" in d["delta"]]
            assert parts[0]["function"] == {"name": "weather", "arguments": ""}
            assert "".join(p["function"]["arguments"] for p in parts) == call["function"]["arguments"]
            assert deltas[-1]["finish_reason"] == "tool_calls"
        answer = await client.ok("/v1/chat/completions", asked)
        followed = {
            **asked,
            "max_tokens": 1,
            "messages": [
                *asked["messages"],
                answer["choices"][0]["message"],
                {"role": "tool", "tool_call_id": "x", "content": "sunny"},
            ],
        }
        usage = (await client.ok("/v1/chat/completions", followed))["usage"]
        computed = answer["usage"]["total_tokens"] - 1
        assert usage["prompt_tokens_details"]["cached_tokens"] == computed // 16 * 16
        plain = await client.ok("/v1/chat/completions", {**asked, "tool_choice": "none"})
        assert plain["choices"][0]["message"]["content"]

    against(scenario)


def test_messages_and_responses_call_tools_in_their_own_shapes():
    async def scenario(client: Client) -> None:
        body = {
            "model": "sim",
            "max_tokens": 1024,
            "messages": [{"role": "user", "content": "call the tool"}],
            "tools": [{"name": "weather", "input_schema": TOOL_SCHEMA}],
        }
        message = await client.ok("/v1/messages", body)
        assert message["stop_reason"] == "tool_use"
        assert message["content"][0]["type"] == "tool_use"
        check_arguments(json.dumps(message["content"][0]["input"]))
        found = events(await client.text("/v1/messages", {**body, "stream": True}))
        parts = [data["delta"]["partial_json"] for name, data in found if name == "content_block_delta"]
        assert json.loads("".join(parts)) == message["content"][0]["input"]
        result = {
            **body,
            "messages": [
                *body["messages"],
                {"role": "assistant", "content": message["content"]},
                {
                    "role": "user",
                    "content": [{"type": "tool_result", "tool_use_id": "x", "content": "sunny"}],
                },
            ],
        }
        assert (await client.ok("/v1/messages", result))["content"][0]["type"] == "text"
        forced = {**body, "messages": [{"role": "user", "content": "hi"}], "tool_choice": {"type": "any"}}
        assert (await client.ok("/v1/messages", forced))["stop_reason"] == "tool_use"

        body = {
            "model": "sim",
            "input": "call the tool",
            "tools": [{"type": "function", "name": "weather", "parameters": TOOL_SCHEMA}],
        }
        item = (await client.ok("/v1/responses", body))["output"][0]
        assert (item["type"], item["name"]) == ("function_call", "weather")
        check_arguments(item["arguments"])
        found = events(await client.text("/v1/responses", {**body, "stream": True}))
        deltas = [d["delta"] for name, d in found if name == "response.function_call_arguments.delta"]
        assert "".join(deltas) == item["arguments"]
        output = {"type": "function_call_output", "call_id": item["call_id"], "output": "sunny"}
        second = await client.ok(
            "/v1/responses", {**body, "input": [{"role": "user", "content": "hi"}, item, output]}
        )
        assert second["output"][0]["type"] == "message"

    against(scenario)


@pytest.mark.parametrize(
    ("path", "body", "status", "type_"),
    [
        ("/v1/chat/completions", chat(("user", "x"), model="nope"), 404, "NotFoundError"),
        ("/v1/chat/completions", b'{"model": ', 400, "Bad Request"),
        ("/v1/chat/completions", b'{"model": "\xff"}', 400, "Bad Request"),
        ("/v1/chat/completions", b"[]", 400, "Bad Request"),
        ("/v1/chat/completions", {"model": "sim"}, 400, "BadRequestError"),
        ("/v1/chat/completions", chat(("user", "x" * 40_000)), 400, "BadRequestError"),
        ("/v1/chat/completions", chat(("user", "x"), max_tokens=0), 400, "BadRequestError"),
        ("/v1/completions", {"prompt": []}, 400, "BadRequestError"),
        ("/v1/completions", {"prompt": ""}, 400, "BadRequestError"),
        ("/v1/completions", {"prompt": [-1]}, 400, "BadRequestError"),
        ("/v1/completions", {"prompt": "x", "n": 100_000}, 400, "BadRequestError"),
        ("/v1/responses", {"input": 7}, 400, "BadRequestError"),
        ("/v1/embeddings", {"input": {}}, 400, "BadRequestError"),
    ],
)
def test_errors_have_vllm_s_shape(path, body, status, type_):
    async def scenario(client: Client) -> None:
        got, answer = await client.post(path, body)
        assert got == status
        assert answer["error"]["type"] == type_
        assert answer["error"]["code"] == status
        assert set(answer["error"]) == {"message", "type", "param", "code"}
        assert (await client.stats())["in_flight"] == 0

    against(scenario, config(max_model_len=8192))


def test_messages_errors_have_anthropic_s_shape_and_unknown_paths_fastapi_s():
    async def scenario(client: Client) -> None:
        status, answer = await client.post("/v1/messages", {"model": "nope", "max_tokens": 1, "messages": []})
        assert status == 404
        assert answer == {
            "type": "error",
            "error": {"type": "NotFoundError", "message": "The model `nope` does not exist."},
        }
        assert await client.post("/v1/nothing", {}) == (404, {"detail": "Not Found"})

    against(scenario)


def test_a_full_queue_is_vllm_s_503():
    async def scenario(client: Client) -> None:
        body = chat(("user", "Hello"), max_tokens=5000)
        waiting = [asyncio.ensure_future(client.post("/v1/chat/completions", body))]
        await client.until(lambda stats: stats["running"] == 1)
        waiting += [asyncio.ensure_future(client.post("/v1/chat/completions", body)) for _ in range(2)]
        await client.until(lambda stats: stats["waiting"] == 2)
        for stream in (False, True):
            status, answer = await client.post("/v1/chat/completions", {**body, "stream": stream})
            assert status == 503
            assert answer["error"]["message"].startswith("The engine is currently busy")
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        stats = await client.until(lambda stats: not stats["in_flight"])
        assert (stats["running"], stats["waiting"], stats["aborted"]) == (0, 0, 3)

    against(scenario, config(SLOW, max_num_seqs=1, max_waiting=2))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("prompt", ["short", "long " * 20_000])
def test_a_client_that_goes_away_frees_its_seat_at_once(stream, prompt):
    async def scenario(client: Client) -> None:
        body = chat(("user", prompt), max_tokens=2000, stream=stream)
        response = asyncio.ensure_future(client.text("/v1/chat/completions", body))
        await client.until(lambda stats: stats["running"] == 1)
        response.cancel()
        await asyncio.gather(response, return_exceptions=True)
        stats = await client.until(lambda stats: not stats["in_flight"])
        assert (stats["running"], stats["waiting"], stats["aborted"]) == (0, 0, 1)
        assert 'sim:aborted_total{engine="0",model_name="sim"} 1.0' in await client.text("/metrics")

    against(scenario, config(SLOW))


def test_errors_on_demand_strike_as_often_as_asked_and_spare_health():
    async def scenario(client: Client) -> None:
        body = chat(("user", "Hello"), max_tokens=3)
        for kind, status, words in (
            ("500", 500, "EngineCore"),
            ("503", 503, "busy"),
            ("draining", 500, "cannot schedule new futures after shutdown"),
        ):
            await client.fault(kind, count=2)
            for _ in range(2):
                got, answer = await client.post("/v1/chat/completions", body)
                assert got == status
                assert words in answer["error"]["message"]
                assert await client.text("/health") == ""
            await client.ok("/v1/chat/completions", body)
        await client.fault("503", count=-1)
        for _ in range(3):
            assert (await client.post("/v1/chat/completions", body))[0] == 503
        async with client.session.delete(client.url + "/sim/fault") as response:
            assert response.status == 200
        await client.ok("/v1/chat/completions", body)
        assert (await client.post("/sim/fault", {"kind": "nope"}))[0] == 400
        assert (await client.post("/sim/fault", {"kind": "500", "typo": 1}))[0] == 400
        await client.fault("500", path="/health")
        async with client.session.get(client.url + "/health") as response:
            assert response.status == 500

    against(scenario)


def test_a_delay_waits_and_a_hang_lasts_until_cleared():
    async def scenario(client: Client) -> None:
        clock = asyncio.get_running_loop().time
        body = chat(("user", "Hello"), max_tokens=3)
        await client.fault("delay", delay_s=0.2)
        began = clock()
        await client.ok("/v1/chat/completions", body)
        assert clock() - began >= 0.19
        for fields in ({}, {"after_chunks": 2}):
            for stream in (False, True):
                await client.fault("hang", **fields)
                plain = {**body, "max_tokens": 6, "stream": stream}
                pending = asyncio.ensure_future(client.text("/v1/chat/completions", plain))
                await asyncio.sleep(0.1)
                assert not pending.done()
                async with client.session.delete(client.url + "/sim/fault"):
                    pass
                text = await pending
                if stream:
                    assert len(events(text)) == 8
                else:
                    assert json.loads(text)["usage"]["completion_tokens"] == 6

    against(scenario)


async def connectable(server: ReplicaServer) -> None:
    """Wait until the port takes connections."""
    async with asyncio.timeout(60):
        while True:
            try:
                _reader, writer = await asyncio.open_connection(server.host, server.port)
            except OSError:
                await asyncio.sleep(0.01)
                continue
            writer.close()
            return


async def raw_exchange(server: ReplicaServer, body: Any, version: str = "1.1") -> bytes:
    """All bytes of one answer on a connection that the client leaves open."""
    data = json.dumps(body).encode()
    reader, writer = await asyncio.open_connection(server.host, server.port)
    head = f"POST /v1/chat/completions HTTP/{version}\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
    writer.write(head.encode() + data)
    try:
        async with asyncio.timeout(60):
            return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


def test_cutting_closes_the_connection_at_the_head_in_the_stream_or_in_the_body():
    async def scenario(client: Client) -> None:
        server = client.servers[0]
        body = chat(("user", "Hello"), max_tokens=20)
        for stream in (False, True):
            await client.fault("cut", at="head")
            assert await raw_exchange(server, {**body, "stream": stream}) == b""
        await client.fault("cut", after_chunks=3)
        answer = await raw_exchange(server, {**body, "stream": True})
        assert answer.startswith(b"HTTP/1.1 200")
        assert answer.count(b"data: ") == 3
        assert not answer.endswith(b"0\r\n\r\n")
        await client.fault("cut")
        answer = await raw_exchange(server, body)
        head, _, rest = answer.partition(b"\r\n\r\n")
        promised = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        assert 0 < len(rest) < promised
        await client.fault("500", after_chunks=2)
        found = events(await client.text("/v1/chat/completions", {**body, "stream": True}))
        assert len(found) == 4
        assert found[2][1]["error"]["code"] == 500
        assert found[3] == (None, "[DONE]")
        stats = await client.until(lambda stats: not stats["in_flight"])
        assert (stats["running"], stats["waiting"]) == (0, 0)

    against(scenario)


def test_a_restart_cuts_connections_empties_the_cache_and_refuses_while_down():
    async def scenario(client: Client) -> None:
        body = chat(("user", SYSTEM), max_tokens=1)
        await client.ok("/v1/chat/completions", body)
        before = await client.stats()
        assert before["cached_blocks"] > 0
        stream = asyncio.ensure_future(
            client.text("/v1/chat/completions", {**body, "max_tokens": 100_000, "stream": True})
        )
        await client.until(lambda stats: stats["running"] == 1)
        await client.fault("restart", down_s=2.0)
        with pytest.raises(aiohttp.ClientError):
            await stream
        with pytest.raises(OSError, match="Connect call failed|refused"):
            await asyncio.open_connection(client.servers[0].host, client.servers[0].port)
        await connectable(client.servers[0])
        after = await client.stats()
        assert after["restarts"] == 1
        assert after["start_time_s"] > before["start_time_s"]
        assert (after["cached_blocks"], after["running"], after["in_flight"]) == (0, 0, 0)
        usage = (await client.ok("/v1/chat/completions", body))["usage"]
        assert usage["prompt_tokens_details"]["cached_tokens"] == 0

    against(scenario)


def test_a_refusing_port_lets_streams_finish_and_is_opened_by_a_sibling():
    async def scenario(client: Client) -> None:
        first, second = client.servers
        body = chat(("user", "Hello"), max_tokens=200, stream=True)
        stream = asyncio.ensure_future(client.text("/v1/chat/completions", body))
        await client.until(lambda stats: stats["running"] == 1)
        other = Client(client.session, [second, first])
        await other.fault("refuse", port=first.port, down_s=-1)
        with pytest.raises(OSError, match="Connect call failed|refused"):
            await asyncio.open_connection(first.host, first.port)
        assert len(events(await stream)) == 202
        async with client.session.delete(f"{second.url}/sim/fault?port={first.port}") as response:
            assert response.status == 200
        await connectable(first)
        await client.ok("/v1/chat/completions", chat(("user", "Hello"), max_tokens=1))

    against(scenario, config(SLOW), ports=2)


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
