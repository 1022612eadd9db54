"""A notice of load as bytes is what routers of one deployment tell each other about what they have under way.

The header, big endian, has: format (1 byte), flags (1), the router's random id (8), the notice's number (4), the number
of requests held at the router (2), and the order's key of the first of them in ms as of now (4, signed; 0 without one).
Then follow 28 bytes for each replica: xxh3 of its id (8), requests in flight (2), uncached tokens given and tokens
added to its cache since the router's start (4 and 4, wrapping around), prompts that wait or are prefilled in tokens
without context (4), the first of them (2, in steps of 64), for how many ms it has been under way (2), and uncached
tokens of those whose first byte will be heard (2, in steps of 64). What is beyond its field is clamped. A notice of
another format is nobody's: routers of different formats serve side by side and do not count each other's load.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from xxhash import xxh3_64_intdigest

from warmroute.core.fleet.foreign_load import Load, Notice
from warmroute.core.types import ReplicaId

FORMAT = 3

HEADER_BYTES = 20
ENTRY_BYTES = 28

_WHOLE = 1
_ASKING = 2
_HEADER = struct.Struct(">BBQIHi")
_ENTRY = struct.Struct(">QHIIIHHH")
_MAX_IN_FLIGHT = 2**16 - 1
_MAX_WORK_TOKENS = 2**32 - 1
_MAX_FIRST_MS = 2**31 - 1
_STEP_TOKENS = 64
_MAX_STEPS = _MAX_AGE_MS = 2**16 - 1


def replica_key(replica_id: ReplicaId) -> int:
    """What a notice calls a replica: 64 bits."""
    return xxh3_64_intdigest(replica_id.encode())


def pack_notice(
    router: int,
    number: int,
    loads: Iterable[Load],
    *,
    whole: bool,
    asking: bool,
    held: int = 0,
    first_ms: int = 0,
) -> bytes:
    """One notice. `number` counts the router's notices and wraps around."""
    flags = (_WHOLE if whole else 0) | (_ASKING if asking else 0)
    first_ms = max(-_MAX_FIRST_MS, min(first_ms, _MAX_FIRST_MS))
    held = min(held, _MAX_IN_FLIGHT)
    parts = [_HEADER.pack(FORMAT, flags, router, number & 0xFFFF_FFFF, held, first_ms)]
    pack = _ENTRY.pack
    parts += [
        pack(
            key,
            min(in_flight, _MAX_IN_FLIGHT),
            given_tokens & 0xFFFF_FFFF,
            added_tokens & 0xFFFF_FFFF,
            min(work_tokens, _MAX_WORK_TOKENS),
            min(-(-head_tokens // _STEP_TOKENS), _MAX_STEPS),
            min(age_ms, _MAX_AGE_MS),
            min(-(-awaited_tokens // _STEP_TOKENS), _MAX_STEPS),
        )
        for key, in_flight, given_tokens, added_tokens, work_tokens, head_tokens, age_ms, awaited_tokens in loads
    ]
    return b"".join(parts)


def unpack_notice(raw: bytes) -> Notice | None:
    """The notice; `None` for bytes of another format or length."""
    if len(raw) < HEADER_BYTES or (len(raw) - HEADER_BYTES) % ENTRY_BYTES or raw[0] != FORMAT:
        return None
    _, flags, router, number, held, first_ms = _HEADER.unpack_from(raw)
    loads: list[Load] = [
        Load(key, in_flight, given, added, work_tokens, head * _STEP_TOKENS, age_ms, awaited * _STEP_TOKENS)
        for key, in_flight, given, added, work_tokens, head, age_ms, awaited in _ENTRY.iter_unpack(
            raw[HEADER_BYTES:]
        )
    ]
    return Notice(router, number, bool(flags & _WHOLE), bool(flags & _ASKING), loads, held, first_ms)
