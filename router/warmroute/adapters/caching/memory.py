"""Cached contents in this process alone, until it ends."""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from dataclasses import replace

import msgspec

from warmroute.caching.content import CachedContent, TooMuchError
from warmroute.ports import Kept


class MemoryContents:
    """Implements the port `ContentStore` for one router."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], Kept] = {}
        self._prefixes: dict[tuple[str, str], bytes] = {}
        self._ids: dict[str, list[str]] = {}
        """Of each scope, in order."""

    @property
    def healthy(self) -> bool:
        """Nothing can be away."""
        return True

    async def start(self) -> None:
        """Nothing to connect to."""

    async def stop(self) -> None:
        """Nothing is kept."""

    async def add(
        self, content: CachedContent, prefix: bytes, now_s: float, *, most: int, most_bytes: int
    ) -> None:
        """Counts what the scope has, one by one: there are few."""
        self._expire(now_s)
        ids = self._ids.setdefault(content.scope, [])
        held_bytes = sum(self._kept[content.scope, one].content.size_bytes for one in ids)
        if len(ids) >= most or held_bytes + content.size_bytes > most_bytes:
            raise too_much(len(ids), held_bytes, most, most_bytes)
        insort(ids, content.id)
        self._kept[content.scope, content.id] = Kept(content)
        self._prefixes[content.scope, content.id] = prefix

    async def find(self, scope: str, content_id: str, now_s: float, *, use: bool = False) -> Kept | None:
        """At once."""
        self._expire(now_s)
        kept = self._kept.get((scope, content_id))
        if kept is not None and use:
            kept = self._kept[scope, content_id] = replace(kept, uses=kept.uses + 1)
        return kept

    async def prefix(self, scope: str, content_id: str) -> bytes | None:
        """At once."""
        return self._prefixes.get((scope, content_id))

    async def listed(
        self, scope: str, now_s: float, *, after: str = "", most: int
    ) -> Sequence[CachedContent]:
        """At once."""
        self._expire(now_s)
        ids = [one for one in self._ids.get(scope, ()) if one > after]
        return [self._kept[scope, one].content for one in ids[:most]]

    async def extend(
        self, scope: str, content_id: str, expires_s: float, now_s: float
    ) -> tuple[CachedContent, CachedContent] | None:
        """At once."""
        kept = await self.find(scope, content_id, now_s)
        if kept is None:
            return None
        content = msgspec.structs.replace(kept.content, expires_s=expires_s, updated_s=now_s)
        self._kept[scope, content_id] = replace(kept, content=content)
        return kept.content, content

    async def remove(self, scope: str, content_id: str) -> CachedContent | None:
        """At once."""
        kept = self._kept.pop((scope, content_id), None)
        if kept is None:
            return None
        del self._prefixes[scope, content_id]
        ids = self._ids[scope]
        ids.remove(content_id)
        if not ids:
            del self._ids[scope]
        return kept.content

    async def all(self, now_s: float, *, most: int) -> Sequence[Kept]:
        """At once."""
        self._expire(now_s)
        return sorted(self._kept.values(), key=lambda kept: kept.content.expires_s)[:most]

    async def lapse(self, scope: str, content_id: str, lapsed: bool) -> None:
        """At once."""
        kept = self._kept.get((scope, content_id))
        if kept is not None:
            self._kept[scope, content_id] = replace(kept, lapsed=lapsed)

    async def lead(self, router: str, for_s: float) -> bool:
        """There is no other."""
        return True

    def _expire(self, now_s: float) -> None:
        for (scope, content_id), kept in list(self._kept.items()):
            if kept.content.expires_s <= now_s:
                del self._kept[scope, content_id]
                del self._prefixes[scope, content_id]
                self._ids[scope].remove(content_id)
                if not self._ids[scope]:
                    del self._ids[scope]


def too_much(held: int, held_bytes: int, most: int, most_bytes: int) -> TooMuchError:
    """What is answered to a content that does not fit."""
    return TooMuchError(
        f"{held} cached contents of {held_bytes} bytes are kept already, and this one does not fit into the {most} of"
        f" {most_bytes} bytes that one tenant may have (cached_contents.contents, cached_contents.contents_bytes):"
        " delete one, or let them expire sooner"
    )
