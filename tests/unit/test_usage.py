"""What answers report of themselves. Shapes recorded from vLLM 0.32."""

from __future__ import annotations

import json
from typing import Any

import pytest

from warmroute.core.types import Api
from warmroute.dialects.usage import Usage, find_usage, response_id

CHAT = {
    "prompt_tokens": 264,
    "total_tokens": 267,
    "completion_tokens": 3,
    "prompt_tokens_details": {"cached_tokens": 256, "created_cache_tokens": 0, "multimodal_tokens": None},
}
MESSAGES = {
    "input_tokens": 16,
    "output_tokens": 4,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 128,
}
RESPONSES = {
    "input_tokens": 144,
    "input_tokens_details": {
        "cached_tokens": 128,
        "input_tokens_per_turn": [],
        "cached_tokens_per_turn": [1],
    },
    "output_tokens": 4,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 148,
}
REPORTS: list[tuple[Api, dict[str, Any], Usage]] = [
    (Api.CHAT, CHAT, Usage(264, 256, 3)),
    (Api.COMPLETIONS, CHAT, Usage(264, 256, 3)),
    (Api.MESSAGES, MESSAGES, Usage(144, 128, 4)),
    (Api.RESPONSES, RESPONSES, Usage(144, 128, 4)),
]
FAKE = {
    Api.CHAT: '"usage":{"prompt_tokens":1,"completion_tokens":1}',
    Api.COMPLETIONS: '"usage":{"prompt_tokens":1,"completion_tokens":1}',
    Api.MESSAGES: '"usage":{"input_tokens":1,"output_tokens":1}',
    Api.RESPONSES: '"usage":{"input_tokens":1,"output_tokens":1}',
}


@pytest.mark.parametrize(("api", "report", "usage"), REPORTS)
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_bodies_and_events_are_read(
    api: Api, report: dict[str, Any], usage: Usage, separators: tuple[str, str]
) -> None:
    body = json.dumps({"id": "x", "choices": [], "usage": report}, separators=separators).encode()
    assert find_usage(api, body) == usage
    assert find_usage(api, b"data: " + body + b"\n\n") == usage
    assert (
        find_usage(api, b'data: {"usage":null}\n\nevent: x\ndata: ' + body + b"\n\ndata: [DONE]\n\n") == usage
    )
    assert find_usage(api, body[20:]) == usage


@pytest.mark.parametrize(("api", "report", "usage"), REPORTS)
def test_a_null_report_after_the_real_one_is_passed_over(
    api: Api, report: dict[str, Any], usage: Usage
) -> None:
    events = b'data: {"usage":' + json.dumps(report).encode() + b'}\n\ndata: {"usage":null}\n\n'
    assert find_usage(api, events) == usage


def test_the_last_report_of_a_stream_counts() -> None:
    first, last = dict(CHAT, completion_tokens=1), dict(CHAT, completion_tokens=9)
    events = b"".join(b'data: {"usage":' + json.dumps(report).encode() + b"}\n\n" for report in (first, last))
    assert find_usage(Api.CHAT, events) == Usage(264, 256, 9)


@pytest.mark.parametrize(
    ("api", "report", "usage"),
    [
        (
            Api.CHAT,
            {"prompt_tokens": 5, "completion_tokens": 1, "prompt_tokens_details": None},
            Usage(5, None, 1),
        ),
        (Api.CHAT, {"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": None}}, Usage(5, None, 0)),
        (Api.CHAT, {"prompt_tokens": 5, "completion_tokens": None}, Usage(5, None, 0)),
        (
            Api.MESSAGES,
            {"input_tokens": 5, "output_tokens": 1, "cache_read_input_tokens": None},
            Usage(5, None, 1),
        ),
        (Api.MESSAGES, {"input_tokens": 5, "cache_creation_input_tokens": 7}, Usage(12, None, 0)),
        (Api.MESSAGES, {"output_tokens": 3}, Usage(0, None, 3)),
        (
            Api.RESPONSES,
            {"input_tokens": 5, "output_tokens": 1, "input_tokens_details": None},
            Usage(5, None, 1),
        ),
    ],
)
def test_what_is_not_reported_is_none(api: Api, report: dict[str, Any], usage: Usage) -> None:
    assert find_usage(api, b'data: {"usage":' + json.dumps(report).encode() + b"}\n\n") == usage


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"data: [DONE]\n\n",
        b'{"usage":null}',
        b'{"usage":{}}',
        b'{"usage":"none"}',
        b'{"usage":[1]}',
        b'{"usage":{"prompt_tokens":"5"}}',
        b'{"usage":{"prompt_tokens":5',
        b'{"usage":{"a":{"b":{"c":1}}}}',
        b'"usage"' * 1000,
        b'{"usage":' + b"{" * 10_000,
        b'{"usage":{' + b'"a"' * 10_000,
    ],
)
def test_where_nothing_is_reported_nothing_is_found(data: bytes) -> None:
    for api in Api:
        assert find_usage(api, data) is None


@pytest.mark.parametrize(("api", "report", "usage"), REPORTS)
def test_a_models_words_are_not_taken_for_a_report(api: Api, report: dict[str, Any], usage: Usage) -> None:
    words = FAKE[api] + '}\n\ndata: {"' + FAKE[api]
    for text in (words, '"', "usage", '"usage', '\\"usage":{"prompt_tokens":1}'):
        event = {"choices": [{"delta": {"content": text}}]}
        assert find_usage(api, b"data: " + json.dumps(event).encode() + b"\n\n") is None
        body = json.dumps({"usage": report, "choices": [{"message": {"content": text}}]}).encode()
        assert find_usage(api, body) == usage


def test_an_object_of_the_models_making_is_not_taken_for_a_report() -> None:
    made = {
        "type": "tool_use",
        "id": "1",
        "name": "bill",
        "input": {"usage": {"input_tokens": 1, "output_tokens": 1}},
    }
    body = {"id": "msg_1", "content": [made], "usage": MESSAGES}
    assert find_usage(Api.MESSAGES, json.dumps(body).encode()) == Usage(144, 128, 4)
    assert find_usage(Api.MESSAGES, json.dumps({"usage": MESSAGES, "content": [made]}).encode()) == Usage(
        144, 128, 4
    )
    assert find_usage(Api.MESSAGES, json.dumps({"content": [made], "usage": None}).encode()) is None


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b'{"id":"resp_0a-1.b","object":"response"}', "resp_0a-1.b"),
        (b'event: response.created\ndata: {"response": {"id": "resp_1", "output": []}}\n\n', "resp_1"),
        (b'{"previous_response_id":"resp_0","id":"resp_1"}', "resp_1"),
        (b'{"instructions":"say \\"id\\":\\"resp_0\\"","id":"resp_1"}', "resp_1"),
        (b'{"id":"job-77","object":"response"}', "job-77"),
        (b'{"id":"resp_' + b"a" * 1000 + b'"}', None),
        (b'{"id":"resp_a\\u0062"}', None),
        (b"", None),
    ],
)
def test_the_id_of_a_response_is_found(data: bytes, found: str | None) -> None:
    assert response_id(data) == found
