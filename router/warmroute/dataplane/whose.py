"""Whose a request is, where something is kept for its sender alone: cached contents, recorded responses.

Decides that by the tenant, else by the key that the request shows in whatever manner, else it is the deployment's.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from warmroute.caching.content import scope_of
from warmroute.dataplane.request import RequestHead
from warmroute.tenants.caller import Caller
from warmroute.tenants.keys import presented
from warmroute.tenants.tenant import ANONYMOUS

GOOGLE_KEY: Final = b"x-goog-api-key"
_API_KEY: Final = b"x-api-key"
_PLAIN_KEY: Final = b"api-key"


def field(head: RequestHead, name: bytes) -> bytes:
    """A field as replicas would be sent it; empty if they would not."""
    start = head.prefix.find(b"\r\n%b: " % name)
    if start < 0:
        return b""
    start += len(name) + 4
    return head.prefix[start : head.prefix.find(b"\r\n", start)].strip()


def fields(head: RequestHead, name: bytes) -> bytes:
    """All lines of such a field, joined by commas as HTTP does it."""
    mark = b"\r\n%b: " % name
    found = []
    start = head.prefix.find(mark)
    while start >= 0:
        start += len(mark)
        found.append(head.prefix[start : head.prefix.find(b"\r\n", start)].strip())
        start = head.prefix.find(mark, start)
    return b",".join(found)


def shown_key(head: RequestHead) -> bytes:
    """The key that a head shows, in whatever manner; empty where it shows none."""
    if head.credential:
        return head.credential
    # The router asks for none, and replicas are sent what came.
    shown = field(head, _API_KEY) or field(head, GOOGLE_KEY) or field(head, _PLAIN_KEY)
    return presented(head.authorization, shown) or head.authorization


def scope(caller: Caller | None, head: RequestHead, key: bytes = b"") -> str:
    """Whose what a request keeps is.

    Args:
        key: What it shows as a key elsewhere than in its head.
    """
    if caller is not None and caller.tenant.id != ANONYMOUS:
        return scope_of(caller.tenant.id, "")
    key = key or shown_key(head)
    return scope_of(None, sha256(key).hexdigest()[:32] if key else "")
