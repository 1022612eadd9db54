"""A notice of load as bytes is what routers of one deployment tell each other about what they have under way.

The header, big endian, has: format (1 byte), flags (1), the router's random id (8), the notice's number (4), the number
of requests held at the router (2), the order's key of the first of them in ms as of now (4, signed; 0 without one), the
number of replicas that follow (2), and that of tenants behind them (2). Each replica has 26 bytes: xxh3 of its id (8),
requests in flight (2), uncached tokens given since the router's start (4, wrapping around), prompts that wait or are
prefilled in tokens without context (4), the first of them (2, in steps of 64), for how many ms it has been under way
(2), uncached tokens of those whose first byte will be heard (2, in steps of 64), and what is held at the router and
meant for it, in tokens without context (2, in steps of 64). Each tenant has 12: xxh3 of its
name (8), and tokens that the router served it since its last notice (4, signed).

Then follow 11 bytes for each use of a cache, in their order: which of the replicas (2), the kind (1, see
`core.beliefs.cache_event`), tokens (4, signed), how long ago (2, in steps of a two-thousandth of an octave, from 1/16 s
on), and the request's serial (2). A use's parts stand behind it, each as a use of kind 255, whose time is when it was
last used. What is beyond its field is clamped. A notice of another format is nobody's: routers of different formats
serve side by side and do not count each other's load.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from math import log2

from xxhash import xxh3_64_intdigest

from warmroute.core.beliefs.cache_event import ADDED, KINDS, CacheEvent
from warmroute.core.fleet.peer_load import Load, Notice
from warmroute.core.types import ReplicaId

FORMAT = 6

HEADER_BYTES = 24
ENTRY_BYTES = 26
SHARE_BYTES = 12
USE_BYTES = 11

_WHOLE = 1
_ASKING = 2
_HEADER = struct.Struct(">BBQIHiHH")
_ENTRY = struct.Struct(">QHIIHHHH")
_SHARE = struct.Struct(">Qi")
_USE = struct.Struct(">HBiHH")
_PART = 255
_MAX_ENTRIES = 2**16 - 1
_AGE_UNIT_S = 1.0 / 16.0
_AGE_STEPS = 2000.0
"""An octave."""
_MAX_IN_FLIGHT = 2**16 - 1
_MAX_WORK_TOKENS = 2**32 - 1
_MAX_USE_TOKENS = 2**31 - 1
_MAX_FIRST_MS = 2**31 - 1
_STEP_TOKENS = 64
_MAX_STEPS = _MAX_AGE_MS = 2**16 - 1


def replica_key(replica_id: ReplicaId) -> int:
    """What a notice calls a replica: 64 bits."""
    return xxh3_64_intdigest(replica_id.encode())


def pack_notice(
    router: int,
    number: int,
    loads: Sequence[Load],
    uses: Iterable[tuple[int, CacheEvent]] = (),
    shares: Sequence[tuple[int, int]] = (),
    *,
    whole: bool,
    asking: bool,
    held: int = 0,
    first_ms: int = 0,
    now_s: float = 0.0,
) -> bytes:
    """One notice.

    Args:
        number: Counts the router's notices and wraps around.
        loads: At most 65,535; those beyond are left out.
        uses: Index in `loads`, and the use.
        shares: Of tenants, the key and tokens served since the last notice.
        now_s: By the clock of the uses' times.
    """
    flags = (_WHOLE if whole else 0) | (_ASKING if asking else 0)
    first_ms = max(-_MAX_FIRST_MS, min(first_ms, _MAX_FIRST_MS))
    held = min(held, _MAX_IN_FLIGHT)
    loads = loads[:_MAX_ENTRIES]
    parts = [
        _HEADER.pack(FORMAT, flags, router, number & 0xFFFF_FFFF, held, first_ms, len(loads), len(shares))
    ]
    pack = _ENTRY.pack
    parts += [
        pack(
            key,
            min(in_flight, _MAX_IN_FLIGHT),
            given_tokens & 0xFFFF_FFFF,
            min(work_tokens, _MAX_WORK_TOKENS),
            min(-(-head_tokens // _STEP_TOKENS), _MAX_STEPS),
            min(age_ms, _MAX_AGE_MS),
            min(-(-awaited_tokens // _STEP_TOKENS), _MAX_STEPS),
            min(-(-held_tokens // _STEP_TOKENS), _MAX_STEPS),
        )
        for key, in_flight, given_tokens, work_tokens, head_tokens, age_ms, awaited_tokens, held_tokens in loads
    ]
    parts += [_SHARE.pack(key, max(-_MAX_FIRST_MS, min(tokens, _MAX_FIRST_MS))) for key, tokens in shares]
    for index, use in uses:
        if index < len(loads):
            parts.append(_pack_use(index, use.kind, use.tokens, now_s - use.at_s, use.serial))
            parts += [_pack_use(index, _PART, tokens, now_s - used_s, 0) for tokens, used_s in use.parts]
    return b"".join(parts)


def unpack_notice(raw: bytes) -> Notice | None:
    """The notice; `None` for bytes of another format or length."""
    if len(raw) < HEADER_BYTES or raw[0] != FORMAT:
        return None
    _, flags, router, number, held, first_ms, entries, tenants = _HEADER.unpack_from(raw)
    shares_at = HEADER_BYTES + entries * ENTRY_BYTES
    end = shares_at + tenants * SHARE_BYTES
    if len(raw) < end or (len(raw) - end) % USE_BYTES:
        return None
    loads: list[Load] = [
        Load(
            key,
            in_flight,
            given,
            work_tokens,
            head * _STEP_TOKENS,
            age_ms,
            awaited * _STEP_TOKENS,
            waits * _STEP_TOKENS,
        )
        for key, in_flight, given, work_tokens, head, age_ms, awaited, waits in _ENTRY.iter_unpack(
            raw[HEADER_BYTES:shares_at]
        )
    ]
    shares = tuple(_SHARE.iter_unpack(raw[shares_at:end]))
    uses = _unpack_uses(raw[end:], loads)
    return Notice(
        router, number, bool(flags & _WHOLE), bool(flags & _ASKING), loads, held, first_ms, uses, shares
    )


def _pack_use(index: int, kind: int, tokens: int, age_s: float, serial: int) -> bytes:
    tokens = max(-_MAX_USE_TOKENS, min(tokens, _MAX_USE_TOKENS))
    return _USE.pack(index, kind, tokens, _age_code(age_s), serial)


def _unpack_uses(raw: bytes, loads: Sequence[Load]) -> list[tuple[int, CacheEvent]]:
    """Times count from the notice. What names no replica, or is of an unknown kind, is left out with its parts."""
    uses: list[tuple[int, CacheEvent]] = []
    known = False
    parts: list[tuple[int, float]] = []
    for index, kind, tokens, age_code, serial in _USE.iter_unpack(raw):
        at_s = -_AGE_UNIT_S * (2.0 ** (age_code / _AGE_STEPS) - 1.0)
        if kind == _PART:
            if known:
                parts.append((max(tokens, 0), at_s))
            continue
        known = kind < KINDS and index < len(loads)
        if known:
            parts = []
            if kind != ADDED:
                tokens = max(tokens, 0)
            uses.append((loads[index].key, CacheEvent(kind, serial, tokens, at_s, parts)))
    return uses


def _age_code(age_s: float) -> int:
    return min(round(_AGE_STEPS * log2(1.0 + max(age_s, 0.0) / _AGE_UNIT_S)), _MAX_STEPS)
