"""Responses: items become the chat messages that the engine makes of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from warmroute.core.errors import ClientError
from warmroute.core.types import Api
from warmroute.dialects import Parsed, parse


def read(value: Any = "Hi", **fields: Any) -> Parsed:
    return parse(Api.RESPONSES, json.dumps({"model": "m", "input": value, **fields}).encode())


def chat(messages: list[Any], **fields: Any) -> bytes:
    return parse(Api.CHAT, json.dumps({"model": "m", "messages": messages, **fields}).encode()).canonical


def test_what_routing_needs_is_read() -> None:
    parsed = read(stream=True, max_output_tokens=5, previous_response_id="resp_1", prompt_cache_key="k")
    assert (parsed.stream, parsed.previous_response_id) == (True, "resp_1")
    assert parsed.told is not None
    assert (parsed.told.prompt_cache_key, parsed.may_ask_usage) == ("k", False)


def test_a_string_with_instructions_is_a_system_and_a_user_message() -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert read("Hi", instructions="Be brief.").canonical == chat(messages)


def test_an_agents_items_are_one_assistant_message() -> None:
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "Hm."}],
        },
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Ok."}],
        },
        {"type": "function_call", "id": "fc_1", "call_id": "1", "name": "f", "arguments": "{}"},
        {"type": "function_call", "id": "fc_2", "call_id": "2", "name": "g", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "1", "output": "18 C"},
        {"type": "function_call_output", "call_id": "2", "output": ""},
        {"role": "assistant", "content": "It is warm."},
        {"role": "assistant", "content": "Very."},
    ]
    calls = [
        {"id": i, "type": "function", "function": {"name": n, "arguments": "{}"}} for i, n in ("1f", "2g")
    ]
    assert read(items).canonical == chat(
        [
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "reasoning": "Hm.", "content": "Ok.", "tool_calls": calls},
            {"role": "tool", "tool_call_id": "1", "content": "18 C"},
            {"role": "tool", "tool_call_id": "2", "content": ""},
            {"role": "assistant", "content": "It is warm."},
            {"role": "assistant", "content": "Very."},
        ]
    )
    for end in range(1, len(items)):
        assert read(items).canonical.startswith(read(items[:end]).canonical)


def test_ids_that_the_engine_makes_anew_stay_out() -> None:
    one = [{"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": "a"}]
    two = [{"type": "message", "id": "msg_2", "role": "assistant", "content": "a"}]
    assert read(one).canonical == read(two).canonical


def test_images_equal_their_chat_form() -> None:
    items = [
        {"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,AAAA"}]}
    ]
    parts = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
    assert read(items).canonical == chat([{"role": "user", "content": parts}])


def test_reasoning_effort_is_named_as_in_chat() -> None:
    messages = [{"role": "user", "content": "Hi"}]
    assert read(reasoning={"effort": "low"}).canonical == chat(messages, reasoning_effort="low")


ITEMS: list[Any] = [
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "a"},
    {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
    {"role": "user", "content": [{"type": "input_file", "file_data": "a"}]},
    {"role": "user", "content": [{"type": "input_file", "file_data": "b"}]},
    {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
    {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}", "namespace": "n"},
    {"type": "function_call_output", "call_id": "1", "output": "a"},
    {"type": "function_call_output", "call_id": "1", "output": [{"type": "input_text", "text": "a"}]},
    {"type": "reasoning", "summary": [{"type": "summary_text", "text": "a"}]},
    {"type": "reasoning", "summary": [{"type": "summary_text", "text": "b"}]},
    {"type": "reasoning", "summary": [], "encrypted_content": "a"},
    {"type": "web_search_call", "id": "1", "action": {"query": "a"}},
    {"type": "item_reference", "id": "1"},
    {"type": "message"},
]


def test_no_two_items_look_alike_and_each_stays_a_prefix() -> None:
    found = [read([item]).canonical for item in ITEMS]
    assert len(set(found)) == len(ITEMS)
    for first in ITEMS:
        for second in ITEMS:
            assert read([first, second]).canonical.startswith(read([first]).canonical)


@pytest.mark.parametrize(
    "field",
    [
        {"tools": [{"type": "function", "name": "f"}]},
        {"instructions": "a"},
        {"previous_response_id": "resp_1"},
        {"previous_input_messages": [{"role": "user"}]},
        {"previous_response": {"id": "a"}},
        {"prompt": {"id": "a"}},
        {"reasoning": {"effort": "low"}},
        {"chat_template_kwargs": {"a": 1}},
        {"mm_processor_kwargs": {"a": 1}},
    ],
)
def test_what_changes_the_cache_enters(field: dict[str, Any]) -> None:
    assert read(**field).canonical != read().canonical


def test_earlier_turns_named_in_different_ways_stay_apart() -> None:
    same = {"id": "a"}
    found = {
        read(**{name: same}).canonical for name in ("previous_response", "previous_input_messages", "prompt")
    }
    assert len(found) == 3


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"model": "m"}, "prompt_required", "input"),
        ({"model": "m", "prompt": None, "tools": [{}]}, "prompt_required", "input"),
    ],
)
def test_what_cannot_be_read_is_refused(fields: dict[str, Any], code: str, param: str) -> None:
    with pytest.raises(ClientError) as caught:
        parse(Api.RESPONSES, json.dumps(fields).encode())
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, code, param)


def test_an_earlier_response_may_stand_in_for_the_input() -> None:
    parsed = parse(Api.RESPONSES, b'{"model":"m","previous_response_id":"resp_1"}')
    assert parsed.previous_response_id == "resp_1"
