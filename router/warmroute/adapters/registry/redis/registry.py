"""Routers share the Redis registry: Redis or Valkey, 6.2 or newer; one server, Sentinel, or Cluster; TLS and ACL.

This module puts the parts together. A failing Redis never shows on the request path: while it is away every lookup is
answered from this process's own placements at once, and so it is while it is slow; what was noted meanwhile is written
when it is back. The server needs the commands AUTH, SELECT, SCRIPT, EVALSHA, GET, MGET, SET, DEL, ROLE, DBSIZE, INFO
and, in a Cluster, CLUSTER, on keys `<namespace>:*`; PTTL where records are kept beyond the idle time; `load_board`
needs XADD, XREAD and PEXPIRE.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time
from collections.abc import Callable, Sequence
from importlib import resources

from warmroute.adapters.registry.memory import MAX_REFRESH_S, REFRESH_PARTS, MemoryRegistry
from warmroute.adapters.registry.redis.batch import Lookups
from warmroute.adapters.registry.redis.commands import Commands
from warmroute.adapters.registry.redis.keeper import Keeper
from warmroute.adapters.registry.redis.overlay import Overlay
from warmroute.adapters.registry.redis.queue import Write
from warmroute.adapters.registry.redis.writes import Writes
from warmroute.adapters.registry.response_homes import response_key
from warmroute.adapters.resp.commands import pack
from warmroute.adapters.resp.pipe import Replies
from warmroute.adapters.resp.topology import Nodes
from warmroute.adapters.resp.url import parse_redis_url
from warmroute.core.types import FingerprintHash, Incarnation, Records, ReplicaId

LOCAL_ENTRIES = 100_000
"""Own placements kept unless told otherwise; Redis answers for the rest."""

_START_S = 0.9
_FLUSH_S = 1.0
_APART_S = 1.0
"""A refused note says for so long that others cannot be told: while Redis is full, each is refused."""
_REFILL_AT_ONCE = 2_000


class RedisRegistry:
    """Implements the port `Registry` over Redis.

    Args:
        url: See `resp.url`.
        idle_s: A record that nobody touches for this long is forgotten, until `expire_after` says otherwise; a
            response always.
        lookup_deadline_s: After this a lookup is answered without Redis.
        namespace: Prefix of all keys.
        local_entries: Bound of own placements kept in this process.
        keeps_s: The longest that `keep` may be asked for; the same in all routers. 0: it does no more than `touch`.
        most_owned: Own placements of one owner that are kept while there is another (`owners`); 0: any number. What is
            given up of them is withdrawn from Redis.
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
        lookup_deadline_s: float = 0.005,
        namespace: str = "w",
        local_entries: int = LOCAL_ENTRIES,
        keeps_s: float = 0.0,
        most_owned: int = 0,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._target = parse_redis_url(url)
        self._idle_s = idle_s
        self._response_ms = max(int(idle_s * 1000), 1)
        self._refresh_s = min(idle_s / REFRESH_PARTS, MAX_REFRESH_S)
        self._deadline_s = lookup_deadline_s
        self._clock = clock
        self._local = MemoryRegistry(
            idle_s=idle_s,
            max_entries=local_entries,
            most_owned=most_owned,
            clock=clock,
        )
        self._keeps_s = keeps_s
        self._overlay = Overlay(self._local, idle_s, lambda: self._writes.unwritten_s(), clock, keeps_s)
        script = resources.files(__package__).joinpath("merge.lua").read_bytes()
        self._commands = Commands(namespace, script, keeps_s > 0.0)
        self._lookups = Lookups(
            self._commands,
            lookup_deadline_s,
            self._overlay.merge,
            self._local.read,
            lambda: self._keeper.look_again(),
            lambda slow: self._keeper.slow(slow, lookup_deadline_s),
        )
        self._writes = Writes(
            self._commands,
            idle_s,
            on_lost=self._refused,
            on_withdrawn=self._overlay.withdrawal_ended,
            on_moved=lambda: self._keeper.look_again(),
        )
        self._keeper = Keeper(
            self._target,
            self._commands,
            on_nodes=self._use,
            on_lost=self._lost,
            on_up=self._refill,
            on_emptied=self._emptied,
            on_size=self._note_size,
            rng=rng if rng is not None else random.Random(),
        )
        self._missed_since_s = math.inf
        self._refused_s = -math.inf
        """When a note was last refused or dropped."""
        self._entries = 0
        self._bytes = 0
        self._local_lookups = 0
        self._errors = 0

    @property
    def healthy(self) -> bool:
        """True while every key has a connected server that answers, and does so in time."""
        return self._keeper.healthy

    @property
    def apart(self) -> bool:
        """As in `Registry`."""
        # A clock set back does not make it later.
        return not self._keeper.healthy or 0.0 <= self._clock() - self._refused_s < _APART_S

    async def start(self, on_secret: Callable[[bytes], None]) -> None:
        """Connect, or go on trying in the background after most of a second."""
        loop = asyncio.get_running_loop()
        self._lookups.start(loop)
        self._writes.start(loop)
        self._missed_since_s = self._clock()
        await self._keeper.start(on_secret, _START_S)

    async def stop(self) -> None:
        """Write what waits, for at most a second, and disconnect."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FLUSH_S):
                await self._writes.wait_idle()
        await self._keeper.stop()
        self._writes.stop()
        self._lookups.stop()

    def expire_after(self, idle_s: float) -> None:
        """What is in Redis longer is not shown; what is to expire there sooner does, unless it is touched before."""
        self._local.expire_after(idle_s)
        self._idle_s = idle_s
        self._refresh_s = min(idle_s / REFRESH_PARTS, MAX_REFRESH_S)
        self._overlay.expire_after(idle_s)
        self._writes.expire_after(idle_s)

    def lookup(self, rungs: Sequence[FingerprintHash], done: Callable[[Records], None]) -> Records | None:
        """At once without a server; otherwise with the tick's batch."""
        if not rungs or self._lookups.pointless():
            self._local_lookups += 1
            return self._local.read(rungs)
        self._lookups.ask(rungs, done)
        return None

    def touch(
        self, rungs: Sequence[FingerprintHash], incarnation: Incarnation, now_s: float, owner: str = ""
    ) -> None:
        """Note it here at once, and in Redis where it is not known to be noted freshly."""
        fresh_s = max(now_s - self._refresh_s, self._overlay.trusted_s)
        owners = self._local.owners
        if owner and owners is not None:
            given_up: dict[Incarnation, list[FingerprintHash]] = {}
            changed = self._local.note_of(owners, owner, rungs, incarnation, now_s, fresh_s, given_up)
            for holder, gone in given_up.items():
                self._withdraw(gone, holder, now_s)
        else:
            changed = self._local.note(rungs, incarnation, now_s, fresh_s)
        if changed:
            self._overlay.withdrawal_ended(changed, incarnation)
            if self._lookups.nodes is not None:
                self._writes.add(Write(changed, incarnation, now_s))

    def keep(
        self, rungs: Sequence[FingerprintHash], incarnation: Incarnation, now_s: float, until_s: float
    ) -> None:
        """Note it, and have Redis keep the records until then: for `keeps_s` at most."""
        kept_s = min(until_s - now_s, self._keeps_s)
        if kept_s <= 0.0:
            self.touch(rungs, incarnation, now_s)
            return
        self._local.keep(rungs, incarnation, now_s, now_s + kept_s)
        self._overlay.withdrawal_ended(rungs, incarnation)
        if self._lookups.nodes is not None:
            self._writes.add(Write(tuple(rungs), incarnation, now_s, kept_s=kept_s))

    def forget(
        self, rungs: Sequence[FingerprintHash], incarnation: Incarnation, until_s: float = math.inf
    ) -> None:
        """Withdraw it here at once, and in Redis with the next writes."""
        self._local.forget(rungs, incarnation, until_s)
        if self._lookups.nodes is not None and rungs:
            if until_s < math.inf:
                # What this process itself has noted since stays visible.
                kept = self._local.read(rungs)
                rungs = [
                    rung
                    for rung, record in zip(rungs, kept, strict=True)
                    if record is None or all(holder[0] != incarnation for holder in record)
                ]
                if not rungs:
                    return
            self._withdraw(rungs, incarnation, until_s)

    def _withdraw(self, rungs: Sequence[FingerprintHash], incarnation: Incarnation, until_s: float) -> None:
        if self._lookups.nodes is not None:
            self._overlay.withdraw(rungs, incarnation)
            self._writes.add(Write(tuple(rungs), incarnation, None, until_s=until_s))

    def remember_response(self, response_id: str, replica: ReplicaId) -> None:
        """Keep it here and in Redis."""
        self._local.remember_response(response_id, replica)
        key = self._commands.response_key(response_key(response_id))
        nodes = self._lookups.nodes
        pipe = nodes.keeper(key) if nodes is not None else None
        if pipe is not None:
            pipe.send(pack("SET", key, replica, "PX", self._response_ms), 1, self._count_refusal)

    def find_response(self, response_id: str, done: Callable[[ReplicaId | None], None]) -> None:
        """Own responses at once, others' from Redis."""
        own = self._local.response_home(response_id)
        key = self._commands.response_key(response_key(response_id))
        nodes = self._lookups.nodes
        pipe = nodes.keeper(key) if nodes is not None else None
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
            "breaker_open": int(self._keeper.is_slow),
            "idle_s": self._idle_s,
            "lookups_total": lookups.count + self._local_lookups,
            "lookup_timeouts_total": lookups.timeouts,
            "lookups_skipped_total": lookups.skipped,
            "lookup_seconds_total": lookups.seconds,
            "writes_total": writes.count,
            "errors_total": lookups.errors + writes.errors + self._keeper.errors + self._errors,
            "evictions_total": writes.dropped,
            "reconnects_total": self._keeper.reconnects,
            "pending_rungs": writes.pending_rungs,
            "local_entries": local["entries"],
            "local_bytes": local["bytes"],
            "local_evictions_total": local["evictions_total"],
        }

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
            if self._lookups.nodes is None:
                return
            self._writes.add(Write(rungs, incarnation, at_s))

    def _note_size(self, entries: int, used_bytes: int) -> None:
        self._entries = entries
        self._bytes = used_bytes

    def _use(self, nodes: Nodes | None) -> None:
        self._lookups.nodes = nodes
        self._writes.use(nodes)

    def _lost(self) -> None:
        self._distrust(self._clock())

    def _emptied(self) -> None:
        """Redis has lost everything while it was connected: what is ours counts until it is noted again."""
        self._overlay.trusted_s = self._clock()

    def _refused(self, since_s: float) -> None:
        self._refused_s = self._clock()
        self._distrust(since_s)

    def _distrust(self, since_s: float) -> None:
        """Redis may lack what was noted until now, and does lack something noted at `since_s`."""
        self._missed_since_s = min(self._missed_since_s, since_s)
        self._overlay.trusted_s = self._clock()

    def _count_refusal(self, replies: Replies | None) -> None:
        if replies is not None and isinstance(replies[0], Exception):
            self._errors += 1
