"""Cached contents in Redis: one script, whose calls are one step each, under one hash tag.

Decides nothing about what is kept. Prefixes never expire by themselves there (see contents.lua): every router takes
out what has expired as it looks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from warmroute.adapters.caching.memory import too_much
from warmroute.adapters.caching.script import RedisScript, encoded
from warmroute.adapters.resp.link import RedisLink
from warmroute.caching.content import CachedContent
from warmroute.ports import Kept

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(CachedContent).decode


class RedisContents:
    """Implements the port `ContentStore` over Redis.

    Args:
        link: Connections of its own: a content may be long.
        namespace: Prefix of all keys.
    """

    def __init__(self, link: RedisLink, namespace: str = "w") -> None:
        self._script = RedisScript(link, namespace, "caches", "contents", "cached contents")

    @property
    def healthy(self) -> bool:
        """Whether there is a connection."""
        return self._script.healthy

    async def start(self) -> None:
        """Connect, or go on trying."""
        await self._script.start()

    async def stop(self) -> None:
        """Disconnect."""
        await self._script.stop()

    async def add(
        self, content: CachedContent, prefix: bytes, now_s: float, *, most: int, most_bytes: int
    ) -> None:
        """What the scope has is counted in the same step."""
        expires = repr(content.expires_s)
        words = (content.scope, content.id, expires, content.size_bytes, most, most_bytes)
        full = await self._call("add", now_s, *words, _encode(content), prefix)
        if full:
            raise too_much(full[0], full[1], most, most_bytes)

    async def find(self, scope: str, content_id: str, now_s: float, *, use: bool = False) -> Kept | None:
        """Read, and counted, in one step."""
        found = await self._call("find", now_s, scope, content_id, 1 if use else 0)
        return _kept(found) if found else None

    async def prefix(self, scope: str, content_id: str) -> bytes | None:
        """One read."""
        return await self._script.read(b"p:" + encoded(f"{scope}/{content_id}"))

    async def listed(
        self, scope: str, now_s: float, *, after: str = "", most: int
    ) -> Sequence[CachedContent]:
        """In order of ids."""
        return [_decode(record) for record in await self._call("listed", now_s, scope, after, most)]

    async def extend(
        self, scope: str, content_id: str, expires_s: float, now_s: float
    ) -> tuple[CachedContent, CachedContent] | None:
        """Of two at once, the later one counts, and finds what the other one has made of it."""
        kept = await self.find(scope, content_id, now_s)
        if kept is None:
            return None
        content = msgspec.structs.replace(kept.content, expires_s=expires_s, updated_s=now_s)
        words = (scope, content_id, repr(expires_s), _encode(content))
        before = await self._call("extend", now_s, *words)
        return (_decode(before), content) if before else None

    async def remove(self, scope: str, content_id: str) -> CachedContent | None:
        """All of it, in one step."""
        gone = await self._call("remove", 0.0, scope, content_id)
        return _decode(gone) if gone else None

    async def all(self, now_s: float, *, most: int) -> Sequence[Kept]:
        """One step, which also takes out what has expired."""
        found = await self._call("all", now_s, most)
        return [_kept(found[at : at + 3]) for at in range(0, len(found), 3)]

    async def lapse(self, scope: str, content_id: str, lapsed: bool) -> None:
        """One step."""
        await self._call("lapse", 0.0, scope, content_id, 1 if lapsed else 0)

    async def lead(self, router: str, for_s: float) -> bool:
        """A lease that ends by itself."""
        return bool(await self._call("lead", 0.0, router, int(for_s * 1000)))

    async def _call(self, name: str, now_s: float, *words: str | bytes | int) -> Any:
        return await self._script.call(name, repr(now_s), *words)


def _kept(found: Sequence[Any]) -> Kept:
    return Kept(_decode(found[0]), int(found[1]), bool(found[2]))
