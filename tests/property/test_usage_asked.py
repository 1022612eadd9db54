"""A client that did not ask for usage never sees that the router did, wherever the network cuts the stream."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.dialects.usage_request import ASKING, asking_at, without_usage_event
from tests.support.recorded import RECORDED
from tests.support.wire import ParsedAnswers, Wire

BODY = b'{"model":"tiny","stream":true,"messages":[{"role":"user","content":"hello"}]}'


@pytest.fixture(scope="module")
def wire() -> Wire:
    return Wire(ask_usage=True)


def recorded_with_usage() -> list[str]:
    """Recorded streams that end with a usage event of their own."""
    return [
        name
        for name, data in RECORDED.items()
        if b'"choices":[]' in data and b"text/event-stream" in data[:400]
    ]


def test_there_are_recorded_streams_with_a_usage_event() -> None:
    assert recorded_with_usage()


def replay(wire: Wire, name: str, cuts: list[int]) -> None:
    recorded = RECORDED[name]
    wire.drop_upstreams()
    connection, transport = wire.add_upstream()
    asking = wire.connect()
    asking.feed(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: r\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
    )
    assert bytes(transport.written).endswith(b"\r\n\r\n{" + ASKING + BODY[1:]), (
        "the engine is asked for usage"
    )
    start = 0
    for end in [*cuts, len(recorded)]:
        if end > start:
            connection.data_received(recorded[start:end])
            start = end
    before, after = ParsedAnswers(recorded).answers[0][2], ParsedAnswers(asking.output).answers[0][2]
    events = [event + b"\n\n" for event in before.split(b"\n\n")[:-1]]
    expected = b"".join(event for event in events if not (b'"choices":[]' in event and b'"usage":{' in event))
    assert after == expected
    assert len(expected) < len(before)
    assert wire.at_rest()
    asking.lose()


@pytest.mark.parametrize("name", recorded_with_usage())
def test_the_usage_event_stays_here_whatever_two_pieces_the_stream_comes_in(wire: Wire, name: str) -> None:
    for cut in range(0, len(RECORDED[name]) + 1, 3):
        replay(wire, name, [cut])
    replay(wire, name, list(range(len(RECORDED[name]))))


@settings(max_examples=200)
@given(st.sampled_from(recorded_with_usage()), st.randoms(use_true_random=False))
def test_the_usage_event_stays_here_in_any_pieces(wire: Wire, name: str, rng: random.Random) -> None:
    size = len(RECORDED[name])
    replay(wire, name, sorted(rng.randrange(size) for _ in range(rng.randrange(12))))


def test_a_client_that_asks_gets_its_usage_event_and_its_body_unchanged(wire: Wire) -> None:
    body = BODY[:-1] + b',"stream_options":{"include_usage":true}}'
    wire.drop_upstreams()
    connection, transport = wire.add_upstream()
    asking = wire.connect()
    asking.feed(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: r\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    assert bytes(transport.written).endswith(b"\r\n\r\n" + body)
    recorded = RECORDED[recorded_with_usage()[0]]
    connection.data_received(recorded)
    assert b'"choices":[]' in asking.output


@given(
    st.dictionaries(st.text(max_size=5), st.integers(), min_size=1, max_size=4),
    st.sampled_from(["", " ", "\n\t "]),
)
def test_a_spliced_body_is_the_same_object_and_asks(fields: dict[str, int], blank: str) -> None:
    body = (blank + json.dumps(fields)).encode()
    at = asking_at(body)
    spliced = json.loads(body[:at] + ASKING + body[at:])
    assert spliced == {"stream_options": {"include_usage": True}, **fields}


@given(st.text())
def test_no_text_of_a_model_is_taken_for_the_usage_event(text: str) -> None:
    hostile = text + '"choices":[],"usage":{"prompt_tokens":1}}'
    event = (
        b"data: "
        + json.dumps({"choices": [{"delta": {"content": hostile}}]}, separators=(",", ":")).encode()
        + b"\n\n"
    )
    assert without_usage_event(event) == event


def test_a_body_without_an_object_is_left_alone() -> None:
    assert asking_at(b"[1]") == -1
    assert asking_at(b"") == -1
