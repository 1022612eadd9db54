"""What is to be done a moment later, by one timer for all of it: tries that wait before they are made again.

Decides nothing: whoever is called finds out by itself whether it still matters.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from time import monotonic


class Later:
    """The waiting calls of one worker."""

    __slots__ = ("_count", "_heap", "_timer", "_timer_s")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = 0.0

    def call(self, pause_s: float, what: Callable[[], None]) -> None:
        """Call this once the pause is over. It must not raise."""
        at_s = monotonic() + pause_s
        self._count += 1
        heapq.heappush(self._heap, (at_s, self._count, what))
        if self._timer is None or at_s < self._timer_s:
            self._set(pause_s, at_s)

    def stop(self) -> None:
        """Forget all of them."""
        self._heap.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set(self, pause_s: float, at_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_s = at_s
        self._timer = asyncio.get_running_loop().call_later(max(0.0, pause_s), self._tick)

    def _tick(self) -> None:
        self._timer = None
        now_s = monotonic()
        heap = self._heap
        while heap and heap[0][0] <= now_s:
            heapq.heappop(heap)[2]()
        if heap and self._timer is None:
            self._set(heap[0][0] - now_s, heap[0][0])
