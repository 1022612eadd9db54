"""The event gate loses, changes and reorders nothing, however a stream is cut."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from warmroute.dialects.sse import MAX_KEPT_BACK_BYTES, EventGate

STREAMS = st.lists(
    st.sampled_from(
        [
            b"\n",
            b"\r",
            b"\n\n",
            b"\r\n\r\n",
            b"data: {}",
            b"event: x",
            "data: 🙂".encode(),
            b": c",
            b"x" * 40_000,
        ]
    ),
    max_size=12,
).map(b"".join)
ENDS = (b"\n\n", b"\r\n\r\n", b"\r\r")


@given(STREAMS, st.lists(st.integers(0, 10_000), max_size=8))
def test_what_comes_out_is_what_went_in(stream: bytes, steps: list[int]) -> None:
    gate = EventGate()
    out = b""
    fed = 0
    for step in [*steps, len(stream)]:
        out += gate.feed(stream[fed : fed + step])
        fed = min(fed + step, len(stream))
        assert stream.startswith(out)
        assert fed - len(out) <= MAX_KEPT_BACK_BYTES
        assert not gate.at_boundary or not out or out.endswith(ENDS)
    assert out + gate.flush() == stream
    assert gate.flush() == b""


@given(STREAMS.filter(lambda stream: len(stream) < 2000))
def test_byte_by_byte_and_whole_let_the_same_through(stream: bytes) -> None:
    whole, single = EventGate(), EventGate()
    at_once = whole.feed(stream)
    one_by_one = b"".join(single.feed(stream[at : at + 1]) for at in range(len(stream)))
    assert at_once.startswith(one_by_one)
    assert not at_once[len(one_by_one) :].strip(b"\r\n"), "they differ by more than line ends after an event"
    last = max((stream.rfind(end) + len(end) for end in ENDS if end in stream), default=0)
    assert len(at_once) == last
