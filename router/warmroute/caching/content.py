"""A cached content is the beginning of prompts that a client has stored, to be used by its name until it expires.

What is stored is the beginning as `/v1/chat/completions` takes it: messages, tools, and the choice of tools, whichever
API it came by. That part never changes; what changes is when it expires, how often it was used, and whether its promise
to be warm is kept. Decides names and the form of records. Has no clock.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from warmroute.core.errors import ClientError, NotFoundError, OverloadError, RouterError

NAME_PREFIX: Final = "cachedContents/"
_ID: Final = re.compile(r"[a-z0-9]{8,64}")
_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz0123456789"
ID_LETTERS: Final = 24
_TENANT: Final = "t."


class Prefix(msgspec.Struct, frozen=True, omit_defaults=True):
    """What every prompt that uses a content begins with."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None


class CachedContent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is recorded of a content besides its prefix; stores keep it as JSON."""

    id: str
    scope: str
    """Whose it is (`scope_of`): nobody else can see or use it."""
    model: str
    created_s: float
    """Unix time, as all times here."""
    updated_s: float
    expires_s: float
    display_name: str = ""
    tokens: int = 0
    """The prefix's length as the engine counted it when it was made."""
    size_bytes: int = 0
    """Of the prefix as stored."""
    sharing: str = ""
    """Who shares its cached blocks, where tenants are kept apart; empty: everybody."""

    @property
    def name(self) -> str:
        """As Google's API calls it."""
        return NAME_PREFIX + self.id

    @property
    def promise(self) -> str:
        """Names the promise to keep it warm, over all scopes."""
        return f"{self.scope}/{self.id}"


class StoreAwayError(OverloadError):
    """The place where contents are kept cannot be reached: nobody can say whether there is one."""

    code = "cache_store_away"


class ContentLostError(RouterError):
    """A content is on record and has not expired, but what it held is gone."""

    status = 500
    code = "cached_content_lost"


class TooMuchError(ClientError):
    """It would be more than a tenant may keep."""

    status = 429
    code = "cached_contents_full"
    type = "insufficient_quota"


def not_found(name: str) -> NotFoundError:
    """There is no such content, or it is not the asker's: which of the two is not told."""
    return NotFoundError(
        f"no cached content {name!r} here: it never was, has expired or was deleted, or is another tenant's",
        code="cached_content_not_found",
        param="cached_content",
    )


def id_of(name: str) -> str:
    """The id in `cachedContents/ID`, or `ID`.

    Raises:
        NotFoundError: It is none that was ever given.
    """
    found = name.removeprefix(NAME_PREFIX)
    if not _ID.fullmatch(found):
        raise not_found(name[:100])
    return found


def new_id(bits: bytes) -> str:
    """An id made of random bits, a letter a byte.

    Raises:
        ValueError: There are too few.
    """
    if len(bits) < ID_LETTERS:
        raise ValueError("too few bits for an id")
    return "".join(_ALPHABET[byte % len(_ALPHABET)] for byte in bits[:ID_LETTERS])


def scope_of(tenant: str | None, key_hash: str) -> str:
    """Whose contents a request sees: those of its tenant, else of the API key that it shows, else the deployment's.

    Args:
        tenant: Where the router knows it.
        key_hash: Hexadecimal hash of the key; empty where none is sent.
    """
    if tenant:
        return _TENANT + tenant
    return "k." + key_hash if key_hash else "all"


def tenant_in(scope: str) -> str:
    """The tenant of a scope; empty if it is none's."""
    return scope.removeprefix(_TENANT) if scope.startswith(_TENANT) else ""
