"""A recorded response: an answer as it was given once, to be given again to whoever asks the same, until it expires.

Decides the form of records, and what names one. The name is a hash over all that decides who may see the answer and
what it says, so that a record of one scope cannot be found from another, whatever the store does. Has no clock.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

import msgspec

from warmroute.caching.agreement import Facts
from warmroute.core.types import Api

KEY_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Question:
    """What one request is looked for, and kept, by."""

    api: Api
    model: str
    key: str
    group: str
    """Of requests that differ in their last turn alone; empty: it is not compared by meaning."""
    text: str
    """That turn."""
    stream: bool
    ttl_s: float
    sharing: str
    """Who shares its cached blocks, where tenants are kept apart."""


class Response(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One answer; stores keep it as bytes."""

    key: str
    """Its name, once more: what is found is compared with what was looked for."""
    created_s: float
    """Unix time, as all times here."""
    expires_s: float
    content_type: str
    stream: bool
    """The body is an event stream, with all its events."""
    body: bytes


class Near(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What the last turn of a recorded request was, for those that ask nearly the same."""

    text: str
    vector: bytes
    """Its embedding: single precision, of this machine's byte order, of length 1."""
    facts: Facts


_encode: Final = msgspec.msgpack.Encoder().encode
_response: Final = msgspec.msgpack.Decoder(Response).decode
_near: Final = msgspec.msgpack.Decoder(Near).decode


def name_of(*parts: str | bytes) -> str:
    """What names a record, or a group of them: a hash of all parts, each with its length."""
    digest = blake2b(digest_size=KEY_BYTES)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        digest.update(b"%d:" % len(data))
        digest.update(data)
    return digest.hexdigest()


def encoded(record: Response | Near) -> bytes:
    """As a store keeps it."""
    return _encode(record)


def response_of(data: bytes) -> Response | None:
    """What `encoded` made; None: it is none."""
    try:
        return _response(data)
    except (msgspec.MsgspecError, UnicodeError):
        return None


def near_of(data: bytes) -> Near | None:
    """What `encoded` made; None: it is none."""
    try:
        return _near(data)
    except (msgspec.MsgspecError, UnicodeError):
        return None


def vector_bytes(values: Iterable[float]) -> bytes:
    """An embedding brought to length 1; empty where it has none.

    Raises:
        OverflowError, TypeError: They are no numbers of single precision.
    """
    vector = array("f", values)
    length = sum(value * value for value in vector) ** 0.5
    if not 0.0 < length < float("inf"):
        return b""
    return array("f", [value / length for value in vector]).tobytes()
