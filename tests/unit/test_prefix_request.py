"""The request that computes a promised prefix again: the client's own, cut behind its breakpoint, for one token."""

from __future__ import annotations

import json
from typing import Any

import pytest

from warmroute.core.types import Api
from warmroute.dialects.prefix_request import prefix_request

STOP = {"role": "user", "content": "."}
TOOL = {"name": "t", "description": "d", "input_schema": {"type": "object"}}


def made(api: Api, path: str, **fields: Any) -> Any:
    body = prefix_request(api, json.dumps({"model": "m", **fields}).encode(), path)
    return None if body is None else json.loads(body)


def said(role: str, *texts: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": text} for text in texts], **more}


def test_it_asks_for_one_token_and_for_nothing_of_how_it_is_said() -> None:
    got = made(
        Api.CHAT,
        "messages.0.content",
        messages=[said("user", "a")],
        stream=True,
        stream_options={"include_usage": True},
        max_completion_tokens=500,
        n=3,
        response_format={"type": "json_object"},
        logprobs=True,
        tools=[{"type": "function", "function": {"name": "f"}}],
        tool_choice="required",
        prompt_cache_key="app",
        prompt_cache_retention="24h",
        cache_salt="s",
    )
    assert got == {
        "model": "m",
        "messages": [said("user", "a")],
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "prompt_cache_key": "app",
        "cache_salt": "s",
        "max_tokens": 1,
        "temperature": 0,
    }


@pytest.mark.parametrize(
    ("path", "messages"),
    [
        ("messages.0.content", [said("system", "s", "t"), STOP]),
        ("messages.0.content.0", [said("system", "s"), STOP]),
        ("messages.1.content.0", [said("system", "s", "t"), said("user", "a")]),
        ("messages.1.content.1", [said("system", "s", "t"), said("user", "a", "b")]),
        # An assistant's turn keeps what answers it: templates write the last turn otherwise than earlier ones.
        ("messages.2.content.0", "all"),
        ("messages.3.content", "all"),
        ("messages.4.content", "all"),
    ],
)
def test_a_chat_is_cut_where_a_turn_may_end(path: str, messages: Any) -> None:
    whole = [
        said("system", "s", "t"),
        said("user", "a", "b"),
        said("assistant", "x", tool_calls=[{"id": "1"}, {"id": "2"}]),
        {"role": "tool", "tool_call_id": "1", "content": "r"},
        {"role": "tool", "tool_call_id": "2", "content": "q"},
    ]
    got = made(Api.CHAT, path, messages=[*whole, said("assistant", "bye")])
    assert got["messages"] == (whole if messages == "all" else messages)


def test_an_answer_that_is_begun_for_the_assistant_stays() -> None:
    messages = [said("user", "a"), said("assistant", "b")]
    assert made(Api.CHAT, "messages.1.content.0", messages=messages)["messages"] == messages


@pytest.mark.parametrize(
    ("path", "system", "messages"),
    [
        ("tools.0", [{"type": "text", "text": "s"}, {"type": "text", "text": "t"}], [STOP]),
        ("system.0", [{"type": "text", "text": "s"}], [STOP]),
        ("messages.0.content.0", [{"type": "text", "text": "s"}, {"type": "text", "text": "t"}], [said("user", "a")]),
    ],
)  # fmt: skip
def test_a_message_request_keeps_tools_whole_and_the_system_prompt_as_far_as_it_is_shared(
    path: str, system: Any, messages: Any
) -> None:
    got = made(
        Api.MESSAGES,
        path,
        tools=[TOOL, TOOL],
        tool_choice={"type": "any"},
        system=[{"type": "text", "text": "s"}, {"type": "text", "text": "t"}],
        messages=[said("user", "a", "b")],
        max_tokens=900,
        stream=True,
    )
    assert got == {
        "model": "m",
        "tools": [TOOL, TOOL],
        "system": system,
        "messages": messages,
        "max_tokens": 1,
    }


def test_all_results_of_one_turn_belong_together() -> None:
    results = [{"type": "tool_result", "tool_use_id": name, "content": name} for name in "xyz"]
    turn = {"role": "user", "content": [*results, {"type": "text", "text": "go on"}]}
    got = made(Api.MESSAGES, "messages.0.content.0", messages=[turn])
    assert got["messages"][0]["content"] == results


def test_a_response_is_cut_at_its_items() -> None:
    items = [
        said("user", "a", "b"),
        {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "1", "output": "r"},
        said("user", "c"),
    ]
    assert made(Api.RESPONSES, "input.0.content.0", input=items)["input"] == [said("user", "a")]
    got = made(Api.RESPONSES, "input.1", input=items, instructions="i", stream=True)
    assert got == {
        "model": "m",
        "instructions": "i",
        "input": items[:3],
        "max_output_tokens": 1,
        "store": False,
    }
    assert made(Api.RESPONSES, "input", input="text")["input"] == "text"
    assert made(Api.RESPONSES, "instructions", input="text", instructions="i")["input"] == [STOP]


@pytest.mark.parametrize(
    "fields",
    [
        {"input": "a", "previous_response_id": "resp_1"},
        {"input": "a", "prompt": {"id": "p"}},
        {"input": 5},
        {"input": []},
        {"input": ["a"]},
        {},
    ],
)
def test_where_the_body_does_not_say_what_the_prompt_is_there_is_none(fields: Any) -> None:
    assert made(Api.RESPONSES, "input.0.content.0", **fields) is None


def test_other_apis_and_other_paths_have_none() -> None:
    assert prefix_request(Api.COMPLETIONS, b'{"prompt":"a"}', "prompt") is None
    assert prefix_request(Api.CHAT, b'{"messages":[]}', "elsewhere.0") is None
    assert prefix_request(Api.CHAT, b"[1]", "messages.0.content") is None
