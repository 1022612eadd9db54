"""Requests and answers recorded from real vLLM (tests/golden/vllm/SOURCE.md): what it serves we read, what it reports
we find."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from warmroute.core.errors import ClientError
from warmroute.core.types import Api
from warmroute.dialects import parse
from warmroute.dialects.routes import RouteKind, route, stored_response_id
from warmroute.dialects.usage import Usage, find_usage, response_id

GOLDEN = Path(__file__).parent.parent / "golden" / "vllm"
CASES: list[dict[str, Any]] = json.loads((GOLDEN / "index.json").read_text())
BY_NAME = {case["name"]: case for case in CASES}
SERVED = [case["name"] for case in CASES if case["method"] == "POST" and case["status"] == 200]
ANSWERS = [case["name"] for case in CASES if b'"usage":{' in (GOLDEN / f"{case['name']}.http").read_bytes()]


def api_and_kind(case: dict[str, Any]) -> tuple[Api, RouteKind]:
    found = route(case["method"].encode(), case["path"].encode())
    assert found is not None
    return found.api, found.kind


@pytest.mark.parametrize("name", SERVED)
def test_what_vllm_serves_is_read(name: str) -> None:
    case = BY_NAME[name]
    api, kind = api_and_kind(case)
    parsed = parse(api if kind is RouteKind.PREFIX else Api.OTHER, case["body"].encode())
    assert parsed.model
    assert bool(parsed.canonical) == (kind is RouteKind.PREFIX)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("error_bad_json", "invalid_json"),
        ("error_no_prompt", "prompt_required"),
    ],
)
def test_what_vllm_refuses_is_refused(name: str, code: str) -> None:
    case = BY_NAME[name]
    with pytest.raises(ClientError) as caught:
        parse(api_and_kind(case)[0], case["body"].encode())
    assert (caught.value.status, caught.value.code) == (case["status"], code)


@pytest.mark.parametrize("name", ["error_wrong_type", "error_message_wrong_type"])
def test_what_only_vllm_can_judge_is_left_to_it(name: str) -> None:
    case = BY_NAME[name]
    assert parse(api_and_kind(case)[0], case["body"].encode()).model


def last_report(answer: bytes) -> dict[str, Any]:
    """The last usage object, found by reading the answer as JSON, whole or event by event."""
    body = answer.partition(b"\r\n\r\n")[2]
    lines = (
        body.splitlines()
        if b"data: " in body
        else [b"data: " + body[body.index(b"{") : body.rindex(b"}") + 1]]
    )
    reports: list[dict[str, Any]] = []
    for line in lines:
        if line.startswith(b"data: {"):
            event = json.loads(line[6:])
            holders = (event, event.get("response"), event.get("message"))
            reports += [
                holder["usage"] for holder in holders if isinstance(holder, dict) and holder.get("usage")
            ]
    return reports[-1]


def test_there_are_recorded_answers_of_every_api() -> None:
    assert {api_and_kind(BY_NAME[name])[0] for name in ANSWERS} >= set(Api) - {Api.OTHER}


@pytest.mark.parametrize("name", ANSWERS)
def test_what_vllm_reports_is_found(name: str) -> None:
    answer = (GOLDEN / f"{name}.http").read_bytes()
    api = api_and_kind(BY_NAME[name])[0]
    report = last_report(answer)
    details = report.get("prompt_tokens_details") or report.get("input_tokens_details") or {}
    if api is Api.MESSAGES:
        cached = report.get("cache_read_input_tokens")
        prompt = report["input_tokens"] + (cached or 0) + (report.get("cache_creation_input_tokens") or 0)
        expected = Usage(prompt, cached, report["output_tokens"])
    elif api is Api.RESPONSES:
        expected = Usage(report["input_tokens"], details.get("cached_tokens"), report["output_tokens"])
    else:
        expected = Usage(
            report["prompt_tokens"], details.get("cached_tokens"), report.get("completion_tokens", 0)
        )
    assert find_usage(api, answer) == expected
    assert find_usage(api, answer[-900:]) == expected


@pytest.mark.parametrize("name", [case["name"] for case in CASES if case["path"].startswith("/v1/responses")])
def test_only_a_made_response_has_an_id(name: str) -> None:
    case = BY_NAME[name]
    found = response_id((GOLDEN / f"{name}.http").read_bytes())
    assert (found is not None) == (case["status"] == 200)
    stored = stored_response_id(case["path"].encode())
    assert (stored is not None) == (case["path"] != "/v1/responses")
