"""The board of load notices in Redis is one stream: every router appends to it, and reads from where it last stopped.

It is a stream because each router then reads each notice once, whole fleets' worth in one reply. With a key for each
router, a hundred routers would read each other's thousand replicas anew twenty times a second. All commands are on one
key, so that a Cluster needs nothing special. The connections are this board's own: a lookup never waits behind them.
One carries the notices. On the other a blocking read stands between exchanges, so that news are told when they come and
idle routers need not ask. What is kept is bounded (`KEPT`), and gone a minute after the last router.

The board reads no notice. Whoever falls behind by more than what is kept is told nothing of it: notices are numbered.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from typing import Any

from warmroute.adapters.resp.commands import pack
from warmroute.adapters.resp.pipe import Pipe, RedisError, Replies
from warmroute.adapters.resp.topology import find_nodes
from warmroute.adapters.resp.url import parse_redis_url
from warmroute.tasks import Tasks
from warmroute.telemetry.logs import fields

_log = logging.getLogger("warmroute.registry")

KEPT = 4096
"""Notices kept: two seconds of a hundred routers at full pace."""

_READ_AT_ONCE = 1000
_LIFETIME_MS = 60_000
_CONNECT_S = 2.0

_BELL_MS = 1000
"""How long one blocking read stands."""

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 1.0


class RedisLoadBoard:
    """Implements the port `LoadBoard` over Redis.

    Args:
        url: See `resp.url`.
        namespace: Prefix of the key; routers hear each other if and only if it is equal.
        deadline_s: A reply later than this is as good as none, since load is only worth knowing while it is fresh.
        rng: Jitter of reconnects.

    Raises:
        ValueError: The URL is none, or names files that cannot be read.
    """

    shared = True

    def __init__(
        self, url: str, *, namespace: str = "w", deadline_s: float = 0.5, rng: random.Random | None = None
    ) -> None:
        self._target = parse_redis_url(url)
        self._key = namespace.encode() + b":load"
        self._deadline_s = deadline_s
        self._rng = rng if rng is not None else random.Random()
        self._pipe: Pipe | None = None
        self._bell: Pipe | None = None
        """The connection of the blocking read."""
        self._ring: Callable[[], None] | None = None
        self._listening = False
        """Whether a blocking read stands."""
        self._read_to: bytes | None = None
        """Id of the last notice read; `None` before this connection's first own one, where reading begins."""
        self._lost = asyncio.Event()
        self._tasks = Tasks()
        self._served = False
        """Whether this connection, or the last one, ever answered an exchange."""
        self._announced_trouble = False
        self.errors = 0
        self.sent_bytes = 0
        self.read_bytes = 0

    async def start(self) -> None:
        """Begin to connect, and to connect again whenever the connection is lost."""
        self._tasks = Tasks()
        self._tasks.supervise(self._keep, name="load board")

    async def stop(self) -> None:
        """Disconnect."""
        await self._tasks.stop()
        self._drop()
        await asyncio.sleep(0)  # The transport finishes closing in the loop's next round.

    def listen(self, ring: Callable[[], None]) -> None:
        """Ring as soon as there is something to read, once until the next exchange."""
        self._ring = ring

    async def exchange(self, notice: bytes | None) -> Sequence[bytes] | None:
        """Append and read in one round trip. After a new connection reading begins with the first own notice."""
        pipe = self._pipe
        if pipe is None or not pipe.open:
            return None
        try:
            async with asyncio.timeout(self._deadline_s):
                replies = await _send(pipe, *self._commands(notice))
            notices = self._read(replies, posted=notice is not None)
            self._served = True
            self._announced_trouble = False
            self._wait_for_news()
            return notices
        except (OSError, RedisError, TimeoutError) as error:
            self.errors += 1
            if isinstance(error, RedisError) and not self._announced_trouble:
                # What the registry's own connection does not meet: a user without these commands, for one.
                _log.warning("leases_refused", extra=fields(servers=self._target.label, error=error))
                self._announced_trouble = True
            if pipe is self._pipe:
                self._drop()
            return None

    def _wait_for_news(self) -> None:
        """Have a blocking read stand, if it is wanted; one that stands may be from before what was just read."""
        bell, read_to = self._bell, self._read_to
        if self._ring is None or self._listening or read_to is None or bell is None or not bell.open:
            return
        self._listening = True
        bell.send(
            pack("XREAD", "COUNT", 1, "BLOCK", _BELL_MS, "STREAMS", self._key, read_to), 1, self._on_news
        )

    def _on_news(self, replies: Replies | None) -> None:
        self._listening = False
        if replies is None:
            return
        reply = replies[0]
        if isinstance(reply, Exception):
            self._bell = None  # a proxy that knows no blocking reads, for one: the board is read now and then
        elif not reply:
            self._wait_for_news()
        elif self._ring is not None:
            entry_id = reply[0][1][0][0]
            if self._read_to is not None and _id(entry_id) > _id(self._read_to):
                self._ring()
            else:
                self._wait_for_news()

    def _commands(self, notice: bytes | None) -> tuple[bytes, int]:
        words: list[bytes] = []
        if notice is not None:
            self.sent_bytes += len(notice)
            words.append(pack("XADD", self._key, "MAXLEN", "~", KEPT, "*", "l", notice))
            words.append(pack("PEXPIRE", self._key, _LIFETIME_MS))
        if self._read_to is not None:
            words.append(pack("XREAD", "COUNT", _READ_AT_ONCE, "STREAMS", self._key, self._read_to))
        return b"".join(words), len(words)

    def _read(self, replies: Replies, *, posted: bool) -> list[bytes]:
        for reply in replies:
            if isinstance(reply, Exception):
                raise RedisError(str(reply))
        if self._read_to is None:
            if posted:
                self._read_to = replies[0]
            return []
        if posted and _id(replies[0]) < _id(self._read_to):
            # The stream began anew on a server whose clock is behind: wait for nothing that is past.
            raise RedisError("the stream's ids went back")
        notices: list[bytes] = []
        for _, entries in replies[-1] or ():
            for entry_id, named in entries:
                self._read_to = entry_id
                if named:
                    notices.append(named[1])
                    self.read_bytes += len(named[1])
        return notices

    async def _keep(self) -> None:
        failures = 0
        while True:
            self._lost.clear()
            self._served = False
            try:
                async with asyncio.timeout(_CONNECT_S):
                    await self._connect()
                await self._lost.wait()
            except (OSError, RedisError, TimeoutError):
                self.errors += 1  # The registry's own connection says why.
            failures = 1 if self._served else failures + 1
            pause_s = min(_FIRST_PAUSE_S * 2 ** min(failures - 1, 10), _LONGEST_PAUSE_S)
            await asyncio.sleep(pause_s * self._rng.uniform(0.5, 1.0))

    async def _connect(self) -> None:
        self._drop()
        pipe = await self._open()
        self._read_to = None
        self._pipe = pipe
        self._bell = await self._open()

    async def _open(self) -> Pipe:
        """A connection to the server that keeps the key."""
        nodes = await find_nodes(self._target, self._on_lost)
        keeper = nodes.keeper(self._key)
        for pipe in nodes.pipes:
            if pipe is not keeper:
                pipe.close()
        if keeper is None:
            raise RedisError("no server keeps the key of load notices")
        return keeper

    def _on_lost(self, pipe: Pipe) -> None:
        if pipe is self._pipe or pipe is self._bell:
            self._drop()
            self._lost.set()

    def _drop(self) -> None:
        if self._pipe is not None or self._bell is not None:
            self._lost.set()
        pipe, self._pipe = self._pipe, None
        bell, self._bell = self._bell, None
        self._listening = False
        for one in (pipe, bell):
            if one is not None:
                one.close()


class NoBoard:
    """Implements the port `LoadBoard` where there is nobody else: registry `memory`."""

    shared = False

    async def start(self) -> None:
        """Nothing to connect to."""

    def listen(self, ring: Callable[[], None]) -> None:
        """There is never any news."""

    async def exchange(self, notice: bytes | None) -> Sequence[bytes] | None:
        """Nobody listens, nobody speaks."""
        return ()

    async def stop(self) -> None:
        """Nothing to disconnect from."""


def _id(entry_id: bytes) -> tuple[int, int]:
    """Id of a stream's entry, as it is ordered."""
    milliseconds, _, count = entry_id.partition(b"-")
    return int(milliseconds), int(count)


async def _send(pipe: Pipe, data: bytes, count: int) -> list[Any]:
    """Send commands and wait for their replies.

    Raises:
        ConnectionError: The connection gets lost.
    """
    if not count:
        return []
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Replies] = loop.create_future()

    def on_replies(replies: Replies | None) -> None:
        if answer.done():
            return
        if replies is None:
            answer.set_exception(ConnectionResetError("connection to Redis lost"))
        else:
            answer.set_result(replies)

    pipe.send(data, count, on_replies)
    return await answer
