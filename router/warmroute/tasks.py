"""The keeper of background tasks is the only maker of them, so that none is garbage-collected, forgotten or silent.

It logs a crashed task with its name and traceback. `supervise` starts such a task again, for loops that the router
cannot do without.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from warmroute.telemetry.logs import fields

log = logging.getLogger(__name__)

RESTART_DELAY_S = 1.0
"""Pause before a crashed loop is started again: a bug must not become a busy loop."""


class Tasks:
    """Tasks of one owner; `stop` ends them all. Used by one event loop."""

    __slots__ = ("_running", "_stopped")

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()
        self._stopped = False

    def __len__(self) -> int:
        return len(self._running)

    def spawn(self, coroutine: Coroutine[Any, Any, object], name: str) -> asyncio.Task[Any]:
        """Run it in the background until it ends or `stop` is called.

        After `stop` it is cancelled before its first step.
        """
        task: asyncio.Task[Any] = asyncio.create_task(coroutine, name=name)  # noqa: TID251 - the one place
        self._running.add(task)
        task.add_done_callback(self._ended)
        if self._stopped:
            task.cancel()
        return task

    def supervise(self, make: Callable[[], Coroutine[Any, Any, object]], name: str) -> asyncio.Task[Any]:
        """Run what `make` makes in the background, and again whenever it crashes, until it ends or `stop` is called."""
        return self.spawn(_supervised(make, name), name)

    async def stop(self) -> None:
        """Cancel every task and wait until all have ended, those they spawn meanwhile included."""
        self._stopped = True
        current = asyncio.current_task()
        while pending := self._running - {current}:
            for task in pending:
                task.cancel()
            await asyncio.wait(pending)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("task_crashed", exc_info=error, extra=fields(task=task.get_name()))


async def _supervised(make: Callable[[], Coroutine[Any, Any, object]], name: str) -> None:
    while True:
        try:
            await make()
            return
        except Exception:
            log.exception("task_crashed", extra=fields(task=name, restart_in_s=RESTART_DELAY_S))
        await asyncio.sleep(RESTART_DELAY_S)
