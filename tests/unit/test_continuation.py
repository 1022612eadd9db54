"""A stream told anew: what is asked of the second engine, and what the client gets of its answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from warmroute.core.types import Api
from warmroute.dialects.continuation import Rest, Transcript, continued_body, may_continue

CHAT = {"model": "m", "stream": True, "max_tokens": 10, "messages": [{"role": "user", "content": "hi"}]}
TEXT = {"model": "m", "stream": True, "max_tokens": 10, "prompt": "Once"}


def event(said: str | None, finish: str | None = None, *, key: str = "chat", **more: Any) -> bytes:
    choice: dict[str, Any] = {"index": 0, "finish_reason": finish}
    if key == "chat":
        choice["delta"] = {"content": said}
    else:
        choice["text"] = said
    chunk = {"id": "first", "created": 7, "model": "m", "choices": [choice], **more}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


_OPENING = b'"model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
ROLE = b'data: {"id":"first","created":7,' + _OPENING


def transcript(*events: bytes) -> Transcript:
    said = Transcript()
    for one in events:
        said.feed(one)
    said.fold()
    return said


def asked(api: Api, body: dict[str, Any], said: Transcript) -> Any:
    made = continued_body(api, json.dumps(body).encode(), said)
    return None if made is None else json.loads(made)


def test_chat_goes_on_from_an_assistant_message_without_its_end() -> None:
    said = transcript(ROLE, event("Hel"), event("lo 日"))
    assert asked(Api.CHAT, CHAT, said) == {
        **CHAT,
        "max_tokens": 8,
        "messages": [*CHAT["messages"], {"role": "assistant", "content": "Hello 日"}],  # type: ignore[misc]
        "add_generation_prompt": False,
        "continue_final_message": True,
    }


def test_a_completion_goes_on_from_prompt_and_text() -> None:
    said = transcript(event(" upon", key="text"), event(" a", key="text"))
    assert asked(Api.COMPLETIONS, TEXT, said) == {**TEXT, "prompt": "Once upon a", "max_tokens": 8}
    default = {key: value for key, value in TEXT.items() if key != "max_tokens"}
    assert asked(Api.COMPLETIONS, default, said)["max_tokens"] == 14


def test_nothing_said_is_asked_for_from_the_beginning() -> None:
    assert asked(Api.CHAT, CHAT, transcript(ROLE)) == CHAT
    assert asked(Api.CHAT, CHAT, transcript(ROLE, event("\n\n"))) == CHAT


def test_blanks_at_the_end_and_half_characters_are_generated_again() -> None:
    said = transcript(ROLE, event("one"), event("\n\n"), event(""), event(""))
    body = asked(Api.CHAT, CHAT, said)
    assert body["messages"][-1]["content"] == "one"
    assert body["max_tokens"] == 9
    rest = Rest(said)
    assert texts(rest.passed_on(ROLE + event("\n") + event("\n") + event("日"))) == ["日"]
    other = Rest(said)
    assert texts(other.passed_on(event("\n") + event("x"))) == ["x"], "what differs is passed on"
    longer = Rest(said)
    assert texts(longer.passed_on(event("\n\n\nx"))) == ["\nx"]


def texts(events: bytes) -> list[str]:
    return [
        json.loads(line[6:])["choices"][0]["delta"]["content"]
        for line in events.split(b"\n\n")
        if line.startswith(b"data: {")
    ]


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "function"}]},
        {"logprobs": True},
        {"n": 2},
        {"response_format": {"type": "json_object"}},
        {"structured_outputs": {"regex": "a"}},
        {"add_generation_prompt": False},
        {"continue_final_message": True},
        {"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
        {"return_token_ids": True},
        {"max_tokens": 2},
    ],
)
def test_what_is_not_gone_on_with(fields: dict[str, Any]) -> None:
    assert asked(Api.CHAT, {**CHAT, **fields}, transcript(ROLE, event("a"), event("b"))) is None


@pytest.mark.parametrize(
    "fields",
    [{"tools": None}, {"n": 1}, {"logprobs": False}, {"response_format": {"type": "text"}}, {"stop": ["x"]}],
)
def test_what_says_nothing_else_than_the_default_is(fields: dict[str, Any]) -> None:
    assert asked(Api.CHAT, {**CHAT, **fields}, transcript(ROLE, event("a"))) is not None


@pytest.mark.parametrize(
    "delta",
    [{"reasoning": "hm"}, {"reasoning_content": "hm"}, {"tool_calls": [{"index": 0}]}],
)
def test_reasoning_and_tool_calls_are_not_gone_on_with(delta: dict[str, Any]) -> None:
    chunk = {"id": "first", "choices": [{"index": 0, "delta": delta}]}
    special = b"data: " + json.dumps(chunk).encode() + b"\n\n"
    assert not transcript(ROLE, event("a"), special).fit
    assert asked(Api.CHAT, CHAT, transcript(ROLE, event("a"), special)) is None
    rest = Rest(transcript(ROLE, event("a")))
    assert rest.passed_on(special) == b""
    assert rest.failed


def test_bytes_that_are_no_character_are_not_gone_on_with() -> None:
    assert asked(Api.CHAT, CHAT, transcript(ROLE, event("a\ufffd"))) is None


def test_a_quick_look_spares_most_of_what_cannot_go_on() -> None:
    assert may_continue(json.dumps(CHAT).encode())
    assert may_continue(json.dumps({**CHAT, "n": 1}).encode())
    assert not may_continue(json.dumps({**CHAT, "tools": []}).encode())
    quoted = {**CHAT, "messages": [{"role": "user", "content": 'say "tools"'}]}
    assert may_continue(json.dumps(quoted).encode()), "a quote inside a text is escaped"


def test_the_rest_has_the_ids_and_one_role_of_the_first_and_sums_the_usage() -> None:
    said = transcript(ROLE, event("one"), event(" two"))
    usage = {
        "prompt_tokens": 12,
        "total_tokens": 15,
        "completion_tokens": 3,
        "prompt_tokens_details": {"cached_tokens": 11},
    }
    second = b'data: {"id":"other","created":9,' + _OPENING
    end = (
        b"data: "
        + json.dumps({"id": "other", "created": 9, "choices": [], "usage": usage}).encode()
        + b"\n\n"
    )
    rest = Rest(said)
    out = rest.passed_on(second + event(" three", "stop", id="other", created=9) + end + b"data: [DONE]\n\n")
    assert rest.done
    assert not rest.failed
    first, last, done, empty = out.split(b"\n\n")
    assert json.loads(first[6:])["id"] == "first"
    assert json.loads(first[6:])["created"] == 7
    assert json.loads(last[6:])["usage"] == {
        "prompt_tokens": 10,
        "total_tokens": 15,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 10},
    }
    assert (done, empty) == (b"data: [DONE]", b"")


@pytest.mark.parametrize("bad", [b'data: {"error":{"message":"x"}}\n\n', event("", "abort"), b"data: {\n\n"])
def test_what_fails_in_the_rest_is_not_passed_on_nor_what_follows(bad: bytes) -> None:
    rest = Rest(transcript(ROLE, event("a")))
    assert texts(rest.passed_on(event("b") + bad + b"data: [DONE]\n\n")) == ["b"]
    assert rest.failed
    assert not rest.done


def test_a_long_stream_is_folded_and_read_alike() -> None:
    events = [ROLE, *(event(f"w{number} ") for number in range(2000))]
    said = transcript(*events)
    assert said.text == "".join(f"w{number} " for number in range(2000))
    assert said.tokens == said.solid_tokens == 2000
    assert said.role_sent
