"""Which replicas there are, in what health and in which life, by what discovery, probes and answers tell.

This module decides when a replica's health or membership changes, and renews beliefs by the clock. It knows nothing of
choosing: who gets a request and what is counted for it is `fleet`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import TYPE_CHECKING, Final, assert_never

from warmroute.core.beliefs.returns import Returns
from warmroute.core.choice.cost import CostParameters
from warmroute.core.fleet.decision import Decision
from warmroute.core.fleet.eligibility import Eligibility
from warmroute.core.fleet.events import (
    DrainStarted,
    Event,
    ProbeFailed,
    ProbeSucceeded,
    ReplicaAdded,
    ReplicaRemoved,
)
from warmroute.core.fleet.replica import Replica
from warmroute.core.fleet.report import replica_row
from warmroute.core.health.health import FailureReason, HealthParameters, ReplicaState, Signal
from warmroute.core.learning.learner import Learner
from warmroute.core.types import Incarnation, ReplicaId

if TYPE_CHECKING:
    from random import Random

TICK_S: Final = 1.0
"""How often estimates are renewed: work off the request path, whose price is of the machine."""


class Members:
    """The replicas of one fleet; requests are its subclass's, `Fleet`'s. Not thread-safe: one per event loop."""

    def __init__(
        self, rng: Random, parameters: CostParameters, health: HealthParameters, learner: Learner | None
    ) -> None:
        self._replicas: dict[ReplicaId, Replica] = {}
        self._parameters = parameters
        self._health = health
        self._learner = learner
        self._joined = 0
        self.returns = Returns()
        """What comes back, and after how long."""
        self._eligibility = Eligibility(self._replicas, rng)
        self._ticked_s = -inf
        """When the last tick was."""
        self._due_s = -inf
        """When there is something to do by the clock: the next tick, or the first backoff that ends before it."""

    @property
    def replicas(self) -> Mapping[ReplicaId, Replica]:
        """All known replicas by id, in order of joining."""
        return self._replicas

    def _eviction_ratio(self, replica: Replica, now_s: float) -> float:
        horizon_s = replica.residency.horizon_s
        return self.returns.ratio(now_s - horizon_s) if horizon_s > -inf else 0.0

    def report_success(self, replica: Replica, now_s: float) -> None:
        """A request was answered: its prompt was computed."""
        replica.errors.good()
        if replica.health.tainted:
            self._trial_passed(replica, now_s)

    def _trial_passed(self, replica: Replica, now_s: float) -> None:
        if replica.health.tainted and replica.health.succeeded(now_s):
            self._health_changed(replica)

    def report_refusal(self, replica: Replica, now_s: float) -> None:
        """A request was answered with an error of the client's: whatever the replica failed of, it reads requests."""
        if replica.health.reason is not FailureReason.ERROR:
            self._trial_passed(replica, now_s)

    def report_error(self, decision: Decision) -> bool:
        """A request was answered with an error that blames nobody.

        Returns whether the replica is suspect (`outliers`): then `try_suspects` is due once another has been given the
        same request.
        """
        replica = decision.replica
        replica.errors.bad()
        return decision.trial or replica.errors.suspect(self._fellows_error_ratio(replica))

    def try_suspects(self, suspects: Sequence[Replica], answered: bool, now_s: float) -> None:
        """A fellow has answered, or also erred, on what these erred on."""
        for replica in suspects:
            if answered:
                replica.errors.convict()
                self.report_failure(replica, FailureReason.ERROR, now_s, "it erred where another did not")
            else:
                replica.errors.acquit(self._fellows_error_ratio(replica))

    def _fellows_error_ratio(self, replica: Replica) -> float:
        answers = errors = 0.0
        for fellow in self._replicas.values():
            if fellow is not replica and fellow.models == replica.models:
                answers += fellow.errors.answers
                errors += fellow.errors.errors
        return errors / answers if answers > 0.0 else 0.0

    def has_other(self, model: str, tried: Sequence[Replica]) -> bool:
        """Whether a replica that is not known to be unwell could be tried as well."""
        return self._eligibility.has_other(model, tried)

    def report_failure(self, replica: Replica, reason: FailureReason, now_s: float, detail: str = "") -> None:
        """A request failed for a reason that may lie with the replica; `detail` is for people."""
        if reason is not FailureReason.BUSY:
            replica.note_failure(reason, detail)
        if replica.health.failed(reason, now_s):
            self._health_changed(replica)

    def shown_dead(self, decision: Decision) -> bool:
        """Whether the life of the replica that has this request is over for sure; an ejection alone says nothing."""
        replica = decision.replica
        if replica.health.dead:
            return True
        incarnation = decision.incarnation
        return replica.life_told and incarnation is not None and incarnation != replica.incarnation

    def apply(self, event: Event) -> None:
        """Take note of what discovery or a probe found. Events about unknown replicas are ignored; none raises."""
        replica = self._replicas.get(event.replica_id)
        match event:
            case ReplicaAdded():
                self._add(replica, event)
            case ReplicaRemoved():
                if replica is not None:
                    self._remove(replica)
            case DrainStarted():
                if replica is not None and replica.health.signalled(Signal.DRAIN, self._ticked_s):
                    self._health_changed(replica)
            case ProbeSucceeded():
                if replica is not None:
                    self._probed(replica, event)
            case ProbeFailed():
                if replica is not None:
                    replica.note_failure(event.reason, event.detail)
                    if replica.health.probe_failed(event.now_s, event.reason):
                        self._health_changed(replica)
            case _:
                assert_never(event)

    def _add(self, known: Replica | None, event: ReplicaAdded) -> None:
        if known is not None:
            if known.url == event.url:
                if known.health.signalled(Signal.READMIT, self._ticked_s):
                    self._health_changed(known)
                return
            self._remove(known)
        replica = Replica(event.replica_id, event.url, self._joined, self._parameters, self._health)
        if event.models:
            replica.models = event.models
            replica.models_known = True
        self._joined += 1
        self._replicas[event.replica_id] = replica
        self._eligibility.joined(replica)

    def _remove(self, replica: Replica) -> None:
        del self._replicas[replica.id]
        replica.health.signalled(Signal.REMOVE, self._ticked_s)
        self._eligibility.left(replica)
        self._health_changed(replica)

    def _probed(self, replica: Replica, event: ProbeSucceeded) -> None:
        if not self._ticked_s <= event.now_s < self._due_s:
            self._tick(event.now_s)  # a backoff ends without traffic too: an unready router may get none
        incarnation: Incarnation | None = event.incarnation
        restarted = incarnation is not None and incarnation != replica.incarnation
        if restarted:
            # Another engine, with an empty cache, or the first that says who it is.
            replica.last_failure = None
            replica.residency.clear()
            if replica.incarnation is not None:
                replica.restarts += 1
                # Nothing was ever computed on it.
                replica.survival.clear()
                replica.trust.clear()
                replica.eviction_ratio = replica.recent_load_tokens = 0.0
                replica.refresh()
                replica.speed.restarted()
                replica.errors.clear()
            replica.incarnation = incarnation
            replica.life_told = event.life_told
        if event.block_tokens is not None and event.block_tokens > 0:
            replica.block_tokens = replica.overlap_block_tokens = event.block_tokens
        if event.cache_tokens is not None and event.cache_tokens > 0:
            replica.cache_tokens = event.cache_tokens
            replica.residency.resize(event.cache_tokens)
        if event.models is not None:
            if isinstance(event.models, Mapping):
                replica.cards = event.models
            models = frozenset(event.models)
            if models != replica.models or not replica.models_known:
                replica.models = models
                replica.models_known = True
                self._eligibility.membership_changed()
        if replica.health.probe_succeeded(restarted, event.now_s) or restarted:
            self._health_changed(replica)

    def _health_changed(self, replica: Replica) -> None:
        self._eligibility.health_changed()
        until_s = replica.health.until_s
        if until_s < self._due_s:
            self._due_s = until_s

    def _first_backoff_end_s(self) -> float:
        ejected = ReplicaState.EJECTED
        return min(
            (r.health.until_s for r in self._replicas.values() if r.health.state is ejected), default=inf
        )

    def _tick(self, now_s: float) -> None:
        """Renew estimates, and end backoffs: all of them if the clock was set back, which would make them last."""
        elapsed_s = now_s - self._ticked_s
        if not 0 <= elapsed_s < TICK_S:
            for replica in self._replicas.values():
                replica.eviction_ratio = self._eviction_ratio(replica, now_s)
                replica.refresh()
            if self._learner is not None:
                self._learner.believe(self._replicas.values())
            self._ticked_s = now_s
        for replica in self._replicas.values():
            health = replica.health
            over = health.until_s <= now_s or (elapsed_s < 0 and health.until_s < inf)
            if over and health.state is ReplicaState.EJECTED:
                health.signalled(Signal.BACKOFF_OVER, now_s)
                self._eligibility.health_changed()
        self._due_s = min(self._ticked_s + TICK_S, self._first_backoff_end_s())

    def bytes_per_token(self, model: str) -> float:
        """Prompt bytes that make a token of this model, as far as known; 0 without a learner."""
        return 0.0 if self._learner is None else self._learner.bytes_per_token(model)

    def models(self) -> frozenset[str]:
        """All models that a known replica serves."""
        return self._eligibility.models

    def model_cards(self) -> dict[str, object]:
        """What `/v1/models` of some replica says of each model; a minimal card where nothing is kept."""
        cards: dict[str, object] = {
            model: {"id": model, "object": "model", "created": 0, "owned_by": "warmroute"}
            for model in sorted(self.models())
        }
        for replica in self._replicas.values():
            for model in replica.models:
                cards[model] = replica.cards.get(model, cards[model])
        return cards

    def routable(self) -> int:
        """How many replicas may be sent requests."""
        return sum(1 for r in self._replicas.values() if r.routable)

    def use_health(self, parameters: HealthParameters) -> None:
        """Eject by these rules from now on; ejections under way keep the backoff that they have."""
        self._health = parameters
        for replica in self._replicas.values():
            replica.health.parameters = parameters

    def ever_reachable(self) -> bool:
        """Whether any of the replicas was ever seen working."""
        return any(r.state is not ReplicaState.STARTING for r in self._replicas.values())

    def snapshot(self, now_s: float) -> list[dict[str, object]]:
        """One row a replica, for `/replicas`."""
        return [replica_row(replica, now_s) for replica in self._replicas.values()]

    def model_rows(self) -> list[dict[str, object]]:
        """One row a model of which answers told something, for `/replicas`."""
        return [] if self._learner is None else self._learner.rows()
