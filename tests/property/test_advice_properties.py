"""Whatever prompts hold, looking at them raises nothing, remembers no text, and finds nothing in what is the same."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.prompt_corpus import chat, words
from warmroute.advice import sketch
from warmroute.advice.advisor import Advisor
from warmroute.advice.cause import LONG, kind_of
from warmroute.advice.departure import find
from warmroute.core.types import Api
from warmroute.dialects.reading import parse

texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=40) | st.sampled_from(
    [
        "the same words again and again " * 4,
        "2026-11-29 10:31:02",
        "\n" * 5,
        "天地玄黄宇宙洪荒" * 5,
        "x" * 3000,
    ]
)
values = st.recursive(
    st.none() | st.integers(-(2**80), 2**80) | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
bodies = st.fixed_dictionaries(
    {
        "messages": st.lists(
            st.fixed_dictionaries(
                {"role": st.sampled_from(["system", "user", "assistant", "odd", ""]), "content": texts}
            ),
            max_size=6,
        )
    },
    optional={
        "tools": values,
        "documents": values,
        "reasoning_effort": texts,
        "chat_template_kwargs": values,
    },
)


def canonical(body: Any) -> bytes:
    return parse(Api.CHAT, json.dumps(body, allow_nan=False, default=str).encode()).canonical


def adviser() -> Advisor:
    return Advisor(
        sample=1.0, budget_ratio=1.0, memory_bytes=1 << 20, minimum_tokens=0, show_shared=True,
        dice=random.Random(1).random, stopwatch=lambda: 0.0, clock=lambda: 1.8e9,
    )  # fmt: skip


@given(st.lists(bodies | st.binary(max_size=200), max_size=6))
def test_no_prompt_is_too_odd(told: list[Any]) -> None:
    advice = adviser()
    for body in told:
        try:
            prompt = body if isinstance(body, bytes) else canonical(body)
        except (ValueError, OverflowError):
            continue
        look = advice.look(("t", "m"), prompt, len(prompt) // 4)
        assert look is not None
        advice.ended(look, len(prompt) // 4, None)
        finding = look.finding
        assert finding is None or 0 <= finding.tokens <= len(prompt) // 4
    json.dumps(advice.report(0.0))


@given(bodies, st.integers(0, 400))
def test_the_same_and_what_goes_on_from_it_departs_from_nothing(body: Any, more: int) -> None:
    prompt = canonical(body)
    longer = prompt + b"\xffmuser\xfft" + words(random.Random(more), more).encode()
    for new in (prompt, longer):
        known, reading = sketch.read(prompt), sketch.read(new)
        if known is not None and reading is not None:
            assert find(reading, [known.sketch], 10_000, minimum_tokens=1) is None


@given(
    st.lists(st.integers(0, 3), max_size=200), st.lists(st.integers(0, 3), max_size=200), st.integers(0, 5)
)
def test_common_words_are_counted_right(one: list[int], other: list[int], shift: int) -> None:
    def hashes(numbers: list[int]) -> bytes:
        return b"".join(number.to_bytes(sketch.WORD_BYTES, "little") for number in numbers)

    expected = 0
    for a, b in zip(one[shift:], other, strict=False):
        if a != b:
            break
        expected += 1
    assert sketch.common_words(hashes(one), shift, hashes(other), 0) == expected
    assert sketch.common_words(hashes(one), 0, hashes(one), 0) == len(one)


def test_no_text_is_remembered() -> None:
    reading = sketch.read(canonical(chat("canary word of a system prompt", "and a canary user")))
    assert reading is not None
    kept = {name: getattr(reading.sketch, name) for name in sketch.Sketch.__slots__}
    assert b"canary" not in kept["hashes"]
    assert all(
        isinstance(one, int) for one in (*kept["anchors"], *kept["anchors"].values(), *kept["messages"])
    )


@pytest.mark.parametrize("letter", [b"a", b"1", b"@", b"-", b"1a", b"a.", b"0:"])
def test_a_word_as_long_as_a_prompt_is_put_to_no_pattern(letter: bytes) -> None:
    assert kind_of(letter * 20_000) == LONG
