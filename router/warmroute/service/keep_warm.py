"""Keeps promised prefixes warm: watches where their copies are, and has replicas compute them before they are lost.

`caching.promise` decides what is to be done about one promise, and `caching.budget` what it may cost; this module
sees to it. One router does it for all, the one that has the store's lease: so that nothing is computed twice, and the
budget is one. When that router is gone another has the lease within `LEASE_S`; it knows of the copies from the
registry.

The rules it keeps:
1. Nothing is sent that the budget does not have. A promise whose last copy is lost then, is given up: it is marked so
   in the store, counted, and logged, and every answer that uses it says so, until it is warm again.
2. Nothing is sent for what has expired or was deleted.
3. Rounds are bounded: `MOST_LOOKED_AT` promises each, the others in the next ones, and `MOST_AT_ONCE` prompts under
   way.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from math import inf
from time import monotonic
from typing import Final, Protocol

import msgspec

from warmroute.caching.budget import PrefillBudget
from warmroute.caching.content import ContentLostError, StoreAwayError
from warmroute.caching.prefilled import Prefilled
from warmroute.caching.promise import (
    Copy,
    Pace,
    Promise,
    Step,
    copies_deserved,
    lost,
    next_steps,
)
from warmroute.core.errors import RouterError
from warmroute.core.fleet.fleet import Fleet, Replica
from warmroute.core.types import Records, ReplicaId, RequestShape
from warmroute.dialects.cached_contents import warming_request
from warmroute.ports import Kept, Registry
from warmroute.service.cached_contents import CachedContents
from warmroute.service.copies import copies_of, in_order
from warmroute.tasks import Tasks
from warmroute.telemetry.logs import fields

log = logging.getLogger(__name__)

LEASE_S: Final = 2.0
MOST_PROMISES: Final = 10_000
MOST_LOOKED_AT: Final = 200
MOST_AT_ONCE: Final = 4
RATE_MEMORY_S: Final = 60.0
"""Over which uses are averaged."""
SHAPE_AGE_S: Final = 60.0
"""After which a prompt is measured anew: what a token is in bytes is learned meanwhile."""
_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 30.0


class Sender(Protocol):
    """Who sends the prompts (`dataplane.own_requests`)."""

    @property
    def fingerprints(self) -> object:
        """Changes when shapes of before are not comparable any more."""

    def shape(self, body: bytes, sharing: str) -> RequestShape:
        """How a prompt is recognised in the registry."""

    def send(self, body: bytes, *, sharing: str, on: ReplicaId | None, path: bytes) -> Awaitable[Prefilled]:
        """Have it computed."""


class _Watched:
    """What is known of one promise here."""

    __slots__ = (
        "body",
        "busy",
        "failures",
        "fingerprints",
        "kept",
        "looked_s",
        "next_s",
        "pace",
        "rate",
        "shape",
        "shaped_s",
        "uses",
    )

    def __init__(self, kept: Kept) -> None:
        self.kept = kept
        self.body = b""
        self.busy = False
        """A prompt is under way for it."""
        self.failures = 0
        self.fingerprints: object = None
        self.looked_s = -inf
        self.next_s = 0.0
        """Nothing is sent before."""
        self.pace = Pace()
        self.rate = 0.0
        """Uses a second."""
        self.shape: RequestShape | None = None
        self.shaped_s = -inf
        self.uses = kept.uses

    def promise(self) -> Promise:
        """As the rules know it."""
        content = self.kept.content
        return Promise(
            content.promise, content.scope, content.model, content.tokens, content.expires_s, self.kept.uses
        )

    def note_uses(self, kept: Kept, passed_s: float) -> None:
        """The store tells of it again."""
        if passed_s > 0.0:
            now_per_s = max(0, kept.uses - self.uses) / passed_s
            self.rate += (now_per_s - self.rate) * min(1.0, passed_s / RATE_MEMORY_S)
        self.uses = kept.uses
        self.kept = kept


class KeepWarm:
    """The keeper of promises at one worker.

    Args:
        router: Names this worker, of this run of it alone.
        uses_per_copy_per_s: Uses a second that one copy is for.
        clock: Unix seconds.
    """

    def __init__(
        self,
        contents: CachedContents,
        *,
        fleet: Fleet,
        registry: Registry,
        sender: Sender,
        budget: PrefillBudget,
        tasks: Tasks,
        router: str,
        interval_s: float,
        uses_per_copy_per_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._contents = contents
        self._fleet = fleet
        self._registry = registry
        self._sender = sender
        self.budget = budget
        self._tasks = tasks
        self._router = router
        self._interval_s = interval_s
        self._uses_per_copy_per_s = uses_per_copy_per_s
        self._clock = clock
        self._watched: dict[str, _Watched] = {}
        self._read_s = monotonic()
        self._under_way = 0
        self.leads = False
        self.prefills = {"refresh": 0, "copy": 0}
        self.given_up = {"budget": 0, "failed": 0}
        self.lost = 0
        self.tokens = 0

    def start(self) -> None:
        """Begin, in the background."""
        self._tasks.supervise(self._keep, name="keep warm")

    @property
    def promises(self) -> int:
        """How many are watched here."""
        return len(self._watched)

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                await self.round()
            except StoreAwayError:
                self._contents.away_total += 1
                self.leads = False

    async def round(self) -> None:
        """Look once at what is in danger.

        Raises:
            StoreAwayError: Nobody can say what was promised.
        """
        store = self._contents.store
        self.leads = await store.lead(self._router, max(LEASE_S, 3.0 * self._interval_s))
        if not self.leads:
            self._watched.clear()
            return
        self._read(await store.all(self._clock(), most=MOST_PROMISES))
        looked = sorted(self._watched.values(), key=lambda watched: watched.looked_s)[:MOST_LOOKED_AT]
        for watched in looked:
            watched.looked_s = monotonic()
            if not watched.busy:
                await self._look(watched)

    def _read(self, all_kept: Sequence[Kept]) -> None:
        """Take over what there is to be kept."""
        now_s = monotonic()
        passed_s, self._read_s = now_s - self._read_s, now_s
        names = set()
        for kept in all_kept:
            name = kept.content.promise
            names.add(name)
            watched = self._watched.get(name)
            if watched is None:
                self._watched[name] = _Watched(kept)
            else:
                watched.note_uses(kept, passed_s)
        for name in [name for name in self._watched if name not in names]:
            del self._watched[name]

    async def _look(self, watched: _Watched) -> None:
        shape = await self._shape(watched)
        if shape is None or not shape.rungs:
            return  # shorter than a block: there is nothing that could be kept
        records = await self._records(shape)
        now_s = self._clock()
        copies, replicas = copies_of(self._fleet, shape, records, now_s)
        if not copies:
            return
        deserved = copies_deserved(watched.rate, self._uses_per_copy_per_s, len(copies))
        warm = sum([copy.warm for copy in copies])
        if warm < deserved:
            copies = in_order(self._fleet, shape, records, now_s, copies)
        if warm and watched.kept.lapsed:
            await self._lapse(watched, None)
        for step in next_steps(copies, deserved, watched.pace):
            if self._under_way >= MOST_AT_ONCE or monotonic() < watched.next_s:
                return
            replica = replicas[step.replica]
            held = next(copy for copy in copies if copy.replica == step.replica)
            content = watched.kept.content
            held_tokens = int(held.held_ratio * content.tokens) if step.refresh else 0
            expected_s = replica.prefill_s(content.tokens, min(held_tokens, max(0, content.tokens - 1)))
            if not self.budget.take(content.scope, expected_s, len(copies), monotonic()):
                if not warm:
                    await self._lapse(watched, "budget")
                return
            watched.busy = True
            self._under_way += 1
            self._tasks.spawn(self._send(watched, step, held, replica, expected_s), name="keep warm prefill")
            return  # the next one once this one's end has been noted

    async def _send(
        self, watched: _Watched, step: Step, copy: Copy, replica: Replica, expected_s: float
    ) -> None:
        content = watched.kept.content
        measured_s = expected_s
        path = f"/v1/caches/{content.id}/warm".encode()
        try:
            done = await self._sender.send(watched.body, sharing=content.sharing, on=step.replica, path=path)
            self.prefills["refresh" if step.refresh else "copy"] += 1
            if done.status != 200:
                measured_s = 0.0
                await self._failed(watched, done, warm=copy.warm)
                return
            watched.failures = 0
            watched.next_s = 0.0
            prompt_tokens, cached_tokens = done.prompt_tokens or content.tokens, done.cached_tokens
            if cached_tokens is not None:
                measured_s = replica.prefill_s(prompt_tokens, min(cached_tokens, prompt_tokens - 1))
                self.tokens += prompt_tokens - cached_tokens
                if step.refresh:
                    gone = lost(prompt_tokens, cached_tokens, replica.overlap_block_tokens)
                    self.lost += gone
                    watched.pace.refreshed(copy.idle_s, gone)
        finally:
            self.budget.settle(content.scope, expected_s, measured_s)
            self._under_way -= 1
            watched.busy = False

    async def _failed(self, watched: _Watched, done: Prefilled, *, warm: bool) -> None:
        watched.failures += 1
        pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** (watched.failures - 1))
        watched.next_s = monotonic() + pause_s
        log.warning(
            "keep_warm_failed",
            extra=fields(content=watched.kept.content.id, status=done.status, code=done.code or "none"),
        )
        if not warm and watched.failures > 1:
            try:
                await self._lapse(watched, "failed")
            except StoreAwayError:
                self._contents.away_total += 1

    async def _lapse(self, watched: _Watched, why: str | None) -> None:
        """Give a promise up, or take it on again."""
        kept = watched.kept
        if kept.lapsed is (why is not None):
            return
        content = kept.content
        await self._contents.store.lapse(content.scope, content.id, why is not None)
        watched.kept = Kept(content, kept.uses, why is not None)
        if why is None:
            log.info("promise_kept_again", extra=fields(content=content.id))
        else:
            self.given_up[why] += 1
            log.warning("promise_given_up", extra=fields(content=content.id, why=why, tokens=content.tokens))

    # -- what is believed --------------------------------------------------------------------------------------------

    async def _shape(self, watched: _Watched) -> RequestShape | None:
        """How the promise's prompt is recognised; None: it cannot be."""
        now_s = monotonic()
        sender = self._sender
        if (
            watched.shape is not None
            and watched.fingerprints is sender.fingerprints
            and now_s - watched.shaped_s < SHAPE_AGE_S
        ):
            return watched.shape
        content = watched.kept.content
        try:
            if not watched.body:
                prefix = await self._contents.prefix(watched.kept)
                watched.body = warming_request(content.model, prefix)
            watched.shape = sender.shape(watched.body, content.sharing)
        except ContentLostError:
            log.error("cached_content_lost", extra=fields(content=content.id))
            return None
        except (RouterError, msgspec.MsgspecError) as error:
            if isinstance(error, StoreAwayError):
                raise
            log.error("cached_content_unreadable", extra=fields(content=content.id, error=str(error)))
            return None
        watched.fingerprints = sender.fingerprints
        watched.shaped_s = now_s
        return watched.shape

    async def _records(self, shape: RequestShape) -> Records:
        answer: asyncio.Future[Records] = asyncio.get_running_loop().create_future()

        def found(records: Records) -> None:
            if not answer.done():
                answer.set_result(records)

        records = self._registry.lookup(shape.rungs, found)
        return await answer if records is None else records
