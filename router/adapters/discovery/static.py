"""Discovery from the configuration: the members never change."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from router.ports import Member


class StaticDiscovery:
    """Names the configured replicas once."""

    def __init__(self, members: Sequence[Member]) -> None:
        self._members = tuple(members)

    async def watch(self) -> AsyncIterator[tuple[Member, ...]]:
        """All members, once."""
        yield self._members
