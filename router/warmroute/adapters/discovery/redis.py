"""Agents announce members in Redis: their heartbeats are read as a list now and then, and heard as they change.

    {namespace}:member:{id}   an agent's record
    {namespace}:members       sorted set: ids, with the time of Redis until which each record holds, in milliseconds
    {namespace}:members       channel: records as they change

There are two connections. One subscribes before anything is read, so that nothing is missed. On the other everything is
listed at the start, every `READ_S`, and when a record would be over. All commands are on one key each, so that a
Cluster needs nothing special; there, whatever any node publishes reaches every node. A Redis that is away changes
nothing: the last known members stay, and it is tried again. `heartbeats` says what counts when.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

from warmroute.adapters.discovery.heartbeats import Heartbeat, Heartbeats, UnusableError, read_heartbeat
from warmroute.adapters.resp.advice import FORBIDDEN, UNAUTHORIZED, with_remedy
from warmroute.adapters.resp.commands import pack
from warmroute.adapters.resp.pipe import Pipe, RedisError, Replies
from warmroute.adapters.resp.topology import Nodes, find_nodes
from warmroute.adapters.resp.url import parse_redis_url
from warmroute.core.types import ReplicaId
from warmroute.ports import DiscoveryFailure, DiscoveryReport, Member

READ_S = 2.0
"""Time between two lists: what a message lost on the way costs at most. A record outlives it."""

MAX_MEMBERS = 5000

READ_AT_ONCE = 64
"""Records of a list that are read before others on the event loop have their turn: about a millisecond."""

_CONNECT_S = 2.0
_REPLY_S = 1.0
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0
_SILENT_LISTS = 3
"""Lists within which the subscription must have answered."""

OnLoad = Callable[[ReplicaId, int | None, int | None], None]


class RedisDiscovery:
    """Implements the port `Discovery` over the heartbeats of agents.

    Args:
        url: See `resp.url`.
        namespace: Prefix of the keys; the agents' `--namespace`.
        on_load: Told the requests that an engine runs and holds waiting, as its agent says them.
        read_s: As `READ_S`.

    Raises:
        ValueError: The URL is none, or names files that cannot be read.
    """

    def __init__(
        self,
        url: str,
        *,
        namespace: str,
        report: DiscoveryReport,
        on_load: OnLoad = lambda *_: None,
        read_s: float = READ_S,
        rng: random.Random | None = None,
    ) -> None:
        self._target = parse_redis_url(url)
        self._members_key = f"{namespace}:members".encode()
        self._member_prefix = f"{namespace}:member:".encode()
        self._rights = (
            f"~{namespace}:member* &{namespace}:members +subscribe +ping +time +zrevrangebyscore +get "
            "(in a Cluster +cluster|slots)"
        )
        self._report = report
        self._on_load = on_load
        self._read: dict[bytes, Heartbeat] = {}
        """Records of the last list, by their text: most of the next one's are the same."""
        self._read_s = read_s
        self._rng = rng if rng is not None else random.Random()

    async def watch(self) -> AsyncIterator[tuple[Member, ...]]:
        """See `warmroute.ports.Discovery.watch`."""
        heartbeats = Heartbeats()
        named: tuple[Member, ...] | None = None
        failures = 0
        while True:
            link = _Link(heartbeats, self._heard)
            try:
                async with asyncio.timeout(_CONNECT_S):
                    await self._connect(link)
                heartbeats.connected(time.monotonic())
                while True:
                    async with asyncio.timeout(_REPLY_S):
                        await self._list(link)
                    failures = 0
                    self._report.succeeded()
                    self._notice(link)
                    until_s = self._next_list_s(heartbeats)
                    while True:
                        members = heartbeats.members()
                        if members != named:
                            named = members
                            yield members
                        if not await link.news(until_s):
                            break
                        self._report.succeeded()
            except (OSError, RedisError) as error:
                link.close()
                pause_s = min(_FIRST_PAUSE_S * 2 ** min(failures, 10), _LONGEST_PAUSE_S)
                failures += 1
                self._report.failed(*self._judge(error), pause_s)
                await asyncio.sleep(pause_s * self._rng.uniform(0.5, 1.0))
            finally:
                link.close()

    async def _connect(self, link: _Link) -> None:
        nodes = link.nodes = await find_nodes(self._target, link.lost)
        subscriber = await find_nodes(self._target, link.lost)
        link.pipe, *others = subscriber.pipes
        for pipe in others:
            pipe.close()
        if not nodes.complete:
            raise RedisError("not every key has a server")
        await link.subscribe(self._members_key)

    async def _list(self, link: _Link) -> None:
        """Read every record, and see whether the subscription lives."""
        assert link.nodes is not None
        link.ping()
        await link.take_published()
        began_s = time.monotonic()
        index = _keeper(link.nodes, self._members_key)
        now = await index.ask("TIME")
        now_ms = int(now[0]) * 1000 + int(now[1]) // 1000
        asked = (
            "ZREVRANGEBYSCORE",
            self._members_key,
            "+inf",
            f"({now_ms}",
            "WITHSCORES",
            "LIMIT",
            0,
            MAX_MEMBERS,
        )
        flat = await index.ask(*asked)
        rests_s = {
            key: (float(score) - now_ms) / 1000 for key, score in zip(flat[::2], flat[1::2], strict=True)
        }
        texts = await self._records(link.nodes, list(rests_s))
        link.unusable.clear()
        listed: list[tuple[Heartbeat, float]] = []
        read: dict[bytes, Heartbeat] = {}
        for number, (replica_id, text) in enumerate(texts.items()):
            if number % READ_AT_ONCE == READ_AT_ONCE - 1:
                await asyncio.sleep(0)
            if text is None:
                continue  # withdrawn a moment ago
            heartbeat = self._read.get(text) or link.read(text)
            if heartbeat is not None and heartbeat.member.replica_id.encode() == replica_id:
                read[text] = heartbeat
                listed.append((heartbeat, rests_s[replica_id]))
        self._read = read
        link.heartbeats.listed(listed, began_s, time.monotonic())
        for heartbeat, _ in listed:
            self._heard(heartbeat)

    async def _records(self, nodes: Nodes, ids: list[bytes]) -> dict[bytes, bytes | None]:
        """Every record, all questions to one server at once."""
        at: dict[Pipe, list[bytes]] = {}
        for replica_id in ids:
            at.setdefault(_keeper(nodes, self._member_prefix + replica_id), []).append(replica_id)
        replies = await asyncio.gather(*[self._get(pipe, asked) for pipe, asked in at.items()])
        return dict(
            zip(
                [i for asked in at.values() for i in asked],
                [r for some in replies for r in some],
                strict=True,
            )
        )

    async def _get(self, pipe: Pipe, ids: list[bytes]) -> Replies:
        answer: asyncio.Future[Replies | None] = pipe.loop.create_future()

        def on_replies(replies: Replies | None) -> None:
            if not answer.done():
                answer.set_result(replies)

        if not pipe.open:
            raise ConnectionResetError("connection to Redis lost")
        pipe.send(b"".join([pack("GET", self._member_prefix + i) for i in ids]), len(ids), on_replies)
        replies = await answer
        if replies is None:
            raise ConnectionResetError("connection to Redis lost")
        for reply in replies:
            if isinstance(reply, Exception):
                raise RedisError(f"GET: {reply}")
        return replies

    def _heard(self, heartbeat: Heartbeat) -> None:
        self._on_load(heartbeat.member.replica_id, heartbeat.running, heartbeat.waiting)

    def _notice(self, link: _Link) -> None:
        problem = ""
        if link.unusable:
            problem = f"{len(link.unusable)} records cannot be used: {link.unusable[0]}"
        elif link.heartbeats.silent:
            problem = (
                f"all {link.heartbeats.silent} agents fell silent without a goodbye: their replicas are kept; "
                "see whether agents reach this Redis"
            )
        self._report.noticed(problem)

    def _next_list_s(self, heartbeats: Heartbeats) -> float:
        now_s = time.monotonic()
        end_s = heartbeats.next_end_s()
        soon_s = now_s + self._read_s
        # A little later than the end, since Redis counts whole milliseconds; what is kept though over waits its turn.
        return soon_s if end_s is None or end_s <= now_s else min(soon_s, end_s + 0.01)

    def _judge(self, error: OSError | RedisError) -> tuple[DiscoveryFailure, str]:
        where = f"Redis at {self._target.label}"
        text = str(error) or type(error).__name__
        if isinstance(error, TimeoutError):
            return DiscoveryFailure.TIMEOUT, f"{where}: no answer in time"
        if isinstance(error, OSError):
            return DiscoveryFailure.UNREACHABLE, f"{where}: {text}"
        detail = f"{where}: {with_remedy(text, self._rights)}"
        if any(word in text for word in FORBIDDEN):
            return DiscoveryFailure.FORBIDDEN, detail
        if any(word in text for word in UNAUTHORIZED):
            return DiscoveryFailure.UNAUTHORIZED, detail
        return DiscoveryFailure.SERVER, detail


class _Link:
    """The connections of one time, and what comes over the subscription."""

    def __init__(self, heartbeats: Heartbeats, heard: Callable[[Heartbeat], None]) -> None:
        self.heartbeats = heartbeats
        self.nodes: Nodes | None = None
        self.pipe: Pipe | None = None
        """The subscription's."""
        self.unusable: list[str] = []
        self._heard = heard
        self._news = asyncio.Event()
        self._published: deque[tuple[float, bytes]] = deque()
        """What came over the subscription, and when; not taken in yet. Redis gives up on who reads too slowly."""
        self._broken: str | None = None
        self._said = ""
        """The server's last words."""
        self._unanswered = 0

    async def subscribe(self, channel: bytes) -> None:
        """Begin to listen."""
        assert self.pipe is not None
        await self.pipe.ask("SUBSCRIBE", channel)
        self._listen()

    def ping(self) -> None:
        """Have the subscription show that it lives.

        Raises:
            ConnectionResetError: It did not, some times.
        """
        if self.pipe is None or not self.pipe.open or self._unanswered >= _SILENT_LISTS:
            raise ConnectionResetError("the subscription to Redis is lost")
        self._unanswered += 1
        self.pipe.send(pack("PING"), 0, lambda _: None)  # its answer comes as a message

    async def news(self, until_s: float) -> bool:
        """Wait until other members are published; False if it is time for the next list.

        Raises:
            ConnectionResetError: A connection is lost.
        """
        while True:
            if not self._news.is_set():
                try:
                    async with asyncio.timeout(max(0.0, until_s - time.monotonic())):
                        await self._news.wait()
                except TimeoutError:
                    return False
            self._news.clear()
            if self._broken is not None:
                raise RedisError(self._said) if self._said else ConnectionResetError(self._broken)
            if await self.take_published():
                return True

    async def take_published(self) -> bool:
        """Take in what was published so far, a little at a time. Returns whether members may be others."""
        changed = False
        taken = 0
        while self._published:
            at_s, text = self._published.popleft()
            heartbeat = self.read(text)
            if heartbeat is not None:
                self._heard(heartbeat)
                changed |= self.heartbeats.publish(heartbeat, at_s)
            taken += 1
            if taken % READ_AT_ONCE == 0:
                await asyncio.sleep(0)
        return changed

    def read(self, text: bytes) -> Heartbeat | None:
        """A record, if it can be used."""
        try:
            return read_heartbeat(text)
        except UnusableError as error:
            self.unusable.append(str(error))
            return None

    def lost(self, pipe: Pipe) -> None:
        """A connection is gone."""
        if pipe is self.pipe or (self.nodes is not None and pipe in self.nodes.pipes):
            self._broken, self._said = "connection to Redis lost", pipe.said
            self._news.set()

    def close(self) -> None:
        """Close all connections."""
        nodes, self.nodes = self.nodes, None
        pipe, self.pipe = self.pipe, None
        if nodes is not None:
            nodes.close()
        if pipe is not None:
            pipe.close()

    def _listen(self) -> None:
        """Each message is taken for the answer to a question that is never sent: the pipe knows no others."""
        if self.pipe is not None and self.pipe.open:
            self.pipe.send(b"", 1, self._on_message)

    def _on_message(self, replies: Replies | None) -> None:
        if replies is None:
            return
        self._unanswered = 0
        message: Any = replies[0]
        self._listen()
        if isinstance(message, list) and len(message) == 3 and message[0] == b"message":
            self._published.append((time.monotonic(), message[2]))
            self._news.set()


def _keeper(nodes: Nodes, key: bytes) -> Pipe:
    pipe = nodes.keeper(key)
    if pipe is None:
        raise ConnectionResetError("a key has no server")
    return pipe
