from __future__ import annotations

import json
from pathlib import Path

import pytest

from warmroute_loadtest.locust.answers import Answer, refusal
from warmroute_loadtest.locust.sse import Events
from warmroute_loadtest.locust.talks import Api

GOLDEN = Path(__file__).parents[1] / "golden" / "vllm"


def recorded(name: str) -> list[bytes]:
    """Events of an answer recorded from vLLM."""
    body = (GOLDEN / f"{name}.http").read_bytes().partition(b"\r\n\r\n")[2]
    return Events().feed(body)


def play(api: Api, events: list[bytes], keeps_text: bool = False) -> Answer:
    """An answer whose events come a second apart, the first at second 1."""
    answer = Answer(api, keeps_text)
    for number, data in enumerate(events, 1):
        answer.event(data, float(number))
    answer.finished()
    return answer


@pytest.mark.parametrize("keeps_text", [True, False])
@pytest.mark.parametrize(
    ("name", "api"),
    [
        ("chat_stream_usage", Api.CHAT),
        ("completion_stream", Api.COMPLETIONS),
        ("message_stream", Api.MESSAGES),
        ("message_stream_tool_use", Api.MESSAGES),
    ],
)
def test_what_vllm_streamed_is_read_to_its_end(name: str, api: Api, keeps_text: bool) -> None:
    answer = play(api, recorded(name), keeps_text)
    assert answer.error is None
    assert answer.first_s is not None
    assert answer.last_s is not None
    assert answer.last_s >= answer.first_s
    assert answer.events > 0
    assert answer.prompt_tokens is not None
    assert answer.prompt_tokens > 0
    assert answer.completion_tokens is not None
    assert answer.completion_tokens > 0


def test_times_and_counts_are_the_same_whether_the_text_is_kept_or_not() -> None:
    for name, api in (("chat_stream_usage", Api.CHAT), ("message_stream", Api.MESSAGES)):
        kept, not_kept = (play(api, recorded(name), keeps) for keeps in (True, False))
        assert kept.text
        assert not not_kept.text
        for field in ("first_s", "last_s", "events", "prompt_tokens", "completion_tokens", "longest_gap_s"):
            assert getattr(kept, field) == getattr(not_kept, field), field


def chunk(**delta: object) -> bytes:
    return json.dumps({"choices": [{"index": 0, "delta": delta}]}).encode()


USAGE = {"prompt_tokens": 9, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4}}


def test_a_role_is_no_first_token_and_tokens_are_those_of_usage() -> None:
    events = [
        chunk(role="assistant", content=""),
        chunk(content="two tokens"),
        chunk(content="three more now"),
    ]
    answer = play(Api.CHAT, [*events, json.dumps({"choices": [], "usage": USAGE}).encode(), b"[DONE]"])
    assert (answer.first_s, answer.last_s, answer.events) == (2.0, 3.0, 2)
    assert (answer.prompt_tokens, answer.cached_tokens, answer.completion_tokens) == (9, 4, 5)
    assert answer.itl_s() == pytest.approx(0.25)


@pytest.mark.parametrize("delta", [{"reasoning": "a"}, {"reasoning_content": "a"}, {"tool_calls": [{}]}])
def test_reasoning_and_tool_calls_are_tokens_too(delta: dict[str, object]) -> None:
    assert play(Api.CHAT, [chunk(**delta), b"[DONE]"]).first_s == 1.0


def test_usage_that_is_null_in_every_chunk_is_no_usage() -> None:
    events = [json.dumps({"choices": [{"delta": {"content": "a"}}], "usage": None}).encode()] * 3
    answer = play(Api.CHAT, [*events, b"[DONE]"])
    assert (answer.events, answer.prompt_tokens) == (3, None)


def test_an_engine_that_does_not_say_what_was_cached_leaves_it_open() -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 5, "prompt_tokens_details": None}
    answer = play(
        Api.CHAT, [chunk(content="a"), json.dumps({"choices": [], "usage": usage}).encode(), b"[DONE]"]
    )
    assert answer.prompt_tokens == 9
    assert answer.cached_tokens is None


def test_anthropics_input_tokens_are_those_that_were_not_cached() -> None:
    usage = {
        "input_tokens": 10,
        "cache_read_input_tokens": 80,
        "cache_creation_input_tokens": 10,
        "output_tokens": 0,
    }
    events = [
        {"type": "message_start", "message": {"usage": usage}},
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "a"}},
        {"type": "message_delta", "usage": {"output_tokens": 3}},
        {"type": "message_stop"},
    ]
    answer = play(Api.MESSAGES, [json.dumps(event).encode() for event in events])
    assert (answer.prompt_tokens, answer.cached_tokens, answer.completion_tokens) == (100, 80, 3)
    assert answer.error is None


@pytest.mark.parametrize(
    ("events", "error"),
    [
        ([chunk(content="a")], "the stream ended too early"),
        ([chunk(content="a"), b'{"error":{"message":"engine died"}}', b"[DONE]"], "engine died"),
        ([b"{half"], "no JSON"),
        ([b"[1]"], "no object"),
    ],
)
def test_a_stream_that_breaks_says_how(events: list[bytes], error: str) -> None:
    said = play(Api.CHAT, events).error
    assert said is not None
    assert error in said


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"error":{"message":"no such model"}}', "status 404: no such model"),
        (b'{"message":"plain"}', "status 404: plain"),
        (b"<html>", "status 404: <html>"),
        (b"", "status 404"),
    ],
)
def test_a_refusal_is_told_in_the_servers_words(body: bytes, said: str) -> None:
    assert refusal(404, body) == said
