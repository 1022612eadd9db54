"""A batch makes the lookups of one event-loop tick one exchange with one deadline.

It is sent when the tick's callbacks have run, whether or not earlier ones are still on their way. Whoever waits is
answered exactly once: when every server has answered, when the deadline has passed, or when the connections are lost.
What is missing then is answered without Redis. A server that stays silent through several deadlines in a row is given
up: its connection is closed, and the owner hears of it as of any lost connection.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from warmroute.adapters.registry.redis.commands import Commands
from warmroute.adapters.resp.pipe import Pipe, Replies
from warmroute.adapters.resp.topology import ELSEWHERE, Nodes
from warmroute.core.types import FingerprintHash, Records

Raws = list[bytes | None]
Asker = tuple[Sequence[FingerprintHash], Callable[[Records], None]]

UNANSWERED = b""
"""Stands for a key that no server was there to answer for; no record is empty."""

MISSES = 3
"""Deadlines in a row that a server may miss …"""

SILENCE_S = 0.05
"""… and how long its silence must last besides, so that one slow command does not cost the connection."""

_MAX_FLYING = 512
"""Batches on their way; more means that Redis has stopped answering and the deadline has not yet noticed."""

_LATE_S = 0.001


class Batch:
    """Lookups sent together. `askers` is empty once they have been answered."""

    __slots__ = ("askers", "deadline_s", "given_grace", "left", "raws", "sent_s", "silent")

    def __init__(self, asker: Asker) -> None:
        self.askers: list[Asker] = [asker]
        self.raws: Raws | None = None
        self.sent_s = 0.0
        self.deadline_s = 0.0
        self.given_grace = False
        self.left = 0
        self.silent: list[Pipe] = []


class Lookups:
    """Collects, sends and settles batches.

    Args:
        merge: Turns rungs and what Redis has under their keys into records.
        fallback: Records without Redis.
        on_moved: A server says that a key is kept elsewhere.
        clock: Seconds for deadlines. Not the loop's own: uvloop's ticks in milliseconds.
    """

    def __init__(
        self,
        commands: Commands,
        deadline_s: float,
        merge: Callable[[Sequence[FingerprintHash], Raws], Records],
        fallback: Callable[[Sequence[FingerprintHash]], Records],
        on_moved: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.nodes: Nodes | None = None
        """Whom to ask; `None` while nobody is there."""
        self.count = 0
        self.timeouts = 0
        self.errors = 0
        self.seconds = 0.0
        self._commands = commands
        self._deadline_s = deadline_s
        self._merge = merge
        self._fallback = fallback
        self._on_moved = on_moved
        self._clock = clock
        self._loop: asyncio.AbstractEventLoop
        self._filling: Batch | None = None
        self._flying: deque[Batch] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Name the event loop; before, nothing may be asked."""
        self._loop = loop

    def ask(self, rungs: Sequence[FingerprintHash], done: Callable[[Records], None]) -> None:
        """Join this tick's batch."""
        filling = self._filling
        if filling is None:
            self._filling = Batch((rungs, done))
            self._loop.call_soon(self._send)
        else:
            filling.askers.append((rungs, done))

    def stop(self) -> None:
        """Answer everybody without Redis and cancel the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for batch in (*self._flying, self._filling):
            if batch is not None:
                self._answer(batch, None)
        self._flying.clear()

    def _send(self) -> None:
        batch, self._filling = self._filling, None
        if batch is None or not batch.askers:
            return
        askers = batch.askers
        self.count += len(askers)
        if len(askers) == 1:
            rungs: Sequence[FingerprintHash] = askers[0][0]
        else:
            rungs = []
            for asked, _ in askers:
                rungs += asked
        nodes = self.nodes
        flying = self._flying
        while flying and not flying[0].askers:
            flying.popleft()  # With a long deadline those answered would fill it long before it has passed.
        if nodes is None or len(flying) >= _MAX_FLYING:
            self._answer(batch, None)
            return
        loop = self._loop
        batch.sent_s = now_s = self._clock()
        batch.deadline_s = now_s + self._deadline_s
        pipe = nodes.single
        if pipe is None:
            self._send_parts(batch, rungs, nodes)
        elif pipe.open:
            batch.left = 1
            batch.silent.append(pipe)
            pipe.send(self._commands.mget(rungs), 1, lambda replies: self._mget_replied(batch, replies))
        if not batch.left:
            self._answer(batch, None)
            return
        flying.append(batch)
        if self._timer is None:
            self._timer = loop.call_later(self._deadline_s, self._expire)

    def _mget_replied(self, batch: Batch, replies: Replies | None) -> None:
        batch.left = 0
        if not batch.askers:
            return
        if replies is None:
            self._answer(batch, None)
            return
        raws: Any = replies[0]
        if type(raws) is not list:
            self._answer(batch, None)
            self._refused(raws, batch.silent[0])
            return
        self._answer(batch, raws)

    def _send_parts(self, batch: Batch, rungs: Sequence[FingerprintHash], nodes: Nodes) -> None:
        """In a Cluster every server gets the reads of its own keys."""
        raws: Raws = [UNANSWERED] * len(rungs)
        batch.raws = raws
        parts: dict[Pipe, list[int]] = {}
        rung_key = self._commands.rung_key
        for at, rung in enumerate(rungs):
            pipe = nodes.keeper(rung_key(rung))
            if pipe is not None:
                parts.setdefault(pipe, []).append(at)
        batch.left = len(parts)
        batch.silent.extend(parts)
        for pipe, places in parts.items():
            data = self._commands.gets([rungs[at] for at in places])
            pipe.send(data, len(places), self._part_reader(batch, raws, pipe, places))

    def _part_reader(
        self, batch: Batch, raws: Raws, pipe: Pipe, places: list[int]
    ) -> Callable[[Replies | None], None]:
        def on_replies(replies: Replies | None) -> None:
            if not batch.askers:
                return
            batch.left -= 1
            batch.silent.remove(pipe)
            refusal = None
            for at, raw in zip(places, replies or (), strict=False):
                if isinstance(raw, Exception):
                    refusal = raw
                else:
                    raws[at] = raw
            if not batch.left:
                self._answer(batch, raws)
            if refusal is not None:
                self._refused(refusal, pipe)

        return on_replies

    def _refused(self, refusal: Any, pipe: Pipe) -> None:
        self.errors += 1
        words = str(refusal)
        if words.startswith(ELSEWHERE):
            self._on_moved()
        else:
            # LOADING, NOAUTH, MASTERDOWN and whatever else: connecting anew finds out when it is over.
            pipe.close()

    def _answer(self, batch: Batch, raws: Raws | None) -> None:
        askers, batch.askers = batch.askers, []
        batch.raws = None
        batch.left = 0
        if batch.sent_s:
            self.seconds += (self._clock() - batch.sent_s) * len(askers)
        start = 0
        for rungs, done in askers:
            if raws is None:
                records = self._fallback(rungs)
            elif len(askers) == 1:
                records = self._merge(rungs, raws)
            else:
                end = start + len(rungs)
                records = self._merge(rungs, raws[start:end])
                start = end
            try:
                done(records)
            except Exception as error:  # noqa: BLE001 - one asker's mistake must not cost the others their answer
                self._loop.call_exception_handler(
                    {"message": "registry lookup's callback failed", "exception": error}
                )

    def _expire(self) -> None:
        now_s = self._clock()
        flying = self._flying
        self._timer = None
        while flying:
            batch = flying[0]
            if batch.askers:
                late_s = now_s - batch.deadline_s
                if late_s < -_LATE_S / 2:
                    self._timer = self._loop.call_later(max(-late_s, _LATE_S), self._expire)
                    return
                if late_s > _LATE_S and not batch.given_grace:
                    # This process was busy, and the reply may lie unread: read first, once.
                    batch.given_grace = True
                    self._timer = self._loop.call_later(_LATE_S, self._expire)
                    return
                self._miss(batch, now_s)
            flying.popleft()

    def _miss(self, batch: Batch, now_s: float) -> None:
        self.timeouts += len(batch.askers)
        silent, batch.silent = batch.silent, []
        self._answer(batch, batch.raws)
        for pipe in silent:
            if not pipe.misses:
                pipe.first_miss_s = now_s
            pipe.misses += 1
            if pipe.misses >= MISSES and now_s - pipe.first_miss_s >= SILENCE_S:
                pipe.close()
