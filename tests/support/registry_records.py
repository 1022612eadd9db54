"""Records as Redis keeps them, put together as `merge.lua` does."""

from __future__ import annotations

from warmroute.core.types import Record
from warmroute.wire.registry_record import MAX_HOLDERS, pack_entry


def pack_record(record: Record) -> bytes:
    """A record as bytes; only the `MAX_HOLDERS` most recent are kept."""
    return b"".join([pack_entry(incarnation, at_s) for incarnation, at_s in record[-MAX_HOLDERS:]])
