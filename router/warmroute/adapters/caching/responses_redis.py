"""Recorded responses in Redis: one script, whose calls are one step each, under one hash tag.

Decides when a server is not worth waiting for: a lookup waits until its deadline, and while lookups keep coming late
only one in `TRIAL_S` waits at all (`resp.breaker`). Whatever goes wrong, nothing was found.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from importlib import resources
from typing import Any, Final

from warmroute.adapters.caching.responses_memory import ENTRY_BYTES, GROUP_PART, GROUP_RECORDS
from warmroute.adapters.resp.breaker import TRIAL_S
from warmroute.adapters.resp.commands import pack
from warmroute.adapters.resp.link import RedisLink
from warmroute.adapters.resp.pipe import RedisError
from warmroute.ports import Recalled

MOST_GONE: Final = 1000
"""Records that give way to one at most: some milliseconds of the server's."""
_NOTHING: Final = Recalled()


class RedisResponses:
    """Implements the port `ResponseStore` over Redis.

    Args:
        link: Connections of its own: an answer may be long.
        deadline_s: Longest wait of a lookup.
        namespace: Prefix of all keys.
    """

    def __init__(
        self, link: RedisLink, records: int, records_bytes: int, *, deadline_s: float, namespace: str = "w"
    ) -> None:
        self._link = link
        self._most = records
        self._most_bytes = records_bytes
        self._deadline_s = deadline_s
        self._key = namespace.encode() + b":{responses}:x"
        self._script = resources.files(__package__).joinpath("responses.lua").read_bytes()
        self._sha = hashlib.sha1(self._script, usedforsecurity=False).hexdigest()
        self._trial_s = 0.0
        self._records = self._bytes = self._late = 0

    @property
    def healthy(self) -> bool:
        """Whether there is a connection."""
        return self._link.up

    async def start(self) -> None:
        """Connect, or go on trying."""
        await self._link.start()

    async def stop(self) -> None:
        """Disconnect."""
        await self._link.stop()

    async def find(self, key: str, now_s: float, *, group: str = "", after: int = 0) -> Recalled:
        """Read in one step, which also counts as a use."""
        pipe = self._link.keeper(self._key)
        if pipe is None:
            return _NOTHING
        breaker = pipe.breaker
        began_s = time.monotonic()
        if breaker.open:
            if began_s < self._trial_s:
                return _NOTHING
            self._trial_s = began_s + TRIAL_S
        try:
            async with asyncio.timeout(self._deadline_s):
                reply = await self._call("find", now_s, key, group, after, GROUP_PART)
        except TimeoutError:
            self._late += 1
            if breaker.open:
                breaker.tried(in_time=False)
            else:
                breaker.missed(began_s)
            return _NOTHING
        except (OSError, RedisError):
            return _NOTHING
        if breaker.open:
            breaker.tried(in_time=True)
        else:
            breaker.answered()
        record, near, *told = reply
        self._told(told)
        rows = [(int(near[at]), near[at + 1].decode(), near[at + 2]) for at in range(0, len(near), 3)]
        return Recalled(record, rows)

    async def add(
        self, key: str, record: bytes, now_s: float, expires_s: float, *, group: str = "", near: bytes = b""
    ) -> bool:
        """One step, which also makes room."""
        size = len(record) + len(near) + ENTRY_BYTES
        bounds = (self._most, self._most_bytes, GROUP_RECORDS)
        try:
            reply = await self._call(
                "add", now_s, key, repr(expires_s), size, group, *bounds, record, near, MOST_GONE
            )
        except (OSError, RedisError):
            return False
        self._told(reply[1:])
        return bool(reply[0])

    async def remove(self, key: str) -> None:
        """One step."""
        try:
            reply = await self._call("remove", 0.0, key)
        except (OSError, RedisError):
            return
        self._told(reply[1:])

    def figures(self) -> dict[str, float]:
        """As the server said last."""
        return {"records": self._records, "bytes": self._bytes, "late": self._late}

    def _told(self, told: list[Any]) -> None:
        self._records, self._bytes = int(told[0]), int(told[1])

    async def _call(self, name: str, now_s: float, *words: str | bytes | int) -> Any:
        command = pack("EVALSHA", self._sha, 1, self._key, name, repr(now_s), *words)
        try:
            return (await self._link.ask(self._key, command))[0]
        except RedisError as error:
            if not str(error).startswith("NOSCRIPT"):
                raise
        await self._link.ask(self._key, pack("SCRIPT", "LOAD", self._script))
        return (await self._link.ask(self._key, command))[0]
