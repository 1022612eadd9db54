"""What the fleet's queue does where more is asked than there is: goodput, refusals, shares of tenants, and classes.

    python -m tests.bench.overload [--seconds 60] [overload | tenants | classes | cost]

Virtual time: routers with the real core (fleet, learner, admission queue, notices of load) before the simulator's
engines, so the figures depend on no machine. `cost` alone takes real time: how long a refusal takes to decide. Prompts
share no prefixes. A request is good if its first token comes within `SLO_S`.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from random import Random
from statistics import fmean

from warmroute.core.choice.cost import CostParameters
from warmroute.core.choice.policies import POLICIES
from warmroute.core.errors import RouterError
from warmroute.core.fleet.fleet import Decision, Fleet, ProbeSucceeded, ReplicaAdded
from warmroute.core.health.health import HealthParameters
from warmroute.core.holding.admission_queue import AdmissionQueue
from warmroute.core.holding.line import BATCH, DEFAULT, INTERACTIVE
from warmroute.core.holding.parameters import HoldParameters
from warmroute.core.holding.queue import HoldQueue
from warmroute.core.holding.queue_parameters import QueueParameters
from warmroute.core.holding.shares import Shares
from warmroute.core.holding.ticket import Ticket
from warmroute.core.learning.learner import Learner, LearningParameters
from warmroute.core.types import Incarnation, ReplicaId, RequestShape
from warmroute.service.load_reports import LoadReports
from warmroute.tasks import Tasks
from warmroute_loadtest.simulate.routers import ROUND_TRIP_S, Board, BoardOfOne
from warmroute_replica.sim.engine import Engine, SimRequest
from warmroute_replica.sim.engine_config import EngineConfig

HOP_S = 0.001
SLO_S = 4.0
TIMEOUT_S = 2.0
"""Longest wait in line; of `overload`, half as long."""
PROMPT_TOKENS = (500, 3500)
OUTPUT_TOKENS = (20, 180)
BLOCK = 16
SEEDS = 5
"""Runs of `tenants`, each with other arrivals."""
DRAWS = (1, 2, 3)
"""Seeds of `classes`."""


@dataclass
class Story:
    """One request, from its arrival to its end or refusal."""

    number: int
    arrival_s: float
    tenant: int
    level: int
    prompt_tokens: int
    output_tokens: int
    first_s: float = -1.0
    end_s: float = -1.0
    refused_s: float = -1.0
    sent_s: float = -1.0
    decision: Decision | None = None

    @property
    def ttft_s(self) -> float:
        """Time to the first token."""
        return self.first_s - self.arrival_s


@dataclass
class Source:
    """Who sends, how often, and with which class; to which routers."""

    rate: float
    tenant: int = 1
    level: int = DEFAULT
    routers: tuple[int, ...] = ()
    """Empty: to all."""


class Router:
    """One router of the fleet."""

    def __init__(self, number: int, world: World, *, queue: bool) -> None:
        self.number = number
        self.world = world
        parameters = CostParameters()
        self.fleet = Fleet(
            POLICIES["prefix-cost"](parameters),
            Random(number),
            parameters,
            HealthParameters(),
            learner=Learner(LearningParameters()),
        )
        for index in range(world.replicas):
            name = ReplicaId(f"replica-{index}:8000")
            self.fleet.apply(ReplicaAdded(name, f"http://{name}"))
            self.fleet.apply(ProbeSucceeded(name, Incarnation(index + 1), {"m"}, BLOCK, 1_000_000, 0.0))
        self.shares = Shares()
        self.queue: AdmissionQueue | None = None
        self.hold: HoldQueue
        if queue:
            self.hold = self.queue = AdmissionQueue(
                self.fleet,
                HoldParameters(max_held=1024),
                QueueParameters(spare_ratio=world.spare_ratio),
                self.shares,
            )
        else:
            self.hold = HoldQueue(self.fleet, HoldParameters())
        self.board = BoardOfOne(world.board)
        self.reports = LoadReports(
            self.fleet,
            self.board,
            Tasks(),
            router=number + 1,
            publish_interval_s=0.05,
            expire_s=1.0,
            clock=lambda: self.board.now_s,
            fleet_clock=lambda: self.board.now_s,
            shares=self.shares,
        )
        self.wake_s = float("inf")
        self._stepped_s = 0.0
        self._due_s = float("inf")

    def begin(self, at_s: float) -> None:
        """Take part in the notices of load."""
        self._due_s = at_s
        self.world.push(at_s, self.step, at_s)

    def ask(self, story: Story, now_s: float) -> None:
        """A request has come."""
        shape = RequestShape(
            "m", [], story.prompt_tokens * 4, story.prompt_tokens, story.number, story.number, True
        )

        def granted(answer: Decision | RouterError) -> None:
            self.world.answered(self, story, answer)

        if self.queue is None:
            answer = self.hold.offer(shape, None, now_s, granted)
            if not isinstance(answer, Ticket):
                granted(answer)
        else:
            decision = self.queue.begin(shape, None, now_s)
            if decision is not None:
                granted(decision)
            else:
                try:
                    self.queue.wait(
                        shape,
                        None,
                        now_s,
                        granted,
                        story.level,
                        self.shares.flow(story.tenant, 1.0),
                        300.0 if story.level == BATCH else self.world.timeout_s,
                        4 * story.prompt_tokens,
                    )
                except RouterError as error:
                    granted(error)
        self.release(now_s)

    def release(self, now_s: float) -> None:
        """Let go who may, and say when to look again."""
        pause_s = self.hold.release(now_s)
        if pause_s is not None and now_s + pause_s < self.wake_s:
            self.wake_s = now_s + pause_s
            self.world.push(self.wake_s, self.woken, self.wake_s)
        self.hurry(now_s)

    def woken(self, now_s: float, due_s: object) -> None:
        """The timer."""
        if due_s == self.wake_s:
            self.wake_s = float("inf")
            self.world.now_s = now_s
            self.release(now_s)

    def hurry(self, now_s: float) -> None:
        """Step soon, if there is something to tell or to hear."""
        if self.reports.hurried:
            due_s = max(now_s, self._stepped_s + self.reports.least_pause_s)
            if due_s < self._due_s:
                self._due_s = due_s
                self.world.push(due_s, self.step, due_s)

    def step(self, now_s: float, due_s: object) -> None:
        """Tell others, and hear them, as often as in production."""
        if due_s != self._due_s:
            return
        self.board.now_s = self._stepped_s = now_s
        with contextlib.suppress(StopIteration):
            self.reports.step().send(None)
        self._due_s = now_s + self.reports.pause_s
        self.world.push(self._due_s, self.step, self._due_s)
        if self.board.posted:
            self.world.push(now_s + ROUND_TRIP_S, self.world.ring, None)
        self.world.now_s = now_s
        self.release(now_s)


@dataclass
class World:
    """Engines, routers, and what happens in order."""

    routers_count: int = 1
    queue: bool = True
    replicas: int = 4
    timeout_s: float = TIMEOUT_S
    spare_ratio: float = 0.0
    seed: int = 1
    stories: list[Story] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.board = Board()
        self.engines = [Engine(EngineConfig()) for _ in range(self.replicas)]
        self.clocks_s = [0.0] * self.replicas
        self._events: list[tuple[float, int, Callable[[float, object], None], object]] = []
        self._order = count()
        self._dice = Random(self.seed)
        self._open: dict[str, tuple[Router, Story]] = {}
        self.routers = [Router(number, self, queue=self.queue) for number in range(self.routers_count)]
        if self.routers_count > 1:
            for number, router in enumerate(self.routers):
                router.begin(0.003 * number)

    def ring(self, now_s: float, _: object) -> None:
        """There is news on the board."""
        for router in self.routers:
            router.reports.ring()
            router.hurry(now_s)

    def push(self, at_s: float, what: Callable[[float, object], None], about: object) -> None:
        """It happens then."""
        heapq.heappush(self._events, (at_s, next(self._order), what, about))

    def run(self, seconds: float, sources: list[Source]) -> World:
        """Arrivals for so long, then until the last answer."""
        for source in sources:
            at_s = self._dice.expovariate(source.rate)
            while at_s < seconds:
                self.push(at_s, self._arrive, source)
                at_s += self._dice.expovariate(source.rate)
        self._until_s = seconds
        while self._next():
            pass
        return self

    def _next(self) -> bool:
        busy = [i for i, engine in enumerate(self.engines) if not engine.idle]
        next_s = self._events[0][0] if self._events else float("inf")
        if busy:
            index = min(busy, key=self.clocks_s.__getitem__)
            clock_s = self.clocks_s[index]
            if clock_s < next_s:
                others = min([self.clocks_s[i] for i in busy if i != index], default=float("inf"))
                until_s = max(clock_s + 1e-9, min(next_s, others + 2 * HOP_S))
                result = self.engines[index].advance(clock_s, until_s)
                self.clocks_s[index] = result.end_s
                for state in result.first:
                    self.push(result.end_s + HOP_S, self._first, state.id)
                for state in result.finished:
                    self.push(result.end_s + HOP_S, self._finish, state.id)
                return True
        waiting = any(len(router.hold) for router in self.routers)
        if not self._events or (not busy and not self._open and not waiting and next_s > self._until_s):
            return False
        now_s, _, what, about = heapq.heappop(self._events)
        what(now_s, about)
        return True

    def _arrive(self, now_s: float, source: object) -> None:
        assert isinstance(source, Source)
        story = Story(
            len(self.stories),
            now_s,
            source.tenant,
            source.level,
            self._dice.randint(*PROMPT_TOKENS),
            self._dice.randint(*OUTPUT_TOKENS),
        )
        self.stories.append(story)
        chosen = self._dice.choice(source.routers or range(len(self.routers)))
        self.now_s = now_s
        self.routers[chosen].ask(story, now_s)

    def answered(self, router: Router, story: Story, answer: Decision | RouterError) -> None:
        """It goes to a replica, or is refused."""
        now_s = self.now_s
        if isinstance(answer, RouterError):
            story.refused_s = now_s
            return
        story.decision = answer
        story.sent_s = now_s
        self._open[str(story.number)] = (router, story)
        self.push(now_s + HOP_S, self._deliver, story)

    def _deliver(self, now_s: float, story: object) -> None:
        assert isinstance(story, Story)
        assert story.decision is not None
        self.now_s = now_s
        index = story.decision.replica.index
        engine = self.engines[index]
        if engine.idle and self.clocks_s[index] < now_s:
            self.clocks_s[index] = now_s
        keys = [(story.number, block) for block in range(story.prompt_tokens // BLOCK)]
        request = SimRequest(str(story.number), story.prompt_tokens, story.output_tokens, keys)
        engine.add(request, now_s)

    def _first(self, now_s: float, name: object) -> None:
        self.now_s = now_s
        router, story = self._open[str(name)]
        assert story.decision is not None
        story.first_s = now_s
        router.fleet.started(story.decision, now_s)
        router.release(now_s)

    def _finish(self, now_s: float, name: object) -> None:
        self.now_s = now_s
        router, story = self._open.pop(str(name))
        decision = story.decision
        assert decision is not None
        story.end_s = now_s
        router.fleet.settle(decision, now_s)
        shape = RequestShape("m", [], story.prompt_tokens * 4, story.prompt_tokens, 1, 1, True)
        router.fleet.learn(decision, shape, story.prompt_tokens, 0, story.output_tokens, story.output_tokens)
        router.fleet.confirm(decision, 0, story.output_tokens, now_s)
        router.shares.charge(router.shares.flow(story.tenant, 1.0), story.output_tokens, now_s)
        router.release(now_s)

    # -- figures ------------------------------------------------------------------------------------------------------

    def of(self, tenant: int = 0, level: int = -1) -> list[Story]:
        """The stories of one tenant or class, those of the first quarter left out: rates are learned by then."""
        since_s = self._until_s / 4
        return [
            s
            for s in self.stories
            if s.arrival_s >= since_s and tenant in (0, s.tenant) and level in (-1, s.level)
        ]

    def tokens_per_s(self, tenant: int = 0, level: int = -1) -> float:
        """Prompt tokens whose first token came while requests did, a second."""
        since_s = self._until_s / 4
        tokens = [
            s.prompt_tokens
            for s in self.stories
            if since_s <= s.first_s < self._until_s and tenant in (0, s.tenant) and level in (-1, s.level)
        ]
        return sum(tokens) / (self._until_s - since_s)


def at(values: list[float], share: float) -> float:
    """The value below which this share of them is; not a number without any."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def good_per_s(world: World) -> float:
    """Requests a second whose first token came in time."""
    return len([s for s in world.of() if s.first_s >= 0 and s.ttft_s <= SLO_S]) / (world._until_s * 0.75)


def capacity(seconds: float, replicas: int = 4) -> float:
    """Requests a second that the fleet begins where always enough wait."""
    world = World(replicas=replicas).run(seconds, [Source(15.0 * replicas)])
    return world.tokens_per_s() / (sum(PROMPT_TOKENS) / 2)


def overload(seconds: float, rate: float) -> None:
    """Goodput at multiples of the capacity."""
    print(f"capacity: {rate:.1f} requests a second; SLO {SLO_S:g} s; longest wait {TIMEOUT_S / 2:g} s")
    print("| offered | queue | good, 1/s | TTFT p90, s | refused | refused after, p99 | left in counters |")
    print("|---|---|---|---|---|---|---|")
    for factor in (1, 2, 5, 10):
        for queue in (True, False):
            if not queue and factor > 2:
                continue  # it takes as many times as long until all are served
            world = World(queue=queue, timeout_s=TIMEOUT_S / 2).run(seconds, [Source(rate * factor)])
            ttfts = [s.ttft_s for s in world.of() if s.first_s >= 0]
            refused = [s.refused_s - s.arrival_s for s in world.of() if s.refused_s >= 0]
            for router in world.routers:
                router.fleet.validate()
            left = sum(r.in_flight for router in world.routers for r in router.fleet.replicas.values())
            left += sum(len(router.hold) for router in world.routers)
            print(
                f"| {factor}x | {'yes' if queue else 'no'} | {good_per_s(world):.2f} | {at(ttfts, 0.9):.2f} |"
                f" {len(refused) / max(1, len(world.of())):.2f} | {at(refused, 0.99) * 1000:.0f} ms | {left} |",
                flush=True,
            )


def tenants(seconds: float, rate: float) -> None:
    """One tenant offers ten times its share, the other nine tenths of its own. Bursts differ: several runs each."""
    share = rate / 2
    print("| routers | queue | quiet, tokens/s of its own: mean, least | TTFT p90, times alone: mean, most |")
    print("|---|---|---|---|")
    for routers in (1, 3):
        for queue in (True, False):
            if not queue and routers > 1:
                continue
            served, times = [], []
            for seed in range(1, SEEDS + 1) if queue else (1,):
                own = Source(0.9 * share, 2, routers=(0,))
                calm = World(routers, queue, seed=seed).run(seconds, [own, Source(0.9 * share, 1)])
                noisy = World(routers, queue, seed=seed).run(seconds, [own, Source(10 * share, 1)])
                before = at([s.ttft_s for s in calm.of(2) if s.first_s >= 0], 0.9)
                after = at([s.ttft_s for s in noisy.of(2) if s.first_s >= 0], 0.9)
                served.append(noisy.tokens_per_s(2) / calm.tokens_per_s(2))
                times.append(after / before)
            print(
                f"| {routers} | {'yes' if queue else 'no'} | {fmean(served):.3f}, {min(served):.3f} |"
                f" {fmean(times):.2f}, {max(times):.2f} |",
                flush=True,
            )


def classes(seconds: float) -> None:
    """Interactive requests at half the capacity, without and with batch that fills the rest."""
    print(
        "| replicas | queue | spare | interactive alone, TTFT p90, s | with batch, s | times: mean, most |"
        " waits in the router, p90, ms | batch of what is left |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for replicas in (4, 16, 32):
        rate = capacity(seconds, replicas)
        own = Source(0.5 * rate, 1, INTERACTIVE)
        alone = [World(replicas=replicas, seed=seed).run(seconds, [own]) for seed in DRAWS]
        before = [at([s.ttft_s for s in world.of(1) if s.first_s >= 0], 0.9) for world in alone]
        for queue, spare in (
            (True, 0.0),
            (True, 1 / 32),
            (True, 1 / 16),
            (True, 1 / 8),
            (True, 0.25),
            (False, 0.0),
        ):
            if 0.0 < spare * replicas < 1.0:
                continue
            after, used, held = [], [], []
            for seed in DRAWS:
                filled = World(queue=queue, replicas=replicas, spare_ratio=spare, seed=seed)
                filled.run(seconds, [own, Source(0.6 * rate, 2, BATCH)])
                served = [s for s in filled.of(1) if s.first_s >= 0]
                after.append(at([s.ttft_s for s in served], 0.9))
                held.append(at([s.sent_s - s.arrival_s for s in served], 0.9))
                left = rate * sum(PROMPT_TOKENS) / 2 - filled.tokens_per_s(1)
                used.append(filled.tokens_per_s(2) / left)
            times = [a / b for a, b in zip(after, before, strict=True)]
            print(
                f"| {replicas} | {'yes' if queue else 'no'} | {spare:g} | {fmean(before):.2f} | {fmean(after):.2f} |"
                f" {fmean(times):.2f}, {max(times):.2f} | {1000 * fmean(held):.0f} | {fmean(used):.2f} |",
                flush=True,
            )


def cost() -> None:
    """Real time of a refusal with 1,024 requests of 50 tenants in line."""
    world = World()
    router = world.routers[0]
    queue = router.queue
    assert queue is not None
    took_us = []
    for number in range(5000):
        shape = RequestShape("m", [], 8000, 2000, number, number, True)
        if queue.begin(shape, None, 0.0) is not None:
            continue
        flow = router.shares.flow(number % 50 + 1, 1.0)
        started = time.perf_counter()
        try:
            queue.wait(shape, None, 0.0, lambda _: None, number % 3, flow, 1e9, 8000)
        except RouterError:
            took_us.append((time.perf_counter() - started) * 1e6)
    print(f"{len(took_us)} refusals: median {at(took_us, 0.5):.0f} us, p99 {at(took_us, 0.99):.0f} us")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", nargs="*", help="overload, tenants, classes, cost; all by default")
    parser.add_argument("--seconds", type=float, default=60.0)
    arguments = parser.parse_args()
    what = arguments.what or ["overload", "tenants", "classes", "cost"]
    rate = capacity(arguments.seconds) if what != ["cost"] else 0.0
    if "overload" in what:
        overload(arguments.seconds, rate)
    if "tenants" in what:
        tenants(arguments.seconds, rate)
    if "classes" in what:
        classes(arguments.seconds)
    if "cost" in what:
        cost()


if __name__ == "__main__":
    main()
