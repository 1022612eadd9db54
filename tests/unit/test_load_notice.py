"""The packed notice: bytes pinned here are what routers of other versions read and write."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmroute.core.beliefs.cache_event import ADDED, BEGUN, COMPUTED, KINDS, CacheEvent
from warmroute.core.fleet.peer_load import Load, Notice
from warmroute.core.types import ReplicaId
from warmroute.wire.load_notice import (
    ENTRY_BYTES,
    FORMAT,
    HEADER_BYTES,
    SHARE_BYTES,
    USE_BYTES,
    pack_notice,
    replica_key,
    unpack_notice,
)

MOST = Load(2**64 - 1, 65_535, 2**32 - 1, 2**32 - 1, 65_535 * 64, 65_535, 65_535 * 64, 65_535 * 64)
TOO_MUCH = Load(9, 1_000_000, 2**32 + 3, 2**40, 10**9, 10**6, 10**9, 10**9)
GOLDEN = [
    (Notice(0x0102_0304_0506_0708, 0, True, True, []), "060301020304050607080000000000000000000000000000"),
    (
        Notice(
            1,
            0xFFFF_FFFF,
            False,
            False,
            [Load(0x1234_5678_9ABC_DEF0, 3, 70_000, 5_000, 6_400, 70, 4_992, 192)],
        ),
        "06000000000000000001ffffffff00000000000000010000123456789abcdef00003000111700000138800640046004e0003",
    ),
    (
        Notice(
            2,
            5,
            True,
            False,
            [Load(1, 0, 0, 0, 0, 0, 0), MOST],
            held=3,
            first_ms=-250,
            uses=[
                (MOST.key, CacheEvent(BEGUN, 7, 5_000, -1 / 16, [(4_096, -63.9375), (16, 0.0)])),
                (1, CacheEvent(ADDED, 0, -2, 0.0, [])),
                (MOST.key, CacheEvent(COMPUTED, 65_535, 0, 0.0, [])),
            ],
            shares=((7, 1000), (2**64 - 1, -5)),
        ),
        "06010000000000000002000000050003ffffff0600020002"
        + "0000000000000001000000000000000000000000000000000000"
        + "f" * 52
        + "0000000000000007000003e8"
        + "fffffffffffffffffffffffb"
        + "00010000001388"
        + "07d00007"
        + "0001ff00001000"
        + "4e200000"
        + "0001ff00000010"
        + "00000000"
        + "000003fffffffe"
        + "00000000"
        + "00010100000000"
        + "0000ffff",
    ),
]

loads = st.lists(
    st.builds(
        Load,
        st.integers(0, 2**64 - 1),
        st.integers(0, 2**16 - 1),
        st.integers(0, 2**32 - 1),
        st.integers(0, 2**32 - 1),
        st.integers(0, 65_535).map(lambda steps: steps * 64),
        st.integers(0, 65_535),
        st.integers(0, 65_535).map(lambda steps: steps * 64),
        st.integers(0, 65_535).map(lambda steps: steps * 64),
    ),
    max_size=20,
)

ages = st.floats(0.0, 100_000.0).map(float.__neg__)
uses = st.lists(
    st.tuples(
        st.integers(0, 19),
        st.builds(
            CacheEvent,
            st.integers(0, KINDS - 1),
            st.integers(0, 2**16 - 1),
            st.integers(0, 2**31 - 1),
            ages,
            st.lists(st.tuples(st.integers(0, 2**31 - 1), ages), max_size=3),
        ),
    ),
    max_size=20,
)


@pytest.mark.parametrize(("notice", "packed"), GOLDEN)
def test_golden_notices_pack_and_unpack(notice: Notice, packed: str) -> None:
    raw = pack_notice(
        notice.router,
        notice.number,
        notice.loads,
        [(1 if key == MOST.key else 0, use) for key, use in notice.uses],
        notice.shares,
        whole=notice.whole,
        asking=notice.asking,
        held=notice.held,
        first_ms=notice.first_ms,
    )
    assert raw.hex() == packed
    assert unpack_notice(raw) == notice._replace(uses=list(notice.uses))


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1), st.booleans(), st.booleans(), loads, uses)
def test_any_notice_survives_the_trip(
    router: int,
    number: int,
    whole: bool,
    asking: bool,
    said: list[Load],
    used: list[tuple[int, CacheEvent]],
) -> None:
    used = [(index % len(said), use) for index, use in used] if said else []
    raw = pack_notice(router, number, said, used, whole=whole, asking=asking)
    records = sum(1 + len(use.parts) for _, use in used)
    assert len(raw) == HEADER_BYTES + ENTRY_BYTES * len(said) + USE_BYTES * records
    heard = unpack_notice(raw)
    assert heard is not None
    assert heard._replace(uses=()) == Notice(router, number, whole, asking, said)
    assert [key for key, _ in heard.uses] == [said[index].key for index, _ in used]
    for (_, before), (_, after) in zip(used, heard.uses, strict=True):
        assert after[:3] == before[:3]
        assert near(before.at_s, after.at_s)
        for (tokens, before_s), (heard_tokens, after_s) in zip(before.parts, after.parts, strict=True):
            assert heard_tokens == tokens
            assert near(before_s, after_s)


def near(before_s: float, after_s: float) -> bool:
    """Whether a time has come through as well as its field allows."""
    return abs(after_s - before_s) <= 0.0002 * (1 / 16 - before_s)


def test_uses_of_kinds_that_are_not_known_are_left_out_with_their_parts() -> None:
    said = [Load(7, 1, 0, 0, 0, 0, 0)]
    used = [
        (0, CacheEvent(KINDS, 1, 9, 0.0, [(3, 0.0)])),
        (0, CacheEvent(ADDED, 0, 5, 0.0)),
        (1, CacheEvent(ADDED, 0, 6, 0.0)),
    ]
    heard = unpack_notice(pack_notice(1, 1, said, used, whole=False, asking=False))
    assert heard is not None
    assert heard.uses == [(7, CacheEvent(ADDED, 0, 5, 0.0, []))]


@given(st.binary(max_size=100))
def test_any_bytes_are_a_notice_or_none(raw: bytes) -> None:
    fits = len(raw) >= HEADER_BYTES and raw[0] == FORMAT
    if fits:
        entries, tenants = (
            int.from_bytes(raw[HEADER_BYTES - back : HEADER_BYTES - back + 2]) for back in (4, 2)
        )
        rest = len(raw) - HEADER_BYTES - ENTRY_BYTES * entries - SHARE_BYTES * tenants
        fits = rest >= 0 and rest % USE_BYTES == 0
    assert (unpack_notice(raw) is not None) == fits


def test_counts_beyond_their_field_are_clamped_and_running_totals_wrap() -> None:
    raw = pack_notice(1, 2**32 + 4, [TOO_MUCH], whole=False, asking=False, held=1_000_000, first_ms=-(10**12))
    heard = unpack_notice(raw)
    assert heard is not None
    assert heard.number == 4
    assert (heard.held, heard.first_ms) == (65_535, -(2**31 - 1))
    assert heard.loads == [(9, 65_535, 3, 2**32 - 1, 65_535 * 64, 65_535, 65_535 * 64, 65_535 * 64)]


def test_a_replica_is_called_the_same_by_every_version() -> None:
    assert replica_key(ReplicaId("10.0.0.1:8000")) == 0xB11B_D3B3_7E70_3127
    assert replica_key(ReplicaId("größe:1")) < 2**64
