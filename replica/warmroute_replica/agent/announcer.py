"""The announcer keeps a replica's record in Redis alive, publishes what changes, and withdraws it.

This is the agent's whole part in Redis:

    {namespace}:member:{id}   the record, kept four heartbeats long
    {namespace}:members       sorted set: ids, each with the time of Redis until which its record stands, milliseconds
    {namespace}:members       channel: records as they change; the load alone too, up to four times a second

Each command is about one key, so that a Cluster needs nothing special. Times are those of Redis: agents' clocks do
not take part. Redis that is away is tried again for as long as the agent runs, and said once. Of two agents that
speak for one id the one whose engine began later is kept, and of two before one engine the one that began later
itself: the other is told, stays silent, and comes back if the id becomes free.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import Callable
from typing import Any

from redis.exceptions import AuthenticationError, NoPermissionError

from warmroute_replica.agent.logs import fields
from warmroute_replica.agent.record import Record, State
from warmroute_replica.agent.redis_client import TROUBLE, Connection, make_client
from warmroute_replica.agent.redis_url import RedisServers

log = logging.getLogger(__name__)

LIVES_HEARTBEATS = 4
"""A record outlives this many missed heartbeats, since a short pause of the agent or of Redis is no death."""

_CALL_S = 2.0
"""One announcement may take this long at most, looking for the servers included."""

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0
_OLD_MS = 60_000
"""The index keeps ids whose record has expired for this long."""

_KEEP = """
local held = redis.call('GET', KEYS[1])
if held then
  local read, other = pcall(cjson.decode, held)
  if read and type(other) == 'table' and type(other.agent) == 'string' and other.agent ~= ARGV[3] then
    local theirs, own = tonumber(other.incarnation) or 0, tonumber(ARGV[4])
    if theirs > own or (theirs == own and other.agent > ARGV[3]) then return {0, held} end
  end
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return {1, held or ''}
"""
_LIST = """
local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[3])
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
return 1
"""
_DROP = """
local held = redis.call('GET', KEYS[1])
if held then
  local read, other = pcall(cjson.decode, held)
  if read and type(other) == 'table' and type(other.agent) == 'string' and other.agent ~= ARGV[1] then return 0 end
end
redis.call('DEL', KEYS[1])
return 1
"""


class Announcer:
    """The announcer speaks to Redis for one replica.

    Args:
        record: Returns the record to announce; the announcer calls it each time.
        rng: Draws the jitter of retries.
    """

    def __init__(
        self, servers: RedisServers, namespace: str, record: Callable[[], Record], rng: random.Random
    ) -> None:
        self._servers = servers
        self._namespace = namespace
        self._members = f"{namespace}:members"
        """Name of the index, and also of the channel."""
        self._record = record
        self._rng = rng
        self._connection: Connection | None = None
        self._changed = asyncio.Event()
        self._told: Record | None = None
        """The record that Redis was told last; None when Redis has to be told everything."""
        self._tries = 0
        self._displaced_s: float | None = None
        self._displaced_said = False
        self.heartbeats = 0
        self.errors = 0
        self.healthy: bool | None = None
        """Whether the last announcement reached Redis; None before the first one."""
        self.displaced_by: str | None = None
        """URL of the other replica whose agent holds this id; None while no other agent does."""
        self.told_s: float | None = None
        """When Redis last took a heartbeat, in seconds of the monotonic clock; None before the first one."""

    def changed(self) -> None:
        """Note that the record has changed, so that the announcer publishes it soon."""
        self._changed.set()

    def has_told(self, state: State) -> bool:
        """Return whether this state is the one that Redis was told last."""
        return self._told is not None and self._told.state is state

    async def run(self) -> None:
        """Announce the replica until the task is cancelled."""
        due_s = 0.0
        task = asyncio.current_task()
        while True:
            if task is not None and task.cancelling():
                raise asyncio.CancelledError  # redis-py has now and then taken a cancellation for its own time-out
            record = self._record()
            self._changed.clear()
            now_s = time.monotonic()
            try:
                if now_s >= due_s or not record.same_but_load(self._told):
                    await self._beat(record)
                    due_s = now_s + record.interval_s
                elif record != self._told and self._told is not None:
                    await self._call("PUBLISH", self._members, record.text())
                    self._told = record
            except TROUBLE as error:
                await self._failed(error)
                continue
            try:
                async with asyncio.timeout(max(0.0, due_s - time.monotonic())):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def withdraw(self) -> None:
        """Take the replica out of the fleet, within some seconds. Where Redis cannot be told, the record expires by
        itself."""
        record = self._record()
        try:
            if self.displaced_by is None:
                if await self._script(_DROP, self._key(record), record.agent) == 1:
                    await self._call("ZREM", self._members, record.id)
                    await self._call("PUBLISH", self._members, record.text())
                    log.info("withdrawn", extra=fields(id=record.id))
        except TROUBLE as error:
            life_s = record.interval_s * LIVES_HEARTBEATS
            log.warning(
                "not_withdrawn", extra=fields(error=error or type(error).__name__, expires_within_s=life_s)
            )
        finally:
            await self._disconnect()

    async def _beat(self, record: Record) -> None:
        lives_ms = int(record.interval_s * LIVES_HEARTBEATS * 1000)
        kept, held = await self._script(
            _KEEP, self._key(record), record.text(), lives_ms, record.agent, record.incarnation or 0
        )
        if not kept:
            self._displaced(record, held)
        else:
            self._took(record, held)
            await self._script(_LIST, self._members, record.id, lives_ms, _OLD_MS)
            if not record.same_but_load(self._told) or record != self._told:
                await self._call("PUBLISH", self._members, record.text())
            self._told = record
            self.heartbeats += 1
            self.told_s = time.monotonic()
        if not self.healthy:
            log.info("redis_up", extra=fields(servers=self._servers.label, id=record.id))
        self.healthy = True
        self._tries = 0

    def _took(self, record: Record, held: bytes) -> None:
        if self.displaced_by is not None and self._displaced_said:
            log.info("replica_id_free", extra=fields(id=record.id))
        self.displaced_by, self._displaced_s, self._displaced_said = None, None, False
        other = _read(held)
        if other is not None and other.get("agent") != record.agent:
            log.warning(
                "replica_id_taken_over",
                extra=fields(
                    id=record.id,
                    before=other.get("url"),
                    hint="expected where a replica restarted; if two run, give each its own --id",
                ),
            )

    def _displaced(self, record: Record, held: bytes) -> None:
        """Note that another agent holds the id. If that agent is dead, its record expires soon, so an error is logged
        only where the conflict lasts."""
        other = _read(held) or {}
        now_s = time.monotonic()
        self._told = None
        self.displaced_by = str(other.get("url"))
        if self._displaced_s is None:
            self._displaced_s = now_s
        lasts_s = (LIVES_HEARTBEATS + 1) * record.interval_s
        if now_s - self._displaced_s > lasts_s and not self._displaced_said:
            self._displaced_said = True
            log.error(
                "replica_id_taken",
                extra=fields(
                    id=record.id,
                    by=other.get("url"),
                    hint="another agent with a newer engine has this id, and routers use that one: "
                    "give each replica its own --id",
                ),
            )

    async def _failed(self, error: BaseException) -> None:
        self.errors += 1
        self._told = None
        if self.healthy is not False:
            log.warning(
                "redis_down",
                extra=fields(
                    servers=self._servers.label,
                    error=error or type(error).__name__,
                    hint=_hint(error, self._namespace),
                ),
            )
        self.healthy = False
        await self._disconnect()
        pause_s = min(_FIRST_PAUSE_S * 2 ** min(self._tries, 10), _LONGEST_PAUSE_S)
        self._tries += 1
        await asyncio.sleep(pause_s * self._rng.uniform(0.5, 1.0))

    async def _script(self, script: str, key: str, *words: str | int | float) -> Any:
        return await self._call("EVAL", script, 1, key, *words)

    async def _call(self, *words: str | int | float) -> Any:
        if self._connection is None:
            self._connection = make_client(self._servers)
        async with asyncio.timeout(_CALL_S):
            return await self._connection.client.execute_command(*words)

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    def _key(self, record: Record) -> str:
        return f"{self._namespace}:member:{record.id}"


def _read(held: bytes) -> dict[str, Any] | None:
    try:
        other = json.loads(held) if held else None
    except ValueError:
        return None
    return other if isinstance(other, dict) else None


def _hint(error: BaseException, namespace: str) -> str:
    text = str(error)
    if isinstance(error, NoPermissionError) or "NOPERM" in text or "no permissions" in text:
        return (
            f"the Redis user needs: ~{namespace}:member* &{namespace}:members +eval +get +set +del +time +zadd +zrem "
            "+zremrangebyscore +publish, in a Cluster +cluster +command"
        )
    if isinstance(error, AuthenticationError) or any(
        w in text for w in ("WRONGPASS", "NOAUTH", "invalid password")
    ):
        return "user or password in --redis is wrong, or missing"
    if "OOM" in text[:20]:
        return "Redis is full and evicts nothing: set maxmemory-policy volatile-lru"
    return "the engine runs on, and routers keep what they know; trying again"
