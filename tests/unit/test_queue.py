"""Requests held at the router: who goes when, who goes first, what bounds the waiting."""

from __future__ import annotations

import pytest

from router.core.errors import NotFoundError, RouterError
from router.core.fleet import Decision, Fleet, ReplicaRemoved
from router.core.queue import HoldParameters, HoldQueue, Ticket
from router.core.types import ReplicaId, RequestShape
from tests.support.fleet_simulation import ready_fleet


def prompt(tokens: int) -> RequestShape:
    return RequestShape("m", [], tokens * 4, tokens, 1, 1)


class World:
    """A queue before `replicas` replicas, and what it granted."""

    def __init__(self, replicas: int = 1, parameters: HoldParameters | None = None) -> None:
        self.fleet: Fleet = ready_fleet(replicas)
        self.queue = HoldQueue(self.fleet, parameters or HoldParameters())
        self.granted: list[tuple[str, Decision | RouterError]] = []

    def offer(self, name: str, tokens: int, now_s: float) -> Decision | Ticket:
        answer = self.queue.offer(prompt(tokens), None, now_s, lambda a: self.granted.append((name, a)))
        self.queue.release(now_s)
        return answer

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.granted]


def test_a_free_replica_is_given_a_request_at_once() -> None:
    world = World()
    assert isinstance(world.offer("a", 8000, 0.0), Decision)
    assert world.queue.release(0.0) is None


def test_a_request_waits_while_every_replica_has_a_prompt_to_work_on() -> None:
    world = World()
    first = world.offer("a", 8000, 0.0)
    assert isinstance(first, Decision)
    assert isinstance(world.offer("b", 8000, 0.1), Ticket)
    assert world.granted == []
    world.fleet.started(first, 1.0)
    world.queue.release(1.0)
    assert world.names == ["b"]
    assert len(world.queue) == 0
    world.fleet.validate()


def test_the_next_prompt_is_sent_shortly_before_the_running_one_is_expected_to_end() -> None:
    world = World()
    world.offer("a", 8000, 0.0)
    world.offer("b", 8000, 0.0)
    again_s = world.queue.release(0.0)
    assert again_s is not None
    assert again_s <= 0.5
    world.queue.release(1.12)
    assert world.names == ["b"]


def test_short_prompts_go_before_long_ones_until_these_have_waited_long_enough() -> None:
    world = World()
    running = world.offer("a", 8000, 0.0)
    assert isinstance(running, Decision)
    world.offer("long", 16_000, 0.1)
    world.offer("short", 800, 0.2)
    world.offer("late", 800, 9.0)
    world.fleet.started(running, 10.0)
    world.queue.release(10.0)
    assert world.names == ["short"]
    for _, decision in list(world.granted):
        assert isinstance(decision, Decision)
        world.fleet.started(decision, 10.2)
    world.queue.release(10.2)
    assert world.names == ["short", "long"]


def test_whoever_waits_for_the_same_replica_is_counted_before_the_next_one_chooses() -> None:
    world = World(replicas=2)
    for name in ("a", "b", "c", "d"):
        world.offer(name, 8000, 0.0)
    world.queue.release(1.12)
    chosen = {d.replica.id for _, d in world.granted if isinstance(d, Decision)}
    assert len(chosen) == 2
    world.fleet.validate()


def test_a_withdrawn_request_is_never_granted() -> None:
    world = World()
    world.offer("a", 8000, 0.0)
    ticket = world.offer("b", 8000, 0.0)
    assert isinstance(ticket, Ticket)
    world.queue.withdraw(ticket)
    world.queue.withdraw(ticket)
    assert world.queue.release(50.0) is None
    assert world.granted == []


def test_beyond_the_bounds_requests_go_as_without_a_queue() -> None:
    world = World(parameters=HoldParameters(max_held=1, max_hold_s=5.0))
    world.offer("a", 80_000, 0.0)
    assert isinstance(world.offer("b", 8000, 0.0), Ticket)
    assert isinstance(world.offer("c", 8000, 0.0), Decision)
    world.queue.release(4.9)
    assert world.names == []
    world.queue.release(5.1)
    assert world.names == ["b"]


def test_who_waits_is_told_when_no_replica_is_left() -> None:
    world = World()
    world.offer("a", 8000, 0.0)
    world.offer("b", 8000, 0.0)
    world.fleet.apply(ReplicaRemoved(ReplicaId("r0")))
    world.queue.release(0.1)
    assert world.names == ["b"]
    assert isinstance(world.granted[0][1], RouterError)
    with pytest.raises(RouterError):
        world.offer("c", 8000, 0.2)
    assert not isinstance(world.granted[0][1], NotFoundError)
