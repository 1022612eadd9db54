"""Registry commands as the bytes that go to Redis, built for CPU: a few C calls for all keys of a request.

Keys are `<namespace>:` followed by 8 bytes of rung, big endian; `<namespace>:r:` and 16 bytes for a stored response;
`<namespace>:secret`. The lengths differ, so the three never meet.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from math import inf

from warmroute.adapters.resp.commands import pack
from warmroute.core.types import FingerprintHash, Incarnation
from warmroute.wire.registry_record import pack_entry, pack_incarnation, pack_time

_CHUNK = 256
"""Keys packed at once: bounds the number of prepared packers."""


class Commands:
    """Commands of one namespace.

    Args:
        namespace: Prefix of every key, so that deployments can share a Redis.
        script: Source of `merge.lua`.
        keeps: A note never shortens a record's lifetime.
    """

    def __init__(self, namespace: str, script: bytes, keeps: bool = False) -> None:
        prefix = namespace.encode() + b":"
        key_bytes = len(prefix) + 8
        self.script = script
        self.sha = hashlib.sha1(script, usedforsecurity=False).hexdigest().encode()
        self.secret_key = prefix + b"secret"
        self._prefix = prefix
        self._response_prefix = prefix + b"r:"
        self._join = b"\r\n$%d\r\n%b" % (key_bytes, prefix)
        self._get_join = b"\r\n*2\r\n$3\r\nGET" + self._join
        self._keeps = keeps
        self._packers: dict[int, tuple[struct.Struct, struct.Struct]] = {}

    def mget(self, rungs: Sequence[FingerprintHash]) -> bytes:
        """One command, one reply: a list as long as `rungs`, which must not be empty."""
        return b"*%d\r\n$4\r\nMGET%b\r\n" % (len(rungs) + 1, self._keys(rungs, self._join))

    def gets(self, rungs: Sequence[FingerprintHash]) -> bytes:
        """As many commands and replies as rungs: what a Cluster's node answers whatever the keys' slots."""
        return self._keys(rungs, self._get_join)[2:] + b"\r\n"

    def note(
        self, rungs: Sequence[FingerprintHash], incarnation: Incarnation, at_s: float, idle_ms: int
    ) -> bytes:
        """Note a holder on each rung: one command, one reply."""
        lifetime = b"%d" % idle_ms
        return b"*%d\r\n$7\r\nEVALSHA\r\n$40\r\n%b\r\n%b%b\r\n$10\r\n%b\r\n$%d\r\n%b\r\n%b" % (
            len(rungs) + (6 if self._keeps else 5),
            self.sha,
            _bulk(b"%d" % len(rungs)),
            self._keys(rungs, self._join),
            pack_entry(incarnation, at_s),
            len(lifetime),
            lifetime,
            b"$1\r\n1\r\n" if self._keeps else b"",
        )

    def withdraw(
        self, rungs: Sequence[FingerprintHash], incarnation: Incarnation, until_s: float = inf
    ) -> bytes:
        """Withdraw a holder from each rung where it was not noted later: one command, one reply."""
        return b"*%d\r\n$7\r\nEVALSHA\r\n$40\r\n%b\r\n%b%b\r\n$6\r\n%b\r\n$4\r\n%b\r\n" % (
            len(rungs) + 5,
            self.sha,
            _bulk(b"%d" % len(rungs)),
            self._keys(rungs, self._join),
            pack_incarnation(incarnation),
            pack_time(until_s),
        )

    def load_script(self) -> bytes:
        """Teach a server the script: one reply."""
        return pack("SCRIPT", "LOAD", self.script)

    def response_key(self, digest: bytes) -> bytes:
        """Key of a stored response."""
        return self._response_prefix + digest

    def rung_key(self, rung: FingerprintHash) -> bytes:
        """Key of one rung, for its slot."""
        return self._prefix + rung.to_bytes(8, "big")

    def _keys(self, rungs: Sequence[FingerprintHash], join: bytes) -> bytes:
        parts: list[bytes] = [b""]
        for start in range(0, len(rungs), _CHUNK):
            chunk = rungs[start : start + _CHUNK] if len(rungs) > _CHUNK else rungs
            count = len(chunk)
            packers = self._packers.get(count)
            if packers is None:
                packers = self._packers[count] = struct.Struct(f">{count}Q"), struct.Struct("8s" * count)
            parts += packers[1].unpack(packers[0].pack(*chunk))
        return join.join(parts)


def _bulk(word: bytes) -> bytes:
    return b"$%d\r\n%b" % (len(word), word)
