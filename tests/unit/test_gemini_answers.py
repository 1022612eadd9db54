"""Chat answers become Google's."""

from __future__ import annotations

import json
from typing import Any

import pytest

from warmroute.dialects.gemini_answers import Stream, counted, error_body, translated_error, whole

USAGE = {
    "prompt_tokens": 100,
    "total_tokens": 130,
    "completion_tokens": 30,
    "prompt_tokens_details": {"cached_tokens": 96},
    "completion_tokens_details": {"reasoning_tokens": 10},
}
TOLD = {
    "promptTokenCount": 100,
    "candidatesTokenCount": 20,
    "totalTokenCount": 130,
    "cachedContentTokenCount": 96,
    "thoughtsTokenCount": 10,
}


def answered(
    message: dict[str, Any], finish: str | None = "stop", *, thoughts: bool = False
) -> dict[str, Any]:
    chat = {
        "id": "chatcmpl-1",
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": USAGE,
    }
    read = whole(json.dumps(chat).encode(), thoughts=thoughts)
    assert read is not None
    found: dict[str, Any] = json.loads(read)
    return found


def test_a_whole_answer() -> None:
    assert answered({"role": "assistant", "content": "Hello", "reasoning": "hm"}) == {
        "candidates": [
            {"index": 0, "content": {"parts": [{"text": "Hello"}], "role": "model"}, "finishReason": "STOP"}
        ],
        "usageMetadata": TOLD,
        "modelVersion": "m",
        "responseId": "chatcmpl-1",
    }


@pytest.mark.parametrize(
    ("finish", "told"),
    [
        ("length", "MAX_TOKENS"),
        ("tool_calls", "STOP"),
        ("content_filter", "SAFETY"),
        ("abort", "OTHER"),
        (None, "OTHER"),
    ],
)
def test_reasons_to_stop(finish: str | None, told: str) -> None:
    assert answered({"content": "x"}, finish)["candidates"][0]["finishReason"] == told


def test_thoughts_are_told_where_they_are_asked_for() -> None:
    (candidate,) = answered({"content": "x", "reasoning_content": "hm"}, thoughts=True)["candidates"]
    assert candidate["content"]["parts"] == [{"text": "hm", "thought": True}, {"text": "x"}]


def test_calls_are_told_with_their_arguments() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": [1]}'}}
    (candidate,) = answered({"content": None, "tool_calls": [call]}, "tool_calls")["candidates"]
    assert candidate["content"]["parts"] == [{"functionCall": {"name": "f", "id": "c1", "args": {"a": [1]}}}]


def test_a_call_that_cannot_be_read_is_none() -> None:
    call = {"id": "c1", "function": {"name": "f", "arguments": '{"a":'}}
    (candidate,) = answered({"tool_calls": [call]}, "length")["candidates"]
    assert candidate["finishReason"] == "MALFORMED_FUNCTION_CALL"
    assert candidate["content"] == {"role": "model"}


def test_what_an_engine_does_not_tell_is_left_out() -> None:
    read = whole(b'{"choices":[{"message":{"content":"x"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,'
                 b'"completion_tokens":1,"prompt_tokens_details":null}}', thoughts=False)  # fmt: skip
    assert read is not None
    assert json.loads(read)["usageMetadata"] == {
        "promptTokenCount": 3,
        "candidatesTokenCount": 1,
        "totalTokenCount": 4,
    }
    assert whole(b"<html>", thoughts=False) is None
    assert whole(b'{"object":"other"}', thoughts=False) is None


def test_counts() -> None:
    assert counted(b'{"count":12,"max_model_len":100,"tokens":[1]}') == b'{"totalTokens":12}'
    assert counted(b"{}") is None


@pytest.mark.parametrize(
    ("body", "message", "reason"),
    [
        (b'{"error":{"message":"too long","type":"x","param":null,"code":"context"}}', "too long", "CONTEXT"),
        (b'{"error":{"message":"too long","code":400}}', "too long", None),
        (b'{"object":"error","message":"old","code":400}', "old", None),
        (b'{"detail":"Not Found"}', "Not Found", None),
        (b'{"error":"plain"}', "plain", None),
        (b"no JSON", "no JSON", None),
        (b"{}", "the replica answered 400", None),
    ],
)
def test_errors_of_every_form_become_googles(body: bytes, message: str, reason: str | None) -> None:
    error = json.loads(translated_error(400, body))["error"]
    assert (error["code"], error["message"], error["status"]) == (400, message, "INVALID_ARGUMENT")
    assert [detail["reason"] for detail in error.get("details", [])] == ([reason] if reason else [])


def test_statuses_have_googles_names() -> None:
    names = {
        status: json.loads(error_body(status, "x"))["error"]["status"]
        for status in (401, 404, 418, 429, 503, 599)
    }
    assert names == {
        401: "UNAUTHENTICATED",
        404: "NOT_FOUND",
        418: "INVALID_ARGUMENT",
        429: "RESOURCE_EXHAUSTED",
        503: "UNAVAILABLE",
        599: "INTERNAL",
    }


def event(**fields: Any) -> bytes:
    return b"data: " + json.dumps({"id": "c", "model": "m", **fields}).encode() + b"\n\n"


def delta(finish: str | None = None, index: int = 0, **said: Any) -> bytes:
    return event(choices=[{"index": index, "delta": said, "finish_reason": finish}])


END = event(choices=[], usage=USAGE) + b"data: [DONE]\n\n"


def streamed(data: bytes, *, sse: bool = True, thoughts: bool = False) -> list[dict[str, Any]]:
    stream = Stream(sse=sse, thoughts=thoughts)
    out = stream.feed(data) + stream.end()
    if not sse:
        found: list[dict[str, Any]] = json.loads(out)
        return found
    assert out.endswith(b"\r\n\r\n")
    return [json.loads(one.removeprefix(b"data: ")) for one in out.split(b"\r\n\r\n")[:-1]]


@pytest.mark.parametrize("sse", [True, False])
def test_a_stream_of_text_ends_with_its_reason_and_usage(sse: bool) -> None:
    data = (
        delta(role="assistant", content="") + delta(content="He") + delta(content="llo") + delta("stop") + END
    )
    first, second, last = streamed(data, sse=sse)
    assert [one["candidates"][0]["content"]["parts"] for one in (first, second)] == [
        [{"text": "He"}],
        [{"text": "llo"}],
    ]
    assert "finishReason" not in first["candidates"][0]
    assert "usageMetadata" not in second
    assert last["candidates"] == [{"index": 0, "content": {"role": "model"}, "finishReason": "STOP"}]
    assert last["usageMetadata"] == TOLD


def test_text_in_the_last_piece_is_not_lost() -> None:
    (only,) = streamed(delta("length", content="x") + END)
    assert only["candidates"][0]["content"]["parts"] == [{"text": "x"}]
    assert only["candidates"][0]["finishReason"] == "MAX_TOKENS"


def test_calls_that_come_in_pieces_are_told_whole() -> None:
    data = (
        delta(tool_calls=[{"index": 0, "id": "c1", "function": {"name": "f", "arguments": ""}}])
        + delta(tool_calls=[{"index": 0, "function": {"arguments": '{"a"'}}])
        + delta(tool_calls=[{"index": 1, "id": "c2", "function": {"name": "g", "arguments": "{}"}}])
        + delta(tool_calls=[{"index": 0, "function": {"arguments": ":1}"}}])
        + delta("tool_calls")
        + END
    )
    (only,) = streamed(data)
    assert only["candidates"][0]["content"]["parts"] == [
        {"functionCall": {"name": "f", "id": "c1", "args": {"a": 1}}},
        {"functionCall": {"name": "g", "id": "c2", "args": {}}},
    ]


def test_several_answers_in_one_stream_end_together() -> None:
    data = delta(content="a") + delta(index=1, content="b") + delta("stop") + delta("length", index=1) + END
    *_, last = streamed(data)
    assert [(one["index"], one["finishReason"]) for one in last["candidates"]] == [
        (0, "STOP"),
        (1, "MAX_TOKENS"),
    ]


def test_comments_are_no_items_and_an_empty_stream_is_an_array() -> None:
    assert streamed(b": keep-alive\n\n" + delta(content="x"), sse=False)[0]["candidates"]
    assert streamed(b": keep-alive\n\n", sse=False) == []


def test_a_stream_that_breaks_ends_with_the_error() -> None:
    broken = b'data: {"error":{"message":"gone","type":"x","param":null,"code":"replica_lost"}}\n\ndata: [DONE]\n\n'
    _, last = streamed(delta(content="x") + broken)
    assert last["error"]["message"] == "gone"
    assert last["error"]["status"] == "UNAVAILABLE"
