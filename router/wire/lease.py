"""A notice of load as bytes: what routers of one deployment tell each other about what they have under way.

Header, big endian: format (1 byte), flags (1), the router's random id (8), the notice's number (4). Then 18 bytes a
replica: xxh3 of its id (8), requests in flight (2), uncached tokens waiting (4), uncached tokens given since the
router's start (4, wraps around). Counts beyond their field are clamped. A notice of another format is nobody's: routers
of different formats serve side by side and do not count each other's load.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import cast

from xxhash import xxh3_64_intdigest

from router.core.foreign_load import Load, Notice
from router.core.types import ReplicaId

FORMAT = 1

HEADER_BYTES = 14
ENTRY_BYTES = 18

_WHOLE = 1
_ASKING = 2
_HEADER = struct.Struct(">BBQI")
_ENTRY = struct.Struct(">QHII")
_MAX_IN_FLIGHT = 2**16 - 1
_MAX_TOKENS = 2**32 - 1


def replica_key(replica_id: ReplicaId) -> int:
    """What a notice calls a replica: 64 bits."""
    return xxh3_64_intdigest(replica_id.encode())


def pack_notice(router: int, number: int, loads: Iterable[Load], *, whole: bool, asking: bool) -> bytes:
    """One notice. `number` counts the router's notices and wraps around."""
    flags = (_WHOLE if whole else 0) | (_ASKING if asking else 0)
    parts = [_HEADER.pack(FORMAT, flags, router, number & 0xFFFF_FFFF)]
    pack = _ENTRY.pack
    parts += [
        pack(
            key,
            min(in_flight, _MAX_IN_FLIGHT),
            min(waiting_tokens, _MAX_TOKENS),
            given_tokens & 0xFFFF_FFFF,
        )
        for key, in_flight, waiting_tokens, given_tokens in loads
    ]
    return b"".join(parts)


def unpack_notice(raw: bytes) -> Notice | None:
    """The notice; `None` for bytes of another format or length."""
    if len(raw) < HEADER_BYTES or (len(raw) - HEADER_BYTES) % ENTRY_BYTES or raw[0] != FORMAT:
        return None
    _, flags, router, number = _HEADER.unpack_from(raw)
    loads = cast(list[Load], list(_ENTRY.iter_unpack(raw[HEADER_BYTES:])))
    return Notice(router, number, bool(flags & _WHOLE), bool(flags & _ASKING), loads)
