"""The server opens the data plane's listening sockets, sets up TLS, and drains.

This module decides when the router has finished what it owed. It does not touch requests.
"""

from __future__ import annotations

import asyncio
import ssl
from time import monotonic
from typing import cast

from warmroute.dataplane.downstream import ClientConnection
from warmroute.dataplane.gateway import Gateway
from warmroute.dataplane.sweeper import Sweeper

BACKLOG = 4096


class DataPlane:
    """The data port."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._sweeper = Sweeper(gateway)
        self._server: asyncio.Server | None = None

    async def start(
        self, host: str, port: int, tls: ssl.SSLContext | None, *, reuse_port: bool = False
    ) -> int:
        """Listen. Returns the port, which differs from the one asked for only if that was 0."""
        gateway = self._gateway
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: cast(asyncio.Protocol, ClientConnection(gateway)),
            host,
            port,
            ssl=tls,
            backlog=BACKLOG,
            reuse_port=reuse_port,
        )
        self._sweeper.start()
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def drain(self, grace_s: float) -> int:
        """Stop accepting, let answers under way finish, then close. Returns how many had to be cut off."""
        gateway = self._gateway
        gateway.draining = True
        if self._server is not None:
            self._server.close()
        until_s = monotonic() + grace_s
        while gateway.connections and monotonic() < until_s:
            for side in list(gateway.connections):
                connection = cast(ClientConnection, side)
                if connection.idle:
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
