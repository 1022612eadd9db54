from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmroute_loadtest.locust.sse import Events

STREAM = (
    b": keep-alive\n\n"
    b'data: {"a":1}\n\n'
    b'event: x\r\ndata:{"b":2}\r\n\r\n'
    b"data: two\ndata: lines\n\n"
    b"data: old mac\r\r"
    b"id: 7\nretry: 1\n\n"
    b"data: [DONE]\n\n"
)
EVENTS = [b'{"a":1}', b'{"b":2}', b"two\nlines", b"old mac", b"[DONE]"]


def test_a_whole_stream_gives_the_data_of_its_events() -> None:
    assert Events().feed(STREAM) == EVENTS


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_every_split_gives_the_same_events(cuts: list[int]) -> None:
    events = Events()
    places = [0, *sorted(cuts), len(STREAM)]
    pieces = [STREAM[a:b] for a, b in zip(places, places[1:], strict=False)]
    assert [event for piece in pieces for event in events.feed(piece)] == EVENTS


def test_byte_by_byte_gives_the_same_events() -> None:
    events = Events()
    assert [e for n in range(len(STREAM)) for e in events.feed(STREAM[n : n + 1])] == EVENTS


@pytest.mark.parametrize("cut", [b"data: half", b"data: half\n", b": comment"])
def test_an_event_without_its_end_is_none(cut: bytes) -> None:
    assert Events().feed(cut) == []
