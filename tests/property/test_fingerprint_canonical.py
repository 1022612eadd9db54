"""Canonical prompts can be read back, grow with their conversation, and agree between APIs."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from warmroute.core.prompt.fingerprint import GRID, Fingerprinter
from warmroute.core.types import Api
from warmroute.dialects import parse

TEXTS = st.text(
    st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from('\x00\x01ÿþtm\\"')), max_size=12
)
SOME = TEXTS.filter(bool)
ROLES = st.one_of(st.sampled_from(["system", "user", "assistant", "tool"]), SOME)
CALLS = st.fixed_dictionaries({"id": SOME, "name": SOME, "arguments": TEXTS})
URLS = SOME.filter(lambda url: url[:5].lower() != "data:")
PARTS = st.lists(
    st.one_of(TEXTS.map(lambda t: ("t", t)), URLS.map(lambda u: ("g", "image " + u))), max_size=3
)
MESSAGE = st.fixed_dictionaries(
    {
        "role": ROLES,
        "name": st.one_of(st.none(), SOME),
        "tool_call_id": st.one_of(st.none(), SOME),
        "reasoning": st.one_of(st.none(), SOME),
        "content": st.one_of(st.none(), SOME, PARTS),
        "calls": st.lists(CALLS, max_size=2),
    }
)


def sent(message: dict[str, Any]) -> dict[str, Any]:
    """The message as a chat client writes it."""
    content = message["content"]
    if isinstance(content, list):
        content = [
            {"type": "text", "text": value}
            if tag == "t"
            else {"type": "image_url", "image_url": {"url": value[6:]}}
            for tag, value in content
        ]
    calls = [
        {
            "id": call["id"],
            "type": "function",
            "function": {"name": call["name"], "arguments": call["arguments"]},
        }
        for call in message["calls"]
    ]
    fields = {
        name: message[name]
        for name in ("role", "name", "tool_call_id", "reasoning")
        if message[name] is not None
    }
    return {**fields, "content": content, **({"tool_calls": calls} if calls else {})}


def fields_of(message: dict[str, Any]) -> list[tuple[str, str]]:
    """The fields that the message's canonical form must hold, by the rules of the module's docstring."""
    content = message["content"]
    fields = [("m", message["role"])]
    fields += [("n", message["name"])] if message["name"] else []
    fields += [("i", message["tool_call_id"])] if message["tool_call_id"] else []
    fields += [("r", message["reasoning"])] if message["reasoning"] else []
    fields += [("t", content)] if isinstance(content, str) else content or []
    for call in message["calls"]:
        fields += [("c", call["name"]), ("d", call["id"]), ("a", call["arguments"])]
    return fields


def read_back(canonical: bytes) -> list[tuple[str, str]]:
    empty, *fields = canonical.split(b"\xff")
    assert empty == b""
    return [(chr(field[0]), field[1:].decode()) for field in fields]


def chat(messages: list[dict[str, Any]], ascii_only: bool = False) -> bytes:
    body = {"model": "m", "messages": [sent(message) for message in messages]}
    return parse(Api.CHAT, json.dumps(body, ensure_ascii=ascii_only).encode()).canonical


@given(st.lists(MESSAGE, min_size=1, max_size=4), st.booleans())
def test_a_canonical_prompt_can_be_read_back_so_no_two_prompts_share_one(
    messages: list[dict[str, Any]], ascii_only: bool
) -> None:
    assert read_back(chat(messages, ascii_only)) == [
        field for message in messages for field in fields_of(message)
    ]


@given(st.lists(MESSAGE, min_size=2, max_size=5), st.data())
def test_an_earlier_turn_is_a_byte_prefix_of_a_later_one(
    messages: list[dict[str, Any]], data: st.DataObject
) -> None:
    turn = data.draw(st.integers(1, len(messages)))
    assert chat(messages).startswith(chat(messages[:turn]))


@given(st.text(max_size=40), st.text(max_size=40), st.text(max_size=40))
def test_texts_share_their_bytes_up_to_where_they_differ(shared: str, one: str, two: str) -> None:
    first = chat([{**PLAIN, "content": shared + one + "."}])
    second = chat([{**PLAIN, "content": shared + two + "."}])
    prefix = b"\xffmuser" + (b"\xfft" + shared.encode())
    assert first.startswith(prefix)
    assert second.startswith(prefix)


PLAIN: dict[str, Any] = {"role": "user", "name": None, "tool_call_id": None, "reasoning": None, "calls": []}


@given(
    st.one_of(st.just(""), SOME),
    st.lists(st.tuples(st.sampled_from(["user", "assistant"]), SOME), min_size=1, max_size=5),
)
def test_three_apis_make_the_same_prompt_of_one_conversation(
    system: str, turns: list[tuple[str, str]]
) -> None:
    messages = [{"role": role, "content": text} for role, text in turns]
    leading = [{"role": "system", "content": system}] if system else []
    bodies = {
        Api.CHAT: {"messages": leading + messages},
        Api.MESSAGES: {"messages": messages, "system": system},
        Api.RESPONSES: {"input": messages, "instructions": system},
    }
    found = {
        parse(api, json.dumps({"model": "m", **body}).encode()).canonical for api, body in bodies.items()
    }
    assert len(found) == 1


@settings(max_examples=50)
@given(st.binary(max_size=6000), st.binary(max_size=3000), st.binary(max_size=3000))
def test_two_prompts_share_exactly_the_rungs_within_their_shared_bytes(
    shared: bytes, one: bytes, two: bytes
) -> None:
    hasher = Fingerprinter(b"secret")
    first, second = shared + b"0" + one, shared + b"1" + two
    rungs = [hasher.shape("m", "", prompt).rungs for prompt in (first, second)]
    alike = [a == b for a, b in zip(*rungs, strict=False)]
    assert alike == sorted(alike, reverse=True)
    assert sum(alike) == sum(depth <= len(shared) for depth in GRID)
