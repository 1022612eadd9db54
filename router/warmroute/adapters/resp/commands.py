"""Any command is built as the bytes that go to Redis, and a key is told the slot of a Cluster that keeps it.

What the registry sends for each request has encoders of its own (`registry.redis.commands`).
"""

from __future__ import annotations

from binascii import crc_hqx

import hiredis

SLOTS = 16_384
"""Hash slots of a Redis Cluster."""


def pack(*words: str | bytes | int) -> bytes:
    """Any command; for what is not worth its own encoder."""
    command: bytes = hiredis.pack_command(words)  # type: ignore[arg-type]  # its stub describes a tuple of one
    return command


def key_slot(key: bytes) -> int:
    """Cluster slot of a key. Binary keys may hold braces by chance, so the hash-tag rule applies to them too."""
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return crc_hqx(key, 0) % SLOTS
