"""Discovery from the configuration."""

from __future__ import annotations

import asyncio

from warmroute.adapters.discovery.static import StaticDiscovery
from warmroute.core.types import ReplicaId
from warmroute.ports import Discovery, Member

A, B = Member(ReplicaId("a:1"), "http://a:1"), Member(ReplicaId("b:1"), "http://b:1")


def test_members_are_named_at_once_and_again_when_they_change() -> None:
    async def watched() -> list[tuple[Member, ...]]:
        static = StaticDiscovery([A, B])
        discovery: Discovery = static
        seen = []
        async for members in discovery.watch():
            seen.append(members)
            if len(seen) == 1:
                asyncio.get_running_loop().call_soon(static.change, [B])
            elif len(seen) == 2:
                # Two changes before the watcher looks are one.
                static.change([A])
                static.change([])
            else:
                break
        return seen

    assert asyncio.run(watched()) == [(A, B), (B,), ()]
