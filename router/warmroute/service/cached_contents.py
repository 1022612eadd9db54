"""Cached contents as clients make, change and use them: the rules of the resource, over the port that keeps it.

Decides what may be kept and for how long, and what happens while the store is away: nothing is made or changed then,
and what this router has used before goes on being used until it expires, since a client's prompt must not lose its
beginning because a server restarts. What it does not know it answers with 503, never with 404.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import msgspec

from warmroute.caching.content import (
    CachedContent,
    ContentLostError,
    Prefix,
    StoreAwayError,
    id_of,
    new_id,
    not_found,
)
from warmroute.caching.prefilled import Prefilled
from warmroute.core.errors import ClientError, ReplicaError, RouterError
from warmroute.dialects.cached_contents import Wanted, warming_request
from warmroute.ports import ContentStore, Kept

REMEMBERED_BYTES: Final = 64 << 20
"""Prefixes that are kept here to spare the store: what every use needs."""
ENTRY_BYTES: Final = 1024
"""What each of them takes besides its text."""
MOST_PAGE: Final = 1000
USUAL_PAGE: Final = 100
_STATUSES: Final = frozenset(status.value for status in HTTPStatus)

Warm = Callable[[bytes], Awaitable[Prefilled]]
_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Prefix).decode


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one tenant may keep."""

    contents: int
    contents_bytes: int
    content_bytes: int
    """Of one."""
    least_tokens: int
    ttl_s: float
    """How long a content lives where nothing is said."""
    ttl_max_s: float


class CachedContents:
    """The resource, at one worker.

    Args:
        entropy: So many random bytes.
    """

    def __init__(
        self,
        store: ContentStore,
        bounds: Bounds,
        *,
        clock: Callable[[], float],
        entropy: Callable[[int], bytes],
    ) -> None:
        self.store = store
        self.bounds = bounds
        self.clock = clock
        self._entropy = entropy
        self._known: dict[tuple[str, str], tuple[Kept, Prefix, int]] = {}
        """Used last behind."""
        self._known_bytes = 0
        self.away_total = 0
        """Calls that found the store away."""

    async def create(self, scope: str, sharing: str, wanted: Wanted, warm: Warm) -> CachedContent:
        """Make one: a replica computes it first, so that it is known to be good, and how long it is.

        Raises:
            RouterError: It cannot be made, or not now.
        """
        bounds = self.bounds
        prefix = _encode(wanted.prefix)
        if len(prefix) > bounds.content_bytes:
            raise ClientError(
                f"the content has {len(prefix)} bytes; one may have {bounds.content_bytes}"
                " (cached_contents.content_bytes)",
                status=413,
                code="cached_content_too_large",
            )
        if not self.store.healthy:
            raise StoreAwayError("cached contents cannot be kept now: Redis does not answer; retry later")
        warmed = await warm(warming_request(wanted.model, wanted.prefix))
        if warmed.status != 200:
            raise _not_warmed(warmed)
        if warmed.prompt_tokens < bounds.least_tokens:
            raise ClientError(
                f"the content has {warmed.prompt_tokens} tokens; {bounds.least_tokens} are the least that is cached"
                " (cached_contents.least_tokens)",
                code="cached_content_too_small",
            )
        now_s = self.clock()
        content = CachedContent(
            id=new_id(self._entropy(24)),
            scope=scope,
            model=wanted.model,
            created_s=now_s,
            updated_s=now_s,
            expires_s=wanted.expires_s,
            display_name=wanted.display_name,
            tokens=warmed.prompt_tokens,
            size_bytes=len(prefix),
            sharing=sharing,
        )
        await self.store.add(content, prefix, now_s, most=bounds.contents, most_bytes=bounds.contents_bytes)
        return content

    async def get(self, scope: str, name: str) -> CachedContent:
        """One of the scope's.

        Raises:
            NotFoundError, StoreAwayError: It is not there; nobody can say.
        """
        kept = await self.store.find(scope, id_of(name), self.clock())
        if kept is None:
            raise not_found(name)
        return kept.content

    async def page(self, scope: str, most: int, after: str) -> tuple[list[CachedContent], bool]:
        """Some of the scope's, and whether there are more behind them."""
        most = min(most or USUAL_PAGE, MOST_PAGE)
        found = list(await self.store.listed(scope, self.clock(), after=after, most=most + 1))
        return found[:most], len(found) > most

    async def extend(self, scope: str, name: str, expires_s: float) -> tuple[CachedContent, CachedContent]:
        """Let one expire then, sooner or later than before: as it was, whoever changes it at the same time, and as it
        is now.

        Raises:
            NotFoundError, StoreAwayError: It is not there; nobody can say.
        """
        changed = await self.store.extend(scope, id_of(name), expires_s, self.clock())
        if changed is None:
            raise not_found(name)
        return changed

    async def delete(self, scope: str, name: str) -> CachedContent:
        """Forget one; returns it, to one of those who delete it at the same time.

        Raises:
            NotFoundError, StoreAwayError: It is not there; nobody can say.
        """
        content_id = id_of(name)
        gone = await self.store.remove(scope, content_id)
        self._forget((scope, content_id))
        if gone is None:
            raise not_found(name)
        return gone

    async def use(self, scope: str, name: str) -> tuple[Kept, Prefix]:
        """One that a prompt begins with.

        Raises:
            NotFoundError: It is not there.
            StoreAwayError: Nobody can say, and it was not used here before.
        """
        key = (scope, id_of(name))
        known = self._known.get(key)
        try:
            kept = await self.store.find(scope, key[1], self.clock(), use=True)
        except StoreAwayError:
            self.away_total += 1
            if known is None or known[0].content.expires_s <= self.clock():
                raise
            return known[0], known[1]
        if kept is None:
            self._forget(key)
            raise not_found(name)
        return kept, await self.prefix(kept)

    async def prefix(self, kept: Kept) -> Prefix:
        """What a content holds.

        Raises:
            ContentLostError: It is gone, though the content is on record.
            StoreAwayError: The store is away.
        """
        content = kept.content
        key = (content.scope, content.id)
        known = self._known.pop(key, None)
        if known is not None:
            self._known[key] = (kept, known[1], known[2])
            return known[1]
        data = await self.store.prefix(*key)
        if data is None:
            raise ContentLostError(
                f"what {content.name} holds is gone before its time: has the Redis of this router a maxmemory-policy of"
                " allkeys-*? Make the content anew, and set volatile-lru or noeviction"
            )
        prefix = _decode(data)
        self._forget(key)
        size_bytes = len(data) + ENTRY_BYTES
        self._known[key] = (kept, prefix, size_bytes)
        self._known_bytes += size_bytes
        while self._known_bytes > REMEMBERED_BYTES and len(self._known) > 1:
            self._forget(next(iter(self._known)))
        return prefix

    def _forget(self, key: tuple[str, str]) -> None:
        known = self._known.pop(key, None)
        if known is not None:
            self._known_bytes -= known[2]


def _not_warmed(warmed: Prefilled) -> RouterError:
    """Why a content cannot be made, as whoever failed said it; a status that only its maker knows has a common one."""
    status = warmed.status
    if 400 <= status < 500:
        return ClientError(
            f"the content cannot be computed: {warmed.message}",
            status=status if status in _STATUSES else 400,
            code=warmed.code or "cached_content_refused",
        )
    return ReplicaError(
        f"the content could not be computed: {warmed.message}; retry later",
        status=status if status >= 500 and status in _STATUSES else 502,
        code=warmed.code or "replica_failed",
    )
