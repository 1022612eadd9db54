"""The simulation runs sessions, a router and engines in virtual time.

This module decides the order of events and nothing else. A request takes `FleetConfig.hop_s` from the router to the
engine; news of its first byte and of its end take as long back, and both are made at the end of an engine's step.

Engines run ahead of each other as far as nothing can reach them. That is up to the next known event, or up to the
earliest event that a step under way can cause: two hops after the step's end where the router may be holding requests,
and a hop and the shortest pause after it where only the sessions' next turns can follow.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from random import Random

from warmroute.core.beliefs.tiers import Tier
from warmroute_loadtest.simulate.chooser import Chooser, Site
from warmroute_loadtest.simulate.workload import Turn, Workload
from warmroute_replica.sim.engine import Engine, RunState, SimRequest
from warmroute_replica.sim.engine_config import EngineConfig, SchedulingPolicy
from warmroute_replica.sim.step_time import StepTime

HOP_S = 0.001
"""Time one way between router and engine, in seconds: network, event loops, the engine's front end."""

_FIRST, _FINISH, _ARRIVE, _DELIVER, _WAKE, _CHANGE, _JOIN, _LEAVE, _ABORT = range(9)


@dataclass(slots=True)
class Served:
    """What happened to one request."""

    turn: Turn
    arrival_s: float
    replica: int = -1
    dispatched_s: float = 0.0
    first_s: float = 0.0
    end_s: float = 0.0
    cached_tokens: int = 0
    predicted_tokens: int = 0
    """Number of prompt tokens that the router believed to be cached; 0 where the router does not say."""
    priority: int = 0
    """The priority with which the router sent the request."""
    has_left: bool = False
    """Whether the client went away before its answer was complete; then `end_s` says when, and so does `first_s` where
    nothing had come until then."""

    @property
    def ttft_s(self) -> float:
        """Time from the client's request to its first token, in seconds, time at the router included."""
        return self.first_s - self.arrival_s

    @property
    def in_vain(self) -> bool:
        """Whether the client left before anything came."""
        return self.has_left and self.first_s >= self.end_s

    @property
    def uncached_tokens(self) -> int:
        """Number of prompt tokens that the engine had to compute."""
        return self.turn.prompt_tokens - self.cached_tokens


@dataclass(frozen=True, slots=True)
class SpeedChange:
    """A replica gets slower or faster in the middle of a run: throttled, or no longer alone on its GPU."""

    replica: int
    ratio: float
    """The replica's speed from then on, over the speed that it started with."""
    request: int | None = None
    """The change comes with the arrival of this request, counted from 1; None where `at_s` says when."""
    at_s: float | None = None
    """Time of the change from the run's beginning, in seconds at speed 1; None where `request` says when."""

    def __post_init__(self) -> None:
        if self.ratio <= 0:
            raise ValueError(f"a speed must be above 0, got {self.ratio}")
        if (self.request is None) == (self.at_s is None):
            raise ValueError("a change of speed comes with a request or at a time, one of them")


@dataclass(frozen=True, slots=True)
class Join:
    """Replicas come to the fleet in the middle of a run, with empty caches."""

    replicas: int
    """Number of replicas that join; 0 for none, so that the same minute can be measured without them."""
    at_s: float
    """Time of the join from the run's beginning, in seconds at speed 1."""


@dataclass(frozen=True, slots=True)
class FleetConfig:
    """The simulated fleet, and what routers are told of it."""

    replicas: int = 8
    """Number of replicas at the beginning."""
    cache_tokens: int = 1_000_000
    step_time: StepTime = field(default_factory=StepTime)
    speeds: tuple[float, ...] = ()
    """Speed factor of each replica; empty means 1 for all. A list shorter than the fleet is repeated, and must then
    divide the number of replicas."""
    max_num_batched_tokens: int = 8192
    max_num_seqs: int = 256
    long_prefill_token_threshold: int = 0
    long_prefill_token_threshold_adaptive: bool = False
    scheduling_policy: str = SchedulingPolicy.FCFS.value
    """This field and the two before it have the meaning that they have in `EngineConfig`; a request's priority is set
    by its router."""
    seed: int = 7
    believed_cache_tokens: int | None = None
    """Cache size that routers are told, in tokens; None tells them the truth, 0 tells them nothing."""
    feedback: bool = True
    """Whether our router learns from the cached tokens that answers report."""
    prior_ratio: float = 1.0
    """Prefill rate that routers assume before they learn, over the true rate of a replica with speed factor 1."""
    speed: float = 1.0
    """Factor by which engines and people are faster: steps, arrivals, pauses, `at_s`. What belongs to the routers'
    machines keeps its time: hops and timers. Rates of a workload are given at speed 1."""
    changes: tuple[SpeedChange, ...] = ()
    """Changes of replicas' speeds in the middle of the run."""
    joins: tuple[Join, ...] = ()
    """Replicas that join later; their numbers go on from those of the first ones."""
    tier_tokens: int = 0
    """Size of a tier below each replica's GPU, in tokens; 0 means that there is none."""
    tier_token_s: float = 0.0
    """Time to load a token from there, in seconds at speed 1."""
    tier_told: float = 1.0
    """What our router is told of the tier's price, over the truth; 0 means that it is told of no tier."""
    hop_s: float = HOP_S
    chunk_store_tokens: int = 0
    """Number of tokens that each engine's chunk store holds; 0: engines reuse prefixes alone."""
    recompute_ratio: float = 0.15
    """Share of a known chunk that engines compute all the same."""

    def __post_init__(self) -> None:
        if self.prior_ratio <= 0 or self.speed <= 0:
            raise ValueError("prior_ratio and speed must be above 0")
        if self.speeds and self.replicas % len(self.speeds):
            raise ValueError(f"{len(self.speeds)} speeds do not make {self.replicas} replicas")
        for change in self.changes:
            if not 0 <= change.replica < self.all_replicas:
                raise ValueError(f"no replica {change.replica} of {self.all_replicas}")

    @property
    def all_replicas(self) -> int:
        """Number of replicas at the end."""
        return self.replicas + sum(join.replicas for join in self.joins)

    @property
    def prefill_prior(self) -> float:
        """Prefill rate that routers are told, in tokens a second."""
        step = self.step_time
        return step.prefill_tokens_per_s * step.speed * self.speed * self.prior_ratio

    @property
    def told_cache_tokens(self) -> int | None:
        """Cache size of each replica that routers are told, in tokens; None where they are told nothing."""
        told = self.cache_tokens if self.believed_cache_tokens is None else self.believed_cache_tokens
        return told or None

    @property
    def told_tiers(self) -> tuple[Tier, ...]:
        """The tiers below the GPU that our router is told of."""
        if not self.tier_tokens or not self.tier_told:
            return ()
        speed = self.step_time.speed * self.speed
        return (Tier("host", self.tier_tokens, self.tier_token_s / speed * self.tier_told),)

    def speed_of(self, replica: int) -> float:
        """Return what a replica's durations are divided by at the beginning."""
        own = self.speeds[replica % len(self.speeds)] if self.speeds else 1.0
        return self.step_time.speed * self.speed * own

    def engines(self, block_tokens: int) -> list[Engine]:
        """Make new engines for all replicas."""
        return [
            Engine(
                EngineConfig(
                    cache_tokens=self.cache_tokens,
                    block_tokens=block_tokens,
                    max_num_batched_tokens=self.max_num_batched_tokens,
                    max_num_seqs=self.max_num_seqs,
                    long_prefill_token_threshold=self.long_prefill_token_threshold,
                    long_prefill_token_threshold_adaptive=self.long_prefill_token_threshold_adaptive,
                    scheduling_policy=SchedulingPolicy(self.scheduling_policy),
                    step_time=replace(self.step_time, speed=self.speed_of(replica)),
                    tier_tokens=self.tier_tokens,
                    tier_token_s=self.tier_token_s,
                    chunk_store_tokens=self.chunk_store_tokens,
                    recompute_ratio=self.recompute_ratio,
                )
            )
            for replica in range(self.all_replicas)
        ]


@dataclass(slots=True)
class Run:
    """The result of one simulation."""

    policy: str
    served: list[Served]
    engines: Sequence[Engine]
    span_s: float
    """Time from the first arrival to the last answer, in seconds."""
    busy_s: list[float]
    """Time that each engine spent in steps, in seconds."""
    chooser: Chooser
    speed: float = 1.0
    """The `FleetConfig.speed` of the run."""
    joined_s: float | None = None
    """Time at which the first replicas joined, in seconds; None if none did."""
    first_replicas: int = 0
    """Number of replicas at the beginning."""


def simulate(
    workload: Workload,
    fleet: FleetConfig,
    make_chooser: Callable[[Site], Chooser],
    progress: Callable[[int, float], None] | None = None,
) -> Run:
    """Serve the whole workload, from empty caches to the last answer."""
    engines = fleet.engines(workload.block_tokens)
    site = Site(
        engines,
        fleet.told_cache_tokens,
        workload.block_tokens,
        fleet.prefill_prior,
        Random(fleet.seed),
        fleet.feedback,
        fleet.long_prefill_token_threshold,
        fleet.replicas,
        fleet.recompute_ratio if fleet.chunk_store_tokens else None,
        fleet.told_tiers,
    )
    chooser = make_chooser(site)
    clock = _Clock(workload.at_speed(fleet.speed), fleet, engines, site, chooser)
    clock.run(progress)
    served = clock.done
    start_s = min((s.arrival_s for s in served), default=0.0)
    end_s = max((s.end_s for s in served), default=0.0)
    joined_s = min((join.at_s / fleet.speed for join in fleet.joins), default=None)
    return Run(
        chooser.name,
        served,
        engines,
        end_s - start_s,
        clock.busy_s,
        chooser,
        fleet.speed,
        joined_s,
        fleet.replicas,
    )


class _Clock:
    def __init__(
        self,
        workload: Workload,
        fleet: FleetConfig,
        engines: Sequence[Engine],
        site: Site,
        chooser: Chooser,
    ) -> None:
        self._site = site
        self._engines = engines
        self._chooser = chooser
        self._sessions = workload.sessions
        self._fleet = fleet
        self._hop_s = fleet.hop_s
        step = fleet.step_time
        fastest = max(
            [
                *(fleet.speed_of(replica) for replica in range(fleet.all_replicas)),
                *(fleet.speed_of(change.replica) * change.ratio for change in fleet.changes),
            ]
        )
        least_step_s = (step.base_s + step.decode_step_s) / fastest
        self._until_next_turn_s = least_step_s + fleet.hop_s + workload.least_pause_s
        self._until_next_release_s = least_step_s + 2 * fleet.hop_s
        self._wake_s = float("inf")
        self._order = count()
        # A heap of (time, order, kind, payload): arrivals, and news from engines that the router has not heard yet.
        self._events: list[tuple[float, int, int, object]] = []
        for number, session in enumerate(workload.sessions):
            self._push(session.start_s, _ARRIVE, (number, 0))
        # Changes of speed that come with a request, by its number; those by the clock are events.
        self._changes: dict[int, list[SpeedChange]] = {}
        for change in fleet.changes:
            if change.request is not None:
                self._changes.setdefault(change.request, []).append(change)
            elif change.at_s is not None:
                self._push(change.at_s / fleet.speed, _CHANGE, change)
        for join in fleet.joins:
            if join.replicas:
                self._push(join.at_s / fleet.speed, _JOIN, join)
        self._arrived = 0
        self._clocks_s = [0.0] * len(engines)
        self._open: dict[str, tuple[Served, int, int]] = {}
        self._held = 0
        self.done: list[Served] = []
        self.busy_s = [0.0] * len(engines)

    def _push(self, at_s: float, kind: int, payload: object) -> None:
        heapq.heappush(self._events, (at_s, next(self._order), kind, payload))

    def run(self, progress: Callable[[int, float], None] | None) -> None:
        engines = self._engines
        clocks_s = self._clocks_s
        events = self._events
        told = 0
        while True:
            next_s = events[0][0] if events else float("inf")
            busy = [i for i, engine in enumerate(engines) if not engine.idle]
            if not busy:
                if not events:
                    return
                self._handle(heapq.heappop(events))
                continue
            first_busy_s = min(clocks_s[i] for i in busy)
            if next_s <= first_busy_s:
                self._handle(heapq.heappop(events))
                continue
            ahead_s = self._until_next_release_s if self._held else self._until_next_turn_s
            until_s = min(next_s, first_busy_s + ahead_s)
            for i in busy:
                if clocks_s[i] < until_s:
                    self._advance(i, until_s)
            if progress is not None and len(self.done) >= told + 1000:
                told = len(self.done)
                progress(told, next_s)

    def _advance(self, index: int, until_s: float) -> None:
        engine = self._engines[index]
        clock_s = self._clocks_s[index]
        while clock_s < until_s and not engine.idle:
            result = engine.advance(clock_s, until_s)
            self.busy_s[index] += result.duration_s
            clock_s = result.end_s
            for state in result.first:
                self._push(clock_s + self._hop_s, _FIRST, state)
            for state in result.finished:
                self._push(clock_s + self._hop_s, _FINISH, state)
        self._clocks_s[index] = clock_s

    def _handle(self, event: tuple[float, int, int, object]) -> None:
        now_s, _, kind, payload = event
        if kind == _ARRIVE:
            assert isinstance(payload, tuple)
            number, position = payload
            if self._changes:
                self._arrived += 1
                for change in self._changes.pop(self._arrived, ()):
                    self._change(change)
            turn = self._sessions[number].turns[position]
            served = Served(turn, now_s)
            self._open[turn.id] = (served, number, position)
            if turn.patience_s != float("inf"):
                self._push(now_s + turn.patience_s, _LEAVE, turn.id)
            replica = self._chooser.choose(turn, now_s)
            if replica is None:
                self._held += 1
            else:
                self._dispatch(turn, replica, now_s)
            self._release(now_s)
            return
        if kind == _DELIVER:
            assert isinstance(payload, Served)
            self._deliver(payload, now_s)
            return
        if kind == _LEAVE:
            assert isinstance(payload, str)
            self._leave(payload, now_s)
            return
        if kind == _ABORT:
            assert isinstance(payload, Served)
            self._engines[payload.replica].abort(payload.turn.id)
            return
        if kind == _CHANGE:
            assert isinstance(payload, SpeedChange)
            self._change(payload)
            return
        if kind == _JOIN:
            assert isinstance(payload, Join)
            new = range(self._site.replicas, self._site.replicas + payload.replicas)
            self._site.replicas = new.stop
            for replica in new:
                self._clocks_s[replica] = now_s
                self._chooser.joined(replica, now_s)
            self._release(now_s)
            return
        if kind == _WAKE:
            self._wake_s = float("inf")
            self._release(now_s)
            return
        assert isinstance(payload, RunState)
        found = self._open.get(payload.id)
        if found is None:
            return  # its client has left meanwhile
        served, number, position = found
        if kind == _FIRST:
            served.first_s = now_s
            served.cached_tokens = payload.cached_tokens
            if served.turn.streams:
                self._chooser.first_byte(served.turn, served.replica, now_s)
        else:
            if not served.turn.streams:
                self._chooser.first_byte(served.turn, served.replica, now_s)
            served.end_s = now_s
            del self._open[payload.id]
            self.done.append(served)
            served.predicted_tokens = self._chooser.predicted_tokens(served.turn)
            self._chooser.finished(served.turn, served.replica, payload.cached_tokens, now_s)
            self._next_turn(number, position, now_s)
        self._release(now_s)

    def _next_turn(self, number: int, position: int, now_s: float) -> None:
        turns = self._sessions[number].turns
        if position + 1 < len(turns):
            self._push(now_s + turns[position + 1].pause_s, _ARRIVE, (number, position + 1))

    def _leave(self, turn_id: str, now_s: float) -> None:
        """A client breaks its connection, unless its answer is complete; the engine hears of it a hop later."""
        found = self._open.pop(turn_id, None)
        if found is None:
            return
        served, number, position = found
        turn = served.turn
        begun = turn.streams and served.first_s > 0.0
        served.has_left = True
        served.end_s = now_s
        if not begun:
            served.first_s = now_s
        self.done.append(served)
        if served.replica < 0:
            self._held -= 1
            self._chooser.left(turn, None, False, now_s)
        else:
            served.predicted_tokens = self._chooser.predicted_tokens(turn)
            self._chooser.left(turn, served.replica, begun, now_s)
            self._push(now_s + self._hop_s, _ABORT, served)
        self._next_turn(number, position, now_s)
        self._release(now_s)

    def _change(self, change: SpeedChange) -> None:
        """Change the speed of a replica from its engine's next step on."""
        self._engines[change.replica].change_speed(self._fleet.speed_of(change.replica) * change.ratio)

    def _release(self, now_s: float) -> None:
        if not self._held:
            return
        for turn, replica in self._chooser.released(now_s):
            self._held -= 1
            self._dispatch(turn, replica, now_s)
        wake_s = self._chooser.wake_s(now_s) if self._held else None
        if wake_s is not None and wake_s < self._wake_s:
            self._wake_s = wake_s
            self._push(wake_s, _WAKE, None)

    def _dispatch(self, turn: Turn, replica: int, now_s: float) -> None:
        served = self._open[turn.id][0]
        served.replica = replica
        served.dispatched_s = now_s
        served.priority = self._chooser.priority(turn)
        self._chooser.dispatched(turn, replica, now_s)
        self._push(now_s + self._hop_s, _DELIVER, served)

    def _deliver(self, served: Served, now_s: float) -> None:
        turn = served.turn
        engine = self._engines[served.replica]
        if engine.idle and self._clocks_s[served.replica] < now_s:
            self._clocks_s[served.replica] = now_s
        engine.add(
            SimRequest(
                turn.id,
                turn.prompt_tokens,
                turn.output_tokens,
                turn.keys,
                served.priority,
                turn.reads_cache,
                turn.chunks,
            ),
            now_s,
        )
