"""API keys: how they are made, what is kept of them, and whose a presented one is.

A key is `wr-ID-SECRET`: ten letters that name it in lists and accounts, and 256 random bits. Only the SHA-256 of the
whole is kept: with that many random bits nothing slower is needed, since they cannot be tried out. A presented key is
hashed and looked up by its hash; how long that takes depends on the hash alone, of which whoever guesses knows nothing
that helps, and never on how much of a key is right.

Decides whose a key is. Does not keep records (`ports.KeyStore`) and has no clock.
"""

from __future__ import annotations

from base64 import b32encode, urlsafe_b64encode
from collections.abc import Iterable
from hashlib import sha256
from math import inf
from typing import Final

import msgspec

from warmroute.tenants.caller import Caller
from warmroute.tenants.tenant import Priority, Tenants

PREFIX: Final = "wr-"
SECRET_BYTES: Final = 32
ID_BYTES: Final = 6
LEAST_CHARACTERS: Final = 20
"""Of a key that somebody else made: shorter ones could be tried out."""


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What is kept of one key; a file and Redis have it as JSON."""

    id: str
    """Names it in lists, accounts and revocations."""
    tenant: str
    sha256: str
    """Of the key, hexadecimal."""
    name: str = ""
    """What people call it."""
    models: tuple[str, ...] = ()
    """Models that it may use, of those that its tenant may; empty: all of them."""
    created_s: float = 0.0
    """Unix time."""
    expires_s: float | None = None
    """Unix time from which it is refused; absent: never."""
    priority: Priority | None = None
    """Class of its requests; absent: its tenant's."""

    def shown(self) -> dict[str, object]:
        """What may be shown of it: everything but the hash."""
        return {
            "id": self.id,
            "tenant": self.tenant,
            "name": self.name,
            "models": list(self.models),
            "created_s": self.created_s,
            "expires_s": self.expires_s,
            "priority": self.priority,
        }


def new_key(id_bits: bytes, secret_bits: bytes) -> tuple[str, str]:
    """Id and text of a new key.

    Args:
        id_bits: `ID_BYTES` random bytes.
        secret_bits: `SECRET_BYTES` random bytes.
    """
    key_id = b32encode(id_bits).decode().rstrip("=").lower()
    return key_id, f"{PREFIX}{key_id}-{urlsafe_b64encode(secret_bits).decode().rstrip('=')}"


def digest_of(key: bytes) -> bytes:
    """What a key is found by."""
    return sha256(key).digest()


def encoded(record: KeyRecord) -> bytes:
    """The record as it is kept."""
    return msgspec.json.encode(record)


_decode = msgspec.json.Decoder(KeyRecord).decode


def decoded(data: bytes) -> KeyRecord:
    """The record that is kept so.

    Raises:
        ValueError: It is none; the message holds nothing of it.
    """
    try:
        record = _decode(data)
    except msgspec.MsgspecError as error:
        raise ValueError(f"no record of a key: {error}") from None
    if len(record.sha256) != 64 or not set(record.sha256) <= set("0123456789abcdef"):
        raise ValueError(f"key {record.id!r}: sha256 must be 64 hexadecimal digits")
    return record


class Keyring:
    """All keys that are good, by their hashes. Whom a key stands for is made when it is shown first: a change of one
    among many thousands must not take as long as all of them."""

    __slots__ = ("_callers", "_records", "_tenants")

    def __init__(self) -> None:
        self._records: dict[bytes, KeyRecord] = {}
        self._callers: dict[bytes, Caller] = {}
        """Of those that were shown."""
        self._tenants = Tenants({})

    def __len__(self) -> int:
        return len(self._records)

    def use(self, records: Iterable[KeyRecord], tenants: Tenants) -> None:
        """From now on these keys are good, and no others."""
        self._records = {bytes.fromhex(record.sha256): record for record in records}
        self.retell(tenants)

    def retell(self, tenants: Tenants) -> None:
        """The same keys stand for tenants as they are now."""
        self._tenants = tenants
        self._callers = {}

    def find(self, key: bytes) -> Caller | None:
        """Whose this key is, also if it has expired."""
        digest = sha256(key).digest()
        caller = self._callers.get(digest)
        if caller is None:
            record = self._records.get(digest)
            if record is not None:
                caller = self._callers[digest] = Caller(
                    self._tenants.find(record.tenant),
                    record.id,
                    frozenset(record.models),
                    inf if record.expires_s is None else record.expires_s,
                    record.priority,
                )
        return caller


def presented(authorization: bytes, x_api_key: bytes) -> bytes:
    """The key that a request's head shows; empty where there is none. A bearer's comes before the other."""
    if authorization[:7].lower() == b"bearer ":
        key = authorization[7:].strip()
        if key:
            return key
    return x_api_key.strip()
