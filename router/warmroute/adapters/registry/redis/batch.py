"""A batch makes the lookups of one event-loop tick one exchange with one deadline.

It is sent when the tick's callbacks have run, whether or not earlier ones are still on their way. Whoever waits is
answered exactly once: when every server has answered, when the deadline has passed, or when the connections are lost.
What is missing then is answered without Redis. A server whose answers keep coming late has its breaker opened
(`resp.breaker`): nobody waits for it until small reads of our own show that it answers in time again. Whether a silent
server is alive at all is not decided here.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from warmroute.adapters.registry.redis.commands import Commands
from warmroute.adapters.resp.breaker import TRIAL_S
from warmroute.adapters.resp.pipe import Pipe, Replies
from warmroute.adapters.resp.topology import ELSEWHERE, Nodes
from warmroute.core.types import FingerprintHash, Records

Raws = list[bytes | None]
Asker = tuple[Sequence[FingerprintHash], Callable[[Records], None]]

WRONG_TYPE = "WRONGTYPE"
"""How the error begins with which a key is answered that holds no string."""

UNANSWERED = b""
"""Stands for a key that no server was there to answer for; no record is empty."""

TRIAL_RUNGS = 8
"""Most keys that a trial reads."""

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
        self.silent: dict[Pipe, Sequence[FingerprintHash]] = {}
        """Servers that have not answered, and what they were asked."""


class Lookups:
    """Collects, sends and settles batches.

    Args:
        merge: Turns rungs and what Redis has under their keys into records.
        fallback: Records without Redis.
        on_moved: A server says that a key is kept elsewhere.
        on_slow: A server's breaker opened (true) or closed.
        clock: Seconds for deadlines. Not the loop's own: uvloop's ticks in milliseconds.
    """

    def __init__(
        self,
        commands: Commands,
        deadline_s: float,
        merge: Callable[[Sequence[FingerprintHash], Raws], Records],
        fallback: Callable[[Sequence[FingerprintHash]], Records],
        on_moved: Callable[[], None],
        on_slow: Callable[[bool], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.nodes: Nodes | None = None
        """Whom to ask; `None` while nobody is there."""
        self.count = 0
        self.timeouts = 0
        self.skipped = 0
        """Lookups answered without asking a server, its breaker being open."""
        self.errors = 0
        self.seconds = 0.0
        self._commands = commands
        self._deadline_s = deadline_s
        self._merge = merge
        self._fallback = fallback
        self._on_moved = on_moved
        self._on_slow = on_slow
        self._clock = clock
        self._loop: asyncio.AbstractEventLoop
        self._filling: Batch | None = None
        self._flying: deque[Batch] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Name the event loop; before, nothing may be asked."""
        self._loop = loop

    def pointless(self) -> bool:
        """Whether there is nobody to ask, or nobody worth waiting for."""
        nodes = self.nodes
        if nodes is None:
            return True
        pipe = nodes.single
        if pipe is None or not pipe.breaker.open:
            return False
        self.skipped += 1
        return True

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
        elif pipe.breaker.open:
            self.skipped += len(askers)
        elif pipe.open:
            batch.left = 1
            batch.silent[pipe] = rungs
            pipe.send(self._commands.mget(rungs), 1, lambda replies: self._mget_replied(batch, pipe, replies))
        if not batch.left:
            self._answer(batch, None)
            return
        flying.append(batch)
        if self._timer is None:
            self._timer = loop.call_later(self._deadline_s, self._expire)

    def _mget_replied(self, batch: Batch, pipe: Pipe, replies: Replies | None) -> None:
        batch.left = 0
        if not batch.askers:
            return
        if replies is None:
            self._answer(batch, None)
            return
        raws: Any = replies[0]
        if type(raws) is not list:
            asked = batch.silent[pipe]
            self._answer(batch, None)
            self._refused(raws, pipe, asked)
            return
        pipe.breaker.answered()
        self._answer(batch, raws)

    def _send_parts(self, batch: Batch, rungs: Sequence[FingerprintHash], nodes: Nodes) -> None:
        """In a Cluster every server gets the reads of its own keys."""
        raws: Raws = [UNANSWERED] * len(rungs)
        batch.raws = raws
        parts: dict[Pipe, list[int]] = {}
        rung_key = self._commands.rung_key
        for at, rung in enumerate(rungs):
            pipe = nodes.keeper(rung_key(rung))
            if pipe is not None and not pipe.breaker.open:
                parts.setdefault(pipe, []).append(at)
        batch.left = len(parts)
        for pipe, places in parts.items():
            asked = batch.silent[pipe] = [rungs[at] for at in places]
            data = self._commands.gets(asked)
            pipe.send(data, len(places), self._part_reader(batch, raws, pipe, places))

    def _part_reader(
        self, batch: Batch, raws: Raws, pipe: Pipe, places: list[int]
    ) -> Callable[[Replies | None], None]:
        def on_replies(replies: Replies | None) -> None:
            if not batch.askers:
                return
            batch.left -= 1
            asked = batch.silent.pop(pipe)
            refusal = None
            for at, raw in zip(places, replies or (), strict=False):
                if not isinstance(raw, Exception):
                    raws[at] = raw
                elif str(raw).startswith(WRONG_TYPE):
                    raws[at] = (
                        None  # Somebody else's value: nobody is known there, as MGET says it. A write replaces it.
                    )
                    self.errors += 1
                else:
                    refusal = raw
            if refusal is None:
                if replies is not None:
                    pipe.breaker.answered()
            if not batch.left:
                self._answer(batch, raws)
            if refusal is not None:
                self._refused(refusal, pipe, asked)

        return on_replies

    def _refused(self, refusal: Any, pipe: Pipe, asked: Sequence[FingerprintHash]) -> None:
        self.errors += 1
        words = str(refusal)
        if words.startswith(ELSEWHERE):
            self._missed(pipe, asked)  # A Cluster that is down refuses everything, for as long as it is.
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
                self._miss(batch)
            flying.popleft()

    def _miss(self, batch: Batch) -> None:
        self.timeouts += len(batch.askers)
        silent, batch.silent = batch.silent, {}
        self._answer(batch, batch.raws)
        for pipe, asked in silent.items():
            self._missed(pipe, asked)

    def _missed(self, pipe: Pipe, asked: Sequence[FingerprintHash]) -> None:
        if pipe.open and pipe.breaker.missed(self._clock()):
            self._on_slow(True)
            self._loop.call_later(TRIAL_S, self._try, pipe, asked[:TRIAL_RUNGS])

    def _try(self, pipe: Pipe, rungs: Sequence[FingerprintHash]) -> None:
        """Ask a server again that nobody waits for. No end but an answer or the end of the connection."""
        nodes = self.nodes
        if not pipe.open or nodes is None:
            return
        sent_s = self._clock()

        def on_replies(replies: Replies | None) -> None:
            if replies is None:
                return
            refused = any(isinstance(reply, Exception) for reply in replies)
            in_time = not refused and self._clock() - sent_s <= self._deadline_s
            if pipe.breaker.tried(in_time=in_time):
                self._on_slow(False)
            else:
                self._loop.call_later(TRIAL_S, self._try, pipe, rungs)

        if nodes.single is not None:
            pipe.send(self._commands.mget(rungs), 1, on_replies)
        else:
            pipe.send(self._commands.gets(rungs), len(rungs), on_replies)
