"""Replies reach their askers in order, however the bytes arrive."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from warmroute.adapters.resp.pipe import Pipe, Replies

REPLIES = b"*2\r\n$3\r\nabc\r\n$-1\r\n:7\r\n$2\r\nok\r\n$-1\r\n-ERR no\r\n*0\r\n"


class FakeTransport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.aborted = False

    def write(self, data: Any) -> None:
        self.written.append(data)

    def abort(self) -> None:
        self.aborted = True


def made_pipe() -> tuple[Pipe, FakeTransport, list[Pipe]]:
    lost: list[Pipe] = []
    loop: Any = None
    pipe = Pipe(("h", 1), loop, lost.append)
    transport = FakeTransport()
    pipe.connection_made(transport)
    return pipe, transport, lost


def check(pieces: list[bytes]) -> None:
    pipe, transport, lost = made_pipe()
    told: list[Replies | None] = []
    for count in (1, 3, 2):
        pipe.send(b"x", count, told.append)
    for piece in pieces:
        pipe.data_received(piece)
    assert told[:2] == [[[b"abc", None]], [7, b"ok", None]]
    assert told[2] is not None
    assert [str(told[2][0]), told[2][1]] == ["ERR no", []]
    assert transport.written == [b"x"] * 3
    assert not lost


def test_replies_arrive_whole() -> None:
    check([REPLIES])


def test_replies_arrive_byte_by_byte() -> None:
    check([REPLIES[at : at + 1] for at in range(len(REPLIES))])


@given(st.lists(st.integers(0, len(REPLIES)), max_size=6))
def test_replies_arrive_in_any_pieces(cuts: list[int]) -> None:
    bounds = [0, *sorted(cuts), len(REPLIES)]
    check([REPLIES[start:end] for start, end in zip(bounds, bounds[1:], strict=False)])


def test_a_lost_connection_is_told_to_every_asker_once_then_to_the_owner() -> None:
    pipe, _, lost = made_pipe()
    told: list[Replies | None] = []
    pipe.send(b"x", 1, told.append)
    pipe.send(b"x", 2, told.append)
    pipe.data_received(b":1\r\n:2\r\n")
    pipe.connection_lost(None)
    pipe.connection_lost(None)
    assert told == [[1], None]
    assert lost == [pipe]
    assert not pipe.open


def test_what_redis_would_never_say_closes_the_connection() -> None:
    pipe, transport, lost = made_pipe()
    told: list[Replies | None] = []
    pipe.send(b"x", 1, told.append)
    pipe.data_received(b"HTTP/1.1 400 Bad Request\r\n")
    assert told == [None]
    assert transport.aborted
    assert lost == [pipe]


def test_closing_while_replies_are_handed_out_ends_the_handing_out() -> None:
    pipe, _, lost = made_pipe()
    told: list[Replies | None] = []

    def close(replies: Replies | None) -> None:
        told.append(replies)
        pipe.close()

    pipe.send(b"x", 1, close)
    pipe.send(b"x", 1, told.append)
    pipe.data_received(b":1\r\n:2\r\n")
    assert told == [[1], None]
    assert lost == [pipe]


def test_a_map_whose_keys_are_no_values_ends_the_connection_and_nothing_else() -> None:
    pipe, transport, lost = made_pipe()
    told: list[Replies | None] = []
    pipe.send(b"x", 1, told.append)
    pipe.data_received(b"%1\r\n~1\r\n:1\r\n:2\r\n")
    assert told == [None]
    assert transport.aborted
    assert lost == [pipe]


def test_such_a_map_behind_the_last_answer_is_no_trouble_either() -> None:
    pipe, _, lost = made_pipe()
    told: list[Replies | None] = []
    pipe.send(b"x", 1, told.append)
    pipe.data_received(b":1\r\n%1\r\n~1\r\n:1\r\n:2\r\n")
    pipe.close()
    assert told == [[1]]
    assert lost == [pipe]
