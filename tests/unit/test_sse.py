"""The gate that keeps streams from stopping inside an event."""

from __future__ import annotations

from warmroute.dialects.sse import MAX_KEPT_BACK_BYTES, EventGate, first_data, unfinished_line


def test_whole_events_pass_as_the_same_object() -> None:
    event = b"data: a\n\n"
    gate = EventGate()
    assert gate.feed(event) is event
    assert gate.flush() == b""


def test_an_incomplete_event_waits_for_its_end() -> None:
    gate = EventGate()
    assert gate.feed(b"data: a\n\ndata: b") == b"data: a\n\n"
    assert gate.feed(b"\n") == b""
    assert gate.feed(b"\ndata: c") == b"data: b\n\n"
    assert gate.at_boundary
    assert gate.flush() == b"data: c"
    assert not gate.at_boundary


def test_every_kind_of_line_end_ends_an_event() -> None:
    for end in (b"\n\n", b"\r\n\r\n", b"\r\r"):
        for cut in range(1, len(end)):
            gate = EventGate()
            assert gate.feed(b"data: a" + end[:cut]) == b""
            assert gate.feed(end[cut:] + b"data") == b"data: a" + end


def test_text_cut_inside_a_character_is_held_with_its_event() -> None:
    gate = EventGate()
    event = "data: 🙂\n\n".encode()
    assert gate.feed(event[:8]) == b""
    assert gate.feed(event[8:]) == event


def test_a_very_long_event_is_let_through_and_the_next_end_is_a_boundary_again() -> None:
    gate = EventGate()
    long = b"data: " + b"x" * MAX_KEPT_BACK_BYTES
    assert gate.feed(long) == long
    assert not gate.at_boundary
    assert gate.feed(b"y") == b""
    assert gate.feed(b"\n\n") == b"y\n\n"
    assert gate.at_boundary
    behind = b"data: a\n\n" + long
    assert gate.feed(behind) == behind
    assert not gate.at_boundary


def test_what_is_held_stays_bounded() -> None:
    gate = EventGate()
    out = 0
    for _ in range(40):
        out += len(gate.feed(b"x" * 10_000))
        assert len(gate._kept_back) <= MAX_KEPT_BACK_BYTES
    assert out + len(gate.flush()) == 400_000


def test_comments_and_empty_lines_are_no_data() -> None:
    for events in (b"", b": ping\n\n", b":\n", b"\n\n", b"\r\n: a\r\r: b", b": a\r\n\r\n"):
        assert first_data(events) == -1, events
    assert first_data(b"data: a\n\n") == 0
    assert first_data(b": ping\n\ndata: a\n\n") == 8
    assert first_data(b": ping\r\revent: a\r\r") == 8
    assert first_data(b": data: a\n\n:b\r\nid: 1") == 15
    assert first_data(b" data") == 0


def test_the_unfinished_line_is_what_follows_the_last_line_end() -> None:
    assert unfinished_line(b": ping\n\n") == b""
    assert unfinished_line(b": ping\r: po") == b": po"
    assert unfinished_line(b": pi") == b": pi"
