"""This is our router in the simulation: the real `warmroute.core` fleet and policies, and the embedded registry.

This module decides nothing that the core decides. It knows what a router knows: records that it wrote itself at
dispatch, counts, first-byte times, and the cached tokens that an answer reports at its end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

from warmroute.core.choice.cost import CostParameters
from warmroute.core.choice.policies import POLICIES
from warmroute.core.errors import RouterError
from warmroute.core.fleet.fleet import Decision, Fleet, ProbeSucceeded, ReplicaAdded
from warmroute.core.health.health import HealthParameters
from warmroute.core.holding.parameters import HoldParameters
from warmroute.core.holding.queue import HoldQueue
from warmroute.core.holding.ticket import Ticket
from warmroute.core.learning.learner import Learner, LearningParameters
from warmroute.core.types import Incarnation, Record, Records, ReplicaId, RequestShape
from warmroute_loadtest.simulate.chooser import Chooser, Site
from warmroute_loadtest.simulate.registry import VirtualRegistry
from warmroute_loadtest.simulate.workload import MODEL, Shaper, Turn

HOLD = HoldParameters()
LEARNING = LearningParameters()


def told(site: Site) -> CostParameters:
    """Return the cost parameters: the defaults, with the site's prior and step sharing."""
    return replace(
        CostParameters(),
        prefill_tokens_per_s=site.prefill_tokens_per_s,
        shared_step_tokens=float(site.shared_step_tokens),
    )


class Warm(Chooser):
    """A policy of `warmroute.core` behind the simulation's interface."""

    def __init__(
        self,
        site: Site,
        policy: str,
        parameters: CostParameters | None = None,
        hold: HoldParameters | None = None,
        learner: Learner | None = None,
        chunks: bool = True,
    ) -> None:
        """Args:
        chunks: False: the router is not told that engines reuse chunks.
        """
        super().__init__(site)
        self.name = policy if chunks else f"{policy}, untold"
        parameters = parameters or told(site)
        self.fleet = Fleet(
            POLICIES[policy](parameters),
            Random(site.rng.random()),
            parameters,
            HealthParameters(),
            learner=learner,
            tiers=site.tiers,
        )
        for index in range(site.replicas):
            self.joined(index, 0.0)
        self._shaper = Shaper(site.block_tokens, site.recompute_ratio if chunks else None)
        self.registry = VirtualRegistry(self.fleet)
        self._open: dict[str, tuple[Decision, RequestShape, Records]] = {}
        self._queue = HoldQueue(self.fleet, hold) if hold is not None else None
        self._tickets: dict[str, Ticket] = {}
        self._granted: list[tuple[Turn, int]] = []
        self._again_s: float | None = None
        self._now_s = 0.0

    def joined(self, replica: int, now_s: float) -> None:
        """Add the replica as discovery and a successful probe would."""
        site = self.site
        replica_id = ReplicaId(f"replica-{replica}:8000")
        self.fleet.apply(ReplicaAdded(replica_id, f"http://{replica_id}"))
        self.fleet.apply(
            ProbeSucceeded(
                replica_id, Incarnation(replica + 1), {MODEL}, site.block_tokens, site.cache_tokens, now_s
            )
        )

    def choose(self, turn: Turn, now_s: float) -> int | None:
        """Ask the core's policy for its choice."""
        shape, records = self.ask(turn, now_s)
        if self._queue is None:
            return self._accept(
                turn, shape, records, self.fleet.choose_and_reserve(shape, records, now_s), now_s
            )

        def granted(answer: Decision | RouterError) -> None:
            if isinstance(answer, RouterError):
                raise answer
            self._granted.append((turn, self._accept(turn, shape, records, answer, self._now_s)))

        answer = self._queue.offer(shape, records, now_s, granted)
        if isinstance(answer, Decision):
            return self._accept(turn, shape, records, answer, now_s)
        self._tickets[turn.id] = answer
        return None

    def ask(self, turn: Turn, now_s: float) -> tuple[RequestShape, Records]:
        """Return the request's shape, and the registry's records for it."""
        shape = self._shaper.shape(turn)
        return shape, self.registry.lookup(shape.keys, now_s)

    def _accept(
        self, turn: Turn, shape: RequestShape, records: Records, decision: Decision, now_s: float
    ) -> int:
        self._open[turn.id] = (decision, shape, records)
        self._tickets.pop(turn.id, None)
        assert decision.replica.incarnation is not None
        self.registry.touch(shape.keys, decision.replica.incarnation, now_s)
        return decision.replica.index

    def released(self, now_s: float) -> list[tuple[Turn, int]]:
        """Return the turns that the queue grants."""
        if self._queue is None:
            return []
        self._now_s = now_s
        # In production the answers come a round trip later.
        for ticket in self._queue.to_read_again(now_s):
            self._queue.renew(ticket, self.registry.lookup(ticket.shape.keys, now_s), now_s)
        again_s = self._queue.release(now_s)
        self._again_s = None if again_s is None else now_s + again_s
        granted, self._granted = self._granted, []
        return granted

    def wake_s(self, now_s: float) -> float | None:
        """Return when the queue wants to look again; None if it does not."""
        return self._again_s

    def first_byte(self, turn: Turn, replica: int, now_s: float) -> None:
        """Tell the fleet of the first byte."""
        self.fleet.started(self._open[turn.id][0], now_s)

    def predicted_tokens(self, turn: Turn) -> int:
        """Return the prediction that a client would be told."""
        return self._open[turn.id][0].expected_tokens

    def finished(self, turn: Turn, replica: int, cached_tokens: int, now_s: float) -> None:
        """Give back the turn's reservation."""
        super().finished(turn, replica, cached_tokens, now_s)
        decision, shape, _ = self._open.pop(turn.id)
        self.fleet.settle(decision, now_s)
        known = cached_tokens if self.site.feedback and shape.reads_cache else None
        self.fleet.learn(decision, shape, turn.prompt_tokens, known, turn.output_tokens, turn.output_tokens)
        self.fleet.confirm(decision, known, turn.output_tokens, now_s)

    def left(self, turn: Turn, replica: int | None, begun: bool, now_s: float) -> None:
        """Withdraw the turn where it is held; else give back its reservation."""
        if replica is None:
            assert self._queue is not None
            self._queue.withdraw(self._tickets.pop(turn.id))
            return
        self.in_flight[replica] -= 1
        decision, shape, records = self._open.pop(turn.id)
        self.fleet.left(decision, now_s)
        if not decision.is_computed and decision.incarnation is not None:
            # What an earlier prompt had noted there stays noted.
            holds = [record is not None and _has(record, decision.incarnation) for record in records]
            known = max((place for place, held in enumerate(holds, 1) if held), default=0)
            self.registry.forget(shape.keys[known:], decision.incarnation, decision.reserved_s, now_s)
        self.fleet.settle(decision, now_s)


def _has(record: Record, incarnation: Incarnation) -> bool:
    return any(holder[0] == incarnation for holder in record)


def warm(
    policy: str,
    parameters: CostParameters | None = None,
    hold: HoldParameters | None = HOLD,
    learning: LearningParameters | None = LEARNING,
    chunks: bool = True,
) -> Callable[[Site], Chooser]:
    """Return what makes a chooser of one core policy. Only `prefix-cost` knows which replica is free, so only it holds
    requests."""
    own_hold = hold if policy == "prefix-cost" else None
    return lambda site: Warm(
        site, policy, parameters, own_hold, Learner(learning) if learning is not None else None, chunks
    )
