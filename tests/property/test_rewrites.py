"""Rewrites change the order of what has none, and nothing else: tools, their keys, passages."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmroute.core.types import Api
from warmroute.dialects.reading import parse
from warmroute.dialects.rewrites import (
    MOST_DEPTH,
    MOST_TOOLS_BYTES,
    Rewrites,
    _passages,
    canonical,
    passages_sorted,
    rewritten,
)

TOOLS = Rewrites(sort_tools=True, sort_keys=True)
PASSAGES = Rewrites(passages_begin="<p>", passages_end="</p>")
texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
names = st.sampled_from(["get", "put", "list", "größe", "a", "b"])
apis = st.sampled_from([Api.CHAT, Api.MESSAGES, Api.RESPONSES])


@st.composite
def tool_of(draw: st.DrawFn, api: Api) -> dict[str, Any]:
    function = {"name": draw(names), "description": draw(texts), "parameters": draw(values)}
    if api is Api.CHAT:
        return {"type": "function", "function": function}
    return {"type": "function", **function} if api is Api.RESPONSES else function


def body_of(api: Api, tools: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    prompt = {"input": "hi"} if api is Api.RESPONSES else {"messages": [{"role": "user", "content": "hi"}]}
    return {"model": "m", "temperature": 1.0, **prompt, "tools": tools, **more}


def name_of(tool: dict[str, Any]) -> str:
    return str(tool.get("function", tool).get("name", ""))


def told(api: Api, body: dict[str, Any], rewrites: Rewrites, **dumps: Any) -> tuple[bytes, Any]:
    sent = json.dumps(body, **dumps).encode()
    new = rewritten(api, sent, rewrites)
    result = sent if new is None else new
    return result, json.loads(result)


@given(st.data(), apis)
def test_tools_keep_their_values_and_their_set(data: st.DataObject, api: Api) -> None:
    tools = data.draw(st.lists(tool_of(api), max_size=6))
    body = body_of(api, tools, tool_choice={"type": "function", "function": {"name": "get"}})
    _, after = told(api, body, TOOLS, ensure_ascii=data.draw(st.booleans()))
    assert {key: value for key, value in after.items() if key != "tools"} == {
        key: value for key, value in body.items() if key != "tools"
    }
    assert sorted(after) == sorted(body)
    assert Counter(json.dumps(one, sort_keys=True) for one in after["tools"]) == Counter(
        json.dumps(one, sort_keys=True) for one in tools
    )
    assert [name_of(one) for one in after["tools"]] == sorted(map(name_of, tools))
    for name in {
        name_of(one) for one in tools
    }:  # what a call or tool_choice means by a name is what it meant
        assert [one for one in after["tools"] if name_of(one) == name] == [
            one for one in tools if name_of(one) == name
        ]


@given(st.data(), apis)
def test_tools_in_any_order_and_form_become_the_same_prompt(data: st.DataObject, api: Api) -> None:
    tools = data.draw(st.lists(tool_of(api), min_size=2, max_size=6, unique_by=name_of))
    other = [dict(reversed(one.items())) for one in data.draw(st.permutations(tools))]
    first, _ = told(api, body_of(api, tools), TOOLS)
    second, _ = told(api, body_of(api, other), TOOLS, indent=1)
    assert parse(api, first).canonical == parse(api, second).canonical


@given(values)
def test_a_canonical_value_is_the_same_value_and_its_own_canonical_form(value: Any) -> None:
    once = canonical(json.dumps(value).encode())
    assert json.loads(once) == value
    assert canonical(once) == once


def test_numbers_stay_as_they_were_written() -> None:
    assert canonical(b'{"b": 1.0, "a": [1e400, 12345678901234567890123, 0.10]}') == (
        b'{"a":[1e400,12345678901234567890123,0.10],"b":1.0}'
    )


@pytest.mark.parametrize(
    "tools", [b"null", b"{}", b"7", b"[1]", b'["a","b"]', b"[[]]", b'[{"a":' * 100, b"[{},{}]"]
)
def test_what_is_no_list_of_tools_is_left_to_the_engine(tools: bytes) -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":"hi"}],"tools":' + tools + b"}"
    assert rewritten(Api.CHAT, body, TOOLS) is None


def test_a_mark_stays_behind_the_last_tool_and_others_keep_everything_in_place() -> None:
    mark = {"type": "ephemeral"}
    tools: list[dict[str, Any]] = [{"name": "b"}, {"name": "c"}, {"name": "a", "cache_control": mark}]
    _, after = told(Api.MESSAGES, body_of(Api.MESSAGES, tools), Rewrites(sort_tools=True))
    assert after["tools"] == [{"name": "a"}, {"name": "b"}, {"name": "c", "cache_control": mark}]
    tools[0]["cache_control"] = mark
    _, after = told(Api.MESSAGES, body_of(Api.MESSAGES, tools), Rewrites(sort_tools=True))
    assert after["tools"] == tools


passage = st.text("abc <>/\n", max_size=8).filter(lambda text: "<p>" not in text and "</p>" not in text)


@given(st.lists(passage, max_size=6), st.data(), st.sampled_from(["", "\n", "\n\n "]), passage, passage)
def test_passages_in_any_order_become_the_same_text(
    inner: list[str], data: st.DataObject, gap: str, before: str, behind: str
) -> None:
    row = [f"<p>{one}</p>" for one in inner]
    other = data.draw(st.permutations(row))
    first, second = (passages_sorted(before + gap.join(one) + behind, "<p>", "</p>") for one in (row, other))
    assert first == second
    assert Counter(first) == Counter(before + gap.join(row) + behind)


def test_passages_apart_stay_apart() -> None:
    text = "See <p>z</p> <p>a</p> and then <p>c</p>\n<p>b</p>."
    assert passages_sorted(text, "<p>", "</p>") == "See <p>a</p> <p>z</p> and then <p>b</p>\n<p>c</p>."


@pytest.mark.parametrize("api", [Api.CHAT, Api.MESSAGES, Api.RESPONSES])
def test_passages_are_sorted_wherever_a_prompt_has_texts_but_in_answers(api: Api) -> None:
    text = '<p>2 "quoted" ü</p>\n<p>1</p>'
    kind = "input_text" if api is Api.RESPONSES else "text"
    turns: list[dict[str, Any]] = [
        {"role": "user", "content": text},
        {"role": "assistant", "content": text},
        {"role": "user", "content": [{"type": kind, "text": text}, {"type": "image_url", "image_url": "x"}]},
    ]
    body = {"model": "m", "input" if api is Api.RESPONSES else "messages": turns, "seed": 1}
    if api is Api.MESSAGES:
        body["system"] = [{"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}]
    _, after = told(api, body, PASSAGES)
    turns_after = after.get("input") or after["messages"]
    best = '<p>1</p>\n<p>2 "quoted" ü</p>'
    assert [turns_after[0]["content"], turns_after[1]["content"]] == [best, text]
    assert turns_after[2]["content"] == [
        {"type": kind, "text": best},
        {"type": "image_url", "image_url": "x"},
    ]
    if api is Api.MESSAGES:
        assert after["system"] == [{"type": "text", "text": best, "cache_control": {"type": "ephemeral"}}]
    assert after["seed"] == 1


@given(st.binary(max_size=60), apis)
def test_any_bytes_are_refused_by_nobody_here(junk: bytes, api: Api) -> None:
    everything = Rewrites(True, True, "<p>", "</p>")
    assert rewritten(api, junk, everything) is None
    rewritten(api, b'{"tools":' + junk + b',"messages":[{"content":"<p>1</p>"}]}', everything)


@given(st.lists(st.sampled_from(["<p>", "</p>", "a", "b", " ", "\n", "<", "p>"]), max_size=40).map("".join))
def test_a_passage_is_what_a_pattern_would_find(text: str) -> None:
    """Patterns take microseconds for each character, and memory; they are what is meant."""
    found = [match.span() for match in re.finditer(r"<p>(?:(?!<p>).)*?</p>", text, re.DOTALL)]
    assert _passages(text, "<p>", "</p>") == found


def test_tools_that_would_take_long_stay_as_they_are() -> None:
    """10 MB of tools took seconds, in which the router answered nobody."""
    tools = [{"type": "function", "function": {"name": name, "description": "d" * 1000}} for name in "ba"]
    assert rewritten(Api.CHAT, json.dumps(body_of(Api.CHAT, tools)).encode(), TOOLS) is not None
    tools[0]["function"]["description"] = "d" * MOST_TOOLS_BYTES  # type: ignore[index]
    assert rewritten(Api.CHAT, json.dumps(body_of(Api.CHAT, tools)).encode(), TOOLS) is None
    deep = b'{"b":' * (MOST_DEPTH + 1) + b" 1" + b"}" * (MOST_DEPTH + 1)
    assert rewritten(Api.CHAT, b'{"tools":[' + deep + b"]}", TOOLS) is None
