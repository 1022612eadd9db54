"""The registry that routers share: Redis or Valkey, 6.2 or newer; one server, Sentinel, or Cluster; TLS and ACL.

Puts the parts together and keeps the connection: connects, notices its loss, comes back by itself. A failing Redis
never shows on the request path: while it is away every lookup is answered from this process's own placements at once,
and what was noted meanwhile is written when it is back. Needs of the server: the commands AUTH, SELECT, SCRIPT,
EVALSHA, GET, MGET, SET, DEL, ROLE, DBSIZE, INFO and, in a Cluster, CLUSTER, on keys `<namespace>:*`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import time
from collections.abc import Callable, Sequence
from importlib import resources
from os import urandom
from typing import Any

from router.adapters.registry.memory import REFRESH_PARTS, MemoryRegistry, response_key
from router.adapters.registry.redis_batch import Lookups
from router.adapters.registry.redis_commands import Commands, pack
from router.adapters.registry.redis_overlay import Overlay
from router.adapters.registry.redis_pipe import Pipe, RedisError, Replies
from router.adapters.registry.redis_topology import Nodes, find_nodes
from router.adapters.registry.redis_url import parse_redis_url
from router.adapters.registry.redis_writes import Write, Writes
from router.core.types import FingerprintHash, Incarnation, ReplicaId
from router.ports import Records

_log = logging.getLogger("router.registry")

_CONNECT_S = 2.0
_REPLY_S = 1.0
_POLL_S = 1.0
_SECRET_POLL_S = 30.0
_BACKOFF_S = (0.1, 2.0)
_REFILL_AT_ONCE = 2_000


class RedisRegistry:
    """Implements the port `Registry` over Redis.

    Args:
        url: See `redis_url`.
        idle_s: A record that nobody touches for this long is forgotten.
        max_entries: Bound of records in Redis, all routers together.
        max_bytes: Bound of the server's used memory, if the operator wants one here beside Redis' own `maxmemory`.
        lookup_deadline_s: After this a lookup is answered without Redis.
        namespace: Prefix of all keys.
        local_entries: Bound of own placements kept in this process.
        rng: Jitter of reconnects.
        clock: Unix seconds.

    Raises:
        ValueError: The URL is none, or names files that cannot be read.
    """

    def __init__(
        self,
        url: str,
        *,
        idle_s: float = 1800.0,
        max_entries: int = 10_000_000,
        max_bytes: int | None = None,
        lookup_deadline_s: float = 0.005,
        namespace: str = "w",
        local_entries: int = 100_000,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._target = parse_redis_url(url)
        self._idle_s = idle_s
        self._refresh_s = idle_s / REFRESH_PARTS
        self._deadline_s = lookup_deadline_s
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._rng = rng if rng is not None else random.Random()
        self._clock = clock
        self._local = MemoryRegistry(idle_s=idle_s, max_entries=local_entries, clock=clock)
        self._overlay = Overlay(self._local, idle_s, lambda: self._writes.unwritten_s(), clock)
        self._commands = Commands(namespace, resources.files(__package__).joinpath("merge.lua").read_bytes())
        self._lookups = Lookups(
            self._commands, lookup_deadline_s, self._overlay.merge, self._local.read, self._look_again
        )
        self._writes = Writes(
            self._commands,
            idle_s,
            max_entries,
            on_lost=self._distrust,
            on_withdrawn=self._overlay.withdrawal_ended,
            on_moved=self._look_again,
        )
        self._secret: bytes | None = None
        self._on_secret: Callable[[bytes], None]
        self._nodes: Nodes | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._trouble = asyncio.Event()
        self._connected = asyncio.Event()
        self._missed_since_s = math.inf
        self._announced: bool | None = None
        self._entries = 0
        self._bytes = 0
        self._local_lookups = 0
        self._errors = 0
        self._reconnects = 0

    @property
    def healthy(self) -> bool:
        """True while every key has a connected server."""
        return self._nodes is not None and self._nodes.complete

    async def start(self, on_secret: Callable[[bytes], None]) -> None:
        """Connect, or go on trying in the background after most of a second."""
        loop = asyncio.get_running_loop()
        self._on_secret = on_secret
        self._lookups.start(loop)
        self._writes.start(loop)
        self._missed_since_s = self._clock()
        self._keeper = loop.create_task(self._keep_connected(), name="registry-keeper")
        try:
            async with asyncio.timeout(0.9):
                await self._connected.wait()
        except TimeoutError:
            self._announce("not reached at start")

    async def stop(self) -> None:
        """Write what waits, for at most a second, and disconnect."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await self._writes.wait_idle()
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
        self._writes.stop()
        self._lookups.stop()
        nodes = self._nodes
        self._use(None)
        if nodes is not None:
            nodes.close()
            await asyncio.sleep(0)  # Transports finish closing in the loop's next round.

    def lookup(self, rungs: Sequence[FingerprintHash], done: Callable[[Records], None]) -> Records | None:
        """At once without a server; otherwise with the tick's batch."""
        if self._nodes is None or not rungs:
            self._local_lookups += 1
            return self._local.read(rungs)
        self._lookups.ask(rungs, done)
        return None

    def touch(self, rungs: Sequence[FingerprintHash], incarnation: Incarnation, now_s: float) -> None:
        """Note it here at once, and in Redis where it is not known to be noted freshly."""
        fresh_s = max(now_s - self._refresh_s, self._overlay.trusted_s)
        changed = self._local.note(rungs, incarnation, now_s, fresh_s)
        if changed:
            self._overlay.withdrawal_ended(changed, incarnation)
            if self._nodes is not None:
                self._writes.add(Write(changed, incarnation, now_s))

    def forget(self, rungs: Sequence[FingerprintHash], incarnation: Incarnation) -> None:
        """Withdraw it here at once, and in Redis with the next writes."""
        self._local.forget(rungs, incarnation)
        if self._nodes is not None and rungs:
            self._overlay.withdraw(rungs, incarnation)
            self._writes.add(Write(tuple(rungs), incarnation, None))

    def remember_response(self, response_id: str, replica: ReplicaId) -> None:
        """Keep it here and in Redis."""
        self._local.remember_response(response_id, replica)
        key = self._commands.response_key(response_key(response_id))
        pipe = self._nodes.keeper(key) if self._nodes is not None else None
        if pipe is not None:
            lifetime_ms = max(int(self._idle_s * 1000), 1)
            pipe.send(pack("SET", key, replica, "PX", lifetime_ms), 1, self._count_refusal)

    def find_response(self, response_id: str, done: Callable[[ReplicaId | None], None]) -> None:
        """Own responses at once, others' from Redis."""
        own = self._local.response_home(response_id)
        key = self._commands.response_key(response_key(response_id))
        pipe = self._nodes.keeper(key) if self._nodes is not None else None
        if own is not None or pipe is None:
            done(own)
            return
        waiting = True

        def answer(replica: ReplicaId | None) -> None:
            nonlocal waiting
            if waiting:
                waiting = False
                timer.cancel()
                done(replica)

        def on_replies(replies: Replies | None) -> None:
            self._count_refusal(replies)
            found = replies[0] if replies else None
            answer(ReplicaId(found.decode()) if isinstance(found, bytes) else None)

        timer = pipe.loop.call_later(self._deadline_s, answer, None)
        pipe.send(pack("GET", key), 1, on_replies)

    def statistics(self) -> dict[str, float]:
        """Figures for `/metrics`. `entries` and `bytes` are the servers', a second old, whatever else they keep."""
        local = self._local.statistics()
        lookups = self._lookups
        writes = self._writes
        return {
            "entries": self._entries,
            "bytes": self._bytes,
            "down": 0 if self.healthy else 1,
            "lookups_total": lookups.count + self._local_lookups,
            "lookup_timeouts_total": lookups.timeouts,
            "lookup_seconds_total": lookups.seconds,
            "writes_total": writes.count,
            "errors_total": lookups.errors + writes.errors + self._errors,
            "evictions_total": writes.dropped,
            "reconnects_total": self._reconnects,
            "pending_rungs": writes.pending_rungs,
            "local_entries": local["entries"],
            "local_bytes": local["bytes"],
            "local_evictions_total": local["evictions_total"],
        }

    async def _keep_connected(self) -> None:
        """Find the servers, watch them, find them again; for as long as the registry runs."""
        attempt = 0
        while True:
            try:
                async with asyncio.timeout(_CONNECT_S):
                    nodes = await self._connect()
            except (OSError, RedisError, UnicodeError) as error:
                attempt += 1
                self._errors += 1
                self._announce(f"{type(error).__name__}: {error}")
                await self._pause(attempt)
                continue
            self._adopt(nodes)
            if not nodes.complete:
                attempt += 1
                self._announce("part of the Cluster is missing")
                await self._pause(attempt)
                continue
            attempt = 0
            self._announce(None)
            self._connected.set()
            await self._refill()
            trouble = await self._watch(nodes)
            if self.healthy:
                await self._pause(1)  # Keys are moving between servers that all answer: no haste.
            else:
                self._announce(trouble)

    async def _pause(self, attempt: int) -> None:
        first_s, longest_s = _BACKOFF_S
        await asyncio.sleep(min(first_s * 2 ** min(attempt - 1, 10), longest_s) * self._rng.uniform(0.5, 1.0))

    async def _connect(self) -> Nodes:
        known = [pipe for pipe in self._nodes.pipes if pipe.open] if self._nodes is not None else []
        opened: list[Pipe] = []
        nodes: Nodes | None = None
        try:
            nodes = await find_nodes(self._target, self._lost, known)
            opened = [pipe for pipe in nodes.pipes if pipe not in known]
            for pipe in opened:
                await pipe.ask("SCRIPT", "LOAD", self._commands.script)
            await self._share_secret(nodes)
        except BaseException:
            for pipe in opened:
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
        await pipe.ask("SET", key, self._secret or urandom(16), "NX")
        # Read as lookups read, so that a user who may not do so is noticed here.
        found = (await pipe.ask("MGET", key))[0]
        if not isinstance(found, bytes) or len(found) != 16:
            raise RedisError(
                f"key {key.decode()} holds no secret of 16 bytes: delete it, or choose another namespace"
            )
        if found != self._secret:
            self._secret = found
            self._on_secret(found)

    def _adopt(self, nodes: Nodes) -> None:
        # Set first: a connection lost from here on ends the watch.
        self._trouble.clear()
        self._use(nodes)
        if not nodes.complete:
            self._trouble.set()

    async def _watch(self, nodes: Nodes) -> str:
        """Returns when the servers have to be found again, and why."""
        secret_s = 0.0
        while not self._trouble.is_set():
            try:
                async with asyncio.timeout(_REPLY_S):
                    await self._poll(nodes)
                    secret_s += _POLL_S
                    if secret_s >= _SECRET_POLL_S:
                        secret_s = 0.0
                        await self._share_secret(nodes)
            except TimeoutError:
                nodes.close()
                return f"silent for {_REPLY_S} s"
            except (OSError, RedisError) as error:
                self._errors += 1
                nodes.close()
                return str(error)
            try:
                async with asyncio.timeout(_POLL_S):
                    await self._trouble.wait()
            except TimeoutError:
                continue
        return "connection lost"

    async def _poll(self, nodes: Nodes) -> None:
        entries = used_bytes = 0
        for pipe in nodes.pipes:
            try:
                entries += await pipe.ask("DBSIZE")
                info: Any = await pipe.ask("INFO", "memory")
            except RedisError:
                return  # Not allowed to ask: the server's own bounds have to do.
            for line in info.split(b"\r\n"):
                if line.startswith(b"used_memory:"):
                    used_bytes += int(line[12:])
        self._entries = entries
        self._bytes = used_bytes
        fill_ratio = entries / self._max_entries
        if self._max_bytes is not None:
            fill_ratio = max(fill_ratio, used_bytes / self._max_bytes)
        self._writes.set_entries(entries, fill_ratio)

    async def _refill(self) -> None:
        """Write what was placed while nobody could be told; all that is older, Redis may or may not know."""
        since_s, self._missed_since_s = self._missed_since_s, math.inf
        self._overlay.trusted_s = self._clock()
        if since_s == math.inf:
            return
        missed: dict[tuple[Incarnation, float], list[FingerprintHash]] = {}
        for count, (rung, record) in enumerate(self._local.entries_since(since_s)):
            for incarnation, at_s in record:
                if at_s >= since_s:
                    missed.setdefault((incarnation, at_s), []).append(rung)
            if not (count + 1) % _REFILL_AT_ONCE:
                await asyncio.sleep(0)
        for (incarnation, at_s), rungs in missed.items():
            if self._writes.pending_rungs > _REFILL_AT_ONCE:
                await self._writes.wait_room(_REFILL_AT_ONCE)
            if self._nodes is None:
                return
            self._writes.add(Write(rungs, incarnation, at_s))

    def _use(self, nodes: Nodes | None) -> None:
        self._nodes = self._lookups.nodes = nodes
        self._writes.use(nodes)

    def _lost(self, pipe: Pipe) -> None:
        nodes = self._nodes
        if nodes is None or pipe not in nodes.pipes:
            return
        self._distrust(self._clock())
        if not any(other.open for other in nodes.pipes):
            self._use(None)
        self._trouble.set()

    def _look_again(self) -> None:
        self._trouble.set()

    def _distrust(self, since_s: float) -> None:
        """Redis may lack what was noted until now, and does lack something noted at `since_s`."""
        self._missed_since_s = min(self._missed_since_s, since_s)
        self._overlay.trusted_s = self._clock()

    def _count_refusal(self, replies: Replies | None) -> None:
        if replies is not None and isinstance(replies[0], Exception):
            self._errors += 1

    def _announce(self, trouble: str | None) -> None:
        """One line a change of state, none a failure."""
        healthy = trouble is None
        if self._announced is healthy:
            return
        if healthy:
            self._reconnects += self._announced is False
            _log.info("registry_up servers=%s", self._target.label)
        else:
            _log.warning("registry_down servers=%s error=%s", self._target.label, trouble)
        self._announced = healthy
