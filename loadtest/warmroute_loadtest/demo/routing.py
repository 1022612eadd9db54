"""The demo starts router processes with a policy over a fleet, and waits until every replica is routable."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp

from warmroute_loadtest.demo.children import (
    Child,
    Children,
    DemoError,
    own_environment,
    program,
)
from warmroute_replica.ports import LOCALHOST, free_ports, is_free

READY_S = 60.0
POLL_S = 0.1

DATA_PORT, ADMIN_PORT = 8000, 8001
"""The ports that are tried first: the router's own defaults."""


@dataclass(frozen=True, slots=True)
class Router:
    """A router that runs."""

    policy: str
    child: Child
    url: str
    admin_url: str
    replicas: tuple[str, ...]
    """Ids of the replicas, in the fleet's order."""


async def start_router(
    children: Children,
    session: aiohttp.ClientSession,
    policy: str,
    replica_urls: Sequence[str],
    *,
    default_ports: bool = False,
) -> Router:
    """Start `warmroute serve`, and wait until it may use every replica.

    Args:
        children: The processes among which the router's is started.
        session: Used to ask the router.
        policy: The router's `--policy`.
        replica_urls: The fleet.
        default_ports: Whether ports 8000 and 8001 are taken where they are free.
    Raises:
        DemoError: The router ended, or was not ready in time.
    """
    data, admin = free_ports(2)
    if default_ports:
        data = DATA_PORT if is_free(DATA_PORT) else data
        admin = ADMIN_PORT if is_free(ADMIN_PORT) else admin
    command = [program("warmroute"), "serve", "--policy", policy, "--registry", "memory"]
    command += ["--listen", f"{LOCALHOST}:{data}", "--admin", f"{LOCALHOST}:{admin}"]
    for url in replica_urls:
        command += ["--replica", url]
    # The demo's router takes no settings that the user's environment holds for another router.
    environment = {k: value for k, value in own_environment().items() if not k.startswith("WARMROUTE_")}
    child = await children.start(f"router {policy}", command, environment)
    admin_url = f"http://{LOCALHOST}:{admin}"
    try:
        async with asyncio.timeout(READY_S):
            while not await _all_ready(session, admin_url, len(replica_urls)):
                child.check()
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise DemoError(f"{child.name} was not ready within {READY_S:.0f} s:\n{child.log_tail()}") from None
    ids = tuple(url.partition("//")[2] for url in replica_urls)
    return Router(policy, child, f"http://{LOCALHOST}:{data}", admin_url, ids)


async def served_model(session: aiohttp.ClientSession, router: Router) -> str:
    """Return the first model that the fleet serves."""
    async with session.get(f"{router.url}/v1/models") as response:
        return str((await response.json())["data"][0]["id"])


async def _all_ready(session: aiohttp.ClientSession, admin_url: str, count: int) -> bool:
    try:
        async with session.get(f"{admin_url}/ready") as response:
            if response.status != 200:
                return False
        async with session.get(f"{admin_url}/replicas") as response:
            rows: list[dict[str, object]] = (await response.json())["replicas"]
    except aiohttp.ClientError:
        return False
    return sum(row["state"] == "ready" for row in rows) == count
