"""Chat completions: what is read, what enters the canonical prompt, what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from warmroute.core.errors import ClientError
from warmroute.core.types import Api
from warmroute.dialects import Parsed, parse

HELLO = [{"role": "user", "content": "Hello"}]


def read(**fields: Any) -> Parsed:
    return parse(Api.CHAT, json.dumps({"model": "m", "messages": HELLO, **fields}).encode())


def canonical(messages: list[Any], **fields: Any) -> bytes:
    return read(messages=messages, **fields).canonical


def refused(body: bytes) -> ClientError:
    with pytest.raises(ClientError) as caught:
        parse(Api.CHAT, body)
    assert caught.value.status == 400
    return caught.value


def test_a_plain_conversation_is_a_row_of_roles_and_texts() -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Grüß Gott 🙂"}]
    assert canonical(messages) == "\0msystem\0tBe brief.\0muser\0tGrüß Gott 🙂".encode().replace(
        b"\0", b"\xff"
    )


def test_all_that_routing_needs_is_read() -> None:
    parsed = read(
        stream=True,
        stream_options={"include_usage": True},
        max_tokens=7,
        max_completion_tokens=9.0,
        cache_salt="pepper",
        prompt_cache_key="key",
    )
    assert (parsed.model, parsed.stream, parsed.may_ask_usage) == ("m", True, False)
    assert (parsed.scope_salt, parsed.prompt_bytes) == ("pepper", len(parsed.canonical))
    assert parsed.told is not None
    assert parsed.told.prompt_cache_key == "key"
    assert (parsed.previous_response_id, parsed.tokens_known) == (None, None)


def test_absent_and_null_fields_have_their_defaults() -> None:
    for parsed in (
        read(),
        read(stream=None, stream_options=None, max_tokens=None, cache_salt=None, tools=None),
    ):
        assert (parsed.stream, parsed.may_ask_usage) == (False, False)
        assert parsed.scope_salt == ""
        assert parsed.canonical == b"\xffmuser\xfftHello"


def test_what_does_not_change_the_cache_stays_out() -> None:
    noise = {
        "temperature": 0.3, "top_p": 1, "seed": 4, "n": 2, "stop": ["x"], "user": "u", "metadata": {"a": "b"},
        "stream": True, "max_tokens": 5, "logprobs": True, "tool_choice": "auto", "response_format": {"type": "text"},
        "a_new_field": [{}], "cache_salt": "s", "prompt_cache_key": "k", "model": "other",
    }  # fmt: skip
    assert read(**noise).canonical == read().canonical


@pytest.mark.parametrize(
    "field",
    [
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"chat_template": "{{ messages }}"},
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"documents": [{"title": "t", "text": "x"}]},
        {"mm_processor_kwargs": {"num_crops": 4}},
        {"media_io_kwargs": {"video": {"num_frames": 4}}},
        {"reasoning_effort": "low"},
        {"add_special_tokens": True},
        {"add_generation_prompt": False},
        {"continue_final_message": True},
        {"truncate_prompt_tokens": 100},
        {"truncate_prompt_tokens": 100, "truncation_side": "left"},
    ],
)
def test_what_changes_the_cache_enters(field: dict[str, Any]) -> None:
    assert read(**field).canonical != read().canonical
    assert read(**field).canonical == read(**field).canonical


def test_tools_and_template_arguments_stand_before_the_messages() -> None:
    tools = [{"type": "function", "function": {"name": "lookup"}}]
    found = canonical(HELLO, tools=tools, chat_template_kwargs={"a": 1})
    assert found.endswith(b"\xffmuser\xfftHello")
    assert found.startswith(b"\xffT")
    assert found.index(b"lookup") < found.index(b"\xffK")


def test_an_unusual_end_leaves_the_prompt_before_it_as_it_is() -> None:
    assert read(continue_final_message=True, add_generation_prompt=False).canonical.startswith(
        read().canonical
    )


MESSAGES: list[dict[str, Any]] = [
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "a"},
    {"role": "critic", "content": "a"},
    {"role": "user", "content": "b"},
    {"role": "user"},
    {"role": "user", "content": "a", "name": "n"},
    {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
    {"role": "user", "content": [{"type": "text", "text": "ab"}, {"type": "text", "text": ""}]},
    {"role": "user", "content": "ab"},
    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/a.png"}}]},
    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/b.png"}}]},
    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,a"}}]},
    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,b"}}]},
    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,b"}, "uuid": "1"}]},
    {"role": "user", "content": [{"type": "image_url", "image_url": None, "uuid": "1"}]},
    {"role": "user", "content": [{"type": "video_url", "video_url": {"url": "http://x/a.png"}}]},
    {"role": "user", "content": [{"type": "audio_url", "audio_url": {"url": "http://x/a.png"}}]},
    {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}]},
    {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "mp3"}}]},
    {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AAAB", "format": "mp3"}}]},
    {"role": "user", "content": [{"type": "hologram", "hologram": 1}]},
    {"role": "user", "content": [{"type": "hologram", "hologram": 2}]},
    {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "hologram", "hologram": 2}]},
    {"role": "tool", "content": "a", "tool_call_id": "1"},
    {"role": "tool", "content": "a", "tool_call_id": "2"},
    {"role": "assistant", "content": "a", "reasoning": "r"},
    {"role": "assistant", "reasoning": "a"},
    {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]},
    {"role": "assistant", "tool_calls": [{"id": "2", "function": {"name": "f", "arguments": "{}"}}]},
    {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "g", "arguments": "{}"}}]},
    {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "[]"}}]},
    {"role": "assistant", "tool_calls": [{"id": "1", "type": "custom", "custom": {"name": "f", "input": "x"}}]},
    {"role": "developer", "content": "a", "tools": [{"type": "function", "function": {"name": "f"}}]},
]  # fmt: skip


def test_no_two_of_many_different_messages_look_alike() -> None:
    found = [canonical([message]) for message in MESSAGES]
    assert len(set(found)) == len(MESSAGES)


def test_every_kind_of_message_stays_a_prefix_of_the_next_turn() -> None:
    for first in MESSAGES:
        for second in MESSAGES:
            longer = canonical([first, second])
            assert longer.startswith(canonical([first]))
            assert longer != canonical([first])


@pytest.mark.parametrize(
    ("one", "same"),
    [
        ({"role": "user", "content": "a"}, {"role": "user", "content": [{"type": "text", "text": "a"}]}),
        ({"role": "user", "content": "a"}, {"role": "user", "content": ["a"]}),
        ({"role": "assistant", "content": None}, {"role": "assistant", "content": ""}),
        ({"role": "assistant", "reasoning": "a"}, {"role": "assistant", "reasoning_content": "a"}),
        (
            {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": '{"a":1}'}}]},
            {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": {"a": 1}}}]},
        ),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": "http://x/a.png"}]},
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/a.png", "x": 1}}]},
        ),
    ],
)  # fmt: skip
def test_two_ways_to_say_the_same_look_alike(one: dict[str, Any], same: dict[str, Any]) -> None:
    assert canonical([one]) == canonical([same])


def test_however_a_string_is_escaped_it_is_the_same_text() -> None:
    escaped = rb'{"model":"m","messages":[{"content":"\u00e9\n\u0041","role":"user"}]}'
    plain = '{ "messages": [ {"role": "user", "content": "é\\nA"} ], "model": "m" }'.encode()
    assert parse(Api.CHAT, escaped).canonical == parse(Api.CHAT, plain).canonical


def test_an_image_of_megabytes_adds_a_few_bytes() -> None:
    url = "data:image/png;base64," + "A" * 3_000_000
    parts = [{"type": "text", "text": "what is it?"}, {"type": "image_url", "image_url": {"url": url}}]
    assert len(canonical([{"role": "user", "content": parts}])) < 100


def test_bytearrays_and_views_read_like_bytes_and_stay_free_to_change() -> None:
    body = bytearray(json.dumps({"model": "m", "messages": HELLO, "tools": [{"a": 1}]}).encode())
    expected = parse(Api.CHAT, bytes(body))
    for parsed in (parse(Api.CHAT, memoryview(body)), parse(Api.CHAT, body)):
        assert (parsed.model, parsed.canonical) == (expected.model, expected.canonical)
    del parsed  # what it tells of its session is a view
    body.clear()


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b"", "invalid_json", None),
        (b"{", "invalid_json", None),
        (b'{"model": "m", "messages": [{"role": "user", "content": "a"}]', "invalid_json", None),
        (b'{"model": "\xff"}', "invalid_json", None),
        (b'{"model": "m", "tools": ["\xff"], "messages": [{"role": "user"}]}', "invalid_json", None),
        (b'{"model": "m", "logit_bias": ' + b"[" * 100_000, "invalid_json", None),
        (b'{"model": "m", "metadata": ' + b'{"a":' * 100_000, "invalid_json", None),
        (b'{"model": "m"} {}', "invalid_json", None),
        (b'{"model": "m"}', "prompt_required", "messages"),
        (b'{"model": "m", "messages": null}', "prompt_required", "messages"),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_stable_code(body: bytes, code: str, param: str | None) -> None:
    error = refused(body)
    assert error.code == code
    assert error.param == param


def test_refusals_do_not_repeat_what_the_client_wrote() -> None:
    secret = "swordfish"
    for body in (
        f'{{"model": "{secret}',
        f'{{"model": {secret}}}',
    ):
        assert secret not in refused(body.encode()).message


def test_a_hundred_thousand_messages_are_read() -> None:
    messages = [{"role": "user", "content": "x"}] * 100_000
    assert canonical(messages).count(b"\xffm") == 100_000
