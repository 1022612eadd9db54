"""What is added to usage reports changes nothing else, however a stream is cut, and adds up."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from warmroute.core.types import Api
from warmroute.dialects.sse import EventGate
from warmroute.dialects.usage_told import UsageTold

COUNT = st.integers(0, 100_000)
TEXT = st.text(max_size=20) | st.just('"usage":{"prompt_tokens":1}') | st.just('data: {"usage":')
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["usage", "a"]), inner),
)


def chat_usage(cached: int, created: int, rest: int) -> dict[str, Any]:
    return {
        "prompt_tokens": cached + created + rest,
        "total_tokens": cached + created + rest + 3,
        "completion_tokens": 3,
        "prompt_tokens_details": {"cached_tokens": cached, "created_cache_tokens": created},
    }


def message_usage(cached: int, created: int, rest: int) -> dict[str, Any]:
    return {
        "input_tokens": rest,
        "output_tokens": 3,
        "cache_creation_input_tokens": created,
        "cache_read_input_tokens": cached,
    }


@given(COUNT, COUNT, COUNT, VALUE)
def test_openai_and_deepseek_are_told_in_their_words_what_the_engine_counted(
    cached: int, created: int, rest: int, other: Any
) -> None:
    fields = {"choices": other, "usage": chat_usage(cached, created, rest), "x": other}
    body = json.dumps(fields).encode()
    told = json.loads(UsageTold(Api.CHAT, openai=True, deepseek=True).whole(body))
    usage = told.pop("usage")
    assert usage["prompt_tokens_details"].pop("cache_write_tokens") == created
    assert usage.pop("prompt_cache_hit_tokens") == cached
    assert usage.pop("prompt_cache_miss_tokens") == created + rest
    assert {**told, "usage": usage} == fields
    assert UsageTold(Api.CHAT).whole(body) == body


@given(COUNT, COUNT, COUNT, st.floats(0.0, 1.0), VALUE)
def test_anthropics_parts_add_up_and_what_is_read_is_not_created(
    cached: int, created: int, rest: int, ratio: float, other: Any
) -> None:
    fields = {
        "content": [{"type": "tool_use", "input": other}],
        "usage": message_usage(cached, created, rest),
    }
    told = json.loads(UsageTold(Api.MESSAGES, hour_ratio=ratio).whole(json.dumps(fields).encode()))
    split = told["usage"].pop("cache_creation")
    assert sum(split.values()) == created
    assert min(split.values()) >= 0
    assert told == fields
    hour = split["ephemeral_1h_input_tokens"]
    assert cached + hour <= max(cached, round((cached + created + rest) * ratio))


def stream(cached: int, created: int, rest: int, texts: list[str]) -> list[bytes]:
    events: list[tuple[str, dict[str, Any]]] = [
        (
            "message_start",
            {
                "message": {
                    "content": [],
                    "usage": {"input_tokens": cached + created + rest, "output_tokens": 0},
                }
            },
        )
    ]
    events += [("content_block_delta", {"delta": {"type": "text_delta", "text": text}}) for text in texts]
    events.append(("message_delta", {"delta": {}, "usage": message_usage(cached, created, rest)}))
    events.append(("message_stop", {}))
    return [
        b"event: %b\ndata: %b\n\n" % (name.encode(), json.dumps({"type": name, **data}).encode())
        for name, data in events
    ]


@given(COUNT, COUNT, COUNT, st.lists(TEXT, max_size=4), st.lists(st.integers(0, 3000), max_size=6))
def test_a_stream_may_be_cut_at_any_byte(
    cached: int, created: int, rest: int, texts: list[str], cuts: list[int]
) -> None:
    events = stream(cached, created, rest, texts)
    whole = b"".join(events)
    told = UsageTold(Api.MESSAGES)
    gate = EventGate()
    out = b""
    places = sorted({cut % len(whole) for cut in cuts} | {0, len(whole)})
    for start, end in zip(places, places[1:], strict=False):
        out += told.events(gate.feed(whole[start:end]))
    out += gate.flush()
    pieces = out.split(b"\n\n")
    assert [piece + b"\n\n" for piece in pieces[1:-3]] == events[1:-2]
    start_usage = json.loads(pieces[0].partition(b"data: ")[2])["message"]["usage"]
    assert start_usage == {
        "input_tokens": cached + created + rest,
        "output_tokens": 0,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
    }
    end_usage = json.loads(pieces[-3].partition(b"data: ")[2])["usage"]
    assert end_usage.pop("cache_creation") == {
        "ephemeral_5m_input_tokens": created,
        "ephemeral_1h_input_tokens": 0,
    }
    assert end_usage == message_usage(cached, created, rest)


@given(st.binary(max_size=60), st.sampled_from([Api.CHAT, Api.MESSAGES]))
def test_what_cannot_be_read_stays_as_it_is(junk: bytes, api: Api) -> None:
    told = UsageTold(api, openai=True, deepseek=True, prewarms=True)
    for data in (junk, b'{"usage":\0' + junk, b'data: {"usage":\0' + junk + b"}\n\n"):
        assert told.whole(data) == data
        assert told.events(data) == data
