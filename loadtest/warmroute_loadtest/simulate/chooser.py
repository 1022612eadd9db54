"""A chooser stands for a router in the simulation: it places turns, and hears what a router would hear.

This module decides the interface, and keeps the counts that every router has (requests in flight, tokens sent and not
yet answered). The rules are those of `rivals` and of `warm` (ours).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from warmroute.core.beliefs.tiers import Tier
from warmroute_loadtest.simulate.workload import Turn
from warmroute_replica.sim.engine import Engine


@dataclass(slots=True)
class Site:
    """What a router is told of the fleet. It includes the engines for rivals whose rule reads them, which the originals
    do by events or scraped metrics."""

    engines: Sequence[Engine]
    cache_tokens: int | None
    """Cache size of each replica in tokens; None where the replicas do not say."""
    block_tokens: int
    prefill_tokens_per_s: float
    """The prefill rate that routers assume before they learn; it may be wrong."""
    rng: Random
    feedback: bool = True
    """Whether a router that can learn from reports of cached tokens does so."""
    shared_step_tokens: int = 0
    """The engines' `--long-prefill-token-threshold` in tokens, as an operator would tell it to the router."""
    replicas: int = 0
    """Number of replicas in the fleet at this moment: the first so many of the engines; 0 takes all of them."""
    recompute_ratio: float | None = None
    """What an operator would tell the router of engines that reuse chunks; None: they reuse prefixes alone."""
    tiers: tuple[Tier, ...] = ()
    """Tiers below each replica's GPU, as an operator would tell them to the router."""

    def __post_init__(self) -> None:
        self.replicas = self.replicas or len(self.engines)


class Chooser:
    """The base of all routers: it counts requests in flight and has no rule of its own."""

    name = ""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.in_flight = [0] * len(site.engines)

    def choose(self, turn: Turn, now_s: float) -> int | None:
        """Return the index of the replica for the turn, or None to hold the turn at the router until `released` returns
        it."""
        raise NotImplementedError

    def released(self, now_s: float) -> list[tuple[Turn, int]]:
        """Return held turns that may go now, each with the index of its replica. Called after every event and at
        `wake_s`."""
        return []

    def wake_s(self, now_s: float) -> float | None:
        """Return a time after now at which to call `released` again even if nothing happens until then; None if that is
        not needed."""
        return None

    def joined(self, replica: int, now_s: float) -> None:
        """Take note that a replica has come to the fleet, with an empty cache.

        Raises:
            ValueError: The rule does not support fleets that change.
        """
        raise ValueError(f"policy {self.name} cannot be given more replicas in the middle of a run")

    def priority(self, turn: Turn) -> int:
        """Return the `priority` with which the request is sent to an engine that may schedule by it; the smaller goes
        first."""
        return 0

    def dispatched(self, turn: Turn, replica: int, now_s: float) -> None:
        """Take note that the turn was sent to the replica."""
        self.in_flight[replica] += 1

    def first_byte(self, turn: Turn, replica: int, now_s: float) -> None:
        """Take note that the turn's answer begins; of one that comes whole, just before `finished`."""

    def predicted_tokens(self, turn: Turn) -> int:
        """Return how many of the turn's prompt tokens the router believed to be cached on the replica that it chose;
        called before `finished`."""
        return 0

    def finished(self, turn: Turn, replica: int, cached_tokens: int, now_s: float) -> None:
        """Take note that the turn's answer is complete, and how many prompt tokens the engine reports as cached."""
        self.in_flight[replica] -= 1

    def left(self, turn: Turn, replica: int | None, begun: bool, now_s: float) -> None:
        """Take note that the client is gone before its answer was complete.

        Args:
            replica: Where the turn was sent; None if it is held.
            begun: Whether the answer has begun.
        """
        if replica is None:
            raise ValueError(f"policy {self.name} holds no turn")
        if not begun:
            self.first_byte(turn, replica, now_s)
        self.finished(turn, replica, 0, now_s)

    def least(self, load: Callable[[int], float], among: Sequence[int] | None = None) -> int:
        """Return the replica of smallest load; chance decides among equals."""
        pool = range(self.site.replicas) if among is None else among
        loads = [load(i) for i in pool]
        best = min(loads)
        ties = [i for i, value in zip(pool, loads, strict=True) if value == best]
        return ties[0] if len(ties) == 1 else ties[int(self.site.rng.random() * len(ties))]
