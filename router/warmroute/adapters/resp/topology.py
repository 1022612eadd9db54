"""The topology says which servers keep the registry's keys: the one named, the primary Sentinels name, or a Cluster's.

It finds and connects once, by asking; its owner decides when to look again. A Cluster is taken as far as it can be
reached: slots without a connected server have no pipe, and their rungs are answered without Redis.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from warmroute.adapters.resp.commands import SLOTS, key_slot
from warmroute.adapters.resp.pipe import Pipe, RedisError, connect_pipe, open_pipe
from warmroute.adapters.resp.url import Address, RedisTarget, Topology

ELSEWHERE = ("MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN")
"""How errors begin with which a Cluster's node says that somebody else keeps the key, or that nobody does."""

_NODE_S = 0.5
"""What one server may take to connect or to answer about the others."""

Lost = Callable[[Pipe], None]


class Nodes:
    """Connected servers and, in a Cluster, who keeps which slot."""

    __slots__ = ("_missing", "_slots", "pipes")

    def __init__(
        self, pipes: list[Pipe], slots: list[Pipe | None] | None = None, missing: bool = False
    ) -> None:
        self.pipes = pipes
        """One per server that keeps keys, never empty."""
        self._slots = slots
        self._missing = missing

    @property
    def single(self) -> Pipe | None:
        """The one server that keeps every key; `None` in a Cluster."""
        return self.pipes[0] if self._slots is None else None

    @property
    def complete(self) -> bool:
        """True while every key has a connected server."""
        return not self._missing and all(pipe.open for pipe in self.pipes)

    def keeper(self, key: bytes) -> Pipe | None:
        """The connected server that keeps a key."""
        pipe = self.pipes[0] if self._slots is None else self._slots[key_slot(key)]
        return pipe if pipe is not None and pipe.open else None

    def close(self) -> None:
        """Close every connection."""
        for pipe in self.pipes:
            pipe.close()


async def find_nodes(target: RedisTarget, on_lost: Lost, known: Iterable[Pipe] = ()) -> Nodes:
    """Connect to the servers that keep the keys. The caller sets the deadline.

    Args:
        known: Connections that stand; used again where their server still keeps keys. The rest is the caller's.

    Raises:
        OSError, RedisError: Nobody could be reached, or nobody who is what the URL says.
    """
    match target.topology:
        case Topology.SINGLE:
            return Nodes([await open_pipe(target, target.addresses[0], on_lost)])
        case Topology.SENTINEL:
            return Nodes([await _open_primary(target, on_lost)])
        case Topology.CLUSTER:
            return await _open_cluster(target, on_lost, {pipe.address: pipe for pipe in known if pipe.open})


async def _open_primary(target: RedisTarget, on_lost: Lost) -> Pipe:
    refusals: list[str] = []
    for address in target.addresses:
        try:
            async with asyncio.timeout(_NODE_S):
                primary = await _ask_sentinel(target, address)
                pipe = await open_pipe(target, primary, on_lost)
        except (OSError, RedisError) as error:
            refusals.append(f"{address}: {error or type(error).__name__}")
            continue
        try:
            role = await pipe.ask("ROLE")
        except RedisError:
            return pipe  # Not allowed to ask: a replica would refuse the first write.
        except BaseException:
            pipe.close()
            raise
        if role[0] == b"master":
            return pipe
        pipe.close()
        refusals.append(f"{address}: {primary} is no primary (yet)")
    raise RedisError(f"no Sentinel names a primary for {target.service!r}: {'; '.join(refusals)}")


async def _ask_sentinel(target: RedisTarget, address: Address) -> Address:
    sentinel = await connect_pipe(target, address, lambda _: None)
    try:
        if target.sentinel_password is not None:
            user = [target.sentinel_username] if target.sentinel_username else []
            await sentinel.ask("AUTH", *user, target.sentinel_password)
        named = await sentinel.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", target.service)
    finally:
        sentinel.close()
    if named is None:
        raise RedisError(f"Sentinel does not know a service {target.service!r}")
    return named[0].decode(), int(named[1])


async def _open_cluster(target: RedisTarget, on_lost: Lost, known: dict[Address, Pipe]) -> Nodes:
    pipes = dict(known)
    keepers: dict[Address, Pipe] = {}
    refusals: list[str] = []
    try:
        ranges, seed = await _ask_slots(target, on_lost, pipes, refusals)
        slots: list[Pipe | None] = [None] * SLOTS
        # A node that does not know its own name yet answers with an empty one: it is the node that was asked.
        primaries = [((node[2][0] or b"").decode() or seed, int(node[2][1])) for node in ranges]
        await asyncio.gather(
            *[_try_pipe(target, address, on_lost, pipes, refusals) for address in set(primaries)]
        )
        for address, node in zip(primaries, ranges, strict=True):
            pipe = pipes.get(address)
            if pipe is not None:
                keepers[address] = pipe
                first, last = node[:2]
                slots[first : last + 1] = [pipe] * (last + 1 - first)
    except BaseException:
        keepers = {}
        raise
    finally:
        for opened in pipes.keys() - keepers.keys() - known.keys():
            pipes[opened].close()
    if not keepers:
        why = "; ".join(refusals) or "none of them keeps slots"
        raise RedisError(f"no node of the Redis Cluster can be used: {why}")
    return Nodes(list(keepers.values()), slots, missing=None in slots)


async def _ask_slots(
    target: RedisTarget, on_lost: Lost, pipes: dict[Address, Pipe], refusals: list[str]
) -> tuple[list[Any], str]:
    """Who keeps which slots, by the first node that answers, and that node's host."""
    for address in dict.fromkeys((*pipes, *target.addresses)):
        pipe = await _try_pipe(target, address, on_lost, pipes, refusals)
        if pipe is None:
            continue
        try:
            async with asyncio.timeout(_NODE_S):
                ranges = await pipe.ask("CLUSTER", "SLOTS")
        except (OSError, RedisError) as error:
            refusals.append(f"{address}: {error or type(error).__name__}")
            continue
        if ranges:
            return ranges, address[0]
    return [], ""


async def _try_pipe(
    target: RedisTarget, address: Address, on_lost: Lost, pipes: dict[Address, Pipe], refusals: list[str]
) -> Pipe | None:
    """The connection to a node, made if need be; `None`, and why among `refusals`, if it cannot be reached soon."""
    if address not in pipes:
        try:
            async with asyncio.timeout(_NODE_S):
                pipes[address] = await open_pipe(target, address, on_lost)
        except (OSError, RedisError) as error:
            refusals.append(f"{address}: {error or type(error).__name__}")
            return None
    return pipes[address]
