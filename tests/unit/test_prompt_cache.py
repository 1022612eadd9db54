"""OpenAI's caching fields mean what they mean there: retention, options, breakpoints, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from warmroute.core.errors import ClientError
from warmroute.core.types import Api
from warmroute.dialects import parse
from warmroute.dialects.cache_asked import Asked
from warmroute.dialects.chat_request import ChatRequest
from warmroute.dialects.prompt_cache import read
from warmroute.dialects.render import render_error
from warmroute.dialects.responses import ResponsesRequest

MARK = {"mode": "explicit"}
SAID = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]


def part(text: str, mark: Any = None, kind: str = "text") -> dict[str, Any]:
    return {"type": kind, "text": text, **({} if mark is None else {"prompt_cache_breakpoint": mark})}


def asked(api: Api = Api.CHAT, **fields: Any) -> tuple[Asked | None, bytes]:
    named = {"messages": SAID} if api is Api.CHAT else {"input": SAID}
    body = json.dumps({"model": "m", **named, **fields}).encode()
    parsed = parse(api, body)
    assert isinstance(parsed.request, ChatRequest | ResponsesRequest)
    return read(parsed.request, body), parsed.canonical


def prefixes(api: Api = Api.CHAT, **fields: Any) -> list[tuple[bytes, float]]:
    found, canonical = asked(api, **fields)
    assert found is not None
    return [(canonical[: found.ends_bytes[p.at]], p.ttl_s) for p in found.breakpoints]


def refused(api: Api = Api.CHAT, **fields: Any) -> dict[str, Any]:
    with pytest.raises(ClientError) as caught:
        asked(api, **fields)
    assert caught.value.status == 400
    error: dict[str, Any] = json.loads(render_error(api, caught.value, "id"))["error"]
    assert error["type"] == "invalid_request_error"
    return error


def test_a_request_without_any_of_it_asks_for_nothing() -> None:
    assert asked()[0] is None
    assert asked(Api.RESPONSES)[0] is None
    assert asked(prompt_cache_key="k", prompt_cache_options=None, prompt_cache_retention=None)[0] is None


@pytest.mark.parametrize("api", [Api.CHAT, Api.RESPONSES])
def test_retention_keeps_the_whole_prompt_for_a_day_or_as_any(api: Api) -> None:
    ((prefix, ttl_s),) = prefixes(api, prompt_cache_retention="24h")
    assert prefix.endswith(b"Hi")
    assert ttl_s == 86_400.0
    assert prefixes(api, prompt_cache_retention="in_memory") == []
    error = refused(api, prompt_cache_retention="1h")
    assert error["param"] == "prompt_cache_retention"
    assert error["message"] == "Invalid value: '1h'. Supported values are: 'in_memory' and '24h'."
    assert refused(api, prompt_cache_retention=3)["code"] == "invalid_value"


@pytest.mark.parametrize("api", [Api.CHAT, Api.RESPONSES])
def test_options_choose_between_the_implicit_breakpoint_and_marked_ones(api: Api) -> None:
    kind = "text" if api is Api.CHAT else "input_text"
    parts = [part("First.", MARK, kind), part("Second.", None, kind)]
    turns = [{"role": "user", "content": parts}]
    named = {"messages" if api is Api.CHAT else "input": turns}
    implicit = prefixes(api, **named, prompt_cache_options={"mode": "implicit"})
    assert [(prefix[-7:], ttl_s) for prefix, ttl_s in implicit] == [
        (b"tFirst.", 1800.0),
        (b"Second.", 1800.0),
    ]
    assert prefixes(api, **named) == implicit
    explicit = prefixes(api, **named, prompt_cache_options={"mode": "explicit", "ttl": "12h"})
    assert [(prefix[-7:], ttl_s) for prefix, ttl_s in explicit] == [(b"tFirst.", 43_200.0)]
    assert prefixes(api, prompt_cache_options={"mode": "explicit"}) == []


def test_the_latest_four_marks_are_written_one_of_them_the_implicit_one() -> None:
    turns = [{"role": "user", "content": [part(f"n{number}", MARK) for number in range(6)]}]
    implicit = prefixes(messages=turns)
    assert [prefix[-2:] for prefix, _ in implicit] == [b"n3", b"n4", b"n5"]
    explicit = prefixes(messages=turns, prompt_cache_options={"mode": "explicit"})
    assert [prefix[-2:] for prefix, _ in explicit] == [b"n2", b"n3", b"n4", b"n5"]


def test_a_mark_may_have_a_lifetime_of_its_own_and_retention_lengthens_all() -> None:
    turns = [{"role": "user", "content": [part("a", {"mode": "explicit", "ttl": "12h"}), part("b")]}]
    assert [ttl_s for _, ttl_s in prefixes(messages=turns)] == [43_200.0, 1800.0]
    both = prefixes(messages=turns, prompt_cache_retention="24h")
    assert [ttl_s for _, ttl_s in both] == [86_400.0, 86_400.0]


@pytest.mark.parametrize(
    ("options", "param", "code"),
    [
        ("explicit", "prompt_cache_options", "invalid_type"),
        ({"mode": "auto"}, "prompt_cache_options.mode", "invalid_value"),
        ({"mode": ["explicit"]}, "prompt_cache_options.mode", "invalid_value"),
        ({"ttl": "5m"}, "prompt_cache_options.ttl", "invalid_value"),
        ({"lifetime": "5m"}, "prompt_cache_options.lifetime", "unknown_parameter"),
    ],
)
def test_options_of_another_form_are_refused(options: Any, param: str, code: str) -> None:
    error = refused(prompt_cache_options=options)
    assert (error["param"], error["code"]) == (param, code)


@pytest.mark.parametrize(
    ("mark", "ending", "code"),
    [
        ("explicit", "", "invalid_type"),
        ({}, ".mode", "missing_required_parameter"),
        ({"mode": "implicit"}, ".mode", "invalid_value"),
        ({"mode": "explicit", "ttl": "1h"}, ".ttl", "invalid_value"),
    ],
)
def test_marks_of_another_form_are_refused_with_their_place(mark: Any, ending: str, code: str) -> None:
    turns = [{"role": "user", "content": [part("a"), part("b", mark)]}]
    error = refused(messages=turns)
    assert error["param"] == f"messages[0].content[1].prompt_cache_breakpoint{ending}"
    assert error["code"] == code
    turns[0]["content"] = [part("a", mark, "input_text")]
    error = refused(Api.RESPONSES, input=turns)
    assert error["param"] == f"input[0].content[0].prompt_cache_breakpoint{ending}"
