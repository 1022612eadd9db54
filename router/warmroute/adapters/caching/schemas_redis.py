"""Prompt schemas in Redis: one script (`schemas.lua`). Decides nothing about what is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from warmroute.adapters.caching.schemas_memory import too_many
from warmroute.adapters.caching.script import RedisScript, encoded
from warmroute.adapters.resp.link import RedisLink
from warmroute.caching.schemas.record import SchemaRecord
from warmroute.ports import KeptSchema

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(SchemaRecord).decode


class RedisSchemas:
    """Implements the port `SchemaStore` over Redis.

    Args:
        link: Connections of its own: a schema may be long.
        namespace: Prefix of all keys.
    """

    def __init__(self, link: RedisLink, namespace: str = "w") -> None:
        self._script = RedisScript(link, namespace, "schemas", "schemas", "prompt schemas")

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
        self, record: SchemaRecord, document: bytes, now_s: float, *, most: int, most_bytes: int
    ) -> KeptSchema:
        """Numbered, compared and counted in one step."""
        words = (record.scope, record.name, record.digest, record.size_bytes, most, most_bytes)
        found = await self._script.call("add", repr(now_s), *words, _encode(record), document)
        if len(found) == 2:
            raise too_many(found[0], found[1], most, most_bytes)
        return _kept(found)

    async def find(
        self, scope: str, name: str, version: int, now_s: float, *, use: bool = False
    ) -> KeptSchema | None:
        """Read, and counted, in one step."""
        found = await self._script.call("find", repr(now_s), scope, name, version, 1 if use else 0)
        return _kept(found) if found else None

    async def document(self, scope: str, name: str, version: int) -> bytes | None:
        """One read."""
        return await self._script.read(b"p:" + encoded(f"{scope}/{name}/{version}"))

    async def listed(self, scope: str, *, after: str = "", most: int) -> Sequence[KeptSchema]:
        """One step."""
        return [_kept(row) for row in await self._script.call("listed", "0", scope, after, most)]

    async def versions(self, scope: str, name: str, *, most: int) -> Sequence[KeptSchema]:
        """One step."""
        return [_kept(row) for row in await self._script.call("versions", "0", scope, name, most)]

    async def remove(self, scope: str, name: str, version: int) -> Sequence[int]:
        """All of it, in one step."""
        return [int(number) for number in await self._script.call("remove", "0", scope, name, version)]

    async def all(self, since_s: float, *, most: int) -> Sequence[KeptSchema]:
        """One step."""
        return [_kept(row) for row in await self._script.call("all", "0", repr(since_s), most)]

    async def lead(self, router: str, for_s: float) -> bool:
        """A lease that ends by itself."""
        return bool(await self._script.call("lead", "0", router, int(for_s * 1000)))


def _kept(row: Sequence[Any]) -> KeptSchema:
    record = msgspec.structs.replace(_decode(row[1]), version=int(row[0]))
    return KeptSchema(record, int(row[2]), float(row[3]))
