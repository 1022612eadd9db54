"""The packed notice: bytes pinned here are what routers of other versions read and write."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmroute.core.fleet.foreign_load import Load, Notice
from warmroute.core.types import ReplicaId
from warmroute.wire.lease import ENTRY_BYTES, FORMAT, HEADER_BYTES, pack_notice, replica_key, unpack_notice

MOST = Load(2**64 - 1, 65_535, 2**32 - 1, 2**32 - 1, 2**32 - 1, 65_535 * 64, 65_535, 65_535 * 64)
TOO_MUCH = Load(9, 1_000_000, 2**32 + 3, -1, 2**40, 10**9, 10**6, 10**9)
GOLDEN = [
    (Notice(0x0102_0304_0506_0708, 0, True, True, []), "0303010203040506070800000000000000000000"),
    (
        Notice(
            1,
            0xFFFF_FFFF,
            False,
            False,
            [(0x1234_5678_9ABC_DEF0, 3, 70_000, 4_000_000_000, 5_000, 6_400, 70, 4_992)],
        ),
        "03000000000000000001ffffffff000000000000123456789abcdef0000300011170ee6b28000000138800640046004e",
    ),
    (
        Notice(2, 5, True, False, [(1, 0, 0, 7, 0, 0, 0, 0), MOST], held=3, first_ms=-250),
        "03010000000000000002000000050003ffffff06"
        + "00000000000000010000000000000000000700000000000000000000"
        + "f" * 56,
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


@pytest.mark.parametrize(("notice", "packed"), GOLDEN)
def test_golden_notices_pack_and_unpack(notice: Notice, packed: str) -> None:
    raw = pack_notice(
        notice.router,
        notice.number,
        notice.loads,
        whole=notice.whole,
        asking=notice.asking,
        held=notice.held,
        first_ms=notice.first_ms,
    )
    assert raw.hex() == packed
    assert unpack_notice(raw) == notice


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1), st.booleans(), st.booleans(), loads)
def test_any_notice_survives_the_trip(
    router: int, number: int, whole: bool, asking: bool, said: list[Load]
) -> None:
    raw = pack_notice(router, number, said, whole=whole, asking=asking)
    assert len(raw) == HEADER_BYTES + ENTRY_BYTES * len(said)
    assert unpack_notice(raw) == Notice(router, number, whole, asking, said)


@given(st.binary(max_size=100))
def test_any_bytes_are_a_notice_or_none(raw: bytes) -> None:
    fits = len(raw) >= HEADER_BYTES and (len(raw) - HEADER_BYTES) % ENTRY_BYTES == 0 and raw[0] == FORMAT
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
