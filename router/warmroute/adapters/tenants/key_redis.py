"""Records of API keys in Redis: one hash, `<namespace>:keys`, with a field for each key and one that counts changes.

Routers look at the count and read the records when it differs. One key, so that a change and its count are one step
and a Cluster needs nothing special. Needs HGET, HGETALL, HSETNX, HDEL, HINCRBY, MULTI and EXEC.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from warmroute.adapters.resp.commands import pack
from warmroute.adapters.resp.link import RedisLink
from warmroute.adapters.resp.pipe import RedisError
from warmroute.ports import KeyStoreError
from warmroute.tasks import Tasks
from warmroute.telemetry.logs import fields
from warmroute.tenants.keys import KeyRecord, decoded, encoded

log = logging.getLogger(__name__)

_AT_ONCE = 500
"""Records read between two turns of the event loop: some milliseconds."""
_COUNT = b"#"
"""Field that counts changes; no id of a key begins so."""


class RedisKeys:
    """Implements the port `KeyStore` over Redis.

    Args:
        link: Connections, shared with others.
        namespace: Prefix of the key; routers share keys if and only if it is equal.
        interval_s: Time between two looks.
    """

    def __init__(self, link: RedisLink, namespace: str = "w", interval_s: float = 0.25) -> None:
        self._link = link
        self._key = namespace.encode() + b":keys"
        self._interval_s = interval_s
        self._tasks = Tasks()
        self._on_keys: Callable[[Sequence[KeyRecord]], None] = lambda _: None
        self._seen: bytes | None = None
        """The count of the records told last; empty: of none."""

    async def start(self, on_keys: Callable[[Sequence[KeyRecord]], None]) -> None:
        """Read them, and look from now on."""
        self._on_keys = on_keys
        self._tasks = Tasks()
        self._seen = None
        await self._link.start()
        await self._look()
        self._tasks.supervise(self._watch, name="keys in redis")

    async def stop(self) -> None:
        """Look no more."""
        await self._tasks.stop()
        await self._link.stop()

    async def records(self) -> Sequence[KeyRecord]:
        """As Redis has them now."""
        try:
            return (await self._read())[1]
        except (OSError, RedisError) as error:
            raise KeyStoreError(f"Redis: {error or type(error).__name__}") from error

    async def add(self, record: KeyRecord) -> None:
        """One field more."""
        if any(one.sha256 == record.sha256 for one in await self.records()):
            raise KeyStoreError("this very key is there already")
        change = pack("HSETNX", self._key, record.id, encoded(record))
        if await self._change(change) != 1:
            raise KeyStoreError(f"there is a key {record.id!r} already")

    async def revoke(self, key_id: str) -> bool:
        """One field less."""
        if key_id.encode() == _COUNT:
            return False
        return await self._change(pack("HDEL", self._key, key_id)) == 1

    async def _change(self, command: bytes) -> int:
        count = pack("HINCRBY", self._key, _COUNT, 1)
        try:
            replies = await self._link.ask(self._key, pack("MULTI") + command + count + pack("EXEC"), 4)
        except (OSError, RedisError) as error:
            raise KeyStoreError(f"Redis: {error or type(error).__name__}") from error
        changed: int = replies[-1][0]
        return changed

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            await self._look()

    async def _look(self) -> None:
        try:
            (count,) = await self._link.ask(self._key, pack("HGET", self._key, _COUNT))
            if (count or b"") == self._seen:
                return
            self._seen, records = await self._read()
        except (OSError, RedisError):
            return  # the link says why; what is known stays
        except Exception as error:  # noqa: BLE001 - whatever is there, the last good keys stay
            log.error("keys_unreadable", extra=fields(error=error))
            return
        self._on_keys(records)

    async def _read(self) -> tuple[bytes, list[KeyRecord]]:
        (reply,) = await self._link.ask(self._key, pack("HGETALL", self._key))
        pairs = dict(zip(reply[::2], reply[1::2], strict=True))
        count = pairs.pop(_COUNT, b"")
        records = []
        for number, (field, value) in enumerate(sorted(pairs.items()), 1):
            if not number % _AT_ONCE:
                await asyncio.sleep(0)
            try:
                records.append(decoded(value))
            except ValueError as error:
                log.error("key_unreadable", extra=fields(field=field.decode("utf-8", "replace"), error=error))
        return count, records
