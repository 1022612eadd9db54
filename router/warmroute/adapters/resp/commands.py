"""Any command is built as the bytes that go to Redis, and a key is told the slot of a Cluster that keeps it.

What the registry sends for each request has encoders of its own (`registry.redis.commands`).
"""

from __future__ import annotations

from binascii import crc_hqx
from typing import Any, cast

import hiredis

SLOTS = 16_384
"""Hash slots of a Redis Cluster."""


def pack(*words: str | bytes | int) -> bytes:
    """Any command; for what is not worth its own encoder."""
    # Its stub describes a tuple of one; a cast, since what compiles this need not have the stub.
    command: bytes = hiredis.pack_command(cast("Any", words))
    return command


def key_slot(key: bytes) -> int:
    """Cluster slot of a key. Binary keys may hold braces by chance, so the hash-tag rule applies to them too."""
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return crc_hqx(key, 0) % SLOTS
