"""Google's API, whatever is sent and however it is split."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from warmroute.caching.content import CachedContent, Prefix
from warmroute.core.errors import ClientError
from warmroute.dialects.cached_contents import joined, wanted
from warmroute.dialects.gemini import chat_request, counting_request, prefix_of
from warmroute.dialects.gemini_answers import Stream, translated_error, whole
from warmroute.dialects.gemini_fields import read

NAMES = (
    "contents parts role text systemInstruction tools functionDeclarations toolConfig functionCallingConfig mode"
    " allowedFunctionNames generationConfig topK stopSequences responseSchema responseMimeType responseModalities"
    " thinkingConfig inlineData fileData functionCall functionResponse name args id response model messages content"
    " ttl expireTime expires_at displayName choices delta message tool_calls function arguments usage index"
    " prompt_tokens_details completion_tokens_details prompt_tokens finish_reason error parameters properties type"
    " items anyOf tool_choice thought mimeType data fileUri reasoning"
).split()
SCALARS = st.none() | st.booleans() | st.integers(-3, 9) | st.floats(allow_nan=False) | st.sampled_from(
    ["", "user", "model", "x", "ANY", "text/x.enum", "application/json", "OBJECT", "300s", "AAAA", "image/png", "ü"]
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=6)
CONTENT = CachedContent(id="a" * 24, scope="all", model="m", created_s=0.0, updated_s=0.0, expires_s=9.0)


@given(OBJECTS)
def test_no_request_raises_anything_but_the_clients_errors(request: dict[str, Any]) -> None:
    for ask in (
        lambda: chat_request("m", request, None, stream=True),
        lambda: chat_request("m", request, Prefix([{"role": "user", "content": "x"}]), stream=False),
        lambda: counting_request("m", request, None),
        lambda: wanted(request, 1.0, google=True, default_s=1.0, most_s=1e6),
        lambda: wanted(request, 1.0, google=False, default_s=1.0, most_s=1e6),
        lambda: joined(request, CONTENT, Prefix([{"role": "user", "content": "x"}])),
    ):
        with suppress(ClientError):
            ask()


@given(st.binary(max_size=40))
def test_no_bytes_raise_anything_but_the_clients_errors(data: bytes) -> None:
    with suppress(ClientError):
        read(data)
    assert json.loads(translated_error(500, data))["error"]["code"] == 500


@given(OBJECTS, st.booleans())
def test_no_answer_raises(answer: dict[str, Any], sse: bool) -> None:
    data = json.dumps(answer).encode()
    whole(data, thoughts=True)
    stream = Stream(sse=sse, thoughts=True)
    out = stream.feed(b"data: " + data + b"\n\n") + stream.end()
    if not sse:
        json.loads(out)


TEXTS = st.text(max_size=5)
TURNS = st.lists(st.tuples(st.sampled_from(["user", "model"]), TEXTS), max_size=5)


def contents(turns: list[tuple[str, str]]) -> list[dict[str, Any]]:
    return [{"role": role, "parts": [{"text": text}]} for role, text in turns]


def flat(messages: list[dict[str, Any]]) -> str:
    """What the messages say, with who says it, as a template would lay it out."""
    out = ""
    for message in messages:
        said = message["content"]
        text = said if isinstance(said, str) else "".join(part["text"] for part in said)
        out += f"<{message['role']}>{text}"
    return out


@given(TEXTS, TURNS, TURNS)
def test_every_use_of_a_content_begins_with_it(
    instruction: str, cached: list[tuple[str, str]], asked: list[tuple[str, str]]
) -> None:
    prefix = prefix_of({"systemInstruction": instruction, "contents": contents(cached)})
    request = {"contents": contents([*asked, ("user", "end")])}
    body = chat_request("m", request, prefix, stream=False).body
    assert flat(body["messages"]).startswith(flat(prefix.messages))
    roles = [message["role"] for message in body["messages"]]
    assert all(one != two for one, two in zip(roles, roles[1:], strict=False))


EVENTS = (
    b"".join(
        b"data: " + json.dumps(one).encode() + b"\n\n"
        for one in (
            {"choices": [{"index": 0, "delta": {"content": "Hé"}}]},
            {
                "choices": [
                    {
                        "index": 0,
                        "delta": {"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": "{}"}}]},
                    }
                ]
            },
            {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]},
            {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 1}},
        )
    )
    + b": comment\n\ndata: [DONE]\n\n"
)


@given(st.lists(st.integers(0, len(EVENTS)), max_size=6), st.booleans())
def test_a_stream_is_the_same_however_it_is_split(cuts: list[int], sse: bool) -> None:
    one = Stream(sse=sse, thoughts=False)
    expected = one.feed(EVENTS) + one.end()
    other = Stream(sse=sse, thoughts=False)
    places = [0, *sorted(cuts), len(EVENTS)]
    out = b"".join(other.feed(EVENTS[start:end]) for start, end in zip(places, places[1:], strict=False))
    assert out + other.end() == expected
