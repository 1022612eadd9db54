"""What computes a promised prefix again begins with that prefix, wherever the breakpoint is."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from warmroute.core.types import Api
from warmroute.dialects import cache_control, parse, prompt_cache
from warmroute.dialects.prefix_request import prefix_request

TEXT = st.sampled_from(["a", "some words", "zwölf"])
MARKS = st.none() | st.just("mark")


def texts(field: str, mark: Any) -> st.SearchStrategy[list[dict[str, Any]]]:
    part = st.tuples(TEXT, MARKS).map(
        lambda pair: {"type": "text", "text": pair[0], **({field: mark} if pair[1] else {})}
    )
    return st.lists(part, min_size=1, max_size=3)


def turns(field: str, mark: Any) -> st.SearchStrategy[list[dict[str, Any]]]:
    contents = st.lists(texts(field, mark), min_size=1, max_size=6)
    return contents.map(
        lambda found: [
            {"role": "assistant" if place % 2 else "user", "content": content}
            for place, content in enumerate(found)
        ]
    )


def check(api: Api, body: bytes, asked: Any) -> None:
    canonical = parse(api, body).canonical
    for point in asked.breakpoints if asked is not None else ():
        request = prefix_request(api, body, point.path)
        assert request is not None
        end = asked.ends_bytes[point.at]
        assert parse(api, request).canonical[:end] == canonical[:end], point


@given(turns("prompt_cache_breakpoint", {"mode": "explicit"}), st.booleans(), st.booleans())
def test_of_openais_breakpoints(messages: Any, system: bool, tools: bool) -> None:
    if system:
        messages = [{"role": "system", "content": messages[0]["content"]}, *messages]
    fields: dict[str, Any] = {"model": "m", "messages": messages}
    if tools:
        fields["tools"] = [{"type": "function", "function": {"name": "f"}}]
    body = json.dumps(fields).encode()
    check(Api.CHAT, body, prompt_cache.read(parse(Api.CHAT, body).request, body))  # type: ignore[arg-type]


@given(turns("prompt_cache_breakpoint", {"mode": "explicit"}))
def test_of_responses(items: Any) -> None:
    body = json.dumps({"model": "m", "input": items, "instructions": "i"}).encode()
    check(Api.RESPONSES, body, prompt_cache.read(parse(Api.RESPONSES, body).request, body))  # type: ignore[arg-type]


@given(
    turns("cache_control", {"type": "ephemeral"}),
    texts("cache_control", {"type": "ephemeral"}),
    st.booleans(),
    st.booleans(),
)
def test_of_anthropics_breakpoints(messages: Any, system: Any, tools: bool, automatic: bool) -> None:
    marked = [block for turn in (*messages, {"content": system}) for block in turn["content"]]
    for block in [block for block in marked if "cache_control" in block][2:]:
        del block["cache_control"]
    fields: dict[str, Any] = {"model": "m", "system": system, "messages": messages, "max_tokens": 5}
    if tools:
        fields["tools"] = [
            {"name": "f", "input_schema": {}, "cache_control": {"type": "ephemeral"}},
            {"name": "g", "input_schema": {}},
        ]
    if automatic:
        fields["cache_control"] = {"type": "ephemeral"}
    body = json.dumps(fields).encode()
    check(Api.MESSAGES, body, cache_control.read(parse(Api.MESSAGES, body).request, body))  # type: ignore[arg-type]


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | TEXT,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "type", "content", "text"]), inner, max_size=3)
    ),
    max_leaves=6,
)
PATHS = st.sampled_from(
    [
        "messages.0.content",
        "messages.1.content.1",
        "input.0",
        "input.1.content.0",
        "system.1",
        "tools.0",
        "instructions",
        "input",
    ]
)


@given(st.sampled_from([Api.CHAT, Api.MESSAGES, Api.RESPONSES]), JUNK, JUNK, PATHS)
def test_nothing_else_comes_of_junk(api: Api, messages: Any, system: Any, path: str) -> None:
    body = json.dumps({"messages": messages, "input": messages, "system": system, "tools": system}).encode()
    found = prefix_request(api, body, path)
    assert found is None or isinstance(json.loads(found), dict)
