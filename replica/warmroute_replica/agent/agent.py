"""The agent holds what is known of its engine, and derives the replica's state: starting, ready, draining or gone.

A replica becomes ready once its engine reports healthy, names its models and, where the settings ask for it, has
answered a request. It stops being ready when the engine says so or nobody listens on its port any more. An engine that
is merely silent counts as busy and stays ready: if silence were enough, an overloaded fleet would withdraw itself. A
drain first withdraws the replica, then waits until the engine has had no request in hand for as long as routers may
take to hear of the withdrawal. A drain cannot be taken back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from warmroute_replica.agent.engine import Engine, EngineDownError, Served
from warmroute_replica.agent.engine_metrics import EngineFigures
from warmroute_replica.agent.logs import fields
from warmroute_replica.agent.record import Record, State
from warmroute_replica.agent.settings import Settings

log = logging.getLogger(__name__)

HEARTBEAT_S = 1.0
LOAD_S = 0.25
"""The agent waits at least this long between two reads of the engine's load."""

SCRAPE_SHARE_RATIO = 0.02
"""The engine may spend at most this part of its time on reporting its load: vLLM takes some milliseconds to render its
metrics."""

SERVED_S = 5.0
"""The agent reads models and adapters once in this time, since both may come and go at run time."""

SETTLE_S = 1.0
"""The engine must have had no request in hand for this long after the replica was withdrawn. Routers hear of the
withdrawal within milliseconds, so what they sent meanwhile has arrived by then."""

TELL_S = 3.0
"""A drain waits at most this long for Redis to take the state; without Redis, routers learn of the drain when the
engine refuses their requests."""

DRAIN_POLL_S = 0.1
SILENT_LOOKS = 5


class Agent:
    """The agent of one engine; one event loop uses it.

    Args:
        name: The agent's name, which routers see as `Record.agent`.
        changed: The agent calls it whenever its record has changed.
        told: Returns whether this state is the one that Redis, and so the routers, were told last.
    """

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        name: str,
        *,
        changed: Callable[[], None],
        told: Callable[[State], bool],
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._name = name
        self._changed = changed
        self._told = told
        self._served: Served | None = None
        self._served_s = -1e9
        self._figures = EngineFigures()
        self._well = False
        self._checked = False
        """Whether this life of the engine has answered a request, or did not have to."""
        self._life_s: float | None = None
        self._tells_start = True
        self._said: str | None = None
        self._silent = 0
        self._draining: asyncio.Task[bool] | None = None
        self._hurry = asyncio.Event()
        self.gone = False
        """True once the engine has ended, so that nothing is left to route to."""
        self.lives = 0
        """Number of the engine's lives that the agent has seen so far."""

    @property
    def state(self) -> State:
        """The replica's state at this moment."""
        if self.gone:
            return State.GONE
        if self._draining is not None:
            return State.DRAINING
        return State.READY if self._well else State.STARTING

    @property
    def load(self) -> tuple[int | None, int | None]:
        """Requests running and waiting in the engine when the agent last asked; None where the engine does not say."""
        return self._figures.running, self._figures.waiting

    def record(self) -> Record:
        """Return what routers are to know of the replica at this moment."""
        settings, figures, served = self._settings, self._figures, self._served
        return Record(
            id=settings.replica_id,
            url=settings.advertise,
            agent=self._name,
            state=self.state,
            interval_s=HEARTBEAT_S,
            models=served.models if served is not None else (),
            adapters=served.adapters if served is not None else (),
            block_tokens=figures.block_tokens,
            cache_blocks=figures.cache_blocks,
            incarnation=self._life_s,
            zone=settings.zone,
            labels=settings.labels,
            ranks=figures.engines or None,
            running=figures.running,
            waiting=figures.waiting,
        )

    async def watch(self) -> None:
        """Follow the engine's health, load and models until the task is cancelled."""
        next_health_s = 0.0
        while True:
            began_s = time.monotonic()
            before = self.record()
            try:
                if began_s >= next_health_s or not self._well:
                    await self._engine.check_health()
                    next_health_s = began_s + HEARTBEAT_S
                asked_s = time.monotonic()
                await self._look(asked_s)
                pause_s = (time.monotonic() - asked_s) / SCRAPE_SHARE_RATIO
            except EngineDownError as error:
                self._down(error)
                pause_s = LOAD_S
            if self.record() != before:
                self._changed()
            await asyncio.sleep(min(max(pause_s, LOAD_S), HEARTBEAT_S))

    def drain(self) -> asyncio.Task[bool]:
        """Begin to drain, unless a drain has begun; the returned task tells whether the engine was idle at the end."""
        if self._draining is None:
            self._draining = asyncio.get_running_loop().create_task(self._drain(), name="drain")
            self._changed()
        return self._draining

    def hurry(self) -> None:
        """End the drain now, whatever requests are under way."""
        self._hurry.set()

    async def _look(self, now_s: float) -> None:
        figures = await self._engine.figures()
        if not figures.awake:
            raise EngineDownError(f"{self._engine.url}: the engine sleeps", certain=True)
        if self._life_s is None or (figures.start_s is not None and self._life(figures) != self._life_s):
            self._begin_life(figures)
        if now_s - self._served_s >= SERVED_S:
            self._served = await self._engine.served()
            self._served_s = now_s
        if self._settings.check_request and not self._checked and self._served is not None:
            await self._engine.answer_one_token((self._served.models or self._served.adapters)[0])
        self._checked = True
        self._figures = figures
        self._silent = 0
        self._said = None
        if not self._well:
            self._well = True
            log.info(
                "engine_ready", extra=fields(engine=self._engine.url, models=",".join(self.record().models))
            )

    def _life(self, figures: EngineFigures) -> float:
        """Return the Unix time at which the engine's life began, in seconds. An engine that reports no start time (one
        with several API servers does not) is taken to begin when the agent first sees it healthy after an outage."""
        return round(figures.start_s if figures.start_s is not None else time.time(), 3)

    def _begin_life(self, figures: EngineFigures) -> None:
        if self._life_s is not None:
            log.info("engine_restarted", extra=fields(engine=self._engine.url))
        self._life_s = self._life(figures)
        self._tells_start = figures.start_s is not None
        self.lives += 1
        self._well = self._checked = False
        self._served_s = -1e9

    def _down(self, error: EngineDownError) -> None:
        self._silent += 1
        if self._well and not error.certain and self._silent < SILENT_LOOKS:
            return
        if self._said != str(error):
            self._said = str(error)
            if self._well:
                log.warning("engine_away" if error.certain else "engine_silent", extra=fields(error=error))
            else:
                log.info("waiting_for_engine", extra=fields(error=error))
        if error.certain:
            if self._well and not self._tells_start:
                self._life_s = None
            self._well = False
            known = self._figures
            self._figures = EngineFigures(
                block_tokens=known.block_tokens, cache_blocks=known.cache_blocks, engines=known.engines
            )

    async def _drain(self) -> bool:
        grace_s = self._settings.drain_grace_s
        log.info("draining", extra=fields(id=self._settings.replica_id, grace_s=grace_s))
        until_s = time.monotonic() + grace_s
        told_by_s = time.monotonic() + TELL_S
        idle_s: float | None = None
        in_hand: int | None = None
        while True:
            now_s = time.monotonic()
            try:
                in_hand = await self._in_hand()
            except EngineDownError as error:
                if error.certain:
                    in_hand = 0
            if in_hand:
                idle_s = None
            elif in_hand == 0 and idle_s is None and (self._told(State.DRAINING) or now_s > told_by_s):
                idle_s = now_s
            if idle_s is not None and now_s - idle_s >= SETTLE_S:
                log.info("drained", extra=fields(id=self._settings.replica_id))
                return True
            if now_s >= until_s or self._hurry.is_set():
                log.warning("drain_incomplete", extra=fields(in_hand=in_hand, hint="raise --drain-grace"))
                return False
            await asyncio.sleep(DRAIN_POLL_S)

    async def _in_hand(self) -> int:
        counted = await self._engine.in_hand()
        figures = await self._engine.figures()
        return max(counted or 0, (figures.running or 0) + (figures.waiting or 0))
