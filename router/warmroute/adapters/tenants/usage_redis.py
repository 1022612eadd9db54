"""Sums of what tenants used in Redis: a hash a bucket, a field for each tenant, key, model and interface.

They are no hints: buckets have no expiry, so that a full server under `volatile-lru` drops records of the registry
instead (usage.lua). All keys share a hash tag, so that rows and their number are one step in a Cluster too.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from importlib import resources

from warmroute.adapters.resp.commands import pack
from warmroute.adapters.resp.link import RedisLink
from warmroute.adapters.resp.pipe import RedisError
from warmroute.tenants.usage import COUNTERS, RowKey

_AT_ONCE = 64
"""Buckets read together."""

_ROWS_AT_ONCE = 500
"""Rows written by one call of the script: about a millisecond of the server's time. Also those read between two turns
of the event loop."""


class RedisUsage:
    """Implements the port `UsageStore` over Redis.

    Args:
        link: Connections, shared with others.
        router: Name of this router, of this run of it alone.
        bucket_s: Length of a bucket.
        keep_s: How long a bucket is kept.
        namespace: Prefix of all keys.
    """

    def __init__(
        self, link: RedisLink, *, router: str, bucket_s: int, keep_s: int, namespace: str = "w"
    ) -> None:
        self._link = link
        self._prefix = namespace.encode() + b":{usage}:"
        self._number_key = self._prefix + b"n:" + router.encode()
        self._bucket_s = bucket_s
        self._keep_s = keep_s
        self._script = resources.files(__package__).joinpath("usage.lua").read_bytes()
        self._sha = hashlib.sha1(self._script, usedforsecurity=False).hexdigest()

    async def start(self) -> None:
        """Connect, or go on trying."""
        await self._link.start()

    async def stop(self) -> None:
        """Disconnect."""
        await self._link.stop()

    async def add(self, bucket_s: int, rows: Mapping[RowKey, Sequence[int]], number: int) -> bool:
        """A call of the script for some hundred rows each, in order: each is added once, whatever is lost between."""
        items = list(rows.items())
        parts = [items[at : at + _ROWS_AT_ONCE] for at in range(0, len(items), _ROWS_AT_ONCE)]
        for index, part in enumerate(parts):
            words: list[str | bytes | int] = [number * 1000 + index, self._keep_s + self._bucket_s]
            for key, counts in part:
                words += ["\x1f".join(key).encode("utf-8", "surrogatepass"), " ".join(map(str, counts))]
            keys = (self._prefix + b"%d" % bucket_s, self._number_key, self._prefix + b"buckets")
            try:
                await self._run(keys, words)
            except (OSError, RedisError):
                return False
        return True

    async def _run(self, keys: tuple[bytes, ...], words: list[str | bytes | int]) -> None:
        try:
            await self._link.ask(keys[0], pack("EVALSHA", self._sha, len(keys), *keys, *words))
        except RedisError as error:
            if not str(error).startswith("NOSCRIPT"):
                raise
            await self._link.ask(keys[0], pack("SCRIPT", "LOAD", self._script))
            await self._link.ask(keys[0], pack("EVALSHA", self._sha, len(keys), *keys, *words))

    async def read(self, from_s: int, to_s: int) -> Sequence[tuple[int, RowKey, Sequence[int]]]:
        """Bucket after bucket."""
        first = -(-from_s // self._bucket_s) * self._bucket_s
        buckets = range(first, to_s, self._bucket_s)
        found: list[tuple[int, RowKey, Sequence[int]]] = []
        for at in range(0, len(buckets), _AT_ONCE):
            asked = buckets[at : at + _AT_ONCE]
            data = b"".join([pack("HGETALL", self._prefix + b"%d" % start) for start in asked])
            try:
                replies = await self._link.ask(self._prefix, data, len(asked))
            except RedisError as error:
                raise OSError(f"Redis: {error}") from error
            for start, reply in zip(asked, replies, strict=True):
                for number, (name, value) in enumerate(sorted(zip(reply[::2], reply[1::2], strict=True)), 1):
                    if not number % _ROWS_AT_ONCE:
                        await asyncio.sleep(0)
                    key = tuple(name.decode("utf-8", "surrogatepass").split("\x1f"))
                    counts = [int(word) for word in value.split()]
                    if len(key) in (3, 5):  # three: by a router from before there were interfaces
                        counts += [0] * (len(COUNTERS) - len(counts))
                        told = (key[0], key[1], key[2], *(key[3:] or ("", "")))
                        found.append(
                            (start, (told[0], told[1], told[2], told[3], told[4]), counts[: len(COUNTERS)])
                        )
        return found
