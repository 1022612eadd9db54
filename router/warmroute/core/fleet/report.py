"""What people are shown of the fleet: a ranking with every replica's terms, and a row for each replica.

This module reads and changes nothing, but that it puts dice back as they were. No choice goes by what it makes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, isclose
from typing import TYPE_CHECKING, Final

from warmroute.core.beliefs.belief import Belief
from warmroute.core.choice.cost import CostTerms
from warmroute.core.choice.ranking import Policy, Tie
from warmroute.core.choice.view import Prices, View
from warmroute.core.fleet.displacing import worth_s
from warmroute.core.fleet.replica import Replica, Server
from warmroute.core.health.health import ReplicaState
from warmroute.core.types import DecisionKind, ReplicaId

if TYPE_CHECKING:
    from random import Random

RANKED_BY_POLICY: Final = 8
"""How much of a ranking is asked of the policy, call by call, as retries would; the rest is put in order of cost."""

_ALONE: Final = Prices()
"""Nobody is held, and nothing was given lately."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One row of a ranking."""

    replica: Replica
    kind: DecisionKind
    """What the decision would be called if this were the choice: of the head as asked, of the others as a retry."""
    predicted_tokens: int
    uncached_tokens: int
    terms: CostTerms
    chunk_tokens: int | None = None
    """How many of the predicted ones are chunks' beyond the leading ones; None for a prompt without chunks."""

    def as_dict(self) -> dict[str, object]:
        """The row for `/explain`."""
        replica = self.replica
        return {
            "replica": replica.id,
            "state": replica.state.value,
            "predicted_cached_tokens": self.predicted_tokens,
            **({} if self.chunk_tokens is None else {"predicted_chunk_tokens": self.chunk_tokens}),
            "uncached_tokens": self.uncached_tokens,
            "in_flight": replica.in_flight,
            "under_way": replica.load,
            "waiting_tokens": replica.waiting_tokens,
            **self.terms.as_dict(),
        }


def candidate(replica: Replica, kind: DecisionKind, belief: Belief, prices: Prices) -> Candidate:
    """The row of one replica."""
    predicted_tokens = belief.overlap.get(replica, 0)
    prompt_tokens = belief.shape.prompt_tokens
    terms = cost_terms(replica, prompt_tokens, predicted_tokens, belief.now_s, prices, belief.known_tokens())
    chunk_tokens = None if belief.shape.chunks is None else belief.chunked.get(replica, 0)
    return Candidate(replica, kind, predicted_tokens, prompt_tokens - predicted_tokens, terms, chunk_tokens)


@dataclass(frozen=True, slots=True)
class Ranking:
    """Every eligible replica once; the head is what would be chosen, the next what a retry would be sent to."""

    candidates: tuple[Candidate, ...]
    tie: Tie | None = None
    """Why the head is the head, where costs are compared: one that is dearer than others is no error."""
    displacing_s: float = 0.0
    """How long the request may be held for what it would displace at the head (`displacing`); 0: it is not."""

    @property
    def choice(self) -> Candidate:
        """The head; a ranking is never empty."""
        return self.candidates[0]

    def as_dict(self) -> dict[str, object]:
        """The ranking for `/explain`."""
        head = self.choice
        return {
            "replica": head.replica.id,
            "decision": head.kind.value,
            "predicted_cached_tokens": head.predicted_tokens,
            "displacing_s": round(self.displacing_s, 3),
            "tie": None if self.tie is None else self.tie.as_dict(),
            "candidates": [candidate.as_dict() for candidate in self.candidates],
        }


def ranked(policy: Policy, belief: Belief, whole: View, prices: Prices, rng: Random) -> Ranking:
    """Every replica of the view, in the order in which the policy would choose them; dice are as before afterwards."""
    chosen: dict[Replica, DecisionKind] = {}
    rest: View | None = whole
    tie = policy.tie(belief, whole, prices)
    dice = rng.getstate()
    while rest is not None and len(chosen) < RANKED_BY_POLICY:
        replica, kind = policy.choose(belief.without(chosen), rest, prices)
        chosen[replica] = DecisionKind.RETRY if chosen else kind
        rest = whole.without(chosen)
    rng.setstate(dice)
    head = [candidate(r, kind, belief, prices) for r, kind in chosen.items()]
    tail = [candidate(r, DecisionKind.RETRY, belief, prices) for r in whole.members if r not in chosen]
    tail.sort(key=lambda row: (row.terms.total_s, row.replica.index))
    first = head[0]
    tokens = belief.shape.prompt_tokens
    displacing_s = worth_s(first.replica, tokens, first.predicted_tokens, prices.queued, belief.now_s)
    return Ranking((*head, *tail), tie, displacing_s)


def cost_terms(
    replica: Replica,
    prompt_tokens: int,
    overlap_tokens: int,
    now_s: float,
    prices: Prices = _ALONE,
    known_tokens: int = 0,
) -> CostTerms:
    """The cost of a request of which the replica is believed to hold so many tokens, taken apart.

    Args:
        known_tokens: The most that any replica is believed to hold.
    """
    prefill_s = replica.prefill_s(prompt_tokens, overlap_tokens)
    spared_s = prices.spared_s(replica, prompt_tokens, overlap_tokens)
    return CostTerms(
        base_s=replica.base_latency_s,
        wait_s=replica.begins_in_s(now_s, prompt_tokens, prefill_s),
        running_s=replica.running * replica.interference_s,
        crowding_s=replica.recent_load_s * prices.recent_load_scale,
        prefill_s=prefill_s,
        miss_s=prefill_s - prices.paid * spared_s,
        queued_s=prices.queued_s(replica, prompt_tokens, overlap_tokens, known_tokens),
        eviction_s=prefill_s * (replica.price - 2.0),
    )


def replica_row(replica: Replica, now_s: float) -> dict[str, object]:
    """For `/replicas`."""
    health = replica.health
    backing_off = health.state is ReplicaState.EJECTED and health.until_s < inf
    return {
        "id": replica.id,
        "url": replica.url,
        "server": replica.server.id,
        "rank": replica.rank,
        "state": health.state.value,
        "models": sorted(replica.models),
        "incarnation": None if replica.incarnation is None else f"{replica.incarnation:012x}",
        "in_flight": replica.in_flight,
        "waiting": replica.waiting,
        "waiting_tokens": replica.waiting_tokens,
        "foreign_in_flight": replica.peer_in_flight,
        "foreign_work_s": round(replica.peer_work_s, 3),
        "block_tokens": replica.block_tokens,
        "cache_tokens": replica.cache_tokens,
        "prefill_tokens_per_s": round(replica.prefill_tokens_per_s, 1),
        "base_latency_s": round(replica.base_latency_s, 6),
        "interference_s": round(replica.interference_s, 6),
        "speed_confidence": round(replica.speed.confidence, 3),
        "speed_stretches": replica.speed.count,
        "comes_whole": replica.comes_whole,
        "delay_s": round(replica.delay_s + replica.wait_s(now_s), 6),
        "resident_tokens": replica.residency.tokens + replica.residency.pinned_tokens,
        "in_use_tokens": replica.residency.in_use_tokens(now_s),
        "room_in_s": round(replica.residency.room_in_s(now_s, 0), 3),
        "cache_lifetime_s": replica.survival.lifetime_s(),
        "cache_found_age_s": replica.survival.found_age_s(),
        "eviction_ratio": round(replica.eviction_ratio, 3),
        "error_ratio": round(replica.errors.ratio, 3),
        "failures": health.failures,
        "probe_failures": health.probe_failures,
        "ejections": health.strikes,
        "ejections_total": {reason.value: count for reason, count in health.ejections.items()},
        "restarts_total": replica.server.restarts,
        "last_failure": replica.server.last_failure,
        "retry_in_s": round(max(0.0, health.until_s - now_s), 3) if backing_off else None,
    }


def validate(replica: Replica) -> None:
    """Raises AssertionError where the terms that people are shown do not add up to what is compared."""
    at_s = replica.since_s
    shown = cost_terms(replica, 0, 0, at_s)
    total_s = replica.delay_s + replica.begins_in_s(at_s, 0, 0.0) + replica.recent_load_s
    assert isclose(total_s, shown.total_s), (replica.id, total_s, shown)


def validate_servers(servers: Mapping[ReplicaId, Server]) -> None:
    """Raises AssertionError where a server and its ranks differ in what they share."""
    for server_id, server in servers.items():
        assert server.id == server_id, server_id
        server.health.validate()
        assert server.health.trials == sum([r.trials for r in server.replicas]), server_id
        assert all(r.health is server.health for r in server.replicas), server_id
