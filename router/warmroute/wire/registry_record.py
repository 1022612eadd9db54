"""A registry record as bytes is what routers of one deployment leave for each other under a rung's key.

It has up to `MAX_HOLDERS` entries of 10 bytes, the most recent last: 6 bytes of incarnation, then 4 bytes of time in
tenths of a second since 2026-01-01 UTC, both big endian. The server-side script `merge.lua` edits the same format, so a
change of it is a change of both, and of the keys' namespace. This module decides nothing about expiry beyond dropping
what the caller calls too old.
"""

from __future__ import annotations

import struct

from warmroute.core.types import Holder, Incarnation, Record

EPOCH_S = 1_767_225_600
"""2026-01-01 00:00 UTC as Unix seconds; 4 bytes of tenths last until 2039."""

MAX_HOLDERS = 16
"""Holders kept per rung. More replicas than this holding one prefix means that any choice is a warm one."""

ENTRY_BYTES = 10

_ENTRY = struct.Struct(">HII")
_MAX_TENTHS = 2**32 - 1


def pack_incarnation(incarnation: Incarnation) -> bytes:
    """The 6 bytes that name a holder.

    Raises:
        OverflowError: The incarnation does not fit 48 bits.
    """
    return incarnation.to_bytes(6, "big")


def pack_entry(incarnation: Incarnation, at_s: float) -> bytes:
    """One holder as 10 bytes; times outside the format's range are clamped to it."""
    return pack_incarnation(incarnation) + pack_time(at_s)


def pack_time(at_s: float) -> bytes:
    """A time as the 4 bytes of an entry; infinity is the last there is."""
    return int(min(max((at_s - EPOCH_S) * 10, 0), _MAX_TENTHS)).to_bytes(4, "big")


def stored_time(at_s: float) -> float:
    """What `unpack_record` makes of this time."""
    return EPOCH_S + int.from_bytes(pack_time(at_s), "big") / 10


def unpack_record(raw: bytes, oldest_s: float) -> Record | None:
    """The record's holders no older than `oldest_s`, in stored order.

    Returns `None` when none is left, and for bytes that are no record: a foreign value under our key is as good as
    nobody known.
    """
    if len(raw) % ENTRY_BYTES:
        return None
    holders: list[Holder] = []
    for high, low, tenths in _ENTRY.iter_unpack(raw[-MAX_HOLDERS * ENTRY_BYTES :]):
        at_s = EPOCH_S + tenths / 10
        if at_s >= oldest_s:
            holders.append((Incarnation(high << 32 | low), at_s))
    return tuple(holders) or None
