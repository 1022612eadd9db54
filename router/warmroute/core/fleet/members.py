"""Which replicas there are, in what health and in which life, by what discovery, probes and answers tell.

This module decides when a replica's health or membership changes, and renews beliefs by the clock. It knows nothing of
choosing: who gets a request and what is counted for it is `fleet`'s.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from math import inf
from typing import TYPE_CHECKING, Final, assert_never

from warmroute.core.beliefs.returns import Returns
from warmroute.core.beliefs.tiers import Tier, TieredResidency
from warmroute.core.choice.cost import CostParameters
from warmroute.core.fleet.decision import Decision
from warmroute.core.fleet.eligibility import Eligibility
from warmroute.core.fleet.events import (
    CacheEmptied,
    DrainStarted,
    Event,
    ProbeFailed,
    ProbeSucceeded,
    RanksFound,
    ReplicaAdded,
    ReplicaRemoved,
)
from warmroute.core.fleet.replica import Replica, Server
from warmroute.core.fleet.report import replica_row
from warmroute.core.health.health import (
    REQUESTS_TELL,
    FailureReason,
    Health,
    HealthParameters,
    ReplicaState,
    Signal,
)
from warmroute.core.learning.learner import Learner
from warmroute.core.ranks import MOST_RANKS, rank_id, rank_incarnation
from warmroute.core.types import Incarnation, ReplicaId

if TYPE_CHECKING:
    from random import Random

TICK_S: Final = 1.0
"""How often estimates are renewed: work off the request path, whose price is of the machine."""

MOST_FORMER: Final = 16
"""Earlier incarnations of a process that are remembered: requests under way may be of one of them."""


class Members:
    """The replicas of one fleet; requests are its subclass's, `Fleet`'s. Not thread-safe: one per event loop."""

    def __init__(
        self,
        rng: Random,
        parameters: CostParameters,
        health: HealthParameters,
        learner: Learner | None,
        tiers: Sequence[Tier] = (),
    ) -> None:
        self._tiers = tuple(tiers)
        self._replicas: dict[ReplicaId, Replica] = {}
        self._servers: dict[ReplicaId, Server] = {}
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

    @property
    def servers(self) -> Mapping[ReplicaId, Server]:
        """All known servers by id, in order of joining; each has one replica, or one for each of its ranks."""
        return self._servers

    def _eviction_ratio(self, replica: Replica, now_s: float) -> float:
        horizon_s = replica.residency.horizon_s
        return self.returns.ratio(now_s - horizon_s) if horizon_s > -inf else 0.0

    def report_success(self, decision: Decision, now_s: float) -> None:
        """A request was answered: its prompt was computed."""
        replica = decision.replica
        replica.errors.good()
        if replica.health.tainted and self._breaks_silence(decision, now_s):
            self._trial_passed(replica, now_s)

    @staticmethod
    def _breaks_silence(decision: Decision, now_s: float) -> bool:
        """Whether an answer says that its replica computes: where others were silent, one that began since does, for
        which an engine had to do something."""
        health = decision.replica.health
        if health.reason is not FailureReason.TIMEOUT:
            return True
        # A silence that is still to come was before the clock was set back.
        return decision.computes and not decision.started_s < health.silent_s <= now_s

    def _trial_passed(self, replica: Replica, now_s: float) -> None:
        if replica.health.tainted and replica.health.succeeded(now_s):
            self._health_changed(replica.health)

    def report_refusal(self, replica: Replica, now_s: float) -> None:
        """A request was answered with an error of the client's: the replica reads requests, which is all that there was
        to be shown unless it erred or was silent."""
        if replica.health.reason not in REQUESTS_TELL:
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
        for server in self._servers.values():
            fellow = server.replicas[0]
            if server is not replica.server and fellow.models == replica.models:
                answers += fellow.errors.answers
                errors += fellow.errors.errors
        return errors / answers if answers > 0.0 else 0.0

    def has_other(self, model: str, tried: Sequence[Replica]) -> bool:
        """Whether a replica that is not known to be unwell could be tried as well."""
        return self._eligibility.has_other(model, tried)

    def report_failure(self, replica: Replica, reason: FailureReason, now_s: float, detail: str = "") -> None:
        """A request failed for a reason that may lie with the replica; `detail` is for people."""
        if reason is not FailureReason.BUSY:
            replica.server.note_failure(reason, detail)
        if reason is FailureReason.TIMEOUT and replica.rank is not None:
            self._shun(replica, now_s)
            if any(replica.since_s < other.began_s <= now_s for other in replica.server.replicas):
                return  # the others answer: it is not the server's
        if replica.health.failed(reason, now_s):
            self._health_changed(replica.health)

    def _begun(self, replica: Replica, now_s: float) -> None:
        """An answer that an engine had to compute has begun here."""
        replica.began_s = now_s
        if replica.silences:
            replica.silences = 0
            replica.shunned_until_s = -inf
        overdue = self._eligibility.overdue
        if replica in overdue:
            self._eligibility.pass_over(overdue - {replica})

    def _shun(self, replica: Replica, now_s: float) -> None:
        """A rank was silent to a request: it is passed over alone, as often and as long as a server is ejected."""
        health = self._health
        replica.silences += 1
        more = replica.silences - health.failures_to_eject
        if more >= 0:
            backoff_s = min(health.backoff_s * 2.0 ** min(more, 30), health.max_backoff_s)
            replica.shunned_until_s = now_s + backoff_s

    def spare_rank(self, replica: Replica, now_s: float) -> Replica | None:
        """The idlest rank of the same server that has begun an answer since what waits on this one was sent."""
        ready = ReplicaState.READY
        spare = [
            other
            for other in replica.server.replicas
            if replica.since_s < other.began_s <= now_s and other is not replica and other.state is ready
        ]
        return min(spare, key=_in_flight_of) if spare else None

    def shunned(self, replica: Replica, now_s: float) -> bool:
        """Whether this rank was silent lately, whatever its server answers by the others."""
        # An end later than any can be was set before the clock was set back.
        return 0.0 < replica.shunned_until_s - now_s <= self._health.max_backoff_s

    def suspect(self, replica: Replica) -> None:
        """Nothing is heard of it where something should be: a probe that is not answered either ejects it."""
        replica.health.suspect = True

    def _end_trial(self, decision: Decision) -> None:
        """It counts as a trial no longer."""
        decision.trial = False
        replica = decision.replica
        replica.trials -= 1
        replica.health.trials -= 1
        self._health_changed(replica.health)

    def overdue_s(self, replica: Replica, now_s: float) -> tuple[float, float, float]:
        """For how long no first byte has come though a stream should be computed there, how long all that waits there
        should have taken from then on, and how much longer if caches hold nothing of that stream's prompt; 0 for the
        first where there is none, or nothing was learned yet."""
        learner = self._learner
        if learner is None or not learner.believes or not replica.awaits:
            return 0.0, 0.0, 0.0
        # Other routers' first bytes, and one that came before its turn, are signs of life as well.
        since_s = max(replica.since_s, replica.peer_since_s, replica.began_s)
        expected_s = replica.delay_s + replica.wait_s(since_s)
        return now_s - since_s, expected_s, replica.surprise_s(next(iter(replica.queue)))

    def pass_over(self, overdue: Collection[Replica]) -> None:
        """These replicas' first bytes are overdue: nobody is given to them while there are others, until this is called
        without them. Says nothing of their health."""
        if overdue or self._eligibility.overdue:
            self._eligibility.pass_over(frozenset(overdue))

    def shown_dead(self, decision: Decision) -> bool:
        """Whether the life of the replica that has this request is over for sure; an ejection alone says nothing."""
        replica = decision.replica
        if replica.health.dead:
            return True
        incarnation = decision.incarnation
        return replica.life_told and incarnation is not None and replica.over(incarnation)

    def apply(self, event: Event) -> None:
        """Take note of what discovery or a probe found. Events about unknown servers are ignored; none raises."""
        server = self._servers.get(event.replica_id)
        match event:
            case ReplicaAdded():
                self._add(server, event)
            case ReplicaRemoved():
                if server is not None:
                    self._remove(server)
            case RanksFound():
                if server is not None:
                    self._set_ranks(server, event.ranks)
            case CacheEmptied():
                if server is not None:
                    self._emptied(server, event.incarnation)
            case DrainStarted():
                if server is not None and server.health.signalled(Signal.DRAIN, self._ticked_s):
                    self._health_changed(server.health)
            case ProbeSucceeded():
                if server is not None:
                    self._probed(server, event)
            case ProbeFailed():
                if server is not None:
                    server.note_failure(event.reason, event.detail)
                    if server.health.probe_failed(event.now_s, event.reason):
                        self._health_changed(server.health)
            case _:
                assert_never(event)

    def _add(self, known: Server | None, event: ReplicaAdded) -> None:
        if known is not None:
            if known.url == event.url:
                if known.health.signalled(Signal.READMIT, self._ticked_s):
                    self._health_changed(known.health)
                return
            self._remove(known)
        server = self._servers[event.replica_id] = Server(event.replica_id, event.url, self._health)
        self._set_ranks(server, event.ranks)
        if event.models:
            for replica in server.replicas:
                replica.models = event.models
                replica.models_known = True
            self._eligibility.membership_changed()

    def _set_ranks(self, server: Server, ranks: int) -> None:
        """Make the server's replicas those of so many ranks; those that it has stay, but for the step from one."""
        ranks = min(max(ranks, 1), MOST_RANKS)
        before = server.replicas
        if len(before) == ranks:
            return
        kept = before[:ranks] if len(before) > 1 and ranks > 1 else []
        for replica in before[len(kept) :]:
            del self._replicas[replica.id]
            self._eligibility.left(replica)
            self._let_go(replica)
        server.replicas = kept
        for rank in range(len(kept), ranks):
            replica = Replica(
                rank_id(server.id, rank, ranks),
                server,
                rank if ranks > 1 else None,
                self._joined,
                self._parameters,
            )
            if self._tiers:
                replica.residency = TieredResidency(self._tiers)
                replica.residency.price(replica.wait_token_s)
            if before:
                replica.models, replica.models_known = before[0].models, before[0].models_known
                replica.cards = before[0].cards
            self._joined += 1
            self._replicas[replica.id] = replica
            server.replicas.append(replica)
            self._eligibility.joined(replica)

    def _let_go(self, replica: Replica) -> None:
        """A rank that its server no longer has: it is gone alone."""
        shared = replica.health
        shared.trials -= replica.trials
        replica.health = Health(self._health)
        replica.health.trials = replica.trials
        replica.health.signalled(Signal.REMOVE, self._ticked_s)

    def _remove(self, server: Server) -> None:
        del self._servers[server.id]
        for replica in server.replicas:
            del self._replicas[replica.id]
            self._eligibility.left(replica)
        server.health.signalled(Signal.REMOVE, self._ticked_s)
        self._health_changed(server.health)

    def _probed(self, server: Server, event: ProbeSucceeded) -> None:
        if not self._ticked_s <= event.now_s < self._due_s:
            self._tick(event.now_s)  # a backoff ends without traffic too: an unready router may get none
        incarnation: Incarnation | None = event.incarnation
        restarted = incarnation is not None and incarnation != server.replicas[0].incarnation
        known = server.replicas[0].incarnation is not None
        if restarted and known and event.process is not None and event.process == server.process:
            assert incarnation is not None
            restarted = False
            self._emptied(server, incarnation)
        elif restarted:
            # Another engine, with an empty cache, or the first that says who it is.
            server.last_failure = None
            if known:
                server.restarts += 1
                server.errors.clear()
        if incarnation is not None:
            server.process = event.process
            for replica in server.replicas:
                self._begin_life(replica, incarnation, event.life_told)
        if event.models is not None:
            self._take_models(server, event.models)
        for rank, replica in enumerate(server.replicas):
            if event.block_tokens is not None and event.block_tokens > 0:
                replica.block_tokens = replica.overlap_block_tokens = event.block_tokens
            told = event.rank_cache_tokens if replica.rank is not None else ()
            cache_tokens = told[rank] if rank < len(told) else event.cache_tokens
            if cache_tokens is not None and cache_tokens > 0:
                replica.cache_tokens = cache_tokens
                replica.residency.resize(cache_tokens)
        if server.health.probe_succeeded(restarted, event.now_s) or restarted:
            self._health_changed(server.health)

    def _begin_life(self, replica: Replica, server_incarnation: Incarnation, told: bool) -> None:
        """Another process, or a new rank of this one, unless it is the one that is known."""
        incarnation = rank_incarnation(server_incarnation, replica.rank or 0)
        if incarnation == replica.incarnation:
            return
        replica.residency.clear()
        if replica.incarnation is not None:
            # Nothing was ever computed on it.
            replica.survival.clear()
            replica.trust.clear()
            replica.chunk_trust.clear()
            replica.eviction_ratio = replica.recent_load_tokens = 0.0
            replica.refresh()
            replica.speed.restarted()
            replica.silences = 0
            replica.shunned_until_s = -inf
        replica.incarnation = incarnation
        replica.former = ()
        replica.life_told = told
        self._eligibility.health_changed()

    def _emptied(self, server: Server, server_incarnation: Incarnation) -> None:
        """Its caches are empty, and all else is as it was: what was learned of it stays."""
        for replica in server.replicas:
            incarnation = rank_incarnation(server_incarnation, replica.rank or 0)
            if replica.incarnation is None or incarnation == replica.incarnation:
                continue
            replica.former = (*replica.former[1 - MOST_FORMER :], replica.incarnation)
            replica.incarnation = incarnation
            replica.residency.clear()
            replica.eviction_ratio = replica.recent_load_tokens = 0.0
            replica.refresh()
        self._eligibility.health_changed()

    def _take_models(self, server: Server, told: Collection[str]) -> None:
        models = frozenset(told)
        changed = False
        for replica in server.replicas:
            if isinstance(told, Mapping):
                replica.cards = told
            if models != replica.models or not replica.models_known:
                replica.models = models
                replica.models_known = changed = True
        if changed:
            self._eligibility.membership_changed()

    def _health_changed(self, health: Health) -> None:
        self._eligibility.health_changed()
        until_s = health.until_s
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
        for server in self._servers.values():
            server.health.parameters = parameters

    def ever_reachable(self) -> bool:
        """Whether any of the replicas was ever seen working."""
        return any(r.state is not ReplicaState.STARTING for r in self._replicas.values())

    def snapshot(self, now_s: float) -> list[dict[str, object]]:
        """One row a replica, for `/replicas`."""
        return [replica_row(replica, now_s) for replica in self._replicas.values()]

    def model_rows(self) -> list[dict[str, object]]:
        """One row a model of which answers told something, for `/replicas`."""
        return [] if self._learner is None else self._learner.rows()


def _in_flight_of(replica: Replica) -> int:
    return replica.in_flight
