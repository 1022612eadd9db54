"""A long body in its place: whole however it is cut, and never with more room than twice what has come."""

from __future__ import annotations

import pytest

from warmroute.dataplane.client_side import ClientSide
from warmroute.dataplane.large_body import FIRST_BYTES, LargeBody, first_bytes

LENGTH = 1_000_003
BODY = bytes(range(251)) * (LENGTH // 251 + 1)


class Client(ClientSide):
    """Has so much room for bodies."""

    def __init__(self, room_bytes: int) -> None:
        super().__init__()
        self.room_bytes = room_bytes
        self.body: bytearray | None = None

    def claim_body(self, size_bytes: int) -> bool:
        if size_bytes > self.room_bytes:
            return False
        self.room_bytes -= size_bytes
        return True

    def large_body_completed(self, body: bytearray) -> None:
        self.body = body


def receive(large: LargeBody, piece: bytes) -> None:
    """As a transport does: into the buffer that it is given, which may be shorter."""
    while piece:
        buffer = large.get_buffer(-1)
        count = min(len(buffer), len(piece))
        assert count > 0
        buffer[:count] = piece[:count]
        large.buffer_updated(count)
        buffer.release()
        piece = piece[count:]


@pytest.mark.parametrize("begun", [0, 100, 200_000])
@pytest.mark.parametrize("step", [1000, 65_536, 300_000])
def test_it_is_whole_and_takes_room_as_it_comes(begun: int, step: int) -> None:
    room_bytes = first_bytes(begun, LENGTH)
    client = Client(LENGTH - room_bytes)
    large = LargeBody(client, [BODY[:begun]] if begun else [], LENGTH, room_bytes)
    for start in range(begun, LENGTH, step):
        assert client.body is None
        receive(large, BODY[start : min(start + step, LENGTH)])
        assert LENGTH - client.room_bytes <= max(FIRST_BYTES, 2 * large.filled)
    assert client.body is not None
    assert bytes(client.body) == BODY[:LENGTH]
    assert client.room_bytes == 0, "all of it is counted, once"


def test_what_comes_behind_a_refusal_takes_no_room() -> None:
    client = Client(0)
    large = LargeBody(client, [], LENGTH, FIRST_BYTES)
    for start in range(0, LENGTH, 50_000):
        receive(large, BODY[start : start + 50_000])
    assert client.body is None
    assert large.filled == FIRST_BYTES
    assert len(large.get_buffer(-1)) == FIRST_BYTES
