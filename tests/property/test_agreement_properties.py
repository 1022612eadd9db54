"""The guard of recorded responses: no number, negation or name that is changed passes, whatever is around it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from warmroute.caching.agreement import differ, facts_of
from warmroute.caching.lexicon import DATES, UNITS

WORDS = st.sampled_from(
    "how do I open the door what is cost of a red car in for my mother please list cities near river and when does it"
    " start tell me about large blue boxes from here why can we not go".split()
)
TEXTS = st.lists(WORDS, min_size=1, max_size=12)
PLACES = st.integers(0, 12)


def with_word(words: list[str], at: int, word: str) -> str:
    at = min(at, len(words))
    return " ".join([*words[:at], word, *words[at:]])


@given(st.text(max_size=200))
def test_any_text_agrees_with_itself_and_with_its_blanks_changed(text: str) -> None:
    assert differ(facts_of(text), facts_of(text)) == ""
    assert differ(facts_of(text), facts_of(f"  {text} ")) == ""


@given(TEXTS, PLACES, st.integers(0, 10**6), st.integers(0, 10**6))
def test_another_number_never_agrees(words: list[str], at: int, one: int, other: int) -> None:
    same = differ(facts_of(with_word(words, at, str(one))), facts_of(with_word(words, at, str(other)))) == ""
    assert same is (one == other)


@given(TEXTS, PLACES, st.sampled_from(["not", "never", "without", "no"]))
def test_a_negation_more_never_agrees(words: list[str], at: int, negation: str) -> None:
    assert differ(facts_of(" ".join(words)), facts_of(with_word(words, at, negation)))


@given(
    TEXTS,
    PLACES,
    st.sampled_from(["Anna", "Bonn", "ACME", "X3"]),
    st.sampled_from(["Otto", "Ulm", "IBM", "X4"]),
)
def test_another_name_never_agrees(words: list[str], at: int, one: str, other: str) -> None:
    assert differ(facts_of(with_word(words, at, one)), facts_of(with_word(words, at, other)))
    assert differ(facts_of(with_word(words, at, one.lower())), facts_of(with_word(words, at, other.lower())))


@given(
    TEXTS,
    PLACES,
    st.sampled_from(sorted(DATES - {"now", "may", "sec"})),
    st.sampled_from(sorted(DATES - {"may"})),
)
def test_another_date_never_agrees(words: list[str], at: int, one: str, other: str) -> None:
    if one != other:
        assert differ(facts_of(with_word(words, at, one)), facts_of(with_word(words, at, other)))


@given(TEXTS, st.sampled_from(sorted(UNITS)), st.sampled_from(sorted(UNITS)))
def test_another_unit_behind_a_number_never_agrees(words: list[str], one: str, other: str) -> None:
    text = " ".join(words)
    agree = differ(facts_of(f"{text} 5 {one}"), facts_of(f"{text} 5 {other}")) == ""
    if agree:
        assert UNITS[one] == UNITS[other]


@given(TEXTS, TEXTS)
def test_it_is_the_same_whichever_comes_first(one: list[str], other: list[str]) -> None:
    there = differ(facts_of(" ".join(one)), facts_of(" ".join(other)))
    back = differ(facts_of(" ".join(other)), facts_of(" ".join(one)))
    assert there == back
