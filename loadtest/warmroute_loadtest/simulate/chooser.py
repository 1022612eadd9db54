"""A chooser is what a router is to the simulation: it places turns, and hears what a router would hear.

This module decides the contract and keeps the counts that every router has (requests in flight, tokens sent and not
yet answered); the rules are `rivals` and `warm` (ours).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from warmroute_loadtest.simulate.workload import Turn
from warmroute_replica.sim.engine import Engine


@dataclass(slots=True)
class Site:
    """What a router is told of the fleet. Engines are there for rivals whose rule reads them (events, scraped
    metrics)."""

    engines: Sequence[Engine]
    cache_tokens: int | None
    """Of each replica; None where they do not say."""
    block_tokens: int
    prefill_tokens_per_s: float
    """Prior for routers that need one; right or not."""
    rng: Random
    feedback: bool = True
    """Whether a router that can learn from reports of cached tokens does."""
    shared_step_tokens: int = 0
    """The engines' `--long-prefill-token-threshold`, as an operator would say it."""
    replicas: int = 0
    """How many are in the fleet at this moment: the first so many of the engines. 0: all of them."""

    def __post_init__(self) -> None:
        self.replicas = self.replicas or len(self.engines)


class Chooser:
    """Base of all routers: counts, and round robin's absence of opinion."""

    name = ""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.in_flight = [0] * len(site.engines)

    def choose(self, turn: Turn, now_s: float) -> int | None:
        """Index of the replica for the turn, or None to keep it at the router until `released` gives it out."""
        raise NotImplementedError

    def released(self, now_s: float) -> list[tuple[Turn, int]]:
        """Held turns that may go now, and where to. Asked after every event and at `wake_s`."""
        return []

    def wake_s(self, now_s: float) -> float | None:
        """When to ask `released` again though nothing happens, later than now; None: not at all."""
        return None

    def joined(self, replica: int, now_s: float) -> None:
        """A replica has come to the fleet, with an empty cache.

        Raises:
            ValueError: The rule is for fleets that stay as they are.
        """
        raise ValueError(f"policy {self.name} cannot be given more replicas in the middle of a run")

    def priority(self, turn: Turn) -> int:
        """`priority` of the request as it is sent to an engine that may schedule by it; smaller goes first."""
        return 0

    def dispatched(self, turn: Turn, replica: int, now_s: float) -> None:
        """The turn was sent."""
        self.in_flight[replica] += 1

    def first_byte(self, turn: Turn, replica: int, now_s: float) -> None:
        """Its answer begins."""

    def predicted_tokens(self, turn: Turn) -> int:
        """How much of the prompt it believed to be cached where it sent it; asked before `finished`."""
        return 0

    def finished(self, turn: Turn, replica: int, cached_tokens: int, now_s: float) -> None:
        """Its answer is complete; the engine says how much of the prompt it had."""
        self.in_flight[replica] -= 1

    def least(self, load: Callable[[int], float], among: Sequence[int] | None = None) -> int:
        """The replica of smallest load; chance decides among equals."""
        pool = range(self.site.replicas) if among is None else among
        loads = [load(i) for i in pool]
        best = min(loads)
        ties = [i for i, value in zip(pool, loads, strict=True) if value == best]
        return ties[0] if len(ties) == 1 else ties[int(self.site.rng.random() * len(ties))]
