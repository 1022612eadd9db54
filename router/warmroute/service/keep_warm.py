"""Keeps promised prefixes warm: watches where their copies are, and has replicas compute them before they are lost.

`caching.promise` decides what is to be done about one promise, and `caching.budget` what it may cost; this module
sees to it. For cached contents one router does it for all, the one that has the store's lease: so that nothing is
computed twice, and the budget is one. When that router is gone another has the lease when it ends; it knows of the
copies from the registry. Promised prompts only the router knows to which they were sent, so each keeps its own, within
its part of the budget.

The rules it keeps:
1. Nothing is sent that the budget does not have. A promise whose last copy is lost then, is given up: it is marked so
   in the store, counted, and logged, and every answer that uses it says so, until it is warm again.
2. Nothing is sent for what has expired or was deleted.
3. A refresh that can wait does, until nobody else waits at its replica.
4. Rounds are bounded: `MOST_LOOKED_AT` promises each, the others in the next ones, and `MOST_AT_ONCE` prompts under
   way.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from math import inf
from time import monotonic
from typing import Final, Protocol

from warmroute.caching.budget import PrefillBudget
from warmroute.caching.content import StoreAwayError
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
from warmroute.core.types import Api, Records, ReplicaId, RequestShape
from warmroute.ports import Registry
from warmroute.service.copies import copies_of, in_order
from warmroute.tasks import Tasks
from warmroute.telemetry.logs import fields

log = logging.getLogger(__name__)

LEASE_S: Final = 1.0
"""At least; three rounds where these are longer. A router that is held up for so long shares the work for a moment,
which costs some refreshes twice."""
MOST_LOOKED_AT: Final = 200
MOST_AT_ONCE: Final = 4
RATE_MEMORY_S: Final = 60.0
"""Over which uses are averaged."""
SHAPE_AGE_S: Final = 60.0
"""After which a prompt is measured anew: what a token is in bytes is learned meanwhile. One that is lost is looked for,
and complained of, as often."""
_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 30.0


class Sender(Protocol):
    """Who sends the prompts (`dataplane.own_requests`)."""

    @property
    def fingerprints(self) -> object:
        """Changes when shapes of before are not comparable any more."""

    def shape(self, body: bytes, sharing: str, api: Api) -> RequestShape:
        """How a prompt is recognised in the registry."""

    def send(
        self, body: bytes, *, sharing: str, on: ReplicaId | None, path: bytes, api: Api
    ) -> Awaitable[Prefilled]:
        """Have it computed."""


class Promises(Protocol):
    """Whose promises are kept. Every call may raise `StoreAwayError`."""

    async def all(self, now_s: float) -> Sequence[Promise]:
        """Those that have not expired."""

    async def prompt(self, promise: Promise) -> bytes | None:
        """The request, for `Promise.api`, that has a replica compute it; None: there is none any more."""

    async def lapse(self, promise: Promise, lapsed: bool) -> None:
        """Note whether it is given up, for whoever uses it."""


class _Watched:
    """What is known of one promise here."""

    __slots__ = (
        "busy",
        "failures",
        "fingerprints",
        "looked_s",
        "next_s",
        "pace",
        "promise",
        "rate",
        "shape",
        "shaped_s",
        "source",
    )

    def __init__(self, promise: Promise, source: Promises) -> None:
        self.promise = promise
        self.source = source
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

    def told(self, promise: Promise, passed_s: float) -> None:
        """Its source tells of it again."""
        if passed_s > 0.0:
            now_per_s = max(0, promise.uses - self.promise.uses) / passed_s
            self.rate += (now_per_s - self.rate) * min(1.0, passed_s / RATE_MEMORY_S)
        self.promise = promise


class KeepWarm:
    """The keeper of promises at one worker.

    Args:
        sources: Whose promises are kept.
        lead: Asks whether this worker is the one that keeps promises, from now for so many seconds.
        share: Which part of the fleet's budget is this worker's, as of now.
        uses_per_copy_per_s: Uses a second that one copy is for.
        clock: Unix seconds.
    """

    def __init__(
        self,
        sources: Sequence[Promises],
        *,
        lead: Callable[[float], Awaitable[bool]],
        share: Callable[[], float] = lambda: 1.0,
        fleet: Fleet,
        registry: Registry,
        sender: Sender,
        budget: PrefillBudget,
        tasks: Tasks,
        interval_s: float,
        uses_per_copy_per_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._sources = sources
        self._lead = lead
        self._share = share
        self._fleet = fleet
        self._registry = registry
        self._sender = sender
        self.budget = budget
        self._tasks = tasks
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
        self.put_off = 0
        """Refreshes that were left for a later round, since others waited at the replica."""

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
                self.leads = False

    async def round(self) -> None:
        """Look once at what is in danger.

        Raises:
            StoreAwayError: Nobody can say what was promised.
        """
        self.leads = await self._lead(max(LEASE_S, 3.0 * self._interval_s))
        if not self.leads:
            self._watched.clear()
            return
        self._read([(source, await source.all(self._clock())) for source in self._sources])
        looked = sorted(self._watched.values(), key=lambda watched: watched.looked_s)[:MOST_LOOKED_AT]
        for watched in looked:
            watched.looked_s = monotonic()
            if not watched.busy:
                await self._look(watched)

    def _read(self, told: Sequence[tuple[Promises, Sequence[Promise]]]) -> None:
        """Take over what there is to be kept."""
        now_s = monotonic()
        passed_s, self._read_s = now_s - self._read_s, now_s
        keys = set()
        for source, promises in told:
            for promise in promises:
                keys.add(promise.key)
                watched = self._watched.get(promise.key)
                if watched is None:
                    self._watched[promise.key] = _Watched(promise, source)
                else:
                    watched.told(promise, passed_s)
        for key in [key for key in self._watched if key not in keys]:
            del self._watched[key]

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
        if warm and watched.promise.lapsed:
            await self._lapse(watched, None)
        for step in next_steps(copies, deserved, watched.pace):
            if monotonic() < watched.next_s:
                return
            if self._under_way >= MOST_AT_ONCE:
                # The first of the next round, or those that come first here would always be.
                watched.looked_s = -inf
                return
            replica = replicas[step.replica]
            held = next(copy for copy in copies if copy.replica == step.replica)
            if step.refresh and replica.waiting and not watched.pace.urgent(held):
                self.put_off += 1
                continue
            promise = watched.promise
            held_tokens = int(held.held_ratio * promise.tokens) if step.refresh else 0
            expected_s = replica.prefill_s(promise.tokens, min(held_tokens, max(0, promise.tokens - 1)))
            if not self.budget.take(promise.tenant, expected_s, len(copies) * self._share(), monotonic()):
                if not warm:
                    await self._lapse(watched, "budget")
                continue
            watched.busy = True
            self._under_way += 1
            self._tasks.spawn(self._send(watched, step, held, replica, expected_s), name="keep warm prefill")
            await asyncio.sleep(0)  # it is on its way: a promise that begins alike finds it noted
            return  # the next one once this one's end has been noted

    async def _send(
        self, watched: _Watched, step: Step, copy: Copy, replica: Replica, expected_s: float
    ) -> None:
        promise = watched.promise
        measured_s = 0.0
        path = f"{promise.where}/{promise.name}/warm".encode()
        try:
            body = await watched.source.prompt(promise)
            if body is None:
                return
            measured_s = expected_s
            done = await self._sender.send(
                body, sharing=promise.sharing, on=step.replica, path=path, api=promise.api
            )
            self.prefills["refresh" if step.refresh else "copy"] += 1
            if done.status != 200:
                measured_s = 0.0
                await self._failed(watched, done, warm=copy.warm)
                return
            watched.failures = 0
            watched.next_s = 0.0
            prompt_tokens, cached_tokens = done.prompt_tokens or promise.tokens, done.cached_tokens
            if cached_tokens is not None:
                measured_s = replica.prefill_s(prompt_tokens, min(cached_tokens, prompt_tokens - 1))
                self.tokens += prompt_tokens - cached_tokens
                if step.refresh:
                    gone = lost(prompt_tokens, cached_tokens, replica.overlap_block_tokens)
                    self.lost += gone
                    watched.pace.refreshed(copy.idle_s, gone)
        except StoreAwayError:
            pass  # the next round asks again
        finally:
            self.budget.settle(promise.tenant, expected_s, measured_s)
            self._under_way -= 1
            watched.busy = False

    async def _failed(self, watched: _Watched, done: Prefilled, *, warm: bool) -> None:
        watched.failures += 1
        pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(watched.failures - 1, 16))
        watched.next_s = monotonic() + pause_s
        log.warning(
            "keep_warm_failed",
            extra=fields(promise=watched.promise.name, status=done.status, code=done.code or "none"),
        )
        if not warm and watched.failures > 1:
            await self._lapse(watched, "failed")

    async def _lapse(self, watched: _Watched, why: str | None) -> None:
        """Give a promise up, or take it on again."""
        promise = watched.promise
        if promise.lapsed is (why is not None):
            return
        await watched.source.lapse(promise, why is not None)
        watched.promise = replace(promise, lapsed=why is not None)
        if why is None:
            log.info("promise_kept_again", extra=fields(promise=promise.name))
        else:
            self.given_up[why] += 1
            log.warning(
                "promise_given_up", extra=fields(promise=promise.name, why=why, tokens=promise.tokens)
            )

    # -- what is believed --------------------------------------------------------------------------------------------

    async def _shape(self, watched: _Watched) -> RequestShape | None:
        """How the promise's prompt is recognised; None: it cannot be."""
        now_s = monotonic()
        sender = self._sender
        if watched.fingerprints is sender.fingerprints and now_s - watched.shaped_s < SHAPE_AGE_S:
            return watched.shape
        promise = watched.promise
        body = await watched.source.prompt(promise)
        watched.shape = None
        try:
            if body is not None:
                watched.shape = sender.shape(body, promise.sharing, promise.api)
                await asyncio.sleep(0)  # long prompts take a millisecond each, and clients wait
        except RouterError as error:
            log.error("promise_unreadable", extra=fields(promise=promise.name, error=str(error)))
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
