"""The keeper connects the registry: it finds the servers, watches them, and finds them again, while the registry runs.

A round is: find the servers, teach them the script, agree on the secret, serve until one is lost or names another.
Rounds that fail or end soon are followed by a pause that grows. The keeper decides nothing about requests; it tells
whoever uses the servers when they come and go.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from os import urandom
from typing import Any

from warmroute.adapters.registry.redis.commands import Commands
from warmroute.adapters.resp.advice import with_remedy
from warmroute.adapters.resp.pipe import Pipe, RedisError
from warmroute.adapters.resp.topology import Nodes, find_nodes
from warmroute.adapters.resp.url import RedisTarget
from warmroute.tasks import Tasks
from warmroute.telemetry.logs import fields

_log = logging.getLogger("warmroute.registry")

_CONNECT_S = 2.0
_REPLY_S = 1.0
_POLL_S = 1.0
_SOON_S = 5.0
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 1.0
"""With what a connection takes, a server that is back is in use within two seconds."""

_SECRET_BYTES = 16
_MOST_TOLD = 8
_RIGHTS = "~PREFIX* +@all -@dangerous +info +role, PREFIX being registry.namespace (&PREFIX* for leases)"
_FULL = ": OOM "
"""In the error of a server whose `maxmemory` is used up."""


class Keeper:
    """Owns the connections.

    Args:
        on_nodes: The servers to use from here on; `None` when there are none.
        on_lost: A server has been lost.
        on_up: Every key has a server again; awaited before the servers are watched.
        on_emptied: A server in use has lost all keys.
        on_size: Keys and used bytes of all servers together, about once a second.
        rng: Jitter of the pauses.
    """

    def __init__(
        self,
        target: RedisTarget,
        commands: Commands,
        *,
        on_nodes: Callable[[Nodes | None], None],
        on_lost: Callable[[], None],
        on_up: Callable[[], Awaitable[None]],
        on_emptied: Callable[[], None],
        on_size: Callable[[int, int], None],
        rng: random.Random,
    ) -> None:
        self.nodes: Nodes | None = None
        self.errors = 0
        self.reconnects = 0
        self._target = target
        self._commands = commands
        self._on_nodes = on_nodes
        self._on_lost = on_lost
        self._on_up = on_up
        self._on_emptied = on_emptied
        self._on_size = on_size
        self._rng = rng
        self._secret: bytes | None = None
        self._on_secret: Callable[[bytes], None]
        self._tasks = Tasks()
        self._trouble = asyncio.Event()
        self._served = asyncio.Event()
        self._announced: bool | None = None
        self._told: set[str] = set()
        """What servers have answered, as far as logged, since they last served."""
        self._last_words = ""
        self._useless = False
        """The servers are connected, and of no use: a Cluster that is down, a primary that became a replica."""

    @property
    def healthy(self) -> bool:
        """True while every key has a connected server that answers, and does so in time."""
        return self.nodes is not None and self.nodes.complete and not self._useless and not self.is_slow

    @property
    def is_slow(self) -> bool:
        """Whether a connected server's breaker is open."""
        nodes = self.nodes
        return nodes is not None and any(pipe.open and pipe.breaker.open for pipe in nodes.pipes)

    def slow(self, slow: bool, deadline_s: float) -> None:
        """A server's breaker opened, or closed: one line each."""
        if slow:
            _log.warning("registry_slow", extra=fields(servers=self._target.label, deadline_s=deadline_s))
        elif not self.is_slow:
            _log.info("registry_in_time", extra=fields(servers=self._target.label))

    async def start(self, on_secret: Callable[[bytes], None], wait_s: float) -> None:
        """Start, and wait so long at most for the servers."""
        self._on_secret = on_secret
        self._tasks = Tasks()
        self._tasks.supervise(self._run, name="registry keeper")
        try:
            async with asyncio.timeout(wait_s):
                await self._served.wait()
        except TimeoutError:
            self._announce(f"no answer within {wait_s} s")

    async def stop(self) -> None:
        """Disconnect."""
        await self._tasks.stop()
        nodes = self.nodes
        self._use(None)
        if nodes is not None:
            nodes.close()
            await asyncio.sleep(0)  # Transports finish closing in the loop's next round.

    def look_again(self) -> None:
        """A server says that somebody else keeps its keys."""
        self._trouble.set()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            started_s = loop.time()
            try:
                trouble = await self._round()
            except TimeoutError:
                self.errors += 1
                self._useless = True
                trouble = f"no answer within {_CONNECT_S:g} s"
            except RedisError as error:
                self.errors += 1
                self._useless = True
                trouble = with_remedy(str(error), _RIGHTS)
                self._refused(trouble)
            except Exception as error:  # noqa: BLE001 - whatever a server says, the registry goes on trying
                self.errors += 1
                self._useless = True
                trouble = f"{type(error).__name__}: {error}"
            failures = failures + 1 if loop.time() - started_s < _SOON_S else 0
            if not self.healthy:
                self._announce(trouble)
            if failures:
                pause_s = min(_FIRST_PAUSE_S * 2 ** min(failures - 1, 10), _LONGEST_PAUSE_S)
                await asyncio.sleep(pause_s * self._rng.uniform(0.5, 1.0))

    async def _round(self) -> str:
        """Returns when the servers have to be found again, and why."""
        async with asyncio.timeout(_CONNECT_S):
            nodes = await self._connect()
        self._trouble.clear()
        self._last_words = ""
        self._use(nodes)
        if not nodes.complete:
            raise RedisError("not every key has a server")
        self._useless = False
        self._announce(None)
        self._served.set()
        await self._on_up()
        while not self._trouble.is_set():
            await self._poll(nodes)
            try:
                async with asyncio.timeout(_POLL_S):
                    await self._trouble.wait()
            except TimeoutError:
                continue
        return with_remedy(self._last_words, _RIGHTS) or "connection lost"

    async def _connect(self) -> Nodes:
        known = [pipe for pipe in self.nodes.pipes if pipe.open] if self.nodes is not None else []
        nodes = await find_nodes(self._target, self._lost, known)
        try:
            for pipe in nodes.pipes:
                if pipe not in known:
                    await pipe.ask("SCRIPT", "LOAD", self._commands.script)
            await self._share_secret(nodes)
        except BaseException:
            for pipe in nodes.pipes:
                if pipe not in known:
                    pipe.close()
            raise
        for pipe in known:
            if pipe not in nodes.pipes:
                pipe.close()
        return nodes

    async def _share_secret(self, nodes: Nodes) -> None:
        key = self._commands.secret_key
        pipe = nodes.keeper(key)
        if pipe is None:
            return
        try:
            made = await pipe.ask("SET", key, self._secret or urandom(_SECRET_BYTES), "NX")
        except RedisError as error:
            if _FULL not in str(error):
                raise
            made = None  # A full server still answers lookups.
        if made is not None and self._secret is not None:
            self._on_emptied()
        # Read as lookups read, so that a user who may not do so is noticed here.
        found = (await pipe.ask("MGET", key))[0]
        if found is None and self._secret is not None:
            return  # Emptied and full at once.
        if not isinstance(found, bytes) or len(found) != _SECRET_BYTES:
            raise RedisError(
                f"key {key.decode()} is no secret of 16 bytes: delete it, or choose another namespace"
            )
        if found != self._secret:
            self._secret = found
            self._on_secret(found)

    async def _poll(self, nodes: Nodes) -> None:
        """Ask every server for its size, and so whether it is alive; a silent one is closed.

        The secret is written again where it is missing, before a router that starts just then makes another.
        """
        sizes = await asyncio.gather(*[self._ask_size(pipe) for pipe in nodes.pipes])
        known = [size for size in sizes if size is not None]
        if len(known) == len(sizes):
            self._on_size(sum([entries for entries, _ in known]), sum([used for _, used in known]))
        async with asyncio.timeout(_REPLY_S):
            await self._share_secret(nodes)

    async def _ask_size(self, pipe: Pipe) -> tuple[int, int] | None:
        try:
            async with asyncio.timeout(_REPLY_S):
                entries: int = await pipe.ask("DBSIZE")
                info: Any = await pipe.ask("INFO", "memory")
        except RedisError:
            return None  # Not allowed to ask, but alive; the server's own bounds have to do.
        except OSError:
            pipe.close()
            return None
        used = [int(line[12:]) for line in info.split(b"\r\n") if line.startswith(b"used_memory:")]
        return entries, sum(used)

    def _use(self, nodes: Nodes | None) -> None:
        self.nodes = nodes
        self._on_nodes(nodes)

    def _lost(self, pipe: Pipe) -> None:
        nodes = self.nodes
        if nodes is None or pipe not in nodes.pipes:
            return
        self._last_words = pipe.said
        self._on_lost()
        if not any(other.open for other in nodes.pipes):
            self._use(None)
        self._trouble.set()

    def _refused(self, trouble: str) -> None:
        """One line each answer that is news: what the first line said may have been only that nobody answered."""
        if self._announced is False and trouble not in self._told and len(self._told) < _MOST_TOLD:
            _log.warning("registry_refused", extra=fields(servers=self._target.label, error=trouble))
        self._told.add(trouble)

    def _announce(self, trouble: str | None) -> None:
        """One line a change of state, none a failure."""
        healthy = trouble is None
        if self._announced is healthy:
            return
        if healthy:
            self._told.clear()
            self.reconnects += self._announced is False
            _log.info("registry_up", extra=fields(servers=self._target.label))
        else:
            _log.warning("registry_down", extra=fields(servers=self._target.label, error=trouble))
        self._announced = healthy
