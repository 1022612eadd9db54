"""The simulated replica over HTTP: each API in vLLM's shapes, with cached tokens, tools and stored responses."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tests.support.sim_client import (
    CHAT_TOOLS,
    SLOW,
    SYSTEM,
    TOOL_SCHEMA,
    Client,
    against,
    chat,
    config,
    events,
)
from warmroute_replica.sim.engine_config import SchedulingPolicy


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
