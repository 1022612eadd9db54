"""The packed notice: bytes pinned here are what routers of other versions read and write."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmroute.core.fleet.peer_load import Load, Notice
from warmroute.core.types import ReplicaId
from warmroute.wire.load_notice import (
    ENTRY_BYTES,
    FORMAT,
    HEADER_BYTES,
    REUSE_BYTES,
    pack_notice,
    replica_key,
    unpack_notice,
)

MOST = Load(2**64 - 1, 65_535, 2**32 - 1, 2**32 - 1, 2**32 - 1, 65_535 * 64, 65_535, 65_535 * 64)
TOO_MUCH = Load(9, 1_000_000, 2**32 + 3, -1, 2**40, 10**9, 10**6, 10**9)
GOLDEN = [
    (Notice(0x0102_0304_0506_0708, 0, True, True, []), "04030102030405060708000000000000000000000000"),
    (
        Notice(
            1,
            0xFFFF_FFFF,
            False,
            False,
            [(0x1234_5678_9ABC_DEF0, 3, 70_000, 4_000_000_000, 5_000, 6_400, 70, 4_992)],
        ),
        "04000000000000000001ffffffff0000000000000001123456789abcdef0000300011170ee6b28000000138800640046004e",
    ),
    (
        Notice(
            2,
            5,
            True,
            False,
            [(1, 0, 0, 7, 0, 0, 0, 0), MOST],
            held=3,
            first_ms=-250,
            reuses=[(2**64 - 1, 4096, 1 / 16), (1, 2**32 - 1, 63.9375)],
        ),
        "04010000000000000002000000050003ffffff060002"
        + "00000000000000010000000000000000000700000000000000000000"
        + "f" * 56
        + "00010000100007d0"
        + "0000ffffffff4e20",
    ),
]

loads = st.lists(
    st.builds(
        Load,
        st.integers(0, 2**64 - 1),
        st.integers(0, 2**16 - 1),
        st.integers(0, 2**32 - 1),
        st.integers(0, 2**32 - 1),
        st.integers(0, 2**32 - 1),
        st.integers(0, 65_535).map(lambda steps: steps * 64),
        st.integers(0, 65_535),
        st.integers(0, 65_535).map(lambda steps: steps * 64),
    ),
    max_size=20,
)

reuses = st.lists(
    st.tuples(st.integers(0, 19), st.integers(0, 2**32 - 1), st.floats(0.0, 100_000.0)), max_size=20
)


@pytest.mark.parametrize(("notice", "packed"), GOLDEN)
def test_golden_notices_pack_and_unpack(notice: Notice, packed: str) -> None:
    raw = pack_notice(
        notice.router,
        notice.number,
        notice.loads,
        [(1 if key == MOST.key else 0, tokens, age_s) for key, tokens, age_s in notice.reuses],
        whole=notice.whole,
        asking=notice.asking,
        held=notice.held,
        first_ms=notice.first_ms,
    )
    assert raw.hex() == packed
    assert unpack_notice(raw) == notice._replace(reuses=list(notice.reuses))


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1), st.booleans(), st.booleans(), loads, reuses)
def test_any_notice_survives_the_trip(
    router: int,
    number: int,
    whole: bool,
    asking: bool,
    said: list[Load],
    used: list[tuple[int, int, float]],
) -> None:
    used = [(index % len(said), tokens, age_s) for index, tokens, age_s in used] if said else []
    raw = pack_notice(router, number, said, used, whole=whole, asking=asking)
    assert len(raw) == HEADER_BYTES + ENTRY_BYTES * len(said) + REUSE_BYTES * len(used)
    heard = unpack_notice(raw)
    assert heard is not None
    assert heard._replace(reuses=()) == Notice(router, number, whole, asking, said)
    assert [(key, tokens) for key, tokens, _ in heard.reuses] == [
        (said[i].key, tokens) for i, tokens, _ in used
    ]
    for (_, _, before_s), (_, _, after_s) in zip(used, heard.reuses, strict=True):
        assert abs(after_s - before_s) <= 0.0002 * (before_s + 1 / 16)


@given(st.binary(max_size=100))
def test_any_bytes_are_a_notice_or_none(raw: bytes) -> None:
    fits = len(raw) >= HEADER_BYTES and raw[0] == FORMAT
    if fits:
        rest = len(raw) - HEADER_BYTES - ENTRY_BYTES * int.from_bytes(raw[HEADER_BYTES - 2 : HEADER_BYTES])
        fits = rest >= 0 and rest % REUSE_BYTES == 0
    assert (unpack_notice(raw) is not None) == fits


def test_counts_beyond_their_field_are_clamped_and_running_totals_wrap() -> None:
    raw = pack_notice(1, 2**32 + 4, [TOO_MUCH], whole=False, asking=False, held=1_000_000, first_ms=-(10**12))
    heard = unpack_notice(raw)
    assert heard is not None
    assert heard.number == 4
    assert (heard.held, heard.first_ms) == (65_535, -(2**31 - 1))
    assert heard.loads == [(9, 65_535, 3, 2**32 - 1, 2**32 - 1, 65_535 * 64, 65_535, 65_535 * 64)]


def test_a_replica_is_called_the_same_by_every_version() -> None:
    assert replica_key(ReplicaId("10.0.0.1:8000")) == 0xB11B_D3B3_7E70_3127
    assert replica_key(ReplicaId("größe:1")) < 2**64
