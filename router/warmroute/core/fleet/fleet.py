"""The fleet knows all replicas and what is under way on them, and is the one place where a replica is given a request.

This module decides what is counted for a request and when. `members` decides who is a member and in what health,
`eligibility` says which replicas may be chosen, and the policy chooses among them. The rule it keeps: choosing and
counting is one synchronous step, and `settle` gives every reservation back exactly once. Nobody else changes a replica,
a decision or the fleet itself: the methods below are the only way (`tests/meta/test_one_mutator.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import TYPE_CHECKING, Final

from warmroute.core.beliefs.belief import Belief
from warmroute.core.beliefs.seen import MAX_RUNGS, Seen
from warmroute.core.beliefs.tiers import Tier
from warmroute.core.choice.cost import CostParameters
from warmroute.core.choice.ranking import Policy
from warmroute.core.choice.view import Prices, View
from warmroute.core.errors import NotFoundError, OverloadError
from warmroute.core.fleet.decision import RESERVED, SETTLED, STARTED, Decision
from warmroute.core.fleet.displacing import worth_s
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
from warmroute.core.fleet.held import Held
from warmroute.core.fleet.hold_terms import HoldTerms
from warmroute.core.fleet.members import Members
from warmroute.core.fleet.peer_load import PeerLoad
from warmroute.core.fleet.plan import Plan
from warmroute.core.fleet.replica import Replica, Server
from warmroute.core.fleet.report import Ranking, ranked, validate, validate_servers
from warmroute.core.health.health import REQUESTS_TELL, HealthParameters, ReplicaState, Signal
from warmroute.core.health.silence import LEAST_EXPECTED_S, UNKNOWN
from warmroute.core.learning.answers import MEMORY
from warmroute.core.learning.feedback import Feedback
from warmroute.core.learning.learner import Learner
from warmroute.core.prompt.fingerprint import GRID
from warmroute.core.ranks import server_id_of
from warmroute.core.types import DecisionKind, Records, ReplicaId, RequestShape

if TYPE_CHECKING:
    from random import Random

__all__ = [
    "CacheEmptied",
    "Decision",
    "DrainStarted",
    "Event",
    "Fleet",
    "ProbeFailed",
    "ProbeSucceeded",
    "RanksFound",
    "Replica",
    "ReplicaAdded",
    "ReplicaRemoved",
    "ReplicaState",
    "Server",
]

MOVED_TOKENS: Final = 256
"""Other routers should hear at once of more prompt tokens than this: they are some 30 ms of prefill, which is how long
it takes to hear of the rest."""

MOST_UNIT: Final = 1e6
"""At which the unit of crowding begins anew."""

_NO_DEPTHS: Final[list[int]] = []
_NO_TIMES: Final[list[float]] = []


class Fleet(Members):
    """The one mutable aggregate of the core. Not thread-safe: one per event loop."""

    def __init__(
        self,
        policy: Policy,
        rng: Random,
        parameters: CostParameters,
        health: HealthParameters,
        grid: tuple[int, ...] = GRID,
        learner: Learner | None = None,
        tiers: Sequence[Tier] = (),
        seen_rungs: int = MAX_RUNGS,
    ) -> None:
        """Args:
        grid: Depth in bytes of each rung of `RequestShape.rungs`.
        seen_rungs: How many are remembered to tell what could have been reused at best, in each of two generations.
        learner: Makes the replicas' rates follow their answers; without one they stay as `parameters` has them.
        tiers: What each replica has below its GPU's cache, the fastest first.
        """
        super().__init__(rng, parameters, health, learner, tiers)
        self._policy = policy
        self.needs_records = policy.needs_records
        """False if nobody need look up, or note, who has which prefix: `choose_and_reserve` then takes None."""
        self._rng = rng
        self._grid = grid
        self._seen = Seen(max_rungs=seen_rungs)
        self._feedback = Feedback()
        self.work_tokens = 0.0
        """Work of the mean of the last few hundred prompts where they were sent, in uncached tokens without context."""
        self._work_count = 0
        self._recent_load_unit = 1.0
        """What a token given now counts: instead of making what was given before less, what is given later is made
        more, so that a request costs nothing for each replica."""
        self.moved: Callable[[], None] | None = None
        """The fleet calls this when the prefill work on a replica has changed by more than `MOVED_TOKENS` at once. It
        must not call back in here. None: nobody wants to know."""
        self.held = Held()
        """Requests held at the router; `hold_begun` and `hold_ended` count them."""
        self.plan = Plan()
        """For which replicas the requests are meant that stay held; empty but while they are looked through."""
        self.first_held_s = inf
        """The key, in the queue's order, of the first request that is held here; infinite where none is."""
        self.apart = False
        """Whether routers cannot tell each other what they place; `stand_apart` says it."""
        self.peer_held = 0
        """Requests held at other routers; 0 while nobody tells, and where there are several models."""
        self.rivals: list[float] = []
        """The key of the first request that each of them holds, in order."""
        self.routers = 1
        """How many serve these replicas, as far as is known."""

    # -- requests -----------------------------------------------------------------------------------------------

    def choose_and_reserve(
        self,
        shape: RequestShape,
        records: Records | None,
        now_s: float,
        tried: Sequence[Replica] = (),
    ) -> Decision:
        """Give a request to a replica, and count it there until `settle`.

        Args:
            records: What the registry knows of each of `shape.keys`; None if it was not asked.
            tried: Replicas that failed this request already, not to be chosen again.
        Raises:
            NotFoundError: No known replica serves the model (`model_not_found`).
            OverloadError: None that does may be sent a request (`no_replica`).
        """
        view, belief, prices = self._look(shape, records, now_s, tried)
        replica, kind = self._policy.choose(belief, view, prices)
        view.turn += 1
        return self._reserve(replica, DecisionKind.RETRY if tried else kind, belief)

    def _look(
        self, shape: RequestShape, records: Records | None, now_s: float, tried: Sequence[Replica] = ()
    ) -> tuple[View, Belief, Prices]:
        """What a policy may choose by now."""
        if not self._ticked_s <= now_s < self._due_s:
            self._tick(now_s)
        eligibility, model = self._eligibility, shape.model
        view = eligibility.view_without(model, tried) if tried else eligibility.view(model)
        belief = Belief(shape, records, view.by_incarnation, self._grid, now_s)
        # A retry costs the fleet what a first try does, however many were tried.
        replicas = len(eligibility.view(model).members) if tried else len(view.members)
        prices = Prices(
            self.held.price(model, self.peer_held, replicas), 1.0 / self._recent_load_unit, self.apart
        )
        if prices.queued > 0.0 and belief.overlap:
            self.held.spare(prices, belief, view)
        return view, belief, prices

    def believe(self, shape: RequestShape, records: Records | None) -> Belief:
        """What is believed of a prompt, as of the last tick.

        Raises:
            NotFoundError, OverloadError: As `choose_and_reserve`.
        """
        known = self._eligibility.view(shape.model).by_incarnation
        return Belief(shape, records, known, self._grid, self._ticked_s)

    def view(self, model: str) -> View:
        """The replicas that may be chosen for a model.

        Raises:
            NotFoundError, OverloadError: As `choose_and_reserve`.
        """
        return self._eligibility.view(model)

    def reserve_if_free(
        self,
        shape: RequestShape,
        records: Records | None,
        terms: HoldTerms,
        elsewhere: bool = False,
    ) -> Decision | Belief:
        """`choose_and_reserve` if the choice is free (`Replica.free_in_s`); else say what is believed, and plan for it:
        the prompt counts at the choice, so that the next request looked at sees it; the caller calls `end_plan` before
        anything else happens. A request that waits for what it would displace (`displacing`) is not planned for.

        Args:
            elsewhere: Where the choice has no room for another request, choose among those that have: no price tells
                how long a place is waited for.
        Raises:
            NotFoundError, OverloadError: As `choose_and_reserve`.
        """
        view, belief, prices = self._look(shape, records, terms.now_s)
        replica, kind = self._policy.choose(belief, view, prices)
        if elsewhere and replica.full(terms):
            others = view.without([member for member in view.members if member.full(terms)])
            if others is not None:
                belief = Belief(shape, records, others.by_incarnation, self._grid, terms.now_s)
                replica, kind = self._policy.choose(belief, others, prices)
        tokens = belief.overlap.get(replica, 0)
        if terms.waited_s < inf and replica.eviction_ratio > 0.0:
            if terms.waited_s < worth_s(replica, shape.prompt_tokens, tokens, prices.queued, terms.now_s):
                self.plan.meant = None
                return belief
        if replica.free_in_s(terms) <= 0.0 or (
            replica.shared_tokens > 0.0
            and replica.lets_pass(
                terms,
                replica.prefill_s(shape.prompt_tokens, tokens),
                belief.last_used_s(replica) if tokens else -inf,
                shape.rungs[0] if shape.rungs else 0,
            )
        ):
            view.turn += 1
            return self._reserve(replica, kind, belief)
        replica.planned_s += self.plan.put(replica, belief, tokens)
        return belief

    def end_plan(self) -> None:
        """Forget what `reserve_if_free` planned."""
        for replica in self.plan.replicas:
            replica.planned_s = 0.0
        self.plan.clear()

    def any_free(self, model: str, terms: HoldTerms, spare_ratio: float = 0.0) -> bool:
        """Whether any eligible replica begins soon (`Replica.begins_soon`), besides such a share of them: of all but
        one, so that a fleet that has become small still serves who leaves others a share.

        Raises:
            NotFoundError, OverloadError: As `choose_and_reserve`.
        """
        members = self._eligibility.view(model).members
        left = spare_ratio * len(members) if spare_ratio else 0.0
        if left > len(members) - 1:
            left = float(len(members) - 1)
        for replica in members:
            if replica.begins_soon(terms):
                if left <= 0.0:
                    return True
                left -= 1.0
        return False

    def next_free_s(self, terms: HoldTerms) -> float:
        """Time until the next of the busy replicas should come free; infinite where all are free."""
        soonest_s = inf
        for replica in self._replicas.values():
            free_in_s = replica.free_in_s(terms)
            if 0.0 < free_in_s < soonest_s:
                soonest_s = free_in_s
        return soonest_s

    def mean_prefill_s(self, model: str) -> float:
        """Expected prefill time of the mean of the last few hundred requests, as much of them as was uncached.

        Raises:
            NotFoundError, OverloadError: As `choose_and_reserve`.
        """
        return self.work_tokens * self._eligibility.view(model).members[0].wait_token_s

    def as_tokens(self, model: str, prefill_s: float) -> float:
        """So much prefill in tokens without context.

        Raises:
            NotFoundError, OverloadError: As `choose_and_reserve`.
        """
        return prefill_s / self._eligibility.view(model).members[0].wait_token_s

    def prefill_s(self, belief: Belief, shared_tokens: int = 0) -> float:
        """Expected prefill time on the replica that holds most of the prompt: how short a request is.

        Args:
            shared_tokens: So many leading tokens will be there by then, since somebody goes before who computes them.

        Raises:
            NotFoundError, OverloadError: As `choose_and_reserve`.
        """
        overlap = belief.overlap
        tokens = belief.shape.prompt_tokens
        first = self._eligibility.view(belief.shape.model).members[0]
        least_s = first.prefill_s(tokens, max(shared_tokens, overlap.get(first, 0)))
        for replica, overlap_tokens in overlap.items():
            least_s = min(least_s, replica.prefill_s(tokens, max(shared_tokens, overlap_tokens)))
        return least_s

    def reserve_on(
        self, replica_id: ReplicaId, shape: RequestShape, now_s: float, records: Records | None = None
    ) -> Decision:
        """Give a request to the replica that keeps what it refers to, whatever its load, and count it there.

        Without `records` nothing is predicted of its cache: all of `shape.prompt_tokens` count as uncached.

        Raises:
            NotFoundError: The replica has left the fleet (`not_found`).
            OverloadError: It has never been seen working (`no_replica`).
        """
        replica = self._replicas.get(replica_id)
        if replica is None:
            # Ranks come and go, the server keeps the object.
            server = self._servers.get(server_id_of(replica_id))
            replica = server.replicas[0] if server is not None else None
        if replica is None:
            raise NotFoundError(
                "The replica that kept this object has left the fleet; create the object anew."
            )
        if replica.state is ReplicaState.STARTING:
            raise OverloadError("The replica that keeps this object is starting; try again shortly.")
        life = replica.incarnation
        holders = {life: replica} if records and life is not None else {}
        return self._reserve(replica, DecisionKind.PINNED, Belief(shape, records, holders, self._grid, now_s))

    def _reserve(self, replica: Replica, kind: DecisionKind, belief: Belief) -> Decision:
        shape, now_s = belief.shape, belief.now_s
        prompt_tokens = shape.prompt_tokens
        predicted_tokens = belief.overlap.get(replica, 0)
        residency = replica.residency
        uses = belief.uses(replica) if belief.deepest >= 0 and shape.reads_cache else None
        counted = residency.begin(
            prompt_tokens,
            _NO_DEPTHS if uses is None else uses.depths_tokens,
            _NO_TIMES if uses is None else uses.times_s,
            now_s,
        )
        if prompt_tokens > 0:
            self._note_work(replica.work_tokens(prompt_tokens, predicted_tokens))
            self._add_recent_load(replica, prompt_tokens - predicted_tokens, 1.0)
            self.returns.used(prompt_tokens)
            belief.note_ages(self.returns)
        replica.eviction_ratio = self._eviction_ratio(replica, now_s)
        uncached_tokens = prompt_tokens - predicted_tokens
        replica.in_flight += 1
        replica.waiting += 1
        replica.waiting_tokens += uncached_tokens
        replica.given_tokens += uncached_tokens
        replica.refresh()
        trial = replica.health.state is not ReplicaState.READY
        if trial:
            replica.trials += 1
            replica.health.trials += 1
            replica.health.signalled(Signal.TRIAL, self._ticked_s)
            self._health_changed(replica.health)
        decision = Decision(
            replica, kind, predicted_tokens, uncached_tokens, trial, shape.streams, shape.needs_engine
        )
        decision.reserved_s = now_s
        if replica.shared_tokens > 0.0 and shape.rungs:
            decision.first_rung = shape.rungs[0]
        decision.counted = counted
        if shape.rungs:
            known_tokens = belief.known_tokens()
            if known_tokens > decision.known_tokens:
                decision.known_tokens = known_tokens
            if not shape.reads_cache:
                self._seen.depth(shape.rungs, now_s)
            elif shape.reusable_tokens < 0:
                shape.reusable_tokens = self._reusable_tokens(belief)
        if shape.chunks is not None and shape.reads_cache:
            decision.chunk_uses = belief.chunk_uses(replica)
        if uses is not None:
            self._feedback.expect(decision, belief, uses)
        if uncached_tokens > MOVED_TOKENS and self.moved is not None:
            self.moved()
        if uncached_tokens > 0:
            replica.enqueue(decision, replica.prefill_s(prompt_tokens, predicted_tokens), now_s)
        return decision

    def _add_recent_load(self, replica: Replica, tokens: int, requests: float) -> None:
        """So many requests brought so many uncached tokens to a replica: they add to its recent load, and all that was
        given before fades by them."""
        replica.recent_load_tokens += tokens * self._recent_load_unit
        # A replica that has left may be told of when none is left.
        replicas = len(self._replicas) or 1
        self._recent_load_unit *= 1.0 + requests / (self._parameters.crowd_requests * replicas)
        if self._recent_load_unit > MOST_UNIT:
            for other in self._replicas.values():
                other.recent_load_tokens /= self._recent_load_unit
                other.refresh()
            self._recent_load_unit = 1.0

    def _note_work(self, work_tokens: float) -> None:
        self._work_count += 1
        weight = 1.0 / (self._work_count if self._work_count < MEMORY else MEMORY)
        self.work_tokens += (work_tokens - self.work_tokens) * weight

    def _reusable_tokens(self, belief: Belief) -> int:
        """How many leading tokens of the prompt were sent before, wherever they went."""
        depth = self._seen.depth(belief.shape.rungs, belief.now_s)
        if belief.deepest > depth:
            depth = belief.deepest
        return belief.tokens_at(depth) if depth >= 0 else 0

    def started(self, decision: Decision, now_s: float, computed: bool = True, heard: bool = True) -> None:
        """The first byte of the answer is there. Only the first call, and only before `settle`, changes anything.

        Args:
            computed: False if it came without a prefill (an error).
            heard: False if it came before the prefill's end, for all that is known.
        """
        if decision.phase != RESERVED:
            return
        decision.phase = STARTED
        decision.started_s = now_s
        if not computed:
            decision.tells = decision.computed = False
        if not heard:
            decision.tells = False
        replica = decision.replica
        replica.waiting -= 1
        replica.waiting_tokens -= decision.uncached_tokens
        replica.dequeue(decision, now_s, heard=computed and heard)
        self._believe_first(replica)
        if decision.uncached_tokens > MOVED_TOKENS and self.moved is not None:
            self.moved()
        replica.refresh()
        if computed and decision.computes:
            self._begun(replica, now_s)
        if decision.trial:
            if (
                self._breaks_silence(decision, now_s)
                if computed
                else replica.health.reason not in REQUESTS_TELL
            ):
                self._trial_passed(replica, now_s)
            else:
                self._end_trial(decision)  # which has shown nothing, and may take long (a WebSocket)

    def learn(
        self,
        decision: Decision,
        shape: RequestShape,
        prompt_tokens: int,
        cached_tokens: int | None,
        output_tokens: int | None,
        said_tokens: int,
    ) -> None:
        """An answer is over: what its times and its usage tell of the replica, of its speed, and of its model.

        Args:
            prompt_tokens, output_tokens: As reported; 0 and None where not.
            said_tokens: Its length in tokens, whoever counted them.
        """
        replica, learner = decision.replica, self._learner
        replica.note_ended(decision.lasted_s if decision.tells else -1.0, said_tokens)
        replica.residency.room.answered(decision.took_s, said_tokens)
        if learner is not None:
            if self._tiers and decision.doubtful and decision.believed_tokens > decision.predicted_tokens:
                decision.reported()  # a part of it was loaded: the time says nothing of the speed
            learner.answered(
                decision, shape, self._eligibility.models, prompt_tokens, cached_tokens, output_tokens
            )
            self._believe_first(replica)

    def _believe_first(self, replica: Replica) -> None:
        """The fleet's first measurements do not wait for the tick: at a hundred times the speed it would be late."""
        learner = self._learner
        if learner is not None and not learner.believes and replica.speed.fresh:
            learner.believe(self._replicas.values())

    def confirm(
        self, decision: Decision, cached_tokens: int | None, output_tokens: int | None, now_s: float
    ) -> None:
        """What the answer's usage says (`Feedback.confirm`)."""
        self._feedback.confirm(decision, cached_tokens, output_tokens, now_s)

    def settle(self, decision: Decision, now_s: float) -> None:
        """The request is over for this replica, however it ended: give the reservation back. Once; then a no-op."""
        phase = decision.phase
        if phase == SETTLED:
            return
        decision.phase = SETTLED
        replica = decision.replica
        replica.in_flight -= 1
        computed = decision.computed and (phase != RESERVED or decision.begun)
        if decision.incarnation == replica.incarnation:
            replica.residency.end(decision.counted, decision.reserved_s, now_s, computed)
        if phase == RESERVED:
            replica.waiting -= 1
            replica.waiting_tokens -= decision.uncached_tokens
            replica.dequeue(decision, now_s)
            if decision.uncached_tokens > MOVED_TOKENS and self.moved is not None:
                self.moved()
        else:
            decision.lasted_s = now_s - decision.started_s
        replica.refresh()
        if decision.trial:
            self._end_trial(decision)

    def left(self, decision: Decision, now_s: float) -> None:
        """The client is gone, and nothing says that the replica is to blame; then `settle`."""
        if decision.phase == RESERVED:
            decision.begun = decision.replica.give_up(decision, now_s)

    def expected_s(self, decision: Decision, sent_s: float) -> float:
        """Predicted time from then to the first byte of a request that waits, all that waits there counted as ahead of
        it; `UNKNOWN` where nothing was learned yet, and for answers whose first byte does not tell."""
        learner = self._learner
        if learner is None or not learner.believes or not decision.streams:
            return UNKNOWN
        replica = decision.replica
        return max(replica.delay_s + replica.wait_s(sent_s), LEAST_EXPECTED_S)

    def note_peer_load(self, replica: Replica, peer_load: PeerLoad, now_s: float) -> None:
        """Take over what other routers have on a replica, and what they gave it since last noted."""
        replica.peer_in_flight = peer_load.in_flight
        replica.note_peers(peer_load, now_s)
        given_tokens = peer_load.given_tokens
        if given_tokens:
            # They do not say how many requests these were.
            mean_tokens = self.work_tokens if self.work_tokens > 1.0 else 1.0
            self._add_recent_load(replica, given_tokens, given_tokens / mean_tokens)
        if given_tokens and replica.sample is not None:
            replica.sample.peer_sent(now_s)
        for router, use, heard_age_s in peer_load.uses:
            replica.residency.follow(router, use, now_s - heard_age_s)
        replica.refresh()

    # -- requests that wait at routers ----------------------------------------------------------------------------

    def hold_begun(self, shape: RequestShape) -> None:
        """One more request is held at this router."""
        self.held.begin(shape)

    def hold_ended(self, shape: RequestShape) -> None:
        """One request is held no longer: it was let go, or its client left."""
        self.held.end(shape)

    def hold_for(self, replica: Replica, tokens: int) -> None:
        """So much more work (less, below 0) is held at this router and meant for this replica."""
        replica.held_tokens += tokens

    def note_first_held(self, key_s: float, urgent: bool = False) -> None:
        """The first request held here has this key (infinite: none is); `urgent`: others should hear at once."""
        self.first_held_s = key_s
        if urgent and self.moved is not None:
            self.moved()

    def stand_apart(self, apart: bool) -> None:
        """Take over what `apart` is from now on (`Registry.apart`)."""
        self.apart = apart

    def note_routers(
        self, routers: int, moved: Callable[[], None] | None, held: int = 0, rivals: Sequence[float] = ()
    ) -> None:
        """Take over what is known of the other routers but their load, which `note_peer_load` takes.

        Args:
            routers: How many serve these replicas, this one included.
            moved: What `moved` is from now on.
            held: Requests that the others hold. They do not say of which model, so that where there are several
                models none of them counts in a price.
            rivals: The key of the first request that each of them holds, in any order.
        """
        self.routers = routers
        self.moved = moved
        self.peer_held = held if len(self._eligibility.models) <= 1 else 0
        self.rivals = sorted(rivals)
        for replica in self._replicas.values():
            if (replica.residency.told is None) == (routers > 1):
                replica.residency.told = [] if routers > 1 else None

    # -- for people ---------------------------------------------------------------------------------------------

    def rank(self, shape: RequestShape, records: Records | None, now_s: float) -> Ranking:
        """Every eligible replica with its terms; the head is what `choose_and_reserve` would choose. Reserves nothing.

        The first `RANKED_BY_POLICY` come from the policy itself, asked as retries would ask; the rest by cost.
        Terms are those of the first choice, so that they say why the head won. Dice and turns are as before afterwards.

        Raises:
            NotFoundError, OverloadError: As `choose_and_reserve`.
        """
        view, belief, prices = self._look(shape, records, now_s)
        return ranked(self._policy, belief, view, prices, self._rng)

    def validate(self) -> None:
        """Derive anew everything that is kept twice. Raises AssertionError where it differs."""
        for replica_id, replica in self._replicas.items():
            assert replica.id == replica_id, replica_id
            assert replica.state is not ReplicaState.GONE, replica_id
            replica.validate()
            validate(replica)
            assert self._servers[replica.server.id] is replica.server, replica_id
            assert replica in replica.server.replicas, replica_id
            assert all(self._replicas[r.id] is r for r in replica.server.replicas), replica_id
        validate_servers(self._servers)
        self._eligibility.validate()
        assert self._due_s <= self._first_backoff_end_s(), self._due_s
