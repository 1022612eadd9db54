"""This module makes clients of redis-py for the servers that a URL names, with short deadlines and without retries.

Making a client connects to no server.
"""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException, RedisError

from warmroute_replica.agent.redis_url import RedisServers

__all__ = ["TROUBLE", "Client", "make_client"]

TROUBLE = (OSError, RedisError, RedisClusterException)
"""Exceptions that a client's calls raise when the servers do not do what they are asked."""

_SOCKET_S = 1.0

Client = Redis | RedisCluster


class Connection:
    """One client, together with what has to be closed with it."""

    def __init__(self, client: Any, *more: Any) -> None:
        self.client = client
        self._more = more

    async def close(self) -> None:
        """Close every connection; a server's failure never makes this raise."""
        for one in (self.client, *self._more):
            try:
                await one.aclose()
            except TROUBLE:
                continue


def make_client(servers: RedisServers) -> Connection:
    """Make a new client of these servers."""
    common: dict[str, Any] = {
        "username": servers.username,
        "password": servers.password,
        "socket_timeout": _SOCKET_S,
        "socket_connect_timeout": _SOCKET_S,
        **(servers.tls or {}),
    }
    once = Retry(NoBackoff(), 0)
    if servers.form == "cluster":
        nodes = [ClusterNode(host, port) for host, port in servers.addresses]
        return Connection(
            RedisCluster(startup_nodes=nodes, require_full_coverage=False, retry=once, **common)
        )
    common["retry"] = once
    if servers.form == "sentinel":
        to_sentinels = {
            **common,
            "username": servers.sentinel_username,
            "password": servers.sentinel_password,
        }
        sentinel: Any = Sentinel(  # type: ignore[no-untyped-call]
            list(servers.addresses), sentinel_kwargs=to_sentinels, db=servers.db, **common
        )
        primary = sentinel.master_for(servers.service)
        return Connection(primary, *sentinel.sentinels)
    if servers.socket_path is not None:
        common.pop("socket_connect_timeout")
        return Connection(Redis(unix_socket_path=servers.socket_path, db=servers.db, **common))
    host, port = servers.addresses[0]
    return Connection(Redis(host=host, port=port, db=servers.db, **common))
