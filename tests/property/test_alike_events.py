"""Events taken for alike never hide a mark, whatever was learnt from and whatever comes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from warmroute.dialects.alike import Alike
from warmroute.dialects.usage_request import FINISH, USAGE

KEYS = ["content", "text", "arguments", "reasoning", "finish_reason", "usage", "x"]
STRINGS = st.text(st.sampled_from('ab\\":{},\n ü') | st.characters(codec="utf-8"), max_size=12)
VALUES = STRINGS.map(lambda text: f'"{text}"') | st.sampled_from(["null", "1", '{"usage":null}', "[]"])
MEMBERS = st.tuples(st.sampled_from(KEYS), VALUES).map(lambda pair: f'"{pair[0]}":{pair[1]}')
EVENTS = st.lists(MEMBERS, max_size=4).map(lambda members: f"data: {{{','.join(members)}}}\n\n".encode())


def marked(piece: bytes) -> bool:
    return FINISH in piece or USAGE in piece


@given(st.lists(EVENTS, max_size=6), st.binary(max_size=40))
def test_no_piece_with_a_mark_is_like_any_without(events: list[bytes], junk: bytes) -> None:
    alike = Alike()
    for event in [*events, junk, *events]:
        if event in alike:
            assert not marked(event)
        elif not marked(event):
            alike.learn(event)


@given(st.text(st.characters(codec="utf-8", exclude_characters='"\\'), max_size=50))
def test_what_differs_only_in_its_words_is_alike(words: str) -> None:
    alike = Alike()
    alike.learn(b'data: {"choices":[{"delta":{"content":" a"},"finish_reason":null}]}\n\n')
    assert (
        f'data: {{"choices":[{{"delta":{{"content":"{words}"}},"finish_reason":null}}]}}\n\n'.encode()
        in alike
    )
    assert b'data: {"choices":[{"delta":{"content":" a"},"finish_reason":"stop"}]}\n\n' not in alike


def test_a_quote_between_beginning_and_end_may_begin_a_mark() -> None:
    alike = Alike()
    alike.learn(b'data: {"content":"a"}\n\n')
    assert b'data: {"content":"b"}\n\n' in alike
    assert b'data: {"content":"a","finish_reason":"stop"}\n\n' not in alike
    assert b'data: {"content":"a"}\n\ndata: {"usage":"b"}\n\n' not in alike
    assert b'data: {"content":"a' not in alike


def test_a_stream_whose_events_are_never_alike_is_given_up() -> None:
    alike = Alike()
    for number in range(9):
        alike.learn(b'data: {"content":"a","n":%d}\n\n' % number)
    assert b'data: {"content":"b","n":7}\n\n' in alike
    assert b'data: {"content":"b","n":8}\n\n' not in alike
