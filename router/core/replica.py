"""One replica as the router sees it, and one request's stay on it. Plain mutable data, changed by `Fleet` alone.

Decides nothing. Counters are integers and the two cost figures are derived from them anew at every change, so that they
cannot drift; `validate` says what follows from what.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf, isclose

from router.core.cost import CostParameters, CostTerms
from router.core.health import Health, HealthParameters, ReplicaState
from router.core.types import DecisionKind, Incarnation, ReplicaId

RESERVED = 0
STARTED = 1
SETTLED = 2


class Replica:
    """Compared and hashed by identity: a replica removed and added again under its id is another one."""

    __slots__ = (
        "base_latency_s",
        "block_tokens",
        "cache_tokens",
        "cards",
        "crowd_token_s",
        "crowd_weight",
        "crowding_s",
        "delay_s",
        "foreign_in_flight",
        "foreign_waiting_tokens",
        "given_tokens",
        "health",
        "id",
        "in_flight",
        "in_flight_delay_s",
        "incarnation",
        "index",
        "miss_weight",
        "models",
        "models_known",
        "overlap_block_tokens",
        "prefill_tokens_per_s",
        "token_s",
        "trials",
        "url",
        "wait_token_s",
        "waiting",
        "waiting_tokens",
    )

    def __init__(
        self, replica_id: ReplicaId, url: str, index: int, cost: CostParameters, health: HealthParameters
    ) -> None:
        self.id = replica_id
        self.url = url
        self.index = index
        """Order of joining; never used twice by one fleet."""
        self.incarnation: Incarnation | None = None
        self.models: frozenset[str] = frozenset()
        self.models_known = False
        """False until a probe told the models. A working replica that never tells is taken to serve any."""
        self.cards: Mapping[str, object] = {}
        """What its `/v1/models` says of each model, where a probe passed that on."""
        self.health = Health(health)
        self.in_flight = 0
        """Requests sent to it and not settled."""
        self.waiting = 0
        """Those of them without a first byte."""
        self.waiting_tokens = 0
        """Their uncached tokens."""
        self.given_tokens = 0
        """Uncached tokens of all requests ever sent to it."""
        self.foreign_in_flight = 0
        """Other routers' `in_flight`; 0 while nobody tells."""
        self.foreign_waiting_tokens = 0
        """Other routers' `waiting_tokens`; 0 while nobody tells."""
        self.trials = 0
        """Requests under way that were sent while it was not `READY`."""
        self.block_tokens: int | None = None
        self.cache_tokens: int | None = None
        self.overlap_block_tokens = cost.default_block_tokens
        """`block_tokens`, or the default where unknown."""
        self.in_flight_delay_s = cost.in_flight_delay_s
        self.miss_weight = cost.miss_weight
        self.crowd_weight = cost.crowd_weight
        self.crowding_s = 0.0
        """Weighted seconds of prefill given lately; fades, see `fade`."""
        self.set_rates(cost.prefill_tokens_per_s, cost.base_latency_s)

    def set_rates(self, prefill_tokens_per_s: float, base_latency_s: float) -> None:
        """Take over what is believed of this replica's speed."""
        self.prefill_tokens_per_s = prefill_tokens_per_s
        self.base_latency_s = base_latency_s
        self.wait_token_s = 1.0 / prefill_tokens_per_s
        """Seconds that each token ahead in the queue costs."""
        self.token_s = (1.0 + self.miss_weight) / prefill_tokens_per_s
        """Seconds that each own uncached token costs, its price to others included."""
        self.crowd_token_s = self.crowd_weight / prefill_tokens_per_s
        """Seconds that each token given to it lately adds."""
        self.refresh()

    def refresh(self) -> None:
        """Derive `delay_s`, the part of the cost that is the same for every request, from the counters."""
        self.delay_s = (
            self.base_latency_s
            + (self.waiting_tokens + self.foreign_waiting_tokens) * self.wait_token_s
            + (self.in_flight + self.foreign_in_flight) * self.in_flight_delay_s
            + self.crowding_s
        )

    def fade(self, factor: float) -> None:
        """Let the memory of work given lately shrink to `factor` of what it was."""
        self.crowding_s *= factor
        self.refresh()

    @property
    def state(self) -> ReplicaState:
        """Where health stands."""
        return self.health.state

    @property
    def routable(self) -> bool:
        """Whether a request may be sent to it while there are others: ready, or owed a trial."""
        state = self.health.state
        return state is ReplicaState.READY or (state is ReplicaState.PROBING and not self.trials)

    def terms(self, uncached_tokens: int) -> CostTerms:
        """The cost of a request with so many uncached tokens, taken apart."""
        prefill_s = uncached_tokens * self.wait_token_s
        return CostTerms(
            base_s=self.base_latency_s,
            wait_s=(self.waiting_tokens + self.foreign_waiting_tokens) * self.wait_token_s,
            running_s=(self.in_flight + self.foreign_in_flight) * self.in_flight_delay_s,
            crowding_s=self.crowding_s,
            prefill_s=prefill_s,
            miss_s=prefill_s * self.miss_weight,
        )

    def as_row(self, now_s: float) -> dict[str, object]:
        """For `/replicas`."""
        health = self.health
        backing_off = health.state is ReplicaState.EJECTED and health.until_s < inf
        return {
            "id": self.id,
            "url": self.url,
            "state": health.state.value,
            "models": sorted(self.models),
            "incarnation": None if self.incarnation is None else f"{self.incarnation:012x}",
            "in_flight": self.in_flight,
            "waiting": self.waiting,
            "waiting_tokens": self.waiting_tokens,
            "foreign_in_flight": self.foreign_in_flight,
            "foreign_waiting_tokens": self.foreign_waiting_tokens,
            "block_tokens": self.block_tokens,
            "cache_tokens": self.cache_tokens,
            "prefill_tokens_per_s": self.prefill_tokens_per_s,
            "base_latency_s": self.base_latency_s,
            "delay_s": round(self.delay_s, 6),
            "crowding_s": round(self.crowding_s, 6),
            "failures": health.failures,
            "probe_failures": health.probe_failures,
            "ejections": health.strikes,
            "last_failure": None if health.reason is None else health.reason.value,
            "retry_in_s": round(max(0.0, health.until_s - now_s), 3) if backing_off else None,
        }

    def validate(self) -> None:
        """Raises AssertionError where a derived figure does not follow from what it is derived from."""
        assert 0 <= self.waiting <= self.in_flight, (self.id, self.waiting, self.in_flight)
        assert self.waiting_tokens >= 0, (self.id, self.waiting_tokens)
        assert self.waiting > 0 or self.waiting_tokens == 0, (self.id, self.waiting_tokens)
        assert 0 <= self.trials <= self.in_flight, (self.id, self.trials)
        assert self.crowding_s >= 0, (self.id, self.crowding_s)
        terms = self.terms(0)
        assert isclose(self.delay_s, terms.total_s), (self.id, self.delay_s, terms)
        assert isclose(self.token_s, (1 + self.miss_weight) / self.prefill_tokens_per_s), self.id
        assert self.models_known or not self.models, self.id


class Decision:
    """Where one attempt of a request goes, and the reservation that it holds there until it is settled."""

    __slots__ = ("kind", "phase", "predicted_tokens", "replica", "trial", "uncached_tokens")

    def __init__(
        self, replica: Replica, kind: DecisionKind, predicted_tokens: int, uncached_tokens: int, trial: bool
    ) -> None:
        self.replica = replica
        self.kind = kind
        self.predicted_tokens = predicted_tokens
        """Leading tokens that the replica is believed to hold."""
        self.uncached_tokens = uncached_tokens
        """The others, counted in the replica's `waiting_tokens` until its first byte."""
        self.phase = RESERVED
        """`RESERVED`, then `STARTED` at the first byte, then `SETTLED`; only `Fleet` moves it."""
        self.trial = trial
        """Whether it counts in the replica's `trials`."""
