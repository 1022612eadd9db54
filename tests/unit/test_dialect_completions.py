"""Completions: string, token-id and batch prompts."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest

from warmroute.core.errors import ClientError
from warmroute.core.types import Api
from warmroute.dialects import Parsed, parse


def read(prompt: Any, **fields: Any) -> Parsed:
    return parse(Api.COMPLETIONS, json.dumps({"model": "m", "prompt": prompt, **fields}).encode())


def test_a_string_is_its_own_canonical_prompt() -> None:
    parsed = read("Once upon a time", max_tokens=3, stream=True, stream_options={"include_usage": True})
    assert parsed.canonical == b"\xffpOnce upon a time"
    assert (parsed.prompt_bytes, parsed.tokens_known) == (len(parsed.canonical), None)
    assert (parsed.stream, parsed.may_ask_usage) == (True, False)


def test_a_longer_prompt_starts_like_the_shorter_one() -> None:
    assert read("Once upon a time").canonical.startswith(read("Once upon").canonical)
    assert read([1, 2, 3, 4]).canonical.startswith(read([1, 2, 3]).canonical)


def test_token_ids_are_counted_exactly() -> None:
    parsed = read([1, 70_000, 2])
    assert parsed.canonical == b"\xffk" + struct.pack("<3I", 1, 70_000, 2)
    assert parsed.tokens_known == 3


def test_a_batch_is_known_by_its_first_prompt_and_weighed_by_all() -> None:
    texts = read(["first", "second one", "third"])
    assert texts.canonical == read("first").canonical
    assert texts.prompt_bytes == len(texts.canonical) + len("second one") + len("third")
    tokens = read([[1, 2], [3, 4, 5]])
    assert tokens.canonical == read([1, 2]).canonical
    assert (tokens.prompt_bytes, tokens.tokens_known) == (len(tokens.canonical) + 12, 5)


def test_text_that_spells_token_ids_is_not_taken_for_them() -> None:
    assert read([0x61616161]).canonical != read("aaaa").canonical


def test_special_tokens_and_truncation_change_the_prompt() -> None:
    found = {
        read("a", **fields).canonical
        for fields in (
            {},
            {"add_special_tokens": False},
            {"truncate_prompt_tokens": 5},
            {"truncate_prompt_tokens": 5, "truncation_side": "right"},
        )
    }
    assert len(found) == 4
    assert read("a", add_special_tokens=True).canonical == read("a").canonical


def test_embeddings_may_stand_in_for_the_prompt() -> None:
    one = parse(Api.COMPLETIONS, b'{"model":"m","prompt_embeds":"QUJD"}')
    two = parse(Api.COMPLETIONS, b'{"model":"m","prompt_embeds":"QUJE"}')
    assert one.canonical != two.canonical
    assert one.canonical.startswith(b"\xffe")


@pytest.mark.parametrize(
    ("prompt", "code"),
    [
        (None, "prompt_required"),
        ("", "prompt_required"),
    ],
)
def test_prompts_that_are_none_are_refused(prompt: Any, code: str) -> None:
    with pytest.raises(ClientError) as caught:
        read(prompt)
    assert (caught.value.status, caught.value.code) == (400, code)
    assert caught.value.param is not None
    assert caught.value.param.startswith("prompt")


@pytest.mark.parametrize(
    "prompt",
    [
        [], [[]], [1, "a"], ["a", 1], ["a", [1]], [[1], "a"], [[1], 2], [-1], [2**32], [2**80], [1.5], [True],
        {"text": "a"}, [[["a"]]],
    ],
)  # fmt: skip
def test_prompts_that_only_an_engine_can_judge_are_left_to_it(prompt: Any) -> None:
    parsed = read(prompt)
    assert parsed.model == "m"
    assert parsed.prompt_bytes >= len(parsed.canonical)
    assert not parsed.may_ask_usage


def test_the_tokens_of_a_generate_request_are_its_prompt() -> None:
    tokens = list(range(300))
    given = parse(Api.COMPLETIONS, json.dumps({"model": "m", "token_ids": tokens}).encode())
    assert given.canonical == read(tokens).canonical
    assert given.tokens_known == 300
    streamed = parse(Api.COMPLETIONS, b'{"model": "m", "token_ids": [1], "stream": true}')
    assert (streamed.stream, streamed.may_ask_usage) == (True, False)
    assert read([1], stream=True).may_ask_usage
