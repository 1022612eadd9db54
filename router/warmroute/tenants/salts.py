"""The `cache_salt` that keeps a tenant's cached prefixes its own, and how it gets into a request's body.

A salt is made of the deployment's secret, the tenant's group and the salt that the client itself may have sent, so that
nobody who has not the secret can make another's. It is written behind all that the client wrote: of two equal keys in
an object JSON readers take the last (vLLM's too), so that a client cannot undo it.

Source: vLLM 0.32.0, `cache_salt` of chat, completions, responses and messages; tests/vllm shows that it holds.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

from warmroute.core.errors import ClientError

MOST_KNOWN: Final = 10_000


class Salts:
    """Salts of one deployment."""

    __slots__ = ("_known", "_secret")

    def __init__(self, secret: bytes) -> None:
        self._secret = blake2b(secret, person=b"cache salt", digest_size=32).digest()
        self._known: dict[tuple[str, str], str] = {}

    def salt(self, sharing: str, own: str) -> str:
        """Of those who share (`Tenant.sharing`), for a client that sent this salt of its own (empty: none)."""
        key = (sharing, own)
        known = self._known.get(key)
        if known is None:
            name = b"%d:%b%b" % (
                len(sharing),
                sharing.encode("utf-8", "surrogatepass"),
                own.encode("utf-8", "surrogatepass"),
            )
            known = blake2b(name, key=self._secret, digest_size=18).hexdigest()
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            if len(name) <= 512:
                self._known[key] = known
        return known


def salted(body: bytes | bytearray, salt: str) -> bytes | bytearray:
    """The JSON object with this salt, in one copy.

    Raises:
        ClientError: It does not end as an object does.
    """
    end = body.rfind(b"}")
    if end < 0 or body[end + 1 :].strip():
        raise ClientError("the body must be a JSON object", code="invalid_json")
    comma = b"" if end < 64 and body[:end].strip() == b"{" else b","
    return body[:end] + comma + b'"cache_salt":"%b"}' % salt.encode()
