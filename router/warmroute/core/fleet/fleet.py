"""The fleet: all replicas, what is under way on them, and the one place where a request is given to one of them.

Decides when a replica's health or membership changes, and counts; who is eligible is `eligibility`'s, whom to choose
among the eligible the policy's. The rule it keeps: choosing and counting is one synchronous step, and every reservation
is given back exactly once, by `settle`. Replicas change only through the methods below.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import TYPE_CHECKING, Final, assert_never

from warmroute.core.beliefs.overlap import Uses, gap_tokens, last_used_s, note_ages, overlaps, tokens_at, uses
from warmroute.core.beliefs.returns import Returns
from warmroute.core.beliefs.seen import Seen
from warmroute.core.choice.cost import CostParameters
from warmroute.core.choice.ranking import Overlaps, Policy, Ranking, View, candidate
from warmroute.core.errors import NotFoundError, OverloadError
from warmroute.core.fleet.eligibility import Eligibility
from warmroute.core.fleet.events import (
    DrainStarted,
    Event,
    ProbeFailed,
    ProbeSucceeded,
    ReplicaAdded,
    ReplicaRemoved,
)
from warmroute.core.fleet.foreign_load import Foreign
from warmroute.core.fleet.replica import RESERVED, SETTLED, STARTED, Decision, Replica
from warmroute.core.health.health import FailureReason, HealthParameters, ReplicaState, Signal
from warmroute.core.learning.answers import MEMORY
from warmroute.core.learning.learner import Learner
from warmroute.core.prompt.fingerprint import GRID
from warmroute.core.types import DecisionKind, Incarnation, Records, ReplicaId, RequestShape

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

RANKED_BY_POLICY: Final = 8
"""How much of a ranking is asked of the policy, call by call, as retries would; the rest is put in order of cost."""

MOVED_TOKENS: Final = 256
"""Prompt tokens that others should hear of at once: some 30 ms of prefill, as long as it takes to hear of the rest."""

KEPT_RATIO: Final = 0.75
"""If so much of what was believed to be cached was, all was: prompts are weighed by bytes, and engines count blocks."""

BEYOND_WEIGHT: Final = 1 / 64
"""Of a new answer in the mean of what is found beyond the deepest common rung, once there were as many."""

TICK_S: Final = 1.0
"""How often estimates are renewed: work off the request path, whose price is of the machine."""

MOST_UNIT: Final = 1e6
"""At which the unit of crowding begins anew."""

_NOTHING: Final[dict[Replica, int]] = {}


class Fleet:
    """The one mutable aggregate of the core. Not thread-safe: one per event loop."""

    def __init__(
        self,
        policy: Policy,
        rng: Random,
        parameters: CostParameters,
        health: HealthParameters,
        grid: tuple[int, ...] = GRID,
        learner: Learner | None = None,
    ) -> None:
        """Args:
        grid: Depth in bytes of each rung of `RequestShape.rungs`.
        learner: Makes the replicas' rates follow their answers; without one they stay as `parameters` has them.
        """
        self._replicas: dict[ReplicaId, Replica] = {}
        self._policy = policy
        self._rng = rng
        self._parameters = parameters
        self._health = health
        self._grid = grid
        self._learner = learner
        self._joined = 0
        self._seen = Seen()
        self.returns = Returns()
        """What comes back, and after how long."""
        self.work_tokens = 0.0
        """Mean work of a prompt where it was sent, over the last few hundred, in uncached tokens without context."""
        self._work_count = 0
        self._crowd_unit = 1.0
        """What a token given now counts: instead of making what was given before less, what is given later is made
        more, so that a request costs nothing for each replica."""
        self._eligibility = Eligibility(self._replicas, rng)
        self._beyond = 0.0
        """How much of the way to the next rung is found too, where all is that is believed to be there. No choice goes
        by it: agent loops whose contexts just fit all caches took up to half as long again with it."""
        self._beyond_count = 0
        self._ticked_s = -inf
        """When the last tick was."""
        self.moved: Callable[[], None] | None = None
        """Called when the prefill work on a replica has changed by more than `MOVED_TOKENS` at once; must not call back
        in here. None: nobody wants to know."""
        self.held: Mapping[str, int] = {}
        """Requests held at the router, by model; whoever holds them puts the count here."""
        self.first_held_s = inf
        """The order's key of the first of them; infinite where none is."""
        self.foreign_held = 0
        """Requests held at other routers; 0 while nobody tells, and where there are several models."""
        self.rivals: list[float] = []
        """The key of the first request that each of them holds, in order."""
        self.routers = 1
        """How many serve these replicas, as far as is known."""
        self._due_s = -inf
        """When there is something to do by the clock: the next tick, or the first backoff that ends before it."""

    @property
    def replicas(self) -> Mapping[ReplicaId, Replica]:
        """All known replicas by id, in order of joining."""
        return self._replicas

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
            records: What the registry knows of each of `shape.rungs`; None if it was not asked.
            tried: Replicas that failed this request already, not to be chosen again.
        Raises:
            NotFoundError: No known replica serves the model (`model_not_found`).
            OverloadError: None that does may be sent a request (`no_replica`).
        """
        view = self._view(shape.model, now_s, tried)
        held = overlaps(shape, records, view.by_incarnation, self._grid, now_s) if records else _NOTHING
        replica, kind = self._policy.choose(shape, held, view)
        view.turn += 1
        return self._reserve(
            replica, DecisionKind.RETRY if tried else kind, held.get(replica, 0), shape, now_s, records, held
        )

    def _view(self, model: str, now_s: float, tried: Sequence[Replica] = ()) -> View:
        """What a policy may choose from now."""
        if not self._ticked_s <= now_s < self._due_s:
            self._tick(now_s)
        view = self._eligibility.view_without(model, tried) if tried else self._eligibility.view(model)
        view.now_s = now_s
        # A retry costs the fleet what a first try does, however many were tried.
        replicas = len(self._eligibility.view(model).members) if tried else len(view.members)
        view.queued_price = self._queued_price(model, replicas)
        view.crowd_scale = 1.0 / self._crowd_unit
        return view

    def _queued_price(self, model: str, replicas: int) -> float:
        count = self.foreign_held + (self.held.get(model, 0) if self.held else 0)
        return count / replicas if count else 0.0

    def reserve_if_free(
        self,
        shape: RequestShape,
        records: Records | None,
        now_s: float,
        ahead_tokens: float,
        planned: list[Replica],
        behind_s: float = 0.0,
    ) -> Decision | None:
        """`choose_and_reserve` if the choice is free (`Replica.free_in_s`); else plan for it.

        Planning counts the prompt at the choice, so that the next request looked at sees it; the replica is appended
        to `planned`, and the caller calls `end_plan` before anything else happens.

        Raises:
            NotFoundError, OverloadError: As `choose_and_reserve`.
        """
        view = self._view(shape.model, now_s)
        held = overlaps(shape, records, view.by_incarnation, self._grid, now_s) if records else _NOTHING
        replica, kind = self._policy.choose(shape, held, view)
        tokens = held.get(replica, 0)
        if replica.free_in_s(now_s, ahead_tokens, behind_s) <= 0.0 or (
            replica.shared_tokens > 0.0
            and replica.lets_pass(
                now_s,
                replica.prefill_s(shape.prompt_tokens, tokens),
                last_used_s(records, replica.incarnation) if tokens else -inf,
                ahead_tokens,
                shape.rungs[0] if shape.rungs else 0,
            )
        ):
            view.turn += 1
            return self._reserve(replica, kind, tokens, shape, now_s, records, held)
        replica.planned_s += replica.prefill_s(shape.prompt_tokens, tokens)
        planned.append(replica)
        return None

    def end_plan(self, planned: Sequence[Replica]) -> None:
        """Forget what `reserve_if_free` planned."""
        for replica in planned:
            replica.planned_s = 0.0

    def any_free(self, model: str, now_s: float, ahead_tokens: float, behind_s: float = 0.0) -> bool:
        """Whether any eligible replica is free (`Replica.free_in_s`), or lets a short prompt pass a long one.

        Raises:
            NotFoundError, OverloadError: As `choose_and_reserve`.
        """
        for replica in self._eligibility.view(model).members:
            if replica.free_in_s(now_s, ahead_tokens, behind_s) <= 0.0 or replica.lets_pass(
                now_s, 0.0, -inf, ahead_tokens
            ):
                return True
        return False

    def next_free_s(self, now_s: float, ahead_tokens: float, behind_s: float = 0.0) -> float:
        """Time until the next replica that is not free should be; infinite where all are."""
        soonest_s = inf
        for replica in self._replicas.values():
            free_in_s = replica.free_in_s(now_s, ahead_tokens, behind_s)
            if 0.0 < free_in_s < soonest_s:
                soonest_s = free_in_s
        return soonest_s

    def mean_prefill_s(self, model: str) -> float:
        """Expected time of what a request brought a replica in the mean of the last few hundred.

        Raises:
            NotFoundError, OverloadError: As `choose_and_reserve`.
        """
        return self.work_tokens * self._eligibility.view(model).members[0].wait_token_s

    def prefill_s(self, shape: RequestShape, records: Records | None) -> float:
        """Expected prefill time where most of the prompt is held: how short a request is.

        Raises:
            NotFoundError, OverloadError: As `choose_and_reserve`.
        """
        view = self._eligibility.view(shape.model)
        held = (
            overlaps(shape, records, view.by_incarnation, self._grid, self._ticked_s) if records else _NOTHING
        )
        tokens = shape.prompt_tokens
        least_s = view.members[0].prefill_s(tokens, held.get(view.members[0], 0))
        for replica, held_tokens in held.items():
            least_s = min(least_s, replica.prefill_s(tokens, held_tokens))
        return least_s

    def reserve_on(self, replica_id: ReplicaId, shape: RequestShape, now_s: float) -> Decision:
        """Give a request to the replica that keeps what it refers to, whatever its load, and count it there.

        Nothing is predicted of its cache: all of `shape.prompt_tokens` count as uncached.

        Raises:
            NotFoundError: The replica has left the fleet (`not_found`).
            OverloadError: It has never been seen working (`no_replica`).
        """
        replica = self._replicas.get(replica_id)
        if replica is None:
            raise NotFoundError(
                "The replica that kept this object has left the fleet; create the object anew."
            )
        if replica.state is ReplicaState.STARTING:
            raise OverloadError("The replica that keeps this object is starting; try again shortly.")
        return self._reserve(replica, DecisionKind.PINNED, 0, shape, now_s, None, _NOTHING)

    def _reserve(
        self,
        replica: Replica,
        kind: DecisionKind,
        predicted_tokens: int,
        shape: RequestShape,
        now_s: float,
        records: Records | None,
        held: Mapping[Replica, int],
    ) -> Decision:
        prompt_tokens = shape.prompt_tokens
        residency = replica.residency
        used: Uses | None = None
        depths_tokens: list[int] = []
        times_s: list[float] = []
        if records and shape.reads_cache:
            used = uses(records, replica.incarnation, residency, now_s)
            times_s = used.times_s
            grid = self._grid
            depths_tokens = [tokens_at(shape, grid[depth]) for depth in used.depths]
        counted = residency.begin(prompt_tokens, depths_tokens, times_s, now_s)
        if prompt_tokens > 0:
            self._note_work(replica.work_tokens(prompt_tokens, predicted_tokens))
            self._crowd(replica, prompt_tokens - predicted_tokens, 1.0)
            self.returns.used(prompt_tokens)
            if records:
                note_ages(shape, records, self._grid, now_s, self.returns)
        replica.eviction_ratio = self._eviction_ratio(replica, now_s)
        uncached_tokens = prompt_tokens - predicted_tokens
        replica.in_flight += 1
        replica.waiting += 1
        replica.waiting_tokens += uncached_tokens
        replica.given_tokens += uncached_tokens
        replica.added_tokens += uncached_tokens
        replica.refresh()
        trial = replica.health.state is not ReplicaState.READY
        if trial:
            replica.trials += 1
            replica.health.signalled(Signal.TRIAL, self._ticked_s)
            self._health_changed(replica)
        decision = Decision(replica, kind, predicted_tokens, uncached_tokens, trial, shape.streams)
        decision.reserved_s = now_s
        if replica.shared_tokens > 0.0 and shape.rungs:
            decision.first_rung = shape.rungs[0]
        decision.counted = counted
        if shape.rungs:
            for tokens in held.values():
                if tokens > decision.known_tokens:
                    decision.known_tokens = tokens
            if not shape.reads_cache:
                self._seen.depth(shape.rungs, now_s)
            elif shape.reusable_tokens < 0:
                shape.reusable_tokens = self._reusable_tokens(shape, records, now_s)
        if used is not None:
            self._note_uses(decision, used, shape)
        if uncached_tokens > MOVED_TOKENS and self.moved is not None:
            self.moved()
        if uncached_tokens > 0:
            replica.enqueue(decision, replica.prefill_s(prompt_tokens, predicted_tokens), now_s)
        return decision

    def _crowd(self, replica: Replica, tokens: int, requests: float) -> None:
        """So many requests brought so many uncached tokens to a replica: all that was given before fades by them."""
        replica.crowd_tokens += tokens * self._crowd_unit
        # A replica that has left may be told of when none is left.
        replicas = len(self._replicas) or 1
        self._crowd_unit *= 1.0 + requests / (self._parameters.crowd_requests * replicas)
        if self._crowd_unit > MOST_UNIT:
            for other in self._replicas.values():
                other.crowd_tokens /= self._crowd_unit
                other.refresh()
            self._crowd_unit = 1.0

    def _note_work(self, work_tokens: float) -> None:
        self._work_count += 1
        weight = 1.0 / (self._work_count if self._work_count < MEMORY else MEMORY)
        self.work_tokens += (work_tokens - self.work_tokens) * weight

    def _eviction_ratio(self, replica: Replica, now_s: float) -> float:
        horizon_s = replica.residency.horizon_s
        return self.returns.ratio(now_s - horizon_s) if horizon_s > -inf else 0.0

    def _reusable_tokens(self, shape: RequestShape, records: Records | None, now_s: float) -> int:
        """Leading tokens that somebody has sent before, wherever they went."""
        depth = self._seen.depth(shape.rungs, now_s)
        if records:
            deepest = len(records) - 1
            while deepest > depth and records[deepest] is None:
                deepest -= 1
            depth = deepest
        return tokens_at(shape, self._grid[depth]) if depth >= 0 else 0

    def _note_uses(self, decision: Decision, used: Uses, shape: RequestShape) -> None:
        grid = self._grid
        if used.remembered >= 0:
            decision.remembered_tokens = tokens_at(shape, grid[used.remembered])
            decision.remembered_s = used.remembered_s
        if used.believed >= 0:
            decision.believed_tokens = tokens_at(shape, grid[used.believed])
            decision.believed_s = used.believed_s
            decision.doubtful = decision.replica.residency.kept_ratio(used.believed_s) < 1.0
            if used.remembered < 0:
                self._expect(decision, gap_tokens(shape, used.believed, grid), shape.prompt_tokens)
        if used.fresh >= 0:
            decision.fresh_tokens = tokens_at(shape, grid[used.fresh])
            decision.fresh_s = used.fresh_s

    def _expect(self, decision: Decision, gap_tokens: int, prompt_tokens: int) -> None:
        """Prompts part somewhere between the deepest rung that they share and the next."""
        decision.gap_tokens = gap_tokens
        beyond = self._beyond
        if beyond > 0.0 and decision.predicted_tokens:
            share = decision.predicted_tokens / decision.believed_tokens
            expected_tokens = decision.predicted_tokens + int(beyond * share * gap_tokens)
            decision.expected_tokens = min(expected_tokens, prompt_tokens - 1)

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
        if decision.trial and (computed or replica.health.reason is not FailureReason.ERROR):
            self._trial_passed(replica, now_s)

    def learn(
        self,
        decision: Decision,
        shape: RequestShape,
        prompt_tokens: int,
        cached_tokens: int | None,
        output_tokens: int | None,
    ) -> None:
        """An answer is over: what its times and its usage tell of the replica's speed, and of its model.

        Args:
            prompt_tokens: As reported; 0 where not.
        """
        learner = self._learner
        if learner is not None:
            learner.answered(
                decision, shape, self._eligibility.models, prompt_tokens, cached_tokens, output_tokens
            )
            self._believe_first(decision.replica)

    def _believe_first(self, replica: Replica) -> None:
        """The fleet's first measurements do not wait for the tick: at a hundred times the speed it would be late."""
        learner = self._learner
        if learner is not None and not learner.believes and replica.speed.fresh:
            learner.believe(self._replicas.values())

    def confirm(
        self, decision: Decision, cached_tokens: int | None, output_tokens: int | None, now_s: float
    ) -> None:
        """What the answer's usage says: how much of the prompt the engine had, and how much it has added.

        Args:
            cached_tokens: In the units of `RequestShape.prompt_tokens`; None where the engine does not say.
            output_tokens: Tokens of the answer; None where it does not say.
        """
        replica = decision.replica
        if decision.incarnation != replica.incarnation:
            return
        residency = replica.residency
        change = output_tokens or 0
        if cached_tokens is not None:
            replica.added_tokens += change + decision.predicted_tokens - cached_tokens
            beyond_tokens = cached_tokens - decision.believed_tokens
            if beyond_tokens > 0 and decision.believed_tokens:
                residency.reuse(beyond_tokens, decision.believed_s)  # the way to the next rung
            self._learn_survival(decision, cached_tokens)
        else:
            replica.added_tokens += change
        if change:
            residency.touch(change, now_s)

    def _learn_survival(self, decision: Decision, cached_tokens: int) -> None:
        """Each part of the prompt by its own age: what was found of it."""
        replica = decision.replica
        survival = replica.survival
        at_s = decision.reserved_s
        fresh_tokens = decision.fresh_tokens
        believed_tokens = decision.believed_tokens
        if fresh_tokens > 0:
            age_s = at_s - decision.fresh_s
            share = _share(cached_tokens, fresh_tokens)
            survival.learn(age_s, share)
            replica.trust.learn(age_s, share)
        if believed_tokens > fresh_tokens and cached_tokens >= fresh_tokens:
            share = _share(cached_tokens - fresh_tokens, believed_tokens - fresh_tokens)
            age_s = at_s - decision.believed_s
            survival.learn(age_s, share)
            if not decision.doubtful:
                replica.trust.learn(age_s, share)
            if share >= KEPT_RATIO and decision.gap_tokens > 0:
                self._learn_beyond(decision, cached_tokens)
        if decision.remembered_tokens > believed_tokens and cached_tokens >= believed_tokens:
            share = _share(cached_tokens - believed_tokens, decision.remembered_tokens - believed_tokens)
            survival.learn(at_s - decision.remembered_s, share)

    def _learn_beyond(self, decision: Decision, cached_tokens: int) -> None:
        """Of a prompt of which all was there that was believed to be: how much more was."""
        whole_tokens = decision.believed_tokens
        whole_tokens -= whole_tokens % decision.replica.overlap_block_tokens
        # Less than was believed is chance too: leaving it out would make too much of the rest.
        part = min(max((cached_tokens - whole_tokens) / decision.gap_tokens, -1.0), 1.0)
        self._beyond_count += 1
        self._beyond += (part - self._beyond) * max(1.0 / self._beyond_count, BEYOND_WEIGHT)

    def settle(self, decision: Decision, now_s: float) -> None:
        """The request is over for this replica, however it ended: give the reservation back. Once; then a no-op."""
        phase = decision.phase
        if phase == SETTLED:
            return
        decision.phase = SETTLED
        replica = decision.replica
        replica.in_flight -= 1
        computed = phase != RESERVED and decision.computed
        if not computed:
            replica.added_tokens -= decision.uncached_tokens
        if decision.incarnation == replica.incarnation:
            replica.residency.end(decision.counted, decision.reserved_s, now_s, computed)
        if phase == RESERVED:
            replica.waiting -= 1
            replica.waiting_tokens -= decision.uncached_tokens
            replica.dequeue(decision, now_s)
            if decision.uncached_tokens > MOVED_TOKENS and self.moved is not None:
                self.moved()
        elif decision.tells:
            replica.note_streamed(now_s - decision.started_s)
        replica.refresh()
        if decision.trial:
            replica.trials -= 1
            self._health_changed(replica)

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

    def note_foreign(self, replica: Replica, foreign: Foreign, now_s: float) -> None:
        """Take over what other routers have on a replica, and what they gave it since last noted."""
        _, in_flight, given_tokens, added_tokens, work_tokens, head_tokens, age_s, awaited_tokens = foreign
        replica.foreign_in_flight = in_flight
        replica.foreign_work_tokens = work_tokens
        replica.foreign_work_s = work_tokens * replica.wait_token_s
        replica.foreign_head_s = head_tokens * replica.wait_token_s
        replica.foreign_since_s = now_s - age_s
        replica.foreign_awaited_tokens = awaited_tokens
        if given_tokens:
            # They do not say how many requests these were.
            mean_tokens = self.work_tokens if self.work_tokens > 1.0 else 1.0
            self._crowd(replica, given_tokens, given_tokens / mean_tokens)
        if given_tokens and replica.stretch is not None:
            replica.stretch.foreign_sent(now_s)
        if added_tokens:
            # What others touch again, without adding to it, is not heard of.
            replica.residency.touch(added_tokens, now_s)
        replica.refresh()

    # -- events and time ----------------------------------------------------------------------------------------

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
        self._eligibility.fleet_changed()

    def _remove(self, replica: Replica) -> None:
        del self._replicas[replica.id]
        replica.health.signalled(Signal.REMOVE, self._ticked_s)
        self._eligibility.fleet_changed()
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
                replica.eviction_ratio = replica.crowd_tokens = 0.0
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

    # -- for people ---------------------------------------------------------------------------------------------

    def rank(self, shape: RequestShape, records: Records | None, now_s: float) -> Ranking:
        """Every eligible replica with its terms; the head is what `choose_and_reserve` would choose. Reserves nothing.

        The first `RANKED_BY_POLICY` come from the policy itself, asked as retries would ask; the rest by cost.
        Terms are those of the first choice, so that they say why the head won. Dice and turns are as before afterwards.

        Raises:
            NotFoundError, OverloadError: As `choose_and_reserve`.
        """
        whole = self._view(shape.model, now_s)
        held: Overlaps = (
            overlaps(shape, records, whole.by_incarnation, self._grid, now_s) if records else _NOTHING
        )
        chosen: dict[Replica, DecisionKind] = {}
        rest: View | None = whole
        dice = self._rng.getstate()
        while rest is not None and len(chosen) < RANKED_BY_POLICY:
            left = {r: tokens for r, tokens in held.items() if r not in chosen}
            replica, kind = self._policy.choose(shape, left, rest)
            chosen[replica] = DecisionKind.RETRY if chosen else kind
            rest = whole.without(chosen)
        self._rng.setstate(dice)
        head = [candidate(r, kind, shape, held, whole) for r, kind in chosen.items()]
        tail = [
            candidate(r, DecisionKind.RETRY, shape, held, whole) for r in whole.members if r not in chosen
        ]
        tail.sort(key=lambda row: (row.terms.total_s, row.replica.index))
        return Ranking((*head, *tail))

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
        return [replica.as_row(now_s) for replica in self._replicas.values()]

    def model_rows(self) -> list[dict[str, object]]:
        """One row a model of which answers told something, for `/replicas`."""
        return [] if self._learner is None else self._learner.rows()

    def validate(self) -> None:
        """Derive anew everything that is kept twice. Raises AssertionError where it differs."""
        for replica_id, replica in self._replicas.items():
            assert replica.id == replica_id, replica_id
            assert replica.state is not ReplicaState.GONE, replica_id
            replica.validate()
            replica.health.validate()
        self._eligibility.validate()
        assert self._due_s <= self._first_backoff_end_s(), self._due_s


def _share(found_tokens: int, tokens: int) -> float:
    share = found_tokens / tokens
    return share if share < KEPT_RATIO else 1.0
