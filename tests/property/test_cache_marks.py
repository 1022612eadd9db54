"""Whatever is sent as a mark is a breakpoint, or refused as its provider refuses it; nothing else comes of it."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from warmroute.core.errors import ClientError
from warmroute.core.types import Api
from warmroute.dialects import cache_control, parse, prompt_cache
from warmroute.dialects.cache_asked import Asked
from warmroute.dialects.chat_request import ChatRequest
from warmroute.dialects.messages import MessagesRequest
from warmroute.dialects.responses import ResponsesRequest

JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from(["", "ephemeral", "1h", "explicit", "\ud800"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["type", "ttl", "mode", "x"]), inner, max_size=3)
    ),
    max_leaves=4,
)
ANTHROPIC = st.sampled_from([{"type": "ephemeral"}, {"type": "ephemeral", "ttl": "1h"}]) | JUNK
OPENAI = st.sampled_from([{"mode": "explicit"}, {"mode": "explicit", "ttl": "12h"}]) | JUNK
KIND = st.sampled_from(["text", "thinking", "tool_use", "tool_result", "image", "other", "input_text"])


def blocks(name: str, marks: st.SearchStrategy[Any]) -> st.SearchStrategy[list[dict[str, Any]]]:
    block = st.fixed_dictionaries(
        {"type": KIND, "text": st.sampled_from(["", "a", "some words"])},
        optional={name: marks, "content": st.sampled_from(["x", [{"type": "text", "text": "y"}]])},
    )
    return st.lists(block, max_size=6)


def check(asked: Asked | None, canonical: bytes, most: int) -> None:
    if asked is None:
        return
    assert asked.ends_bytes == sorted(set(asked.ends_bytes))
    assert all(0 < end <= len(canonical) for end in asked.ends_bytes)
    assert len(asked.breakpoints) <= most
    for point in asked.breakpoints:
        assert 0 <= point.first <= point.at < len(asked.ends_bytes)
        assert point.ttl_s > 0


@given(blocks("cache_control", ANTHROPIC), blocks("cache_control", ANTHROPIC), ANTHROPIC, JUNK)
def test_anthropics(system: Any, content: Any, automatic: Any, tools: Any) -> None:
    fields = {
        "model": "m",
        "max_tokens": 0,
        "system": system,
        "messages": [{"role": "user", "content": content}, {"role": "assistant", "content": content}],
        "cache_control": automatic,
        "tools": tools,
        "tool_choice": tools,
    }
    body = json.dumps(fields).encode()
    parsed = parse(Api.MESSAGES, body)
    if not isinstance(parsed.request, MessagesRequest):
        return
    with suppress(ClientError):
        check(cache_control.read(parsed.request, body), parsed.canonical, 4)
    with suppress(ClientError):
        assert cache_control.prewarms(parsed.request, body)


@given(st.sampled_from([Api.CHAT, Api.RESPONSES]), blocks("prompt_cache_breakpoint", OPENAI), OPENAI, JUNK)
def test_openais(api: Api, content: Any, options: Any, retention: Any) -> None:
    turns = [{"role": "user", "content": content}, {"role": "assistant", "content": content}]
    fields = {
        "model": "m",
        "messages" if api is Api.CHAT else "input": turns,
        "prompt_cache_options": options,
        "prompt_cache_retention": retention,
    }
    body = json.dumps(fields).encode()
    parsed = parse(api, body)
    if not isinstance(parsed.request, ChatRequest | ResponsesRequest):
        return
    with suppress(ClientError):
        check(prompt_cache.read(parsed.request, body), parsed.canonical, 4)
    plain = json.loads(prompt_cache.stripped(body))
    assert "prompt_cache_options" not in plain
    assert "prompt_cache_breakpoint" not in json.dumps(plain.get("messages", plain.get("input")))
