"""A pool keeps the connections to one replica: idle ones for reuse, and fresh ones made on demand.

This module decides which connection carries a request. The one used last goes first, so that few connections stay warm
and the rest age out. One that was idle for longer than the limit is not used, because vLLM (uvicorn) closes its side
after five seconds by default.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from typing import Final, cast
from urllib.parse import urlsplit

from warmroute.dataplane.upstream import Asker, Home, ReplicaConnection
from warmroute.tasks import Tasks
from warmroute.telemetry.reasons import is_refused, why_no_connection

monotonic: Final = time.monotonic
"""The module's own: a name of another module is looked up at every use."""


class Pool(Home):
    """All connections to one replica."""

    __slots__ = (
        "_connect_timeout_s",
        "_host",
        "_https",
        "_keepalive_s",
        "_port",
        "_size",
        "_tasks",
        "_tls",
        "all",
        "idle",
    )

    def __init__(
        self,
        url: str,
        *,
        tasks: Tasks,
        tls: ssl.SSLContext | None,
        size: int,
        keepalive_s: float,
        connect_timeout_s: float,
        rank: int | None = None,
    ) -> None:
        parts = urlsplit(url)
        super().__init__(parts.netloc.rpartition("@")[2].encode(), rank)
        self._https = https = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if https else 80)
        self._tls = tls if https else None
        self._tasks = tasks
        self._size = size
        self._keepalive_s = keepalive_s
        self._connect_timeout_s = connect_timeout_s
        self.idle: list[ReplicaConnection] = []
        self.all: set[ReplicaConnection] = set()
        """Every open connection, idle or not."""

    def configure(
        self, *, tls: ssl.SSLContext | None, size: int, keepalive_s: float, connect_timeout_s: float
    ) -> None:
        """Make connections in this way from now on; those in use stay, idle ones are made anew."""
        self._tls = tls if self._https else None
        self._size = size
        self._keepalive_s = keepalive_s
        self._connect_timeout_s = connect_timeout_s
        self.expire(0.0)

    def take(self) -> ReplicaConnection | None:
        """An idle connection that is young enough to be open still, or None."""
        idle = self.idle
        if idle:
            connection = idle.pop()
            if monotonic() - connection.idle_since_s < self._keepalive_s:
                return connection
            self.expire(0.0)
            connection.abandon()
        return None

    def connect(self, exchange: Asker) -> None:
        """Open a fresh connection for this exchange, which hears `connected` or `connect_failed`."""
        self._tasks.spawn(self._connect(exchange), name="connect")

    async def open(self, protocol: asyncio.Protocol) -> None:
        """Connect this protocol to the replica, outside of the pool.

        Raises:
            OSError: There is no connection; `TimeoutError` within the time allowed.
        """
        async with asyncio.timeout(self._connect_timeout_s):
            await asyncio.get_running_loop().create_connection(
                lambda: protocol,
                self._host,
                self._port,
                ssl=self._tls,
                server_hostname=self._host if self._tls is not None else None,
            )

    async def _connect(self, exchange: Asker) -> None:
        connection = ReplicaConnection(self)
        try:
            await self.open(cast(asyncio.Protocol, connection))
        except TimeoutError:
            exchange.connect_failed(f"no connection within {self._connect_timeout_s:g} s", refused=False)
        except OSError as error:
            exchange.connect_failed(why_no_connection(error, self._host), refused=is_refused(error))
        else:
            if connection.closed:
                exchange.connect_failed("the replica closed the connection at once", refused=False)
                return
            self.all.add(connection)
            exchange.connected(connection)

    def release(self, connection: ReplicaConnection) -> None:
        """Keep a connection whose answer is complete, or which nobody needed."""
        if len(self.idle) < self._size:
            self.idle.append(connection)
        else:
            connection.abandon()

    def lost(self, connection: ReplicaConnection) -> None:
        """A connection has closed."""
        self.all.discard(connection)
        if connection.exchange is None:
            try:
                self.idle.remove(connection)
            except ValueError:
                return

    def expire(self, keepalive_s: float | None = None) -> None:
        """Close connections that have been idle too long (all of them with 0)."""
        oldest_s = monotonic() - (self._keepalive_s if keepalive_s is None else keepalive_s)
        left = []
        for connection in self.idle:
            if connection.idle_since_s < oldest_s:
                connection.abandon()
            else:
                left.append(connection)
        self.idle = left

    def retire(self) -> None:
        """Close what is idle, and each of the others when its answer is complete: the replica has left."""
        self._size = 0
        self.expire(0.0)

    def close(self) -> None:
        """Close everything; exchanges under way hear that their replica is lost."""
        for connection in list(self.all):
            connection.transport.abort()
        self.idle = []
