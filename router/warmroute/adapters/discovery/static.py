"""Discovery from the configuration names the members that stand there, until the configuration is read again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from warmroute.ports import Member


class StaticDiscovery:
    """Names the configured replicas, and again when they are changed. One watcher."""

    def __init__(self, members: Sequence[Member]) -> None:
        self._members = tuple(members)
        self._changed = asyncio.Event()

    @property
    def members(self) -> tuple[Member, ...]:
        """Those named now."""
        return self._members

    def change(self, members: Sequence[Member]) -> None:
        """From now on these are all. Call in the watcher's event loop."""
        if tuple(members) != self._members:
            self._members = tuple(members)
            self._changed.set()

    async def watch(self) -> AsyncIterator[tuple[Member, ...]]:
        """All members, at once and after every change."""
        self._changed.set()
        while True:
            await self._changed.wait()
            self._changed.clear()
            yield self._members
