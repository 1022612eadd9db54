"""Discovery from the configuration."""

from __future__ import annotations

import asyncio

from router.adapters.discovery.static import StaticDiscovery
from router.core.types import ReplicaId
from router.ports import Discovery, Member


def test_members_are_named_once_and_never_change() -> None:
    members = [Member(ReplicaId("a:1"), "http://a:1"), Member(ReplicaId("b:1"), "http://b:1")]
    discovery: Discovery = StaticDiscovery(members)

    async def watched() -> list[tuple[Member, ...]]:
        return [change async for change in discovery.watch()]

    assert asyncio.run(watched()) == [tuple(members)]
