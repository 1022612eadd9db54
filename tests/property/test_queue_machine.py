"""Any order of requests, answers, deaths and clock jumps: whoever is held is let go exactly once, and never in vain."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from tests.support.fleet_simulation import ready_fleet
from warmroute.core.errors import RouterError
from warmroute.core.fleet.fleet import (
    Decision,
    DrainStarted,
    ProbeFailed,
    ProbeSucceeded,
    ReplicaAdded,
    ReplicaRemoved,
)
from warmroute.core.health.health import FailureReason
from warmroute.core.holding.parameters import HoldParameters
from warmroute.core.holding.queue import HoldQueue
from warmroute.core.holding.ticket import Ticket
from warmroute.core.types import FingerprintHash, Incarnation, Records, ReplicaId, RequestShape

REPLICAS = 3
PARAMETERS = HoldParameters(ahead_tokens=1000, max_held=8, max_hold_s=20.0)

ids = st.sampled_from([ReplicaId(f"r{i}") for i in range(REPLICAS)])
shapes = st.builds(
    lambda tokens, streams, model, rungs: RequestShape(
        model, [FingerprintHash(n) for n in range(rungs)], tokens * 4, tokens, tokens, 1, streams
    ),
    st.sampled_from([0, 10, 300, 1500, 20_000]),
    st.booleans(),
    st.sampled_from(["m", "m", "m", "other"]),
    st.sampled_from([0, 3]),
)


class Asked:
    """One request and what came of it."""

    def __init__(self) -> None:
        self.ticket: Ticket | None = None
        self.answers: list[Decision | RouterError] = []
        self.withdrawn = False


class QueueMachine(RuleBasedStateMachine):
    asked = Bundle("asked")

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 1000.0
        self.fleet = ready_fleet(REPLICAS)
        self.queue = HoldQueue(self.fleet, PARAMETERS)
        self.all: list[Asked] = []

    def look(self) -> None:
        pause_s = self.queue.release(self.now_s)
        assert (pause_s is None) == (len(self.queue) == 0)
        assert pause_s is None or 0 < pause_s <= 0.5

    @rule(target=asked, shape=shapes)
    def request(self, shape: RequestShape) -> Asked:
        asked = Asked()
        self.all.append(asked)
        try:
            records: Records = [None] * len(shape.rungs)
            answer = self.queue.offer(shape, records, self.now_s, asked.answers.append)
        except RouterError as error:
            asked.answers.append(error)
            return asked
        if isinstance(answer, Ticket):
            asked.ticket = answer
            self.look()
        else:
            asked.answers.append(answer)
        return asked

    @rule(asked=asked)
    def first_byte(self, asked: Asked) -> None:
        for decision in asked.answers:
            if isinstance(decision, Decision):
                self.fleet.started(decision, self.now_s)
                self.queue.release(self.now_s, decision.replica)

    @rule(asked=asked)
    def ends(self, asked: Asked) -> None:
        for decision in asked.answers:
            if isinstance(decision, Decision):
                self.fleet.settle(decision, self.now_s)
                self.queue.release(self.now_s, decision.replica)

    @rule(asked=asked)
    def client_leaves(self, asked: Asked) -> None:
        if asked.ticket is not None and not asked.answers:
            self.queue.withdraw(asked.ticket)
            asked.withdrawn = True
            self.queue.withdraw(asked.ticket)
        self.ends(asked)

    @rule(routers=st.sampled_from([1, 2, 5]))
    def others(self, routers: int) -> None:
        self.fleet.note_routers(routers, None)
        again = self.queue.to_read_again(self.now_s)
        assert all(ticket.open and ticket.records for ticket in again)
        assert routers > 1 or not again

    @rule(asked=asked, incarnation=st.sampled_from([1, 2, 3, 5, 99]), rungs=st.sampled_from([0, 1, 3]))
    def registry_says(self, asked: Asked, incarnation: int, rungs: int) -> None:
        ticket = asked.ticket
        if ticket is not None and ticket.records:
            holder = ((Incarnation(incarnation), self.now_s),)
            found: Records = [holder if n < rungs else None for n in range(len(ticket.records))]
            self.queue.renew(ticket, found, self.now_s)
            self.look()

    @rule(seconds=st.sampled_from([0.0, 0.02, 0.3, 2.0, 25.0, -5.0, -4000.0]))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds
        self.look()

    @rule(replica_id=ids, event=st.sampled_from(["removed", "drains", "fails", "well", "refuses"]))
    def happens(self, replica_id: ReplicaId, event: str) -> None:
        match event:
            case "removed":
                self.fleet.apply(ReplicaRemoved(replica_id))
            case "drains":
                self.fleet.apply(DrainStarted(replica_id))
            case "fails":
                self.fleet.apply(ProbeFailed(replica_id, FailureReason.TIMEOUT, self.now_s))
            case "well":
                self.fleet.apply(ReplicaAdded(replica_id, "http://a"))
                probe = ProbeSucceeded(replica_id, Incarnation(5), ["m", "other"], None, None, self.now_s)
                self.fleet.apply(probe)
            case "refuses":
                replica = self.fleet.replicas.get(replica_id)
                if replica is not None:
                    self.fleet.report_failure(replica, FailureReason.REFUSED, self.now_s)
        self.look()

    @invariant()
    def everything_adds_up(self) -> None:
        self.fleet.validate()
        waiting = [asked for asked in self.all if asked.ticket is not None and asked.ticket.open]
        assert len(waiting) == len(self.queue) <= PARAMETERS.max_held
        shapes = [asked.ticket.shape for asked in waiting if asked.ticket is not None]
        assert self.fleet.held.by_model == Counter(shape.model for shape in shapes)
        assert self.fleet.held.by_rung == Counter(rung for shape in shapes for rung in shape.rungs)
        keys = [ticket.key for ticket in self.queue._tickets]
        assert keys == sorted(keys)
        for asked in self.all:
            assert len(asked.answers) + asked.withdrawn + (asked in waiting) == 1

    @invariant()
    def nobody_waits_while_all_could_begin(self) -> None:
        busy = [replica for replica in self.fleet.replicas.values() if replica.awaited_tokens > 0]
        assert busy or not len(self.queue)

    def teardown(self) -> None:
        for asked in self.all:
            self.client_leaves(asked)
        self.look()
        for asked in self.all:
            self.ends(asked)
        assert len(self.queue) == 0
        for replica in self.fleet.replicas.values():
            assert (replica.in_flight, replica.waiting, replica.awaited_tokens) == (0, 0, 0)


def test_any_order_of_events_lets_everybody_go_once() -> None:
    QueueMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
    QueueMachine.TestCase("runTest").runTest()
