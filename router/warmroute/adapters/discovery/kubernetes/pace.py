"""How much of what the API server says is read before requests have their turn on the event loop.

Decides only when to give way. Counted are endpoints, since what a slice costs grows with them: 6 us each.
"""

from __future__ import annotations

import asyncio
from typing import Final

from warmroute.adapters.discovery.kubernetes.slices import Slice

ENDPOINTS_A_TURN: Final = 200
"""About 1 ms."""
SLICE_ENDPOINTS: Final = 10
"""What a slice costs that has no endpoints, in endpoints."""


class Pace:
    """Of one reader."""

    __slots__ = ("_read",)

    def __init__(self) -> None:
        self._read = 0

    async def read(self, slice_: Slice | None) -> None:
        """A slice was read; waits for a turn of the event loop if that was enough for this one."""
        self._read += SLICE_ENDPOINTS
        if slice_ is not None:
            self._read += len(slice_.endpoints or ())
        if self._read >= ENDPOINTS_A_TURN:
            self._read = 0
            await asyncio.sleep(0)
