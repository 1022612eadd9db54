"""The fleet: all replicas, what is under way on them, and the one place where a request is given to one of them.

Decides who is eligible (health, models) and counts; whom to choose among the eligible is the policy's. The rule it
keeps: choosing and counting is one synchronous step, and every reservation is given back exactly once, by `settle`.

Membership, health and counters change only through the methods below. Requests see a `View` for each model; it is made
anew, when next asked for, after anything that its making depends on has changed (`_epoch`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import exp, inf
from typing import TYPE_CHECKING, assert_never

from router.core.cost import CostParameters, overlap_tokens
from router.core.errors import NotFoundError, OverloadError
from router.core.fingerprint import GRID
from router.core.health import FailureReason, HealthParameters, ReplicaState, Signal
from router.core.ranking import Candidate, Overlaps, Policy, Ranking, View
from router.core.replica import RESERVED, SETTLED, STARTED, Decision, Replica
from router.core.ring import Ring
from router.core.types import DecisionKind, Incarnation, Record, ReplicaId, RequestShape

if TYPE_CHECKING:
    from random import Random

__all__ = [
    "Decision",
    "DrainStarted",
    "Event",
    "Fleet",
    "ProbeFailed",
    "ProbeSucceeded",
    "Replica",
    "ReplicaAdded",
    "ReplicaRemoved",
    "ReplicaState",
]

RANKED_BY_POLICY = 8
"""How much of a ranking is asked of the policy, call by call, as retries would; the rest is put in order of cost."""

_REBASE_HORIZONS = 30.0
"""After so many horizons the unit of `Replica.crowding` is reset, long before it could overflow."""

_NOTHING: dict[Replica, int] = {}


@dataclass(frozen=True, slots=True)
class ReplicaAdded:
    """Discovery names a replica. Known ids change nothing, unless they drained, or moved to another URL."""

    replica_id: ReplicaId
    url: str


@dataclass(frozen=True, slots=True)
class ReplicaRemoved:
    """Discovery no longer names a replica. Requests under way go on; their counters go with them."""

    replica_id: ReplicaId


@dataclass(frozen=True, slots=True)
class DrainStarted:
    """A replica is about to leave: nothing new for it."""

    replica_id: ReplicaId


@dataclass(frozen=True, slots=True)
class ProbeSucceeded:
    """A replica answered a probe. `None` means not asked this time, or not told; what was known stays."""

    replica_id: ReplicaId
    incarnation: Incarnation | None
    models: Collection[str] | None
    """Names; a mapping's values are kept as what `/v1/models` says of each."""
    block_tokens: int | None
    cache_tokens: int | None
    now_s: float


@dataclass(frozen=True, slots=True)
class ProbeFailed:
    """A replica did not answer a probe, or badly."""

    replica_id: ReplicaId
    reason: str
    now_s: float


Event = ReplicaAdded | ReplicaRemoved | DrainStarted | ProbeSucceeded | ProbeFailed


class Fleet:
    """The one mutable aggregate of the core. Not thread-safe: one per event loop."""

    def __init__(
        self,
        policy: Policy,
        rng: Random,
        parameters: CostParameters,
        health: HealthParameters,
        grid: Sequence[int] = GRID,
    ) -> None:
        """Args:
        grid: Depth in bytes of each rung of `RequestShape.rungs`.
        """
        self.replicas: dict[ReplicaId, Replica] = {}
        """All known replicas by id, in order of joining. Not to be changed from outside."""
        self._policy = policy
        self._rng = rng
        self._parameters = parameters
        self._health = health
        self._grid = grid
        self._joined = 0
        self._by_incarnation: dict[Incarnation, Replica] = {}
        self._models: frozenset[str] = frozenset()
        self._epoch = 0
        self._views: dict[str | None, View] = {}
        """By model; under "" of all replicas, under None of those that serve any model. Known models only."""
        self._rings: dict[tuple[Replica, ...], Ring[Replica]] = {}
        self._last_ring: Ring[Replica] | None = None
        self._wake_s = inf
        """When the first backoff ends."""
        self._crowd_epoch_s = 0.0
        self._crowd_decay_per_s = -1.0 / parameters.crowd_horizon_s
        self._crowd_limit_s = _REBASE_HORIZONS * parameters.crowd_horizon_s

    # -- requests -----------------------------------------------------------------------------------------------

    def choose_and_reserve(
        self,
        shape: RequestShape,
        records: Sequence[Record | None] | None,
        now_s: float,
        tried: Sequence[Replica] = (),
    ) -> Decision:
        """Give a request to a replica, and count it there until `settle`.

        Args:
            records: What the registry knows of each of `shape.rungs`; None if it was not asked.
            tried: Replicas that failed this request already, not to be chosen again.
        Raises:
            NotFoundError: No known replica serves the model (`model_not_found`).
            OverloadError: None that does may be sent a request (`no_replica`).
        """
        if now_s >= self._wake_s:
            self._wake(now_s)
        view = self._views.get(shape.model)
        if view is None or view.epoch != self._epoch:
            view = self._view(shape.model)
        if tried:
            view = self._view_without(shape.model, view, tried)
        age_s = now_s - self._crowd_epoch_s
        if not -self._crowd_limit_s < age_s < self._crowd_limit_s:
            self._rebase_crowding(now_s)
            age_s = 0.0
        view.crowd_scale = scale = exp(age_s * self._crowd_decay_per_s)
        overlaps = self._overlaps(shape, records, view) if records else _NOTHING
        replica, kind = self._policy.choose(shape, overlaps, view)
        view.turn += 1
        predicted_tokens = overlaps.get(replica, 0)
        return self._reserve(
            replica, DecisionKind.RETRY if tried else kind, predicted_tokens, shape.prompt_tokens, scale
        )

    def reserve_on(self, replica_id: ReplicaId, shape: RequestShape, now_s: float) -> Decision:
        """Give a request to the replica that keeps what it refers to, whatever its load, and count it there.

        Nothing is predicted of its cache, and its tokens are not known: `shape.prompt_tokens` count as uncached.

        Raises:
            NotFoundError: The replica has left the fleet (`not_found`).
            OverloadError: It has never been seen working (`no_replica`).
        """
        replica = self.replicas.get(replica_id)
        if replica is None:
            raise NotFoundError(
                "The replica that kept this object has left the fleet; create the object anew."
            )
        if replica.state is ReplicaState.STARTING:
            raise OverloadError("The replica that keeps this object is starting; try again shortly.")
        return self._reserve(replica, DecisionKind.PINNED, 0, shape.prompt_tokens, self._crowd_scale(now_s))

    def _reserve(
        self,
        replica: Replica,
        kind: DecisionKind,
        predicted_tokens: int,
        prompt_tokens: int,
        crowd_scale: float,
    ) -> Decision:
        uncached_tokens = prompt_tokens - predicted_tokens
        trial = replica.health.state is not ReplicaState.READY
        replica.in_flight += 1
        replica.waiting += 1
        if uncached_tokens:
            replica.waiting_tokens += uncached_tokens
            replica.crowding += (
                uncached_tokens * replica.wait_token_s * self._parameters.crowd_weight / crowd_scale
            )
        replica.refresh()
        if trial:
            replica.trials += 1
            replica.health.signalled(Signal.TRIAL, 0.0)
            self._changed()
        return Decision(replica, kind, predicted_tokens, uncached_tokens, trial)

    def started(self, decision: Decision, now_s: float) -> None:
        """The first byte of the answer is there. Only the first call, and only before `settle`, changes anything."""
        if decision.phase != RESERVED:
            return
        decision.phase = STARTED
        replica = decision.replica
        replica.waiting -= 1
        replica.waiting_tokens -= decision.uncached_tokens
        replica.refresh()
        if decision.trial:
            self.report_success(replica, now_s)

    def settle(self, decision: Decision, now_s: float) -> None:
        """The request is over for this replica, however it ended: give the reservation back. Once; then a no-op."""
        phase = decision.phase
        if phase == SETTLED:
            return
        decision.phase = SETTLED
        replica = decision.replica
        replica.in_flight -= 1
        if phase == RESERVED:
            replica.waiting -= 1
            replica.waiting_tokens -= decision.uncached_tokens
        replica.refresh()
        if decision.trial:
            replica.trials -= 1
            self._changed()

    def report_success(self, replica: Replica, now_s: float) -> None:
        """A request was answered."""
        if replica.health.tainted and replica.health.succeeded(now_s):
            self._changed()

    def report_failure(self, replica: Replica, reason: FailureReason, now_s: float) -> None:
        """A request failed for a reason that may lie with the replica."""
        if replica.health.failed(reason, now_s):
            self._changed()

    # -- events -------------------------------------------------------------------------------------------------

    def apply(self, event: Event) -> None:
        """Take note of what discovery or a probe found. Events about unknown replicas are ignored; none raises."""
        match event:
            case ReplicaAdded():
                self._add(event)
            case ReplicaRemoved():
                self._remove(event.replica_id)
            case DrainStarted():
                replica = self.replicas.get(event.replica_id)
                if replica is not None and replica.health.signalled(Signal.DRAIN, 0.0):
                    self._changed()
            case ProbeSucceeded():
                replica = self.replicas.get(event.replica_id)
                if replica is not None:
                    self._probed(replica, event)
            case ProbeFailed():
                replica = self.replicas.get(event.replica_id)
                if replica is not None and replica.health.probe_failed(event.now_s):
                    self._changed()
            case _:
                assert_never(event)

    def _add(self, event: ReplicaAdded) -> None:
        known = self.replicas.get(event.replica_id)
        if known is not None:
            if known.url == event.url:
                if known.health.signalled(Signal.READMIT, 0.0):
                    self._changed()
                return
            self._remove(event.replica_id)
        replica = Replica(event.replica_id, event.url, self._joined, self._parameters, self._health)
        self._joined += 1
        self.replicas[event.replica_id] = replica
        self._membership_changed()

    def _remove(self, replica_id: ReplicaId) -> None:
        replica = self.replicas.pop(replica_id, None)
        if replica is not None:
            replica.health.signalled(Signal.REMOVE, 0.0)
            self._drop_incarnation(replica)
            self._membership_changed()

    def _probed(self, replica: Replica, event: ProbeSucceeded) -> None:
        incarnation = event.incarnation
        restarted = incarnation is not None and incarnation != replica.incarnation
        if restarted and incarnation is not None:
            first_seen = replica.incarnation is None
            self._drop_incarnation(replica)
            replica.incarnation = incarnation
            self._by_incarnation[incarnation] = replica
            if not first_seen:
                # Another engine, with an empty cache: nothing was ever computed on it.
                replica.crowding = 0.0
            self._changed()
        if event.block_tokens is not None and event.block_tokens > 0:
            replica.block_tokens = replica.overlap_block_tokens = event.block_tokens
        if event.cache_tokens is not None and event.cache_tokens > 0:
            replica.cache_tokens = event.cache_tokens
        if event.models is not None:
            if isinstance(event.models, Mapping):
                replica.cards = event.models
            models = frozenset(event.models)
            if models != replica.models or not replica.models_known:
                replica.models = models
                replica.models_known = True
                self._membership_changed()
        if replica.health.probe_succeeded(restarted, event.now_s):
            self._changed()

    def _drop_incarnation(self, replica: Replica) -> None:
        incarnation = replica.incarnation
        replica.incarnation = None
        if incarnation is not None and self._by_incarnation.get(incarnation) is replica:
            del self._by_incarnation[incarnation]
            for other in self.replicas.values():
                if other.incarnation == incarnation:
                    self._by_incarnation[incarnation] = other

    # -- eligibility --------------------------------------------------------------------------------------------

    def _changed(self) -> None:
        """Something that views are made from has changed: health, a trial, an incarnation."""
        self._epoch += 1
        self._wake_s = min(
            (r.health.until_s for r in self.replicas.values() if r.health.state is ReplicaState.EJECTED),
            default=inf,
        )

    def _membership_changed(self) -> None:
        """The set of replicas, or of models, has changed."""
        self._models = frozenset().union(*(r.models for r in self.replicas.values()))
        self._views = {m: v for m, v in self._views.items() if not m or m in self._models}
        self._rings.clear()
        self._changed()

    def _wake(self, now_s: float) -> None:
        for replica in self.replicas.values():
            health = replica.health
            if health.state is ReplicaState.EJECTED and health.until_s <= now_s:
                health.signalled(Signal.BACKOFF_OVER, now_s)
        self._changed()

    def _serving(self, model: str) -> list[Replica]:
        """All replicas that serve the model, whatever their health."""
        replicas = self.replicas.values()
        if model == "":
            return list(replicas)
        return [
            r
            for r in replicas
            if model in r.models or (not r.models_known and r.state is not ReplicaState.STARTING)
        ]

    def _view(self, model: str) -> View:
        key = model if model == "" or model in self._models else None
        view = self._views.get(key)
        if view is not None and view.epoch == self._epoch:
            return view
        serving = self._serving(model)
        members = [r for r in serving if r.routable] or self._fail_open(serving, ())
        if not members:
            raise self._refusal(model, serving)
        turn = view.turn if view is not None else 0
        view = View(members, lambda: self._ring(serving), self._rng, turn, self._epoch)
        self._views[key] = view
        return view

    def _view_without(self, model: str, view: View, tried: Sequence[Replica]) -> View:
        rest = view.without(tried)
        if rest is None:
            serving = self._serving(model)
            members = self._fail_open(serving, tried)
            if not members:
                raise self._refusal(model, serving)
            rest = View(members, lambda: self._ring(serving), self._rng, view.turn, self._epoch)
        return rest

    @staticmethod
    def _fail_open(serving: Sequence[Replica], tried: Sequence[Replica]) -> list[Replica]:
        """The least recently ejected, where nobody is routable: an empty list if nobody is ejected either."""
        out = [
            r for r in serving if r.state in (ReplicaState.EJECTED, ReplicaState.PROBING) and r not in tried
        ]
        return [min(out, key=lambda r: (r.health.ejected_s, r.index))] if out else []

    def _refusal(self, model: str, serving: Sequence[Replica]) -> NotFoundError | OverloadError:
        learning = not any(r.models_known for r in self.replicas.values())
        if not serving and model != "" and self.replicas and not learning:
            return NotFoundError(
                f"No replica of this fleet serves the model {model[:200]!r}; GET /v1/models lists those it serves.",
                code="model_not_found",
                param="model",
            )
        return OverloadError(
            f"None of the fleet's {len(self.replicas)} replicas can take this request now; try again shortly."
        )

    def _ring(self, serving: Sequence[Replica]) -> Ring[Replica]:
        """The ring of these replicas, shared by all models that the same ones serve; health does not enter."""
        key = tuple(serving)
        ring = self._rings.get(key)
        if ring is None:
            ring = self._rings[key] = Ring({r.id: r for r in serving}, self._last_ring)
            self._last_ring = ring
        return ring

    # -- terms --------------------------------------------------------------------------------------------------

    def _overlaps(
        self, shape: RequestShape, records: Sequence[Record | None], view: View
    ) -> dict[Replica, int]:
        """Tokens that each eligible replica is believed to hold: the deepest rung whose record names it."""
        known = view.by_incarnation
        found: dict[Replica, int] = {}
        grid = self._grid
        depth = len(records)
        last: Record | None = None
        for record in reversed(records):
            depth -= 1
            if record is last or record is None:
                continue
            last = record
            for incarnation, _ in record:
                replica = known.get(incarnation)
                if replica is not None and replica not in found:
                    tokens = overlap_tokens(
                        grid[depth], shape.prompt_bytes, shape.prompt_tokens, replica.overlap_block_tokens
                    )
                    if tokens:
                        found[replica] = tokens
        return found

    def _crowd_scale(self, now_s: float) -> float:
        age_s = now_s - self._crowd_epoch_s
        if not -self._crowd_limit_s < age_s < self._crowd_limit_s:
            self._rebase_crowding(now_s)
            age_s = 0.0
        return exp(age_s * self._crowd_decay_per_s)

    def _rebase_crowding(self, now_s: float) -> None:
        """Count `Replica.crowding` from now on; a clock set far back forgets it."""
        age_s = now_s - self._crowd_epoch_s
        scale = exp(max(age_s * self._crowd_decay_per_s, -700.0)) if age_s > 0 else 0.0
        for replica in self.replicas.values():
            replica.crowding *= scale
        self._crowd_epoch_s = now_s

    # -- for people ---------------------------------------------------------------------------------------------

    def rank(self, shape: RequestShape, records: Sequence[Record | None] | None, now_s: float) -> Ranking:
        """Every eligible replica with its terms; the head is what `choose_and_reserve` would choose. Reserves nothing.

        The first `RANKED_BY_POLICY` come from the policy itself, asked as retries would ask; the rest by cost.
        Dice and turns are as before afterwards.

        Raises:
            NotFoundError, OverloadError: As `choose_and_reserve`.
        """
        if now_s >= self._wake_s:
            self._wake(now_s)
        whole = view = self._view(shape.model)
        whole.crowd_scale = scale = self._crowd_scale(now_s)
        dice = self._rng.getstate()
        try:
            chosen: dict[Replica, DecisionKind] = {}
            rest: View | None = whole
            while rest is not None and len(chosen) < RANKED_BY_POLICY:
                view = rest
                overlaps = self._overlaps(shape, records, view) if records else _NOTHING
                replica, kind = self._policy.choose(shape, overlaps, view)
                chosen[replica] = DecisionKind.RETRY if chosen else kind
                rest = whole.without(list(chosen))
        finally:
            self._rng.setstate(dice)
        overlaps = self._overlaps(shape, records, whole) if records else _NOTHING
        head = [self._candidate(r, kind, shape, overlaps, scale) for r, kind in chosen.items()]
        tail = [
            self._candidate(r, DecisionKind.RETRY, shape, overlaps, scale)
            for r in whole.members
            if r not in chosen
        ]
        tail.sort(key=lambda candidate: (candidate.terms.total_s, candidate.replica.index))
        return Ranking((*head, *tail))

    @staticmethod
    def _candidate(
        replica: Replica, kind: DecisionKind, shape: RequestShape, overlaps: Overlaps, scale: float
    ) -> Candidate:
        predicted_tokens = overlaps.get(replica, 0)
        uncached_tokens = shape.prompt_tokens - predicted_tokens
        return Candidate(
            replica, kind, predicted_tokens, uncached_tokens, replica.terms(uncached_tokens, scale)
        )

    def models(self) -> frozenset[str]:
        """All models that a known replica serves."""
        return self._models

    def model_cards(self) -> dict[str, object]:
        """What `/v1/models` of some replica says of each model; a minimal card where nothing is kept."""
        cards: dict[str, object] = {}
        for replica in self.replicas.values():
            for model in sorted(replica.models):
                card = replica.cards.get(model)
                if card is not None:
                    cards.setdefault(model, card)
        for model in self._models:
            cards.setdefault(model, {"id": model, "object": "model", "created": 0, "owned_by": "warmroute"})
        return dict(sorted(cards.items()))

    def routable(self) -> int:
        """How many replicas may be sent requests."""
        return sum(1 for r in self.replicas.values() if r.routable)

    def snapshot(self, now_s: float) -> list[dict[str, object]]:
        """One row a replica, for `/replicas`."""
        scale = self._crowd_scale(now_s)
        return [_row(replica, scale, now_s) for replica in self.replicas.values()]

    def validate(self) -> None:
        """Derive anew everything that is kept twice. Raises AssertionError where it differs."""
        for replica_id, replica in self.replicas.items():
            assert replica.id == replica_id, replica_id
            assert replica.state is not ReplicaState.GONE, replica_id
            replica.validate()
            replica.health.validate()
            if replica.incarnation is not None:
                owner = self._by_incarnation[replica.incarnation]
                assert owner.incarnation == replica.incarnation, replica_id
        for incarnation, replica in self._by_incarnation.items():
            assert replica.incarnation == incarnation, incarnation
            assert self.replicas.get(replica.id) is replica, replica.id
        assert self._models == {m for r in self.replicas.values() for m in r.models}
        assert len(self._views) <= len(self._models) + 2
        ejected = [r.health.until_s for r in self.replicas.values() if r.state is ReplicaState.EJECTED]
        assert self._wake_s == min(ejected, default=inf), (self._wake_s, ejected)
        for model, view in self._views.items():
            if view.epoch == self._epoch and model is not None:
                serving = self._serving(model)
                members = [r for r in serving if r.routable] or self._fail_open(serving, ())
                assert view.members == members, model
                assert view.eligible == frozenset(members), model


def _row(replica: Replica, scale: float, now_s: float) -> dict[str, object]:
    health = replica.health
    ejected = health.state is ReplicaState.EJECTED
    return {
        "id": replica.id,
        "url": replica.url,
        "state": health.state.value,
        "models": sorted(replica.models),
        "incarnation": None if replica.incarnation is None else f"{replica.incarnation:012x}",
        "in_flight": replica.in_flight,
        "waiting": replica.waiting,
        "waiting_tokens": replica.waiting_tokens,
        "block_tokens": replica.block_tokens,
        "cache_tokens": replica.cache_tokens,
        "prefill_tokens_per_s": replica.prefill_tokens_per_s,
        "base_latency_s": replica.base_latency_s,
        "delay_s": round(replica.delay_s, 6),
        "crowding_s": round(replica.crowding * scale, 6),
        "failures": health.failures,
        "probe_failures": health.probe_failures,
        "ejections": health.strikes,
        "last_failure": None if health.reason is None else health.reason.value,
        "retry_in_s": round(max(0.0, health.until_s - now_s), 3)
        if ejected and health.until_s < inf
        else None,
    }
