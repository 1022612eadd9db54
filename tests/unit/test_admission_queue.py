"""The fleet's queue before real replicas' bookkeeping: who waits, who is refused, and when."""

from __future__ import annotations

import pytest

from tests.support.fleet_simulation import prompt, ready_fleet
from warmroute.core.errors import RouterError
from warmroute.core.fleet.fleet import Decision, Fleet, ProbeSucceeded
from warmroute.core.holding.admission_queue import LATE, OVERLOADED, AdmissionQueue
from warmroute.core.holding.line import BATCH, DEFAULT, INTERACTIVE, Claim
from warmroute.core.holding.parameters import HoldParameters
from warmroute.core.holding.queue_parameters import QueueParameters
from warmroute.core.holding.shares import Shares
from warmroute.core.types import FingerprintHash, Incarnation, Record, Records, RequestShape

SECOND = 8000
"""Tokens that a replica computes in a second, as the fleet believes at first."""


class World:
    """A queue before one replica that is known to stream, and what it answered."""

    def __init__(self, replicas: int = 1, max_held: int = 100, **parameters: float) -> None:
        self.fleet: Fleet = ready_fleet(replicas)
        self.shares = Shares()
        self.queue = AdmissionQueue(
            self.fleet,
            HoldParameters(max_held=max_held),
            QueueParameters(**parameters),  # type: ignore[arg-type]
            self.shares,
        )
        self.answers: list[tuple[str, Decision | RouterError]] = []
        self.running: list[Decision] = []

    def ask(
        self,
        name: str,
        now_s: float,
        *,
        tokens: int = SECOND,
        level: int = DEFAULT,
        tenant: int = 1,
        timeout_s: float = 1000.0,
        body_bytes: int = 100,
        streams: bool = True,
        model: str = "m",
    ) -> Claim | None:
        """A request; None if it went at once. One that is refused is among the answers."""
        shape = RequestShape(model, [], tokens * 4, tokens, 1, 1, streams)
        decision = self.queue.begin(shape, None, now_s)
        if decision is not None:
            self.running.append(decision)
            return None
        claim = None
        try:
            claim = self.queue.wait(
                shape,
                None,
                now_s,
                lambda answer: self.answered(name, answer),
                level,
                self.shares.flow(tenant, 1.0),
                timeout_s,
                body_bytes,
            )
        except RouterError as error:
            self.answers.append((name, error))
        self.queue.release(now_s)
        self.queue.line.validate()
        return claim

    def answered(self, name: str, answer: Decision | RouterError) -> None:
        self.answers.append((name, answer))
        if isinstance(answer, Decision):
            self.running.append(answer)

    def finish(self, now_s: float) -> None:
        """The oldest request that runs has its first byte, and ends a little later: it streams."""
        decision = self.running.pop(0)
        self.fleet.started(decision, now_s)
        self.queue.release(now_s, decision.replica)
        self.fleet.settle(decision, now_s + 0.05)
        self.queue.release(now_s + 0.05, decision.replica)
        self.queue.line.validate()
        self.fleet.validate()

    def granted(self) -> list[str]:
        return [name for name, answer in self.answers if isinstance(answer, Decision)]

    def refused(self) -> dict[str, RouterError]:
        return {name: answer for name, answer in self.answers if isinstance(answer, RouterError)}


def test_who_is_first_goes_at_once_and_classes_go_before_shares() -> None:
    world = World()
    assert world.ask("running", 0.0, level=BATCH) is None
    world.ask("batch", 0.0, level=BATCH, tokens=10, tenant=2)
    world.ask("default", 0.0, tokens=10)
    world.ask("interactive", 0.0, level=INTERACTIVE)
    for second in range(1, 4):
        world.finish(float(second))
    assert world.granted()[0] == "interactive"
    world.finish(5.0)
    assert world.granted() == ["interactive", "default", "batch"]
    assert len(world.queue) == 0


def test_nobody_waits_while_a_replica_is_free() -> None:
    world = World(replicas=2)
    assert world.ask("a", 0.0, level=BATCH) is None
    assert world.ask("b", 0.0, level=BATCH) is None
    assert world.ask("c", 0.0, level=INTERACTIVE) is not None
    assert len(world.queue) == 1


def test_a_replica_with_as_many_requests_as_it_may_is_busy_whatever_they_are_at() -> None:
    world = World(max_under_way=2)
    for name in ("a", "b"):
        assert world.ask(name, 0.0, tokens=1, streams=False) is None
    assert world.ask("embedding", 0.0, tokens=0, streams=False) is not None
    world.finish(0.1)
    assert world.granted() == ["embedding"]


def test_a_request_is_refused_when_its_deadline_passes_and_not_served_too_late() -> None:
    world = World()
    world.ask("running", 0.0, tokens=10 * SECOND)
    world.ask("soon", 0.0, timeout_s=0.3)
    world.ask("patient", 0.0, timeout_s=100.0)
    pause_s = world.queue.release(0.1)
    assert pause_s is not None
    assert pause_s <= 0.21
    world.queue.release(0.31)
    refused = world.refused()
    assert set(refused) == {"soon"}
    assert (refused["soon"].status, refused["soon"].code) == (504, LATE)
    assert refused["soon"].lines == b"retry-after: 1\r\n"
    world.finish(11.0)
    assert world.granted() == ["patient"]


def test_without_room_the_lowest_class_gives_way_and_nobody_for_his_own() -> None:
    world = World(max_held=2)
    world.ask("running", 0.0)
    world.ask("batch 1", 0.0, level=BATCH)
    world.ask("batch 2", 0.0, level=BATCH)
    world.ask("batch 3", 0.0, level=BATCH)
    assert set(world.refused()) == {"batch 3"}
    world.ask("interactive", 0.0, level=INTERACTIVE)
    assert set(world.refused()) == {"batch 3", "batch 2"}
    error = world.refused()["batch 2"]
    assert (error.status, error.code) == (503, OVERLOADED)
    assert error.lines.startswith(b"retry-after: ")
    assert world.queue.refused == [0, 0, 2]
    assert len(world.queue) == 2


def test_bodies_that_wait_are_bounded() -> None:
    world = World(max_bytes=1000)
    world.ask("running", 0.0)
    world.ask("small", 0.0, body_bytes=600)
    world.ask("second", 0.0, body_bytes=600)
    world.ask("vast", 0.0, body_bytes=1001, level=INTERACTIVE)
    assert set(world.refused()) == {"second", "vast"}
    assert world.queue.line.body_bytes == 600


def test_who_would_wait_for_too_long_is_refused_at_once_and_told_when_to_come_back() -> None:
    world = World()
    world.ask("running", 0.0)
    for number in range(20):
        world.ask(f"held {number}", 0.0)
    for second in range(1, 6):
        world.finish(float(second))  # a second of prefill each second
    world.ask("in time", 5.0, timeout_s=60.0)
    world.ask("too late", 5.0, timeout_s=5.0)
    world.ask("other tenant", 5.0, timeout_s=5.0, tenant=2)
    assert set(world.refused()) == {"too late"}
    error = world.refused()["too late"]
    assert (error.status, error.code) == (503, OVERLOADED)
    assert 5 <= int(error.lines.split()[1]) <= 25


def test_a_client_that_leaves_makes_room() -> None:
    world = World(max_held=1)
    world.ask("running", 0.0)
    claim = world.ask("leaves", 0.0)
    assert claim is not None
    world.queue.withdraw(claim)
    world.queue.withdraw(claim)
    assert world.ask("next", 0.0) is not None
    assert world.refused() == {}
    assert world.fleet.first_held_s < 2e6
    world.finish(2.0)
    assert world.granted() == ["next"]


def test_other_routers_are_told_a_key_that_puts_classes_before_shares() -> None:
    def told(level: int, served: float) -> float:
        world = World()
        world.ask("running", 0.0)
        world.shares.charge(world.shares.flow(1, 1.0), served, 0.0)
        world.ask("first", 0.0, level=level)
        return world.fleet.first_held_s

    keys = [told(INTERACTIVE, 0.0), told(INTERACTIVE, 1e6), told(DEFAULT, 0.0), told(BATCH, 0.0)]
    assert keys == sorted(keys)
    assert len(set(keys)) == 4


def test_batch_leaves_replicas_free_for_who_is_more_urgent_where_it_is_told_to() -> None:
    world = World(replicas=4, spare_ratio=0.25)
    for name in "abcd":
        assert world.ask(name, 0.0) is None
    world.ask("batch", 0.0, level=BATCH, tokens=100)
    world.finish(1.0)
    assert world.granted() == []
    world.ask("interactive", 1.1, level=INTERACTIVE, tokens=100)
    assert world.granted() == ["interactive"]
    world.finish(1.2)
    world.finish(1.3)
    assert world.granted() == ["interactive", "batch"]


def test_batch_that_leaves_replicas_free_is_served_by_a_fleet_that_has_only_one() -> None:
    world = World(replicas=1, spare_ratio=0.25)
    world.ask("running", 0.0)
    world.ask("batch", 0.0, level=BATCH, tokens=100)
    world.finish(1.0)
    assert world.granted() == ["batch"]


def test_batch_that_has_waited_for_too_long_takes_its_turn_and_keeps_nobody_from_a_free_replica() -> None:
    world = World(replicas=4, spare_ratio=0.5, aged_s=0.2)
    for name in "abcd":
        world.ask(name, 0.0, tokens=4 * SECOND)
    world.ask("batch", 0.0, level=BATCH)
    for number in range(4):
        world.ask(f"interactive {number}", 0.0, level=INTERACTIVE)
    world.finish(0.5)
    assert world.granted() == ["interactive 0"]
    world.finish(0.6)
    assert world.granted() == ["interactive 0", "batch"], "it is owed a part of what went before it"
    world.finish(0.7)
    assert world.granted() == ["interactive 0", "batch", "interactive 1"]


def test_who_asks_for_a_model_that_nobody_waits_for_need_not_wait_behind_those_of_another() -> None:
    world = World(replicas=2, max_held=3)
    first, second = world.fleet.replicas.values()
    for replica, incarnation, model in ((first, 1, "busy"), (second, 2, "idle")):
        world.fleet.apply(ProbeSucceeded(replica.id, Incarnation(incarnation), [model], 16, None, 0.0))
    world.ask("running", 0.0, model="busy")
    for number in range(4):
        world.ask(f"held {number}", 0.0, model="busy")
    assert set(world.refused()) == {"held 3"}
    assert world.ask("other", 0.0, model="idle", level=BATCH, timeout_s=0.1) is None
    assert set(world.refused()) == {"held 3"}
    assert world.running[-1].replica is second


def test_nobody_waits_for_a_place_at_the_best_replica_while_another_has_one() -> None:
    world = World(replicas=2, max_under_way=1)
    warm, cold = world.fleet.replicas.values()
    rungs = [FingerprintHash(depth + 1) for depth in range(8)]
    assert warm.incarnation is not None
    records: list[Record | None] = [((warm.incarnation, 0.0),) for _ in rungs]
    for number in range(2):
        shape = RequestShape("m", rungs, 4096, 1024, 1, 1, True)
        decision = world.queue.begin(shape, records, 0.1)
        assert decision is not None
        assert decision.replica is (warm, cold)[number]
        world.running.append(decision)
    world.queue.wait(
        shape,
        records,
        0.2,
        lambda answer: world.answered("held", answer),
        DEFAULT,
        world.shares.flow(1, 1.0),
        9.0,
        1,
    )
    world.queue.release(0.2)
    assert world.granted() == []
    world.fleet.settle(world.running[1], 0.3)
    world.queue.release(0.3, cold)
    assert world.granted() == ["held"]
    assert world.running[-1].replica is cold


def of_models(world: World, *models: list[str]) -> None:
    """Each replica serves these."""
    for number, (replica, served) in enumerate(zip(world.fleet.replicas.values(), models, strict=True), 1):
        world.fleet.apply(ProbeSucceeded(replica.id, Incarnation(number), served, 16, None, 0.0))


def test_a_line_is_as_long_as_what_waits_for_the_same_replicas() -> None:
    world = World(replicas=2)
    of_models(world, ["busy"], ["calm"])
    world.ask("running there", 0.0, model="busy")
    world.ask("running here", 0.0, model="calm")
    for number in range(20):
        world.ask(f"held {number}", 0.0, model="busy")
    assert world.ask("calm", 0.0, model="calm", timeout_s=2.0) is not None
    world.ask("too many", 0.0, model="busy", timeout_s=20.0)
    assert set(world.refused()) == {"too many"}


def test_models_of_one_replica_stand_in_one_line_and_of_more_replicas_in_part() -> None:
    world = World(replicas=3)
    of_models(world, ["base", "adapter"], ["base"], ["alone"])
    for name, model in (("a", "base"), ("b", "base"), ("c", "alone")):
        world.ask(name, 0.0, model=model)
    for number in range(8):
        world.ask(f"held {number}", 0.0, model="base")  # four of them are expected at the adapter's replica
    world.ask("too late", 0.0, model="adapter", timeout_s=4.0)
    assert set(world.refused()) == {"too late"}
    assert world.ask("in time", 0.0, model="adapter", timeout_s=7.0) is not None
    assert world.ask("alone", 0.0, model="alone", timeout_s=2.0) is not None


def test_how_fast_one_model_moves_says_nothing_of_another() -> None:
    world = World(replicas=2)
    of_models(world, ["quick"], ["slow"])
    world.ask("running", 0.0, model="quick", tokens=1)
    world.ask("running too", 0.0, model="slow")
    for number in range(40):
        world.ask(f"quick {number}", 0.0, model="quick", tokens=SECOND // 10)
    for number in range(4):
        world.ask(f"slow {number}", 0.0, model="slow")
    for step in range(
        1, 30
    ):  # the quick line moves by four seconds of prefill each second, the slow one not at all
        quick = next(d for d in world.running if d.replica.id == "r0")
        world.running.remove(quick)
        world.running.insert(0, quick)
        world.finish(0.025 * step + 1.0)
    world.ask("late", 2.0, model="slow", timeout_s=4.0)
    assert set(world.refused()) == {"late"}
    assert world.ask("in time", 2.0, model="quick", tokens=1, timeout_s=2.0) is not None


def test_without_room_the_model_with_the_longest_line_for_its_replicas_gives_way() -> None:
    world = World(replicas=3, max_held=4)
    of_models(world, ["wide"], ["wide"], ["narrow"])
    for name, model in (("a", "wide"), ("b", "wide"), ("c", "narrow")):
        world.ask(name, 0.0, model=model)
    for number in range(3):
        world.ask(f"narrow {number}", 0.0, model="narrow")
    world.ask("wide 0", 0.0, model="wide")
    world.ask("wide 1", 0.0, model="wide")
    assert set(world.refused()) == {"narrow 2"}
    world.ask("narrow 3", 0.0, model="narrow")
    assert set(world.refused()) == {"narrow 2", "narrow 3"}


def test_who_was_served_less_is_not_judged_by_what_waits_behind_it() -> None:
    world = World()
    world.ask("running", 0.0)
    noisy, quiet = world.shares.flow(1, 1.0), world.shares.flow(2, 1.0)
    world.shares.charge(noisy, 100 * SECOND, 0.0)
    for number in range(10):
        world.ask(f"noisy {number}", 0.0)
    for number in range(2):
        assert world.ask(f"quiet {number}", 0.0, tenant=2, timeout_s=4.0) is not None
    world.shares.charge(quiet, 200 * SECOND, 0.0)  # and who was served more waits for all of them
    world.ask("late", 0.0, tenant=2, timeout_s=10.0)
    assert set(world.refused()) == {"late"}


@pytest.mark.parametrize("set_by_s", [3600.0, -3600.0, 0.5, -0.5, 1e9, -1e8])
def test_a_clock_that_is_set_makes_nobody_wait_for_a_longer_or_shorter_time(set_by_s: float) -> None:
    world = World(max_under_way=1)
    queue = world.queue
    queue.follow(1000.0, 0.0)
    world.ask("runs", 1000.0)
    world.ask("long", 1000.0, timeout_s=100.0)
    world.ask("short", 1000.0, timeout_s=30.0, tokens=10, tenant=2)
    queue.follow(1000.0 + set_by_s, 0.01)
    queue.release(1000.0 + set_by_s)
    assert world.answers == []
    world.ask("late", 1001.0 + set_by_s, timeout_s=10.0, tokens=10, tenant=3)
    queue.line.validate()
    for after_s, over in ((10.9, []), (11.1, ["late"]), (29.9, ["late"]), (30.1, ["late", "short"])):
        queue.follow(1000.0 + set_by_s + after_s, after_s)
        queue.release(1000.0 + set_by_s + after_s)
        assert [name for name, _ in world.answers] == over
    queue.follow(1000.0, 31.0)  # and it is set right
    queue.release(1000.0)
    assert len(world.answers) == 2
    queue.release(1000.0 + 69.1)
    assert [name for name, _ in world.answers] == ["late", "short", "long"]
    assert [error.code for _, error in world.answers if isinstance(error, RouterError)] == [LATE] * 3
    assert not world.fleet.held.by_model
    assert not world.fleet.held.by_rung


def test_while_nobody_waits_a_clock_may_be_set() -> None:
    world = World(max_under_way=1)
    world.queue.follow(1000.0, 0.0)
    world.ask("runs", 1000.0)
    world.queue.follow(5000.0, 1.0)
    claim = world.ask("waits", 5000.0, timeout_s=30.0)
    assert claim is not None
    assert (claim.arrival_s, claim.deadline_s) == (5000.0, 5030.0)


def test_a_prefix_that_all_who_wait_have_is_ahead_of_nobody_twice() -> None:
    """A hundred questions about one document of four seconds are not refused for four hundred seconds' work."""
    world = World()
    world.ask("running", 0.0)
    flow = world.shares.flow(1, 1.0)
    for number in range(100):
        shape = prompt(("document", 99_840), (str(number), 400))
        records: Records = [None] * len(shape.rungs)
        world.queue.wait(shape, records, 0.0, lambda _: None, DEFAULT, flow, 30.0, 100)
    assert len(world.queue) == 100
    world.queue.line.validate()
