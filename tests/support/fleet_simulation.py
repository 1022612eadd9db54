"""A fleet in virtual time for tests of policies: replicas that prefill first come first served and never forget.

Much simpler than `warmroute_replica.sim`: it is there to see where requests go, not how long they take.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from dataclasses import dataclass, field

from warmroute.core.choice.cost import CostParameters
from warmroute.core.choice.policies import POLICIES
from warmroute.core.fleet.fleet import Decision, Fleet, ProbeSucceeded, ReplicaAdded
from warmroute.core.fleet.replica import Replica
from warmroute.core.health.health import HealthParameters
from warmroute.core.types import FingerprintHash, Incarnation, Record, ReplicaId, RequestShape

GRID = tuple(512 * (i + 1) for i in range(200))
BYTES_PER_TOKEN = 4


def ready_fleet(
    count: int, policy: str = "prefix-cost", parameters: CostParameters | None = None, seed: int = 1
) -> Fleet:
    """A fleet of `count` replicas r0…, all ready, of incarnations 1…, serving the model `m`."""
    parameters = parameters or CostParameters()
    fleet = Fleet(POLICIES[policy](parameters), random.Random(seed), parameters, HealthParameters(), GRID)
    for i in range(count):
        replica_id = ReplicaId(f"r{i}")
        fleet.apply(ReplicaAdded(replica_id, f"http://r{i}"))
        fleet.apply(ProbeSucceeded(replica_id, Incarnation(i + 1), ["m"], 16, None, 0.0))
    return fleet


def forget_recent_load(replica: Replica) -> None:
    """Make it forget the work that it was given, as after many requests elsewhere."""
    replica.recent_load_tokens = 0.0
    replica.refresh()


def prompt(*parts: tuple[str, int]) -> RequestShape:
    """The shape of a prompt that consists of named parts of so many bytes; equal leading parts share rungs."""
    length = sum(size for _, size in parts)
    rungs = []
    for depth in GRID:
        if depth > length:
            break
        left, seen = depth, []
        for name, size in parts:
            seen.append((name, min(size, left)))
            left -= size
            if left <= 0:
                break
        rungs.append(FingerprintHash(hash(tuple(seen)) & ((1 << 64) - 1)))
    key = random.Random(str(parts[0]) + str(parts[1][0] if len(parts) > 1 else "")).getrandbits(64)
    return RequestShape("m", rungs, length, max(1, length // BYTES_PER_TOKEN), key, key)


@dataclass
class Simulation:
    """Runs conversations against a fleet; what happened is in the counters."""

    fleet: Fleet
    rate: float = 8000.0
    decode_s: float = 2.0
    registry: dict[FingerprintHash, Record] = field(default_factory=dict)
    uncached_tokens: Counter[str] = field(default_factory=Counter)
    requests: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    ttft_s: list[float] = field(default_factory=list)
    free_s: Counter[str] = field(default_factory=Counter)
    _events: list[tuple[float, int, str, Decision]] = field(default_factory=list)
    _sequence: int = 0

    def send(self, shape: RequestShape, now_s: float) -> Decision:
        """Route one request; what is under way by then goes on first."""
        self.advance(now_s)
        fleet = self.fleet
        decision = fleet.choose_and_reserve(shape, [self.registry.get(rung) for rung in shape.rungs], now_s)
        incarnation = decision.replica.incarnation
        assert incarnation is not None
        for rung in shape.rungs:
            others = tuple(h for h in self.registry.get(rung, ()) if h[0] != incarnation)
            self.registry[rung] = (*others, (incarnation, now_s))[-16:]
        name = decision.replica.id
        self.uncached_tokens[name] += decision.uncached_tokens
        self.prompt_tokens += shape.prompt_tokens
        self.requests[name] += 1
        begin_s = max(now_s, self.free_s[name])
        first_byte_s = self.free_s[name] = begin_s + decision.uncached_tokens / self.rate
        self.ttft_s.append(first_byte_s - now_s)
        for at_s, what in ((first_byte_s, "started"), (first_byte_s + self.decode_s, "settled")):
            self._sequence += 1
            heapq.heappush(self._events, (at_s, self._sequence, what, decision))
        return decision

    def advance(self, now_s: float) -> None:
        """Let first bytes and ends happen up to this time."""
        while self._events and self._events[0][0] <= now_s:
            at_s, _, what, decision = heapq.heappop(self._events)
            if what == "started":
                self.fleet.started(decision, at_s)
            else:
                self.fleet.settle(decision, at_s)

    def imbalance(self) -> float:
        """Uncached tokens of the replica with most of them, as a multiple of the mean."""
        work = [self.uncached_tokens[replica] for replica in self.fleet.replicas]
        return max(work) * len(work) / sum(work)
