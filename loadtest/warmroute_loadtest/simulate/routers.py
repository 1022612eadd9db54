"""Several routers stand before one simulated fleet: each decides for itself, and hears of the others as in production.

This module decides through which router a request comes (any one, by dice, anew for each turn) and how late routers
hear of each other; what they make of it is decided by the code of the core and of `warmroute.service.load_reports`.
Placements reach the registries of other routers after `registry.VISIBLE_S`. Routers post and read load notices in
steps, when and as often as in production and each at a phase of its own; the board tells routers `ROUND_TRIP_S` after a
notice was posted that there is news.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from random import Random
from typing import Any

from warmroute.core.choice.cost import CostParameters
from warmroute.core.holding.parameters import HoldParameters
from warmroute.core.learning.learner import Learner
from warmroute.service.load_reports import LoadReports
from warmroute.tasks import Tasks
from warmroute_loadtest.simulate.chooser import Chooser, Site
from warmroute_loadtest.simulate.warm import HOLD, LEARNING, Warm
from warmroute_loadtest.simulate.workload import Turn

ROUND_TRIP_S = 0.001
"""Duration of a step of load reports, in seconds; what other routers post meanwhile is read by the next step."""

PUBLISH_INTERVAL_S = 0.05
EXPIRE_S = 1.0
"""The default of the settings' `leases`, in seconds."""


class Board:
    """The stream of notices. Every router reads from where it last stopped."""

    def __init__(self) -> None:
        self._first = 0
        self._notices: deque[tuple[float, bytes]] = deque()

    def post(self, notice: bytes, now_s: float) -> None:
        """Append a notice to the stream."""
        self._notices.append((now_s, notice))

    def read(self, start: int, now_s: float) -> tuple[list[bytes], int]:
        """Return the notices from number `start` on that have arrived by now, and the number from which to read
        next."""
        found: list[bytes] = []
        at = start - self._first
        while at < len(self._notices) and self._notices[at][0] <= now_s:
            found.append(self._notices[at][1])
            at += 1
        return found, self._first + at

    def forget_before(self, number: int) -> None:
        """Drop notices before this number, since all routers have read them."""
        while self._first < number:
            self._notices.popleft()
            self._first += 1


class BoardOfOne:
    """One simulated router's access to the board; it implements the port `LoadBoard`."""

    shared = True

    def __init__(self, board: Board) -> None:
        self._board = board
        self.read_to = 0
        self.posted = False
        """Whether the last step posted a notice."""
        self.now_s = 0.0

    async def start(self) -> None:
        """Do nothing, since there is nothing to connect to."""

    def listen(self, ring: Callable[[], None]) -> None:
        """Ignore the callback, since `Routers` tells routers of news."""

    async def exchange(self, notice: bytes | None) -> Sequence[bytes]:
        """Post a notice, and return those that have arrived; this never waits."""
        self.posted = notice is not None
        if notice is not None:
            self._board.post(notice, self.now_s)
        found, self.read_to = self._board.read(self.read_to, self.now_s - ROUND_TRIP_S)
        return found

    async def stop(self) -> None:
        """Do nothing, since there is nothing to disconnect from."""


class _Router:
    """One router, and its part in the load reports."""

    def __init__(self, number: int, chooser: Warm, board: Board, phase_s: float) -> None:
        self.chooser = chooser
        self._board = BoardOfOne(board)
        self._load_reports = LoadReports(
            chooser.fleet,
            self._board,
            Tasks(),
            router=number + 1,
            publish_interval_s=PUBLISH_INTERVAL_S,
            expire_s=EXPIRE_S,
            clock=lambda: self._board.now_s,
            fleet_clock=lambda: self._board.now_s,
        )
        self.step_s = phase_s
        self._least_step_s = phase_s
        self.due = False
        """Whether something happened after which the router has to look through the requests that it holds."""

    @property
    def read_to(self) -> int:
        """The number of the first notice that the router has not read."""
        return self._board.read_to

    def step(self) -> float | None:
        """Post and read notices once. Return the time at which the other routers hear that there is news; None if there
        is none."""
        now_s = self._board.now_s = self.step_s
        _run(self._load_reports.step())
        self._least_step_s = now_s + self._load_reports.least_pause_s + ROUND_TRIP_S
        self.step_s = now_s + self._load_reports.pause_s + ROUND_TRIP_S
        self.due = True
        return now_s + ROUND_TRIP_S if self._board.posted else None

    @property
    def hurried(self) -> bool:
        """Whether something has happened that the router should tell the others at once."""
        return self._load_reports.hurried

    def hurry(self, now_s: float) -> bool:
        """Bring the next step forward as far as allowed, and return whether it now comes sooner than it would have."""
        step_s = max(now_s, self._least_step_s)
        if step_s >= self.step_s:
            return False
        self.step_s = step_s
        return True


class Routers(Chooser):
    """A policy of `warmroute.core` in several routers."""

    def __init__(
        self,
        site: Site,
        policy: str,
        routers: int,
        parameters: CostParameters | None,
        hold: HoldParameters | None,
        learns: bool = True,
    ) -> None:
        super().__init__(site)
        self.name = f"{policy} x{routers}"
        self._dice = Random(site.rng.random())
        self._board = Board()
        self._routers = [
            _Router(
                number,
                Warm(
                    site,
                    policy,
                    parameters,
                    hold,
                    learner=Learner(LEARNING) if learns else None,
                ),
                self._board,
                self._dice.random() * PUBLISH_INTERVAL_S,
            )
            for number in range(routers)
        ]
        registries = [router.chooser.registry for router in self._routers]
        for registry in registries:
            registry.share(registries)
        self._steps = [(router.step_s, number) for number, router in enumerate(self._routers)]
        heapq.heapify(self._steps)
        """When each router's next step is due, as a heap; it also has outdated times, which are skipped."""
        self._bells: deque[float] = deque()
        self._router_of: dict[str, _Router] = {}

    def joined(self, replica: int, now_s: float) -> None:
        """Take note that a replica joined; every router learns of it at once."""
        self._step_until(now_s)
        for router in self._routers:
            router.chooser.joined(replica, now_s)
            router.due = True

    def choose(self, turn: Turn, now_s: float) -> int | None:
        """Let the router decide through which the request comes."""
        router = self._at(turn, now_s)
        replica = router.chooser.choose(turn, now_s)
        self._tell(router, now_s)
        return replica

    def released(self, now_s: float) -> list[tuple[Turn, int]]:
        """Return the turns that any router lets go. A router looks through its held turns after events of its own,
        after hearing of others, and at its `wake_s`."""
        self._step_until(now_s)
        granted: list[tuple[Turn, int]] = []
        for router in self._routers:
            again_s = router.chooser.wake_s(now_s)
            if router.due or (again_s is not None and again_s <= now_s):
                router.due = False
                granted += router.chooser.released(now_s)
                self._tell(router, now_s)
        return granted

    def wake_s(self, now_s: float) -> float | None:
        """Return the first time at which a router with held turns wants to look again, or hears of others."""
        due = [again_s for r in self._routers if (again_s := r.chooser.wake_s(now_s)) is not None]
        steps = [r.step_s for r in self._routers if r.chooser.wake_s(now_s) is not None]
        return min(due + steps, default=None)

    def priority(self, turn: Turn) -> int:
        """Return the priority that the turn's router gives."""
        return self._router_of[turn.id].chooser.priority(turn)

    def first_byte(self, turn: Turn, replica: int, now_s: float) -> None:
        """Tell the turn's router that the answer begins."""
        router = self._at(turn, now_s)
        router.chooser.first_byte(turn, replica, now_s)
        self._tell(router, now_s)

    def finished(self, turn: Turn, replica: int, cached_tokens: int, now_s: float) -> None:
        """Tell the turn's router that the answer is complete."""
        super().finished(turn, replica, cached_tokens, now_s)
        router = self._at(turn, now_s)
        del self._router_of[turn.id]
        router.chooser.dispatched(turn, replica, now_s)
        router.chooser.finished(turn, replica, cached_tokens, now_s)
        self._tell(router, now_s)

    def left(self, turn: Turn, replica: int | None, begun: bool, now_s: float) -> None:
        """Tell the turn's router that the client is gone."""
        router = self._at(turn, now_s)
        del self._router_of[turn.id]
        if replica is not None:
            self.in_flight[replica] -= 1
            router.chooser.dispatched(turn, replica, now_s)
        router.chooser.left(turn, replica, begun, now_s)
        self._tell(router, now_s)

    def _tell(self, router: _Router, now_s: float) -> None:
        """Bring the router's next step forward if it has something to tell."""
        if router.hurried and router.hurry(now_s):
            heapq.heappush(self._steps, (router.step_s, self._routers.index(router)))

    def _at(self, turn: Turn, now_s: float) -> _Router:
        self._step_until(now_s)
        router = self._router_of.get(turn.id)
        if router is None:
            router = self._routers[int(self._dice.random() * len(self._routers))]
            self._router_of[turn.id] = router
        router.due = True
        return router

    def _step_until(self, now_s: float) -> None:
        steps, bells = self._steps, self._bells
        while min(steps[0][0], bells[0] if bells else steps[0][0]) <= now_s:
            if bells and bells[0] <= steps[0][0]:
                at_s = bells.popleft()
                for number, router in enumerate(self._routers):
                    if router.hurry(at_s):
                        heapq.heappush(steps, (router.step_s, number))
                continue
            due_s, number = heapq.heappop(steps)
            router = self._routers[number]
            if due_s != router.step_s:
                continue
            ring_s = router.step()
            if ring_s is not None:
                bells.append(ring_s)
            heapq.heappush(steps, (router.step_s, number))
            if not number:
                self._board.forget_before(min(r.read_to for r in self._routers))


def several(
    policy: str, routers: int, parameters: CostParameters | None = None, hold: HoldParameters | None = HOLD
) -> Callable[[Site], Chooser]:
    """Return what makes a chooser of one core policy in `routers` routers."""
    return lambda site: Routers(site, policy, routers, parameters, hold if policy == "prefix-cost" else None)


def _run(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise RuntimeError("a simulated step of load reports waited")
