"""One router's connections to the Redis of one kind of its records: kept, and found again when lost.

Decides nothing about what is asked. Apart from the registry's own connections, so that a lookup never waits behind an
account or a long content, nor these behind a lookup.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable

from warmroute.adapters.resp.pipe import Pipe, RedisError, Replies
from warmroute.adapters.resp.topology import Nodes, find_nodes
from warmroute.adapters.resp.url import parse_redis_url
from warmroute.tasks import Tasks
from warmroute.telemetry.logs import fields

log = logging.getLogger(__name__)

_CONNECT_S = 2.0
_START_S = 0.9
_REPLY_S = 1.0
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 1.0


class RedisLink:
    """Connected, or trying to be, from `start` to `stop`.

    Args:
        url: See `resp.url`.
        rng: Jitter of reconnects.
        name: Whose connections these are, in the log.

    Raises:
        ValueError: The URL is none, or names files that cannot be read.
    """

    def __init__(self, url: str, rng: random.Random | None = None, name: str = "tenants") -> None:
        self._name = name
        self._target = parse_redis_url(url)
        self._rng = rng if rng is not None else random.Random()
        self._nodes: Nodes | None = None
        self._lost = asyncio.Event()
        self._up = asyncio.Event()
        self._tasks = Tasks()
        self._users = 0
        self._announced: bool | None = None
        self.errors = 0
        self.on_up: list[Callable[[], None]] = []
        """Called whenever the servers were found."""

    @property
    def nodes(self) -> Nodes | None:
        """The servers; None while there are none."""
        return self._nodes

    @property
    def up(self) -> bool:
        """Whether every key has a connected server."""
        return self._nodes is not None and self._nodes.complete

    async def start(self) -> None:
        """Connect; returns after a second at most, whether or not that worked. Each user calls it once."""
        self._users += 1
        if self._users == 1:
            self._tasks = Tasks()
            self._tasks.supervise(self._keep, name=f"{self._name} redis")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_START_S):
                await self._up.wait()

    async def stop(self) -> None:
        """Disconnect with the last user."""
        self._users -= 1
        if self._users > 0:
            return
        await self._tasks.stop()
        self._drop()
        await asyncio.sleep(0)  # Transports finish closing in the loop's next round.

    def keeper(self, key: bytes) -> Pipe | None:
        """The connected server that keeps a key; None while there is none."""
        return self._nodes.keeper(key) if self._nodes is not None else None

    def look_again(self) -> None:
        """A server says that somebody else keeps its keys, or that it may not be written to."""
        self._lost.set()

    async def ask(self, key: bytes, data: bytes, count: int = 1) -> Replies:
        """Send commands about one key and wait for their replies, for a second at most.

        Raises:
            OSError: No server is there, or it does not answer.
            RedisError: It refuses the first, or the last.
        """
        pipe = self.keeper(key)
        if pipe is None:
            raise ConnectionResetError(f"no connection to Redis ({self._target.label})")
        answer: asyncio.Future[Replies] = asyncio.get_running_loop().create_future()

        def on_replies(replies: Replies | None) -> None:
            if answer.done():
                return
            if replies is None:
                answer.set_exception(ConnectionResetError("the connection to Redis was lost"))
            else:
                answer.set_result(replies)

        pipe.send(data, count, on_replies)
        try:
            async with asyncio.timeout(_REPLY_S):
                replies = await answer
        except TimeoutError:
            pipe.close()
            raise
        for reply in replies:
            if isinstance(reply, Exception):
                self.errors += 1
                if str(reply).startswith(("MOVED", "ASK", "READONLY", "CLUSTERDOWN", "LOADING")):
                    self.look_again()
                raise RedisError(str(reply))
        return replies

    async def _keep(self) -> None:
        failures = 0
        while True:
            self._lost.clear()
            started_s = asyncio.get_running_loop().time()
            try:
                async with asyncio.timeout(_CONNECT_S):
                    self._nodes = await self._find()
                self._announce(None)
                self._up.set()
                for tell in self.on_up:
                    tell()
                await self._lost.wait()
                trouble = "connection lost"
            except (OSError, RedisError, TimeoutError) as error:
                self.errors += 1
                trouble = f"{type(error).__name__}: {error}"
            self._drop()
            self._announce(trouble)
            failures = 1 if asyncio.get_running_loop().time() - started_s > _CONNECT_S else failures + 1
            pause_s = min(_FIRST_PAUSE_S * 2 ** min(failures - 1, 10), _LONGEST_PAUSE_S)
            await asyncio.sleep(pause_s * self._rng.uniform(0.5, 1.0))

    async def _find(self) -> Nodes:
        nodes = await find_nodes(self._target, self._on_lost)
        if not nodes.complete:
            nodes.close()
            raise RedisError("not every key has a server")
        return nodes

    def _on_lost(self, pipe: Pipe) -> None:
        if self._nodes is not None and pipe in self._nodes.pipes:
            self._lost.set()

    def _drop(self) -> None:
        nodes, self._nodes = self._nodes, None
        self._up.clear()
        if nodes is not None:
            nodes.close()

    def _announce(self, trouble: str | None) -> None:
        """One line a change of state."""
        up = trouble is None
        if self._announced is up:
            return
        if up:
            log.info("redis_up", extra=fields(of=self._name, servers=self._target.label))
        else:
            log.warning("redis_down", extra=fields(of=self._name, servers=self._target.label, error=trouble))
        self._announced = up
