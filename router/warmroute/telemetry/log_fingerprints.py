"""Log fingerprints say in an access-log line what there is to say of a prompt instead of its text.

`warmroute simulate --access-log` reads them. This module decides how fingerprints leave the router: each rung goes
through a keyed hash that cannot be turned round (BLAKE2b under a key derived from the deployment's secret), so that
lines tell which prompts share how long a prefix and nothing else. The router's own rungs are fast hashes and never
logged: who could send prompts and read theirs might learn the chain's seed. The hashes are equal in all routers and
workers of one secret. This is off the request path's hot part: it is asked once, at a request's end.
"""

from __future__ import annotations

from hashlib import blake2b

from warmroute.core.types import RequestShape

DIGEST_BYTES = 8
"""A rung in the log: 16 hexadecimal digits. 112 rungs at most (64 MiB), so a line grows by at most 1.9 KB."""

_PERSON = b"wr-access-log"


class LogFingerprints:
    """Renders shapes as members of a JSON object."""

    def __init__(self, secret: bytes) -> None:
        key = blake2b(secret, digest_size=32, person=_PERSON).digest()
        self._keyed = blake2b(key=key, digest_size=DIGEST_BYTES)

    def members(self, shape: RequestShape) -> bytes:
        """`prompt_bytes`, `session` and `rungs` with a leading comma, to follow a line's other members."""
        keyed = self._keyed
        digits: list[str] = []
        for rung in shape.rungs:
            digest = keyed.copy()
            digest.update(rung.to_bytes(8, "little"))
            digits.append(digest.hexdigest())
        session = b"null"
        if shape.ring_key != shape.head_key:
            digest = keyed.copy()
            digest.update(b"session" + shape.ring_key.to_bytes(8, "little"))
            session = b'"%b"' % digest.hexdigest().encode()
        return b',"prompt_bytes":%d,"session":%b,"rungs":"%b"' % (
            shape.prompt_bytes,
            session,
            "".join(digits).encode(),
        )
