"""Usage in the providers' words, over answers as vLLM writes them."""

from __future__ import annotations

import json
from typing import Any

from tests.support.recorded import RECORDED
from warmroute.core.types import Api
from warmroute.dialects.usage_told import UsageTold


def body(name: str) -> bytes:
    return RECORDED[name].partition(b"\r\n\r\n")[2]


def events(name: str) -> bytes:
    """A recorded stream without its chunks' framing."""
    rest, out = body(name), b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        out += rest[:length]
        rest = rest[length + 2 :]
    return out


def data(stream: bytes) -> list[dict[str, Any]]:
    lines = [line[5:].strip() for line in stream.splitlines() if line.startswith(b"data:")]
    return [json.loads(line) for line in lines if line != b"[DONE]"]


def test_chat_and_its_stream() -> None:
    told = UsageTold(Api.CHAT, openai=True, deepseek=True)
    usage = json.loads(told.whole(body("chat")))["usage"]
    assert usage["prompt_tokens_details"]["cache_write_tokens"] == 0
    assert (usage["prompt_cache_hit_tokens"], usage["prompt_cache_miss_tokens"]) == (0, 31)
    stream = events("chat_stream_usage")
    after = told.events(stream)
    assert data(after)[:-1] == data(stream)[:-1]
    assert data(after)[-1]["usage"]["prompt_cache_miss_tokens"] == data(stream)[-1]["usage"]["prompt_tokens"]
    assert after.endswith(b"data: [DONE]\n\n")


def test_what_the_engine_does_not_tell_is_not_told() -> None:
    told = UsageTold(Api.COMPLETIONS, openai=True)
    assert told.whole(body("completion")) == body("completion")
    running = events("chat_stream_continuous_usage")
    changed = [
        (before, after)
        for before, after in zip(
            data(running), data(UsageTold(Api.CHAT, deepseek=True).events(running)), strict=True
        )
        if before != after
    ]
    assert len(changed) == 1
    assert not changed[0][0]["choices"]
    silent = b'{"usage":{"prompt_tokens":9,"completion_tokens":1,"prompt_tokens_details":null}}'
    assert UsageTold(Api.CHAT, openai=True, deepseek=True).whole(silent) == silent


def test_messages_and_their_stream() -> None:
    told = UsageTold(Api.MESSAGES, hour_ratio=1.0)
    usage = json.loads(told.whole(body("message")))["usage"]
    none = {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0}
    assert usage["cache_creation"] == none
    stream = events("message_stream")
    first, *between, last, stop = data(told.events(stream))
    assert first["message"]["usage"] == {
        "input_tokens": 29,
        "output_tokens": 0,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
    }
    assert between == data(stream)[1:-2]
    assert last["usage"]["cache_creation"] == none
    assert stop == {"type": "message_stop"}


def test_an_answer_to_a_prewarm_is_none() -> None:
    answer = json.loads(UsageTold(Api.MESSAGES, prewarms=True).whole(body("message")))
    assert answer["content"] == []
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("max_tokens", None)
    assert answer["usage"]["output_tokens"] == 0
    assert answer["usage"]["input_tokens"] == 29
    assert answer["id"] == "chatcmpl-golden-message"


def test_models_words_that_look_like_usage_are_left_alone() -> None:
    words = b'{"content":[{"type":"tool_use","input":{"usage":{"input_tokens":1}}}],"usage":null}'
    assert UsageTold(Api.MESSAGES).whole(words) == words
    words = b'data: {"choices":[{"delta":{"content":"\\"usage\\":{}"}}]}\n\n'
    assert UsageTold(Api.CHAT, openai=True, deepseek=True).events(words) == words


def test_figures_beyond_belief_are_passed_on_as_they_are() -> None:
    figure = b"9" * 400
    silly = b'{"usage":{"input_tokens":%b,"output_tokens":1,"cache_read_input_tokens":1}}' % figure
    assert UsageTold(Api.MESSAGES, hour_ratio=0.5).whole(silly) == silly
    event = b"data: " + silly + b"\n\n"
    assert UsageTold(Api.MESSAGES, hour_ratio=0.5).events(event) == event
