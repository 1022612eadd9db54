"""Placements and withdrawals are written to Redis a few milliseconds after they were made, many at once and in order.

A script on its server merges each record, so two routers never overwrite each other. What waits is bounded, also what a
Cluster that is down refuses: the oldest goes first, and the owner is told that Redis no longer knows everything. This
module does not decide how much Redis keeps: records expire, and its own `maxmemory` bounds them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from warmroute.adapters.registry.redis.commands import Commands
from warmroute.adapters.registry.redis.queue import Queue, Write
from warmroute.adapters.resp.pipe import Pipe, Replies
from warmroute.adapters.resp.topology import ELSEWHERE, Nodes
from warmroute.core.types import FingerprintHash, Incarnation

DELAY_S = 0.004
"""From a placement to its write: short against 50 ms, long enough to share a write with the tick's neighbours."""

_FLUSH_RUNGS = 512
"""Rungs written at once: about a millisecond of the server's time, which lookups have to wait."""

_COMMAND_RUNGS = 128
_MAX_PENDING_RUNGS = 65_536
_MAX_FLYING = 8
_MAX_RETRIES = 3
_TOGETHER_S = 0.1
"""Notes of one incarnation no further apart than stored times can tell are written as one."""


class Writes:
    """Queue, batching and outcome of writes.

    Args:
        idle_s: Lifetime of a record that nobody touches, until `expire_after`.
        on_lost: A note of this time was dropped or refused: Redis does not know all our placements.
        on_withdrawn: A withdrawal has reached Redis, or never will.
        on_moved: A server says that a key is kept elsewhere.
    """

    def __init__(
        self,
        commands: Commands,
        idle_s: float,
        *,
        on_lost: Callable[[float], None],
        on_withdrawn: Callable[[Sequence[FingerprintHash], Incarnation], None],
        on_moved: Callable[[], None],
    ) -> None:
        self.count = 0
        self.errors = 0
        self.dropped = 0
        """Rungs whose note was given up."""
        self._nodes: Nodes | None = None
        self._commands = commands
        self._lifetime_ms = max(int(idle_s * 1000), 1)
        self._on_lost = on_lost
        self._on_withdrawn = on_withdrawn
        self._on_moved = on_moved
        self._loop: asyncio.AbstractEventLoop
        self._pending = Queue()
        self._moved = Queue()
        """Sent to a server that does not keep them; wait for `use`. Older than all that is pending."""
        self._flying: list[float] = []
        self._timer: asyncio.TimerHandle | None = None
        self._progress = asyncio.Event()

    @property
    def pending_rungs(self) -> int:
        """Rungs that wait to be written, to the servers known now or to those found next."""
        return self._pending.rungs + self._moved.rungs

    def unwritten_s(self) -> float:
        """Time of the oldest placement that is not confirmed; infinity when all are."""
        return min(self._pending.oldest_s, self._moved.oldest_s, *self._flying)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Name the event loop; before, nothing may be written."""
        self._loop = loop

    def use(self, nodes: Nodes | None) -> None:
        """Name whom to tell, `None` while nobody is there. What was sent to the wrong server is sent once more."""
        self._nodes = nodes
        if self._moved:
            later, self._pending, self._moved = self._pending, self._moved, Queue()
            while later:
                self._pending.push(later.pop())
            self._flush_soon()
        if nodes is None:
            self._drop_all()

    def add(self, write: Write) -> None:
        """Queue a write."""
        self._pending.push(write)
        self._keep_bound()
        self._flush_soon()

    async def wait_room(self, rungs: int) -> None:
        """Wait until at most so many rungs wait to be written to the servers known now."""
        while self._pending.rungs > rungs:
            self._progress.clear()
            await self._progress.wait()

    async def wait_idle(self) -> None:
        """Write what waits, and wait until everything sent has been answered."""
        while self._pending or self._flying:
            self._progress.clear()
            if self._pending and self._timer is None and len(self._flying) < _MAX_FLYING:
                self.flush()
            await self._progress.wait()

    def _flush_soon(self) -> None:
        if self._timer is None and len(self._flying) < _MAX_FLYING:
            self._timer = self._loop.call_later(DELAY_S, self.flush)

    def _keep_bound(self) -> None:
        while self._pending.rungs + self._moved.rungs > _MAX_PENDING_RUNGS:
            self._give_up((self._moved or self._pending).pop())

    def _drop_all(self) -> None:
        while self._pending:
            self._give_up(self._pending.pop())
        self._progress.set()

    def stop(self) -> None:
        """Cancel the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def expire_after(self, idle_s: float) -> None:
        """Lifetime of what is written from now on."""
        self._lifetime_ms = max(int(idle_s * 1000), 1)

    def flush(self) -> None:
        """Send the oldest of what waits."""
        self.stop()
        nodes = self._nodes
        if nodes is None:
            self._drop_all()
            return
        pending = self._pending
        budget = _FLUSH_RUNGS
        oldest_s = pending.oldest_s
        together: list[Write] = []
        while pending and budget > 0:
            write = pending.pop()
            budget -= len(write.rungs)
            together.append(write)
        if together:
            pipe = nodes.single
            if pipe is None:
                self._send_parts(nodes, together, oldest_s)
            else:
                self._send(pipe, _grouped(together), oldest_s)
        if self._pending:
            self._flush_soon()

    def _send_parts(self, nodes: Nodes, writes: list[Write], oldest_s: float) -> None:
        """In a Cluster a script may touch one slot: one command a rung, to the server that keeps it."""
        parts: dict[Pipe | None, list[Write]] = {}
        rung_key = self._commands.rung_key
        for write in _grouped(writes):
            for rung in write.rungs:
                part = parts.setdefault(nodes.keeper(rung_key(rung)), [])
                part.append(write._replace(rungs=(rung,)))
        for pipe, part in parts.items():
            if pipe is not None:
                self._send(pipe, part, oldest_s)
            else:
                for write in part:
                    self._give_up(write)

    def _send(self, pipe: Pipe, writes: list[Write], oldest_s: float, script_loads: int = 1) -> None:
        """Send writes over one connection. `script_loads`: how often the server may still be taught the script."""
        commands = self._commands
        data: list[bytes] = []
        for write in writes:
            if write.at_s is None:
                data.append(commands.withdraw(write.rungs, write.incarnation, write.until_s))
            else:
                lifetime_ms = max(self._lifetime_ms, int(write.kept_s * 1000))
                data.append(commands.note(write.rungs, write.incarnation, write.at_s, lifetime_ms))
            self.count += 1
        if not pipe.open:
            for write in writes:
                self._give_up(write)
            return
        self._flying.append(oldest_s)
        pipe.send(
            b"".join(data),
            len(data),
            lambda replies: self._written(pipe, writes, oldest_s, script_loads, replies),
        )

    def _written(
        self, pipe: Pipe, writes: list[Write], oldest_s: float, script_loads: int, replies: Replies | None
    ) -> None:
        self._flying.remove(oldest_s)
        unknown: list[Write] = []
        for write, reply in zip(writes, replies or [None] * len(writes), strict=False):
            if type(reply) is int:
                if write.at_s is None:
                    self._on_withdrawn(write.rungs, write.incarnation)
                continue
            words = str(reply)
            if reply is not None and words.startswith("NOSCRIPT") and script_loads:
                unknown.append(write)
            elif words.startswith(ELSEWHERE) and write.retries < _MAX_RETRIES:
                self._moved.push(write._replace(retries=write.retries + 1))
                self._keep_bound()
                self._on_moved()
            else:
                self.errors += reply is not None
                self._give_up(write)
                if words.startswith("READONLY"):
                    pipe.close()  # No longer the primary: connecting anew finds who is.
        if unknown and pipe.open:
            pipe.send(self._commands.load_script(), 1, lambda _: None)
            self._send(pipe, unknown, oldest_s, script_loads - 1)
        if self._pending and self._timer is None:
            self._timer = self._loop.call_later(DELAY_S, self.flush)
        self._progress.set()

    def _give_up(self, write: Write) -> None:
        if write.at_s is None:
            self._on_withdrawn(write.rungs, write.incarnation)
        else:
            self.dropped += len(write.rungs)
            self._on_lost(write.at_s)


def _grouped(writes: list[Write]) -> list[Write]:
    """The same in fewer commands: neighbouring notes of one incarnation become one, each rung once."""
    grouped: list[Write] = []
    notes: dict[Incarnation, tuple[dict[FingerprintHash, None], float]] = {}

    def settle() -> None:
        for incarnation, (rungs, at_s) in notes.items():
            every = list(rungs)
            grouped.extend(
                Write(every[start : start + _COMMAND_RUNGS], incarnation, at_s)
                for start in range(0, len(every), _COMMAND_RUNGS)
            )
        notes.clear()

    for write in writes:
        # A retry keeps its count, a withdrawal its place in the order, what is kept longer its lifetime.
        if write.at_s is None or write.retries or write.kept_s:
            settle()
            grouped.append(write)
            continue
        known = notes.pop(write.incarnation, None)
        if known is not None and abs(known[1] - write.at_s) > _TOGETHER_S:
            notes[write.incarnation] = known
            settle()
            known = None
        rungs = known[0] if known is not None else {}
        rungs.update(dict.fromkeys(write.rungs))
        # Put back last: who was used last stands last in the records too.
        notes[write.incarnation] = rungs, max(known[1], write.at_s) if known is not None else write.at_s
    settle()
    return grouped
