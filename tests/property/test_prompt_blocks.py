"""A block ends in the canonical prompt where the prompt would end that goes no further than that block."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from warmroute.core.prompt.fingerprint import GRID, Fingerprinter
from warmroute.core.prompt.promises import chain
from warmroute.core.types import Api
from warmroute.dialects import parse
from warmroute.dialects.chat_request import ChatRequest
from warmroute.dialects.messages import MessagesRequest
from warmroute.dialects.prompt_blocks import PromptBlock, of_chat, of_messages, of_responses
from warmroute.dialects.responses import ResponsesRequest

TEXT = st.text(max_size=12)
SAID = st.text(min_size=1, max_size=12)


def part(kind: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.builds(lambda text: {"type": kind, "text": text}, SAID)


IMAGE = st.just({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}})
CHAT_CONTENT = SAID | st.lists(part("text") | IMAGE, min_size=1, max_size=4)
CHAT = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant"]), "content": CHAT_CONTENT}
    ),
    min_size=1,
    max_size=5,
)
TOOLS = st.lists(st.builds(lambda name: {"name": name, "input_schema": {"type": "object"}}, SAID), max_size=3)
RESULT = st.builds(lambda text: {"type": "tool_result", "tool_use_id": "t", "content": text}, SAID)
CALL = st.builds(lambda name: {"type": "tool_use", "id": "t", "name": name, "input": {"a": name}}, SAID)
USER = st.builds(
    lambda results, texts: {"role": "user", "content": [*results, *texts]},
    st.lists(RESULT, max_size=2),
    st.lists(part("text"), min_size=1, max_size=3),
)
ASSISTANT = st.builds(
    lambda texts, calls: {"role": "assistant", "content": [*texts, *calls]},
    st.lists(part("text"), min_size=1, max_size=3),
    st.lists(CALL, max_size=2),
)
PLAIN = st.builds(lambda text: {"role": "user", "content": text}, SAID)
MESSAGES = st.lists(USER | ASSISTANT | PLAIN, min_size=1, max_size=4)
SYSTEM = st.none() | SAID | st.lists(part("text"), min_size=1, max_size=3)


def canonical(api: Api, fields: dict[str, Any]) -> bytes:
    return parse(api, json.dumps(fields).encode()).canonical


def blocks(api: Api, fields: dict[str, Any]) -> tuple[list[PromptBlock], bytes]:
    body = json.dumps(fields).encode()
    parsed = parse(api, body)
    request = parsed.request
    if isinstance(request, ChatRequest):
        return of_chat(request, body), parsed.canonical
    if isinstance(request, ResponsesRequest):
        return of_responses(request, body), parsed.canonical
    assert isinstance(request, MessagesRequest)
    return of_messages(request, body), parsed.canonical


def cut(entries: list[dict[str, Any]], path: list[str]) -> list[dict[str, Any]]:
    """The entries up to a block: `[index, "content", number]` or without the number."""
    index = int(path[0])
    kept = entries[: index + 1]
    if len(path) > 2:
        kept = [
            *entries[:index],
            {**entries[index], "content": entries[index]["content"][: int(path[2]) + 1]},
        ]
    return kept


@given(MESSAGES, SYSTEM, TOOLS)
def test_of_messages(messages: list[Any], system: Any, tools: list[Any]) -> None:
    fields = {"model": "m", "max_tokens": 1, "messages": messages, "system": system, "tools": tools}
    found, whole = blocks(Api.MESSAGES, fields)
    assert found[-1].end_bytes == len(whole)
    for block in found:
        at, *path = block.path.split(".")
        prefix = whole[: block.end_bytes]
        if at == "tools":
            assert prefix.endswith(json.dumps(tools[int(path[0])]).encode())
        elif at == "system":
            kept = system if isinstance(system, str) else system[: int(path[0]) + 1]
            assert prefix == canonical(Api.MESSAGES, {**fields, "system": kept, "messages": []})
        else:
            assert prefix == canonical(Api.MESSAGES, {**fields, "messages": cut(messages, path)})


@given(CHAT)
def test_of_chat(messages: list[Any]) -> None:
    found, whole = blocks(Api.CHAT, {"model": "m", "messages": messages})
    assert found[-1].end_bytes == len(whole)
    for block in found:
        _, *path = block.path.split(".")
        assert whole[: block.end_bytes] == canonical(
            Api.CHAT, {"model": "m", "messages": cut(messages, path)}
        )


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "role": st.sampled_from(["user", "assistant", "system"]),
                "content": SAID | st.lists(part("input_text"), min_size=1, max_size=3),
            }
        ),
        min_size=1,
        max_size=5,
    ),
    st.none() | SAID,
)
def test_of_responses(items: list[Any], instructions: str | None) -> None:
    fields = {"model": "m", "input": items, "instructions": instructions}
    found, whole = blocks(Api.RESPONSES, fields)
    assert found[-1].end_bytes == len(whole)
    for block in found:
        if block.path != "instructions":
            _, *path = block.path.split(".")
            assert whole[: block.end_bytes] == canonical(Api.RESPONSES, {**fields, "input": cut(items, path)})


@given(MESSAGES, MESSAGES, SYSTEM)
def test_the_key_at_a_block_is_the_same_in_all_prompts_that_begin_so(
    shared: list[Any], more: list[Any], system: Any
) -> None:
    fields = {"model": "m", "max_tokens": 1, "messages": shared, "system": system}

    def keys(messages: list[Any]) -> list[int]:
        found, whole = blocks(Api.MESSAGES, {**fields, "messages": messages})
        return chain(7, whole, [block.end_bytes for block in found])

    short, long = keys(shared), keys([*shared, *more])
    assert long[: len(short)] == short


@given(st.integers(4096, 2_000_000), st.integers(0, 3000))
def test_rungs_of_the_ladder_are_as_good_as_rungs_at_breakpoints(depth: int, beyond: int) -> None:
    """Two prompts that share a prefix of 1,024 tokens or more, and nothing behind it, share rungs to a fifth of it."""
    shared = bytes(depth)
    one, other = [
        Fingerprinter(b"s").shape("m", "", shared + tail * (beyond + 1)).rungs for tail in (b"a", b"b")
    ]
    common = sum(1 for a, b in zip(one, other, strict=False) if a == b)
    assert one[:common] == other[:common]
    assert depth * 4 / 5 <= GRID[common - 1] <= depth
