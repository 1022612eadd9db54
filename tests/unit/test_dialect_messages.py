"""Anthropic messages: the same conversation gives the same canonical prompt as in chat."""

from __future__ import annotations

import json
from typing import Any

import pytest

from warmroute.core.errors import ClientError
from warmroute.core.types import Api
from warmroute.dialects import Parsed, parse


def read(messages: list[Any], **fields: Any) -> Parsed:
    body = {"model": "m", "max_tokens": 16, "messages": messages, **fields}
    return parse(Api.MESSAGES, json.dumps(body, separators=(",", ":")).encode())


def chat(messages: list[Any], **fields: Any) -> bytes:
    return parse(Api.CHAT, json.dumps({"model": "m", "messages": messages, **fields}).encode()).canonical


def test_what_routing_needs_is_read() -> None:
    parsed = read([{"role": "user", "content": "a"}], stream=True)
    assert (parsed.model, parsed.stream, parsed.may_ask_usage) == ("m", True, False)
    assert parsed.prompt_bytes == len(parsed.canonical)


def test_system_blocks_are_one_system_message() -> None:
    expected = chat([{"role": "system", "content": "Be brief. Be kind."}, {"role": "user", "content": "Hi"}])
    user = [
        {"role": "user", "content": [{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}]}
    ]
    assert read(user, system="Be brief. Be kind.").canonical == expected
    blocks = [
        {"type": "text", "text": "Be brief. "},
        {"type": "text", "text": "Be kind.", "cache_control": {}},
    ]
    assert read(user, system=blocks).canonical == expected


def test_the_attribution_block_that_engines_drop_does_not_spoil_the_prefix() -> None:
    user = [{"role": "user", "content": "Hi"}]
    found = {
        read(
            user,
            system=[
                {"type": "text", "text": f"x-anthropic-billing-header: cch={number}"},
                {"type": "text", "text": "Be brief."},
            ],
        ).canonical
        for number in range(3)
    }
    assert found == {read(user, system="Be brief.").canonical}


def test_a_whole_agent_turn_equals_its_chat_form() -> None:
    messages = [
        {"role": "user", "content": "Weather in Wien?"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "I should look.", "signature": "abc"},
                {"type": "redacted_thinking", "data": "xyz"},
                {"type": "text", "text": "Looking."},
                {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Wien"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "18 C"}]},
                {"type": "text", "text": "And tomorrow?"},
            ],
        },
    ]
    call = {"id": "t1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Wien"}'}}
    assert read(messages).canonical == chat(
        [
            {"role": "user", "content": "Weather in Wien?"},
            {"role": "assistant", "reasoning": "I should look.", "content": "Looking.", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "t1", "content": "18 C"},
            {"role": "user", "content": "And tomorrow?"},
        ]
    )


def test_images_equal_their_chat_form() -> None:
    parts = [
        {"type": "text", "text": "What is it?"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
        {"type": "image", "source": {"type": "url", "url": "http://x/a.png"}},
    ]
    assert read([{"role": "user", "content": parts}]).canonical == chat(
        [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is it?"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                    {"type": "image_url", "image_url": {"url": "http://x/a.png"}},
                ],
            }
        ]
    )


def test_an_image_in_a_tool_result_becomes_a_users_image() -> None:
    result = {
        "type": "tool_result",
        "tool_use_id": "t1",
        "content": [{"type": "text", "text": "a"}, {"type": "image", "source": {"type": "url", "url": "http://x/a.png"}}],
    }  # fmt: skip
    assert read([{"role": "user", "content": [result]}]).canonical == chat(
        [
            {"role": "tool", "tool_call_id": "t1", "content": "a"},
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/a.png"}}]},
        ]
    )


def test_system_messages_among_the_others_stay_where_they_are() -> None:
    first = [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]
    assert read(first).canonical == chat(first)
    later = [
        *first,
        {"role": "system", "content": [{"type": "text", "text": "x-anthropic-billing-header: 1"}]},
    ]
    assert read(later).canonical == read(first).canonical


def test_newer_clients_role_names_are_users() -> None:
    assert (
        read([{"role": "ctx", "content": "a"}]).canonical
        == read([{"role": "user", "content": "a"}]).canonical
    )


BLOCKS: list[Any] = [
    [{"type": "text", "text": "a"}],
    [{"type": "text", "text": "b"}],
    [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
    [{"type": "tool_result", "tool_use_id": "1", "content": "a"}],
    [{"type": "tool_result", "tool_use_id": "2", "content": "a"}],
    [{"type": "tool_result", "tool_use_id": "2"}],
    [{"type": "tool_result", "tool_use_id": "2", "content": [{"type": "document", "source": {"data": "a"}}]}],
    [{"type": "tool_result", "tool_use_id": "2", "content": {"type": "error"}}],
    [{"type": "document", "source": {"type": "text", "data": "a"}}],
    [{"type": "document", "source": {"type": "text", "data": "b"}}],
    [{"type": "search_result", "source": "http://x", "content": []}],
    [{"type": "image", "source": {"type": "file", "file_id": "f"}}],
    [{"type": "image", "source": {"type": "base64", "data": "AAAA"}}],
    [{"type": "image", "source": {"type": "base64", "data": "AAAB"}}],
    [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAB"}}],
]


def test_no_two_contents_look_alike_and_each_stays_a_prefix() -> None:
    found = [read([{"role": "user", "content": blocks}]).canonical for blocks in BLOCKS]
    assert len(set(found)) == len(BLOCKS)
    for blocks, canonical in zip(BLOCKS, found, strict=True):
        longer = [{"role": "user", "content": blocks}, {"role": "assistant", "content": "ok"}]
        assert read(longer).canonical.startswith(canonical)


@pytest.mark.parametrize(
    "field",
    [
        {"tools": [{"name": "f", "input_schema": {}}]},
        {"thinking": {"type": "enabled", "budget_tokens": 1024}},
        {"output_config": {"effort": "high"}},
        {"chat_template_kwargs": {"a": 1}},
        {"system": "s"},
    ],
)
def test_what_changes_the_cache_enters(field: dict[str, Any]) -> None:
    user = [{"role": "user", "content": "a"}]
    assert read(user, **field).canonical != read(user).canonical


def test_a_thinking_budget_and_metadata_stay_out() -> None:
    user = [{"role": "user", "content": "a"}]
    budgets = {read(user, thinking={"type": "enabled", "budget_tokens": n}, metadata={"user_id": str(n)}).canonical for n in (1, 2)}  # fmt: skip # noqa: E501
    assert len(budgets) == 1


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b'{"model": "m"}', "prompt_required", "messages"),
        (b'{"model": "m", "messages": [{"role": "user", "content": [{"type": "tool_use", "input": "\xff"}]}]}', "invalid_json", None),  # noqa: E501
        (b'{"model": "m", "messages": [{"role": "assistant", "content": [{"type": "tool_use", "input": "\xff"}]}]}', "invalid_json", None),  # noqa: E501
        (b"nope", "invalid_json", None),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused(body: bytes, code: str, param: str | None) -> None:
    with pytest.raises(ClientError) as caught:
        parse(Api.MESSAGES, body)
    assert (caught.value.status, caught.value.code) == (400, code)
    if param is not None:
        assert caught.value.param == param
