"""Routers that tell each other their load, over a board in memory and a clock that the test turns."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from tests.support.load_boards import ListBoard, SharedList
from warmroute.adapters.load_board.redis import NoBoard
from warmroute.core.choice.cost import CostParameters
from warmroute.core.choice.policies import POLICIES
from warmroute.core.fleet.fleet import Decision, Fleet, ProbeSucceeded, ReplicaAdded, ReplicaRemoved
from warmroute.core.fleet.hold_terms import HoldTerms
from warmroute.core.fleet.report import cost_terms
from warmroute.core.health.health import HealthParameters
from warmroute.core.holding.parameters import HoldParameters
from warmroute.core.holding.queue import HoldQueue
from warmroute.core.holding.shares import Shares
from warmroute.core.holding.ticket import Ticket
from warmroute.core.types import Incarnation, ReplicaId, RequestShape
from warmroute.ports import LoadBoard
from warmroute.service.load_reports import ASK_INTERVAL_S, LEAST_PAUSE_S, WHOLE_INTERVAL_S, LoadReports
from warmroute.tasks import Tasks
from warmroute.wire.load_notice import HEADER_BYTES, unpack_notice

INTERVAL_S = 0.05
EXPIRE_S = 1.0


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Router:
    """A fleet of two replicas and its load reports."""

    def __init__(self, number: int, board: LoadBoard, clock: Clock) -> None:
        parameters = CostParameters(prefill_tokens_per_s=1000.0, attention_context_tokens=0.0)
        self.clock = clock
        self.heard = 0
        self.fleet = Fleet(POLICIES["round-robin"](parameters), Random(1), parameters, HealthParameters())
        for name in ("a", "b"):
            self.join(name)
        self.load_reports = LoadReports(
            self.fleet,
            board,
            Tasks(),
            router=number,
            publish_interval_s=INTERVAL_S,
            expire_s=EXPIRE_S,
            clock=clock,
            fleet_clock=clock,
            on_heard=self.hear,
        )

    def hear(self) -> None:
        self.heard += 1

    def join(self, name: str) -> None:
        self.fleet.apply(ReplicaAdded(ReplicaId(name), f"http://{name}:1"))
        self.fleet.apply(
            ProbeSucceeded(ReplicaId(name), Incarnation(1), frozenset({"m"}), None, None, self.clock.now_s)
        )

    def send(self, name: str, tokens: int) -> Decision:
        shape = RequestShape("m", prompt_tokens=tokens)
        return self.fleet.reserve_on(ReplicaId(name), shape, self.clock.now_s)

    def peer_load(self, name: str) -> tuple[int, float]:
        """Requests in flight and seconds of prefill; a request's are its tokens in ms, see `send`."""
        replica = self.fleet.replicas[ReplicaId(name)]
        replica.validate()
        return replica.peer_in_flight, round(replica.peer_work_s, 3)


class Deployment:
    """Routers on one board, stepped together."""

    def __init__(self, count: int) -> None:
        self.clock = Clock()
        self.common = SharedList()
        self.boards = [ListBoard(self.common) for _ in range(count)]
        self.routers = [Router(number, board, self.clock) for number, board in enumerate(self.boards, 1)]

    def run(self, seconds: float, routers: list[Router] | None = None) -> None:
        for _ in range(round(seconds / (INTERVAL_S / 2))):
            self.clock.now_s += INTERVAL_S / 2
            for router in self.routers if routers is None else routers:
                asyncio.run(router.load_reports.step())

    def settled(self) -> Deployment:
        self.run(2 * ASK_INTERVAL_S)
        return self


def test_a_change_is_seen_by_the_others_within_twice_the_interval() -> None:
    deployment = Deployment(3).settled()
    one, two, three = deployment.routers
    decision = one.send("a", 1000)
    deployment.run(2 * INTERVAL_S)
    assert two.peer_load("a") == three.peer_load("a") == (1, 1.0)
    assert (one.heard, two.heard, three.heard) == (0, 1, 1), "whoever holds requests is told"
    assert one.peer_load("a") == (0, 0.0)
    assert two.peer_load("b") == (0, 0.0)
    one.fleet.started(decision, 0.0)
    deployment.run(2 * INTERVAL_S)
    assert two.peer_load("a") == (1, 0.0)
    one.fleet.settle(decision, 0.0)
    deployment.run(2 * INTERVAL_S)
    assert two.peer_load("a") == (0, 0.0)


def test_peer_load_makes_a_replica_dearer_until_it_is_gone() -> None:
    deployment = Deployment(2).settled()
    one, two = deployment.routers
    replica = two.fleet.replicas[ReplicaId("a")]

    def cost_s() -> float:
        return cost_terms(replica, 0, 0, deployment.clock.now_s).total_s

    idle_s = cost_s()
    decision = one.send("a", 8_000)
    deployment.run(2 * INTERVAL_S)
    dear_s = cost_s()
    assert dear_s == pytest.approx(idle_s + 8.0, rel=0.2)
    deployment.run(4.0)
    assert cost_s() == pytest.approx(dear_s - 4.0, rel=0.05)
    one.fleet.settle(decision, deployment.clock.now_s)
    deployment.run(2 * INTERVAL_S)
    assert cost_s() < idle_s + 1.3


def test_a_prompt_behind_another_routers_waits_for_it() -> None:
    deployment = Deployment(2).settled()
    one, two = deployment.routers
    first = one.send("a", 10_000)
    deployment.run(4.0)
    two.send("a", 2_000)
    deployment.run(2.0)
    for router in (one, two):
        replica = router.fleet.replicas[ReplicaId("a")]
        assert replica.wait_s(deployment.clock.now_s) == pytest.approx(12.0 - 6.0, abs=0.1)
    one.fleet.started(first, deployment.clock.now_s)
    deployment.run(1.0)
    for router in (one, two):
        replica = router.fleet.replicas[ReplicaId("a")]
        assert replica.wait_s(deployment.clock.now_s) == pytest.approx(1.0, abs=0.1)


def test_a_prompt_behind_one_that_began_after_an_own_one_waits_for_all_of_it() -> None:
    deployment = Deployment(2).settled()
    one, two = deployment.routers
    replica = one.fleet.replicas[ReplicaId("a")]
    first = one.send("a", 5_000)
    deployment.run(1.0)
    two.send("a", 5_000)  # begins when the first is over, which its own router is not told as its beginning
    deployment.run(4.0)
    one.fleet.started(first, deployment.clock.now_s)
    deployment.run(2.0)
    one.send("a", 500)
    assert replica.wait_s(deployment.clock.now_s) == pytest.approx(3.0 + 0.5, abs=0.1)
    assert replica.free_in_s(HoldTerms(deployment.clock.now_s, 512.0)) > 2.9


def test_what_others_add_to_a_cache_ages_what_is_in_it() -> None:
    deployment = Deployment(2).settled()
    one, two = deployment.routers
    for router in (one, two):
        router.fleet.apply(ProbeSucceeded(ReplicaId("a"), None, None, None, 5_000, 0.0))
    here, there = (router.fleet.replicas[ReplicaId("a")].residency for router in (one, two))
    decision = one.send("a", 1_000)
    deployment.run(2 * INTERVAL_S)
    assert (there.tokens, there.pinned_tokens) == (0, 1_000), "it is in use, and cannot go"
    one.send("a", 500)
    one.fleet.confirm(decision, 0, 300, deployment.clock.now_s)
    deployment.run(2 * INTERVAL_S)
    assert (there.tokens, there.pinned_tokens) == (300, 1_500)
    one.fleet.started(decision, deployment.clock.now_s)
    one.fleet.settle(decision, deployment.clock.now_s)
    deployment.run(2 * INTERVAL_S)
    assert (there.tokens, there.pinned_tokens) == (1_300, 500) == (here.tokens, here.pinned_tokens)


def test_what_others_use_again_is_new_again() -> None:
    deployment = Deployment(2).settled()
    one, two = deployment.routers
    for router in (one, two):
        router.fleet.apply(ProbeSucceeded(ReplicaId("a"), Incarnation(1), None, None, 3_000, 0.0))
    here, there = (router.fleet.replicas[ReplicaId("a")].residency for router in (one, two))
    one.send("a", 0)
    deployment.run(1.0)
    used_s = deployment.clock.now_s
    here.touch(1_000, used_s)
    deployment.run(1.0)
    later_s = deployment.clock.now_s + 0.01  # amid a moment, so that both routers count it to the same
    here.touch(1_500, later_s)
    deployment.run(2.0)
    assert there.tokens == 2_500
    again_s = deployment.clock.now_s
    here.begin(1_000, [1_000], [used_s], again_s)
    deployment.run(2 * INTERVAL_S)
    assert (there.tokens, there.pinned_tokens) == (1_500, 1_000)
    there.touch(1_000, deployment.clock.now_s)  # 500 too many: of those that nobody has used since
    assert there.resident_ratio(later_s) == pytest.approx(2 / 3)
    assert there.resident_ratio(again_s) == 1.0


def test_what_a_router_has_in_use_is_free_to_go_once_it_is_silent() -> None:
    deployment = Deployment(2).settled()
    one, two = deployment.routers
    for router in (one, two):
        router.fleet.apply(ProbeSucceeded(ReplicaId("a"), Incarnation(1), None, None, 3_000, 0.0))
    there = two.fleet.replicas[ReplicaId("a")].residency
    one.send("a", 1_000)
    deployment.run(2 * INTERVAL_S)
    assert (there.tokens, there.pinned_tokens) == (0, 1_000)
    deployment.run(EXPIRE_S + 4 * INTERVAL_S, [two])
    assert (there.tokens, there.pinned_tokens) == (1_000, 0)


def test_a_router_that_stops_speaking_leaves_no_load_after_the_expiry() -> None:
    deployment = Deployment(2).settled()
    one, two = deployment.routers
    one.send("a", 1000)
    deployment.run(2 * INTERVAL_S)
    deployment.run(EXPIRE_S - 2 * INTERVAL_S, [two])
    assert two.peer_load("a") == (1, 1.0)
    deployment.run(4 * INTERVAL_S, [two])
    assert two.peer_load("a") == (0, 0.0)
    assert two.load_reports.routers == 0


def test_a_router_that_ends_in_order_takes_its_load_back_at_once() -> None:
    deployment = Deployment(2).settled()
    one, two = deployment.routers
    one.send("a", 1000)
    deployment.run(2 * INTERVAL_S)
    asyncio.run(one.load_reports.stop())
    deployment.run(INTERVAL_S, [two])
    assert two.peer_load("a") == (0, 0.0)


def test_a_router_that_joins_late_learns_what_is_under_way() -> None:
    deployment = Deployment(1).settled()
    deployment.routers[0].send("a", 1000)
    deployment.run(1.0)
    late = Router(9, ListBoard(deployment.common), deployment.clock)
    deployment.routers.append(late)
    deployment.run(2 * INTERVAL_S + ASK_INTERVAL_S)
    assert late.peer_load("a") == (1, 1.0)


def test_a_lost_notice_is_made_good_soon() -> None:
    deployment = Deployment(2).settled()
    one, two = deployment.routers
    deployment.boards[0].lose_next = True
    one.send("a", 1000)
    deployment.run(2 * INTERVAL_S)
    one.send("b", 10)
    deployment.run(2 * ASK_INTERVAL_S)
    assert two.peer_load("a") == (1, 1.0)
    assert two.peer_load("b") == (1, 0.01)


def test_without_a_board_peer_load_fades_and_comes_back_with_it() -> None:
    deployment = Deployment(2).settled()
    one, two = deployment.routers
    one.send("a", 1000)
    deployment.run(2 * INTERVAL_S)
    deployment.common.up = False
    deployment.run(EXPIRE_S + INTERVAL_S)
    assert two.peer_load("a") == (0, 0.0)
    one.send("b", 10)
    deployment.common.up = True
    deployment.run(2 * INTERVAL_S + ASK_INTERVAL_S)
    assert two.peer_load("a") == (1, 1.0)
    assert two.peer_load("b") == (1, 0.01)


def test_quiet_routers_say_nothing_but_that_they_live() -> None:
    deployment = Deployment(2).settled()
    deployment.routers[0].send("a", 1000)
    deployment.run(1.0)
    before = [board.posted for board in deployment.boards]
    written = len(deployment.common.notices)
    deployment.run(2.0)
    sent = [board.posted - count for board, count in zip(deployment.boards, before, strict=True)]
    assert all(4 <= count <= 8 for count in sent)
    assert all(len(raw) == HEADER_BYTES for raw in deployment.common.notices[written:])


def test_a_busy_router_speaks_at_most_once_an_interval_and_names_only_what_changed() -> None:
    deployment = Deployment(2).settled()
    one = deployment.routers[0]
    one.send("b", 7)
    deployment.run(1.0)
    before, written = deployment.boards[0].posted, len(deployment.common.notices)
    for _ in range(40):
        one.send("a", 10)
        deployment.run(INTERVAL_S / 2)
    assert deployment.boards[0].posted - before <= 21
    heard = [unpack_notice(raw) for raw in deployment.common.notices[written:]]
    assert all(notice is not None and len(notice.loads) <= 1 for notice in heard)


def test_a_change_by_a_whole_prompt_is_told_and_heard_at_once() -> None:
    deployment = Deployment(2).settled()
    one, two = deployment.routers
    for router, board in zip(deployment.routers, deployment.boards, strict=True):
        board.listen(router.load_reports.ring)
    deployment.run(2 * INTERVAL_S)
    one.send("b", 10)
    assert not one.load_reports.hurried, "little can wait"
    deployment.run(2 * INTERVAL_S)
    decision = one.send("a", 1000)

    def hurry() -> None:
        assert one.load_reports.hurried
        deployment.clock.now_s += one.load_reports.least_pause_s
        asyncio.run(one.load_reports.step())
        assert two.load_reports.hurried, "the board rings"
        asyncio.run(two.load_reports.step())
        assert not two.load_reports.hurried

    hurry()
    assert two.peer_load("a") == (1, 1.0)
    one.fleet.started(decision, deployment.clock.now_s)
    hurry()
    assert two.peer_load("a") == (1, 0.0)
    other = one.send("a", 1000)
    hurry()
    one.fleet.settle(other, deployment.clock.now_s)
    hurry()
    assert two.peer_load("a") == (1, 0.0)


def test_many_routers_hurry_less() -> None:
    assert Deployment(2).settled().routers[0].load_reports.least_pause_s == LEAST_PAUSE_S
    assert Deployment(24).settled().routers[0].load_reports.least_pause_s == pytest.approx(0.012)
    assert Deployment(80).settled().routers[0].load_reports.least_pause_s == INTERVAL_S / 2


def test_others_know_how_many_a_router_holds_and_which_of_all_goes_first() -> None:
    deployment = Deployment(3).settled()
    one, two, three = deployment.routers
    for router in deployment.routers:
        for replica in router.fleet.replicas.values():
            router.fleet.reserve_on(
                replica.id, RequestShape("m", prompt_tokens=20_000), deployment.clock.now_s
            )
    held = {}
    for router, tokens in ((one, 100), (two, 900)):
        queue = HoldQueue(router.fleet, HoldParameters())
        shape = RequestShape("m", prompt_tokens=tokens)
        ticket = queue.offer(shape, None, deployment.clock.now_s, lambda _: None)
        assert isinstance(ticket, Ticket)
        held[router] = queue, ticket
    deployment.run(2 * INTERVAL_S)
    assert [router.fleet.peer_held for router in deployment.routers] == [1, 1, 2]
    assert [router.fleet.routers for router in deployment.routers] == [3, 3, 3]
    assert two.fleet.rivals == pytest.approx([one.fleet.first_held_s], abs=0.01)
    assert one.fleet.first_held_s < two.fleet.first_held_s == pytest.approx(three.fleet.rivals[1], abs=0.01)
    queue, ticket = held[one]
    queue.withdraw(ticket)
    deployment.run(2 * INTERVAL_S)
    assert (two.fleet.peer_held, two.fleet.rivals) == (0, [])


def test_everything_is_said_again_once_in_a_while() -> None:
    deployment = Deployment(2).settled()
    deployment.routers[0].send("a", 10)
    deployment.run(1.0)
    written = len(deployment.common.notices)
    deployment.run(WHOLE_INTERVAL_S + 1.0)
    heard = [unpack_notice(raw) for raw in deployment.common.notices[written:]]
    wholes = [notice for notice in heard if notice is not None and notice.whole and notice.router == 1]
    assert 1 <= len(wholes) <= 2
    assert all(len(notice.loads) == 1 for notice in wholes)


def test_a_replica_that_joins_later_has_the_load_that_others_gave_it_before() -> None:
    deployment = Deployment(2).settled()
    one, two = deployment.routers
    two.fleet.apply(ReplicaRemoved(ReplicaId("a")))
    one.send("a", 1000)
    deployment.run(0.2)
    two.join("a")
    deployment.run(INTERVAL_S)
    assert two.peer_load("a") == (1, 1.0)


def test_a_replica_that_left_takes_its_load_with_it() -> None:
    deployment = Deployment(2).settled()
    one, two = deployment.routers
    one.send("a", 1000)
    deployment.run(0.2)
    one.fleet.apply(ReplicaRemoved(ReplicaId("a")))
    deployment.run(2 * INTERVAL_S)
    assert two.peer_load("a") == (0, 0.0)


def test_bytes_that_are_no_notice_are_ignored() -> None:
    deployment = Deployment(2).settled()
    deployment.common.notices += [b"", b"\x63" * 40, b"\x01" * 15]
    deployment.routers[0].send("a", 1000)
    deployment.run(2 * INTERVAL_S)
    assert deployment.routers[1].peer_load("a") == (1, 1.0)


def test_with_nobody_else_no_task_runs() -> None:
    async def run() -> int:
        tasks = Tasks()
        router = Router(1, NoBoard(), Clock())
        reports = LoadReports(
            router.fleet,
            NoBoard(),
            tasks,
            router=1,
            publish_interval_s=INTERVAL_S,
            expire_s=EXPIRE_S,
            clock=Clock(),
            fleet_clock=Clock(),
        )
        reports.start()
        running = len(tasks)
        await reports.stop()
        await tasks.stop()
        return running

    assert asyncio.run(run()) == 0


def test_a_router_that_hears_nobody_looks_seldom_and_still_lives_for_others() -> None:
    alone = Deployment(1).settled().routers[0].load_reports
    assert 2 * INTERVAL_S < alone.pause_s < EXPIRE_S / 4
    deployment = Deployment(2).settled()
    assert [router.load_reports.pause_s for router in deployment.routers] == [INTERVAL_S / 2] * 2
    deployment.run(EXPIRE_S + INTERVAL_S, [deployment.routers[1]])
    assert deployment.routers[1].load_reports.pause_s > 2 * INTERVAL_S


def test_routers_tell_each_other_what_tenants_were_served() -> None:
    async def scenario() -> None:
        clock, shared = Clock(), SharedList()
        routers = [Router(number, ListBoard(shared), clock) for number in (1, 2)]
        shares = [Shares(), Shares()]
        for router, own in zip(routers, shares, strict=True):
            router.load_reports._shares = own
            await router.load_reports.step()
        for own in shares:
            own.flow(7, 2.0)
        shares[0].charge(shares[0].flow(7, 2.0), 1000.0, clock())
        shares[0].charge(shares[0].flow(8, 1.0), 10.0, clock())
        clock.now_s += 1.1
        for _ in range(2):
            for router in routers:
                await router.load_reports.step()
        for key, weight in ((7, 2.0), (8, 1.0)):
            here, there = (own.flow(key, weight).use for own in shares)
            assert there == pytest.approx(here, rel=0.05)
        assert shares[1].untold(10) == []

    asyncio.run(scenario())
