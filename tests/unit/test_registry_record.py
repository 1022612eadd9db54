"""The packed record: bytes pinned here are what routers of other versions read and write."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.registry_records import pack_record
from warmroute.core.types import Incarnation, Record
from warmroute.wire.registry_record import (
    EPOCH_S,
    MAX_HOLDERS,
    pack_entry,
    pack_incarnation,
    unpack_record,
)

GOLDEN = [
    (((0x0000_0000_0001, EPOCH_S + 0.0),), "00000000000100000000"),
    (((0xFFFF_FFFF_FFFF, EPOCH_S + 429_496_729.5),), "ffffffffffffffffffff"),
    (
        ((0x1234_5678_9ABC, EPOCH_S + 10.5), (0x0000_0000_0002, EPOCH_S + 26_000_000.0)),
        "123456789abc000000690000000000020f7f4900",
    ),
]

holders = st.tuples(
    st.integers(0, 2**48 - 1).map(Incarnation),
    st.integers(0, 2**32 - 1).map(lambda tenths: EPOCH_S + tenths / 10),
)


def golden(index: int) -> tuple[Record, bytes]:
    record, packed = GOLDEN[index]
    return tuple((Incarnation(number), at_s) for number, at_s in record), bytes.fromhex(packed)


@pytest.mark.parametrize("index", range(len(GOLDEN)))
def test_golden_records_pack_and_unpack(index: int) -> None:
    record, packed = golden(index)
    assert pack_record(record) == packed
    assert unpack_record(packed, 0.0) == record


@given(st.lists(holders, min_size=1, max_size=MAX_HOLDERS))
def test_any_record_survives_the_trip_to_a_tenth_of_a_second(record: list[tuple[Incarnation, float]]) -> None:
    found = unpack_record(pack_record(tuple(record)), 0.0)
    assert found is not None
    assert [number for number, _ in found] == [number for number, _ in record]
    assert all(abs(one[1] - other[1]) <= 0.1 for one, other in zip(found, record, strict=True))


@given(st.lists(holders, min_size=MAX_HOLDERS + 1, max_size=40))
def test_of_too_many_holders_the_most_recent_are_kept(record: list[tuple[Incarnation, float]]) -> None:
    found = unpack_record(pack_record(tuple(record)), 0.0)
    assert found is not None
    assert [number for number, _ in found] == [number for number, _ in record[-MAX_HOLDERS:]]


@given(st.binary(max_size=400))
def test_any_bytes_are_a_record_or_nobody(raw: bytes) -> None:
    record = unpack_record(raw, 0.0)
    assert (record is None) == (len(raw) % 10 != 0 or not raw)
    assert record is None or len(record) <= MAX_HOLDERS


def test_holders_that_are_too_old_are_left_out() -> None:
    record, packed = golden(2)
    assert unpack_record(packed, EPOCH_S + 11.0) == record[1:]
    assert unpack_record(packed, EPOCH_S + 27_000_000.0) is None


def test_times_outside_the_format_are_clamped_and_incarnations_refused() -> None:
    assert pack_entry(Incarnation(1), 0.0).hex() == "00000000000100000000"
    assert pack_entry(Incarnation(1), 1e12).hex() == "000000000001ffffffff"
    with pytest.raises(OverflowError):
        pack_incarnation(Incarnation(2**48))
