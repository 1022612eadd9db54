"""The server opens the data plane's listening sockets, sets up TLS, and drains.

This module decides when the router has finished what it owed. It does not touch requests.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from time import monotonic
from typing import cast

from warmroute.dataplane.downstream import ClientConnection
from warmroute.dataplane.gateway import Gateway
from warmroute.dataplane.proxies import TrustedProxies
from warmroute.dataplane.proxy_header import ProxyFront
from warmroute.dataplane.sweeper import Sweeper

BACKLOG = 4096

DRAIN_IDLE_S = 1.0
"""A connection that has been idle for this long is closed in a drain. One whose client is about to send its next
request is not closed under it: the answer to that says that the connection closes."""


class DataPlane:
    """The data port."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._sweeper = Sweeper(gateway)
        self._servers: list[asyncio.Server] = []

    async def start(
        self,
        host: str,
        port: int,
        tls: ssl.SSLContext | None,
        *,
        listeners: Sequence[socket.socket] | None = None,
    ) -> int:
        """Listen, on sockets that are there already if any are given.

        Returns the port, which differs from the one asked for only if that was 0.
        """
        loop = asyncio.get_running_loop()
        made = self._protocols()
        if listeners:
            for listener in listeners:
                self._servers.append(await loop.create_server(made, sock=listener, ssl=tls, backlog=BACKLOG))
        else:
            self._servers.append(await loop.create_server(made, host, port, ssl=tls, backlog=BACKLOG))
        self._sweeper.start()
        bound: int = self._servers[0].sockets[0].getsockname()[1]
        return bound

    def _protocols(self) -> Callable[[], asyncio.Protocol]:
        """Makes the protocol of each connection that is accepted."""
        gateway = self._gateway

        def make(client: str = "") -> asyncio.Protocol:
            connection = ClientConnection(gateway)
            connection.peer = client.encode()
            return cast(asyncio.Protocol, connection)

        proxies = gateway.limits.proxy_protocol_from
        if not proxies:
            return make
        trusted = TrustedProxies(proxies)
        return lambda: ProxyFront(trusted, make, gateway.limits.header_timeout_s)

    async def drain(self, grace_s: float) -> int:
        """Stop accepting, let answers under way finish, then close. Returns how many had to be cut off."""
        gateway = self._gateway
        gateway.draining = True
        for server in self._servers:
            server.close()
        until_s = monotonic() + grace_s
        idle_s = min(DRAIN_IDLE_S, grace_s / 2)
        while gateway.connections and (now_s := monotonic()) < until_s:
            for side in list(gateway.connections):
                connection = cast(ClientConnection, side)
                if connection.idle and now_s - connection.since_s >= idle_s:
                    connection.close()
            await asyncio.sleep(0.05)
        left = list(gateway.connections)
        for side in left:
            side.abort()
        self._sweeper.stop()
        if gateway.hold is not None:
            gateway.hold.stop()
        gateway.later.stop()
        for pool in gateway.pools.values():
            pool.close()
        await asyncio.sleep(0)
        return len(left)
