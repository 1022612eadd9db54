"""Holding on the event loop: one timer, no way into the queue from within, and settings that say what the core does."""

from __future__ import annotations

import asyncio
from dataclasses import fields

from tests.support.fleet_simulation import ready_fleet
from warmroute.adapters.registry.memory import MemoryRegistry
from warmroute.config.schema import HoldConfig, PolicyConfig
from warmroute.core.choice.cost import CostParameters
from warmroute.core.errors import RouterError
from warmroute.core.fleet.fleet import Decision
from warmroute.core.holding.parameters import HoldParameters
from warmroute.core.holding.queue import HoldQueue
from warmroute.core.holding.ticket import Ticket
from warmroute.core.types import RequestShape
from warmroute.dataplane.hold import Hold

SHAPE = RequestShape("m", [], 32_000, 8000, 1, 1)


class World:
    def __init__(self, ahead_tokens: float = 512.0) -> None:
        self.now_s = 0.0
        self.fleet = ready_fleet(1)
        parameters = HoldParameters(ahead_tokens=ahead_tokens)
        self.hold = Hold(HoldQueue(self.fleet, parameters), MemoryRegistry(), lambda: self.now_s)
        self.decisions: list[Decision] = []
        self.depth = self.deepest = 0

    def granted(self, answer: Decision | RouterError) -> None:
        """Behaves like an exchange that fails at once: what it gives back is heard of while others are let go."""
        assert isinstance(answer, Decision)
        self.depth += 1
        self.deepest = max(self.deepest, self.depth)
        self.decisions.append(answer)
        self.fleet.settle(answer, self.now_s)
        self.hold.release(self.now_s, answer.replica)
        self.depth -= 1

    def offer(self) -> Decision | Ticket:
        answer = self.hold.offer(SHAPE, None, self.now_s, self.granted)
        if isinstance(answer, Ticket):
            self.hold.release(self.now_s)
        return answer


def test_who_fails_when_let_go_lets_the_next_go_without_going_deeper() -> None:
    async def scenario() -> None:
        world = World()
        first = world.offer()
        assert isinstance(first, Decision)
        for _ in range(1000):
            world.offer()
        held = world.hold.waiting
        assert held == 1000
        world.fleet.settle(first, 1.0)
        world.hold.release(1.0, first.replica)
        assert world.hold.waiting == 0
        assert len(world.decisions) == held
        assert world.deepest == 1
        world.fleet.validate()
        world.hold.stop()

    asyncio.run(scenario())


def test_the_timer_lets_go_who_may_go_by_the_clock() -> None:
    async def scenario() -> None:
        world = World()
        world.offer()
        assert isinstance(world.offer(), Ticket)
        world.now_s = 2.0  # by now the first should long have begun
        async with asyncio.timeout(60):
            while world.hold.waiting:
                await asyncio.sleep(0.01)
        assert len(world.decisions) == 1
        world.hold.stop()

    asyncio.run(scenario())


def test_a_withdrawn_request_is_not_counted() -> None:
    async def scenario() -> None:
        world = World()
        world.offer()
        ticket = world.offer()
        assert isinstance(ticket, Ticket)
        assert world.hold.waiting == 1
        world.hold.withdraw(ticket)
        assert world.hold.waiting == 0
        world.hold.stop()

    asyncio.run(scenario())


def test_default_settings_are_those_that_the_simulator_plays_with() -> None:
    policy, cost = PolicyConfig(), CostParameters()
    for field in fields(CostParameters):
        assert getattr(policy, field.name) == getattr(cost, field.name), field.name
    hold, queue = HoldConfig(), HoldParameters()
    assert hold.ahead_tokens == queue.ahead_tokens
    assert (hold.max_requests, hold.max_s) == (queue.max_held, queue.max_hold_s)
