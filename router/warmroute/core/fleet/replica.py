"""One replica as the router sees it, and one request's stay on it. Plain mutable data, changed by `Fleet` alone.

Decides nothing. Counters are integers and what is derived from them is derived anew at every change, so that it cannot
drift; `validate` says what follows from what.

The prefill queue is a guess at the engine's: prompts in order of dispatch, each for as long as its prefill should
take, the first since it was sent or since the one before it was heard of. What is left of it is `wait_s`.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf, isclose
from typing import Final

from warmroute.core.beliefs.residency import STALE_S, Residency
from warmroute.core.beliefs.survival import Survival
from warmroute.core.choice.cost import CostParameters, CostTerms
from warmroute.core.health.health import Health, HealthParameters, ReplicaState
from warmroute.core.health.outliers import ErrorRate
from warmroute.core.learning.speed import SpeedEstimate
from warmroute.core.learning.stretch import WAY_S, Stretch
from warmroute.core.types import DecisionKind, Incarnation, ReplicaId

RESERVED: Final = 0
STARTED: Final = 1
SETTLED: Final = 2

MOST_STREAMED: Final = 4
"""Bound of the trust that a replica streams, either way: so many answers that do not take it all away."""


class Replica:
    """Compared and hashed by identity: a replica removed and added again under its id is another one."""

    __slots__ = (
        "added_tokens",
        "attention_ratio",
        "attention_s",
        "awaited_tokens",
        "base_latency_s",
        "block_tokens",
        "cache_tokens",
        "cards",
        "crowd_s",
        "crowd_tokens",
        "crowd_weight",
        "delay_s",
        "errors",
        "eviction_ratio",
        "foreign_awaited_tokens",
        "foreign_head_s",
        "foreign_in_flight",
        "foreign_since_s",
        "foreign_work_s",
        "foreign_work_tokens",
        "given_tokens",
        "head_s",
        "health",
        "id",
        "in_flight",
        "incarnation",
        "index",
        "interference_s",
        "last_failure",
        "life_told",
        "models",
        "models_known",
        "overlap_block_tokens",
        "planned_s",
        "prefill_tokens_per_s",
        "price",
        "queue",
        "residency",
        "restarts",
        "shared_tokens",
        "silent",
        "since_s",
        "speed",
        "stretch",
        "streamed",
        "survival",
        "trials",
        "trust",
        "url",
        "wait_token_s",
        "waiting",
        "waiting_tokens",
        "work_s",
    )

    def __init__(
        self,
        replica_id: ReplicaId,
        url: str,
        index: int,
        cost: CostParameters,
        health: HealthParameters,
    ) -> None:
        self.id = replica_id
        self.url = url
        self.index = index
        """Order of joining; never used twice by one fleet."""
        self.incarnation: Incarnation | None = None
        self.life_told = False
        """Whether the engine told when this life began."""
        self.models: frozenset[str] = frozenset()
        self.models_known = False
        """False until a probe told the models. A working replica that never tells is taken to serve any."""
        self.cards: Mapping[str, object] = {}
        """What its `/v1/models` says of each model, where a probe passed that on."""
        self.health = Health(health)
        self.errors = ErrorRate()
        self.restarts = 0
        """How often another life was found in the place of a known one."""
        self.last_failure: str | None = None
        """Why a request or a probe failed last, for people; None before any and after a restart."""
        self.in_flight = 0
        """Requests sent to it and not settled."""
        self.waiting = 0
        """Those of them without a first byte."""
        self.waiting_tokens = 0
        """Their uncached tokens."""
        self.given_tokens = 0
        """Uncached tokens of all requests ever sent to it."""
        self.added_tokens = 0
        """Tokens that all requests ever sent to it have added to its cache, as far as is known."""
        self.queue: dict[Decision, float] = {}
        """Expected prefill time of each waiting request still to be prefilled, in order of dispatch."""
        self.work_s = 0.0
        """Sum of `queue`."""
        self.head_s = 0.0
        """The first of `queue`; 0 when empty."""
        self.since_s = 0.0
        """When the first of `queue` began, as far as is known."""
        self.stretch: Stretch | None = None
        """What is being timed; only while `queue` is not empty."""
        self.silent = 0
        """Prompts in `queue` whose prefill has no audible end."""
        self.speed = SpeedEstimate()
        """What was learned of it; what is believed is below."""
        self.planned_s = 0.0
        """Prefill time of requests held at the router and meant for it; only while they are looked through."""
        self.shared_tokens = cost.shared_step_tokens
        """`CostParameters.shared_step_tokens`."""
        self.awaited_tokens = 0
        """Uncached tokens of the streamed requests in `queue`: their first byte tells when their prefill is over."""
        self.streamed = 0
        """Trust that streams begin before they end: one more for each that did, one less for each that did not. No
        request waits for a replica that has lost it."""
        self.residency = Residency()
        self.survival = Survival()
        """How much was found of what was used how long ago: how long prefixes live there."""
        self.trust = Survival()
        """The same of what was believed to be there without doubt: how far such beliefs are to be counted on."""
        self.eviction_ratio = 0.0
        """Share of what its cache would lose next that will be asked for again (`beliefs.returns`), as of the last
        tick or reservation; 0 while it has room."""
        self.foreign_in_flight = 0
        """Other routers' `in_flight`; 0 while nobody tells."""
        self.foreign_work_tokens = 0
        """Other routers' prompts that wait or are prefilled, in tokens without context; 0 while nobody tells."""
        self.foreign_work_s = 0.0
        """The same as time."""
        self.foreign_awaited_tokens = 0
        """Other routers' `awaited_tokens`; 0 while nobody tells."""
        self.foreign_head_s = 0.0
        """The longest of the first prompts of each."""
        self.foreign_since_s = -inf
        """The latest of other routers' `since_s`."""
        self.trials = 0
        """Requests under way that were sent while it was not `READY`."""
        self.block_tokens: int | None = None
        self.cache_tokens: int | None = None
        self.overlap_block_tokens = 1
        """`block_tokens`; one where unknown."""
        self.crowd_weight = cost.crowd_weight
        self.crowd_tokens = 0.0
        """Uncached tokens given to it lately, in the fleet's growing unit (`Fleet` has it)."""
        self.crowd_s = 0.0
        """The same as weighted seconds of prefill, in that unit."""
        self.attention_ratio = (
            0.5 / cost.attention_context_tokens if cost.attention_context_tokens > 0 else 0.0
        )
        """Share by which a token's prefill takes longer for each token of the cached plus the whole prompt."""
        self.set_rates(cost.prefill_tokens_per_s, 0.0)

    def set_rates(
        self, prefill_tokens_per_s: float, base_latency_s: float, interference_s: float = 0.0
    ) -> None:
        """Take over what is believed of this replica's speed.

        Args:
            interference_s: What each decoding request adds to the first-byte time of another.
        """
        self.prefill_tokens_per_s = prefill_tokens_per_s
        self.base_latency_s = base_latency_s
        self.interference_s = interference_s
        self.wait_token_s = 1.0 / prefill_tokens_per_s
        """Seconds of prefill of a token without context."""
        self.attention_s = self.wait_token_s * self.attention_ratio
        """Seconds that a token's prefill takes longer for each token of the cached plus the whole prompt."""
        self.refresh()

    def change_rates(self, token_s: float, base_latency_s: float, interference_s: float) -> None:
        """`set_rates`, and count anew what was counted in seconds."""
        factor = token_s / self.wait_token_s
        queue = self.queue
        for decision in queue:
            queue[decision] *= factor
        self.work_s = sum(queue.values())
        self.head_s *= factor
        self.foreign_work_s *= factor
        self.foreign_head_s *= factor
        self.set_rates(1.0 / token_s, base_latency_s, interference_s)

    def refresh(self) -> None:
        """Derive `delay_s`, what is the same for every request but not the queue, `crowd_s` and `price`."""
        ratio = self.eviction_ratio
        self.price = 2.0 + 2.0 * ratio + 2.0 * ratio * ratio
        """What a second of own prefill counts."""
        self.delay_s = self.base_latency_s + self.running * self.interference_s
        self.crowd_s = self.crowd_weight * self.wait_token_s * self.crowd_tokens

    @property
    def running(self) -> int:
        """Requests that are decoding; other routers' count whole, since they do not tell which wait."""
        return self.in_flight - self.waiting + self.foreign_in_flight

    @property
    def load(self) -> int:
        """Requests under way there, whoever sent them."""
        return self.in_flight + self.foreign_in_flight

    def prefill_s(self, prompt_tokens: int, held_tokens: int) -> float:
        """Expected time of a prompt's prefill, of which so many leading tokens are held."""
        return (prompt_tokens - held_tokens) * (
            self.wait_token_s + self.attention_s * (prompt_tokens + held_tokens)
        )

    def work_tokens(self, prompt_tokens: int, held_tokens: int) -> float:
        """The same work counted in tokens without context."""
        return (prompt_tokens - held_tokens) * (1.0 + self.attention_ratio * (prompt_tokens + held_tokens))

    def wait_s(self, now_s: float) -> float:
        """Expected time until the queue's last prefill is over, what is planned on top included."""
        work_s = self.work_s + self.foreign_work_s
        if work_s > 0.0:
            # One prompt is prefilled at a time: whoever sent the one before, its end is where this one began.
            since_s = self.since_s
            if self.foreign_since_s > since_s:
                since_s = self.foreign_since_s
            elapsed_s = now_s - since_s
            if elapsed_s > 0.0:
                head_s = self.head_s
                if self.foreign_head_s > head_s:
                    head_s = self.foreign_head_s
                # A prefill that takes longer than expected is taken to be about to end, not to have ended.
                most_s = head_s - WAY_S if head_s > 20.0 * WAY_S else 0.95 * head_s
                work_s -= elapsed_s if elapsed_s < most_s else most_s
        return work_s + self.planned_s

    def wait_for_s(self, now_s: float, own_s: float) -> float:
        """Expected time until a prompt of so much prefill can be computed.

        Where the engine shares its steps, each prompt ahead takes about as much of them as this one, or its least
        part of a step, until this one is done; else all of it.
        """
        whole_s = self.wait_s(now_s)
        shared_tokens = self.shared_tokens
        if shared_tokens <= 0.0 or whole_s <= 0.0:
            return whole_s
        part_s = shared_tokens * self.wait_token_s
        if part_s < own_s:
            part_s = own_s
        foreign_s = self.foreign_work_s
        wait_s = self.planned_s + (foreign_s if foreign_s < part_s else part_s)
        elapsed_s = now_s - self.since_s
        for prefill_s in self.queue.values():
            left_s = prefill_s - elapsed_s if elapsed_s > 0.0 else prefill_s
            elapsed_s = 0.0  # the first alone has begun
            if left_s > 0.0:
                wait_s += left_s if left_s < part_s else part_s
        return wait_s if wait_s < whole_s else whole_s

    def lets_pass(
        self, now_s: float, own_s: float, used_s: float, ahead_tokens: float, first_rung: int = 0
    ) -> bool:
        """Whether a prompt held for it may be sent though it is not free, past much longer ones.

        Only where the engine shares its steps, one such prompt at a time: what else is ahead is counted as in
        `free_in_s`. Not if what is believed to be cached of it was last sent (`used_s`) with one of those that wait,
        which begins alike: it is still to be computed, and would be computed twice.
        """
        shared_tokens = self.shared_tokens
        if shared_tokens <= 0.0 or not self.queue or self.foreign_awaited_tokens > 0:
            return False
        long_s = own_s + shared_tokens * self.wait_token_s
        short_s = 0.0
        elapsed_s = now_s - self.since_s
        for decision, prefill_s in self.queue.items():
            if decision.first_rung == first_rung and -WAY_S <= decision.reserved_s - used_s <= STALE_S:
                return False
            left_s = prefill_s - elapsed_s if elapsed_s > 0.0 else prefill_s
            elapsed_s = 0.0
            if 0.0 < left_s < long_s:
                short_s += left_s
        return short_s <= ahead_tokens * self.wait_token_s + WAY_S

    def enqueue(self, decision: Decision, prefill_s: float, now_s: float) -> None:
        """A prompt was sent."""
        queue = self.queue
        while queue:
            # Of answers that do not stream nothing is heard before the end: their prefill ends by expectation.
            head = next(iter(queue))
            if head.streams or now_s - self.since_s < self.head_s:
                break
            self.dequeue(head, self.since_s + self.head_s)
        stretch = self.stretch
        if stretch is None:
            # Behind another router's prompt it has not begun yet.
            ahead_s = self.wait_s(now_s) - self.planned_s if self.foreign_work_s > 0.0 else 0.0
            if self.foreign_work_s <= 0.0:
                self.since_s = now_s
            elif self.foreign_since_s > self.since_s:  # else it began when the last one from here was over
                self.since_s = self.foreign_since_s
            self.head_s = prefill_s
            stretch = self.stretch = Stretch(now_s, True, self.in_flight - self.waiting)
            if ahead_s > 0.0:
                stretch.put_behind(ahead_s * self.prefill_tokens_per_s)
        elif self.foreign_work_s > 0.0:
            stretch.spoiled = True  # nobody knows what comes before this one
        if not decision.streams:
            self.silent += 1
            stretch.spoiled = True
        queue[decision] = prefill_s
        self.work_s += prefill_s
        if decision.streams:
            self.awaited_tokens += decision.uncached_tokens

    def prefilling(self, now_s: float) -> tuple[int, int, int, int]:
        """What other routers are told of the queue: its sum and its first prompt in tokens without context, for
        how many ms that has been under way, and `awaited_tokens`. Not in seconds: each router learns a replica's
        speed by itself."""
        tokens_per_s = self.prefill_tokens_per_s
        age_s = now_s - self.since_s
        if age_s < 0.0 or age_s > 1e6:
            age_s = 0.0 if age_s < 0.0 else 1e6
        return (
            int(self.work_s * tokens_per_s + 0.5),
            int(self.head_s * tokens_per_s + 0.5),
            int(age_s * 1000.0),
            self.awaited_tokens,
        )

    def dequeue(self, decision: Decision, now_s: float, heard: bool = False) -> None:
        """A prompt was prefilled, or given up; a no-op if it is not in the queue. `heard`: its first byte is there."""
        queue = self.queue
        if decision not in queue:
            return
        first = next(iter(queue)) is decision
        prefill_s = queue.pop(decision)
        if first:
            self.since_s = now_s
        elif self.since_s + prefill_s < now_s:
            self.since_s += prefill_s  # it was computed beside the first, which is as much later
        stretch = self.stretch
        assert stretch is not None
        if decision.streams:
            self.awaited_tokens -= decision.uncached_tokens
        if not decision.streams:
            self.silent -= 1
            stretch.spoiled = True
        elif heard:
            if first and stretch.ends_before(now_s):
                if stretch.close():
                    self.speed.observe(stretch)
                stretch = self.stretch = Stretch(stretch.end_s, False, self.in_flight - self.waiting)
                stretch.spoiled = self.silent > 0 or self.foreign_work_s > 0.0
            uncached_tokens = decision.uncached_tokens
            predicted_tokens = decision.predicted_tokens
            work_tokens = self.work_tokens(predicted_tokens + uncached_tokens, predicted_tokens)
            stretch.add(predicted_tokens, uncached_tokens, work_tokens, now_s)
            decision.stretch = stretch
        else:
            stretch.spoiled = True
        if not queue:
            if stretch.close():
                self.speed.observe(stretch)
            self.stretch = None
            self.work_s = self.head_s = 0.0
            return
        self.work_s -= prefill_s
        self.head_s = queue[next(iter(queue))]

    def free_in_s(self, now_s: float, ahead_tokens: float, behind_s: float = 0.0) -> float:
        """Time until a request held for it should be sent; 0 or less: at once.

        It is held only while streamed prompts of more than `ahead_tokens`, whoever sent them, have no first byte: the
        one sign from outside that the engine has more to compute than a step of short prompts, however wrong the rates
        are; and their end will be heard. It is sent when what is ahead should take no longer than `ahead_tokens` and
        the way there and back: so the engine never runs dry. `behind_s` is how much later than others' requests this
        one may go.
        """
        if self.streamed < 0 or self.health.state is not ReplicaState.READY:
            return 0.0
        since_s = self.since_s
        if self.foreign_since_s > since_s:
            since_s = self.foreign_since_s
        if self.awaited_tokens + self.foreign_awaited_tokens <= ahead_tokens:
            return behind_s + since_s - now_s if since_s <= now_s and behind_s > 0.0 else 0.0
        return self.wait_s(now_s) - ahead_tokens * self.wait_token_s - WAY_S + behind_s

    def note_streamed(self, after_s: float) -> None:
        """An answer that should be streamed ended so long after its first byte."""
        if after_s >= WAY_S:  # what is passed on as a whole comes within a turn or two of an event loop
            if self.streamed < MOST_STREAMED:
                self.streamed += 1
        elif self.streamed > -MOST_STREAMED:
            self.streamed -= 1

    @property
    def state(self) -> ReplicaState:
        """Where health stands."""
        return self.health.state

    @property
    def routable(self) -> bool:
        """Whether a request may be sent to it while there are others: ready, or owed a trial."""
        state = self.health.state
        return state is ReplicaState.READY or (state is ReplicaState.PROBING and not self.trials)

    def terms(
        self,
        prompt_tokens: int,
        held_tokens: int,
        now_s: float,
        queued_price: float = 0.0,
        crowd_scale: float = 1.0,
    ) -> CostTerms:
        """The cost of a request of which so many leading tokens are held, taken apart.

        Args:
            queued_price, crowd_scale: As in `View`.
        """
        prefill_s = self.prefill_s(prompt_tokens, held_tokens)
        return CostTerms(
            base_s=self.base_latency_s,
            wait_s=self.wait_for_s(now_s, prefill_s),
            running_s=self.running * self.interference_s,
            crowding_s=self.crowd_s * crowd_scale,
            prefill_s=prefill_s,
            miss_s=prefill_s,
            queued_s=prefill_s * queued_price,
            eviction_s=prefill_s * (self.price - 2.0),
        )

    def note_failure(self, reason: str, detail: str) -> None:
        """A request or a probe failed."""
        self.last_failure = f"{reason}: {detail}" if detail else str(reason)

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
            "foreign_work_s": round(self.foreign_work_s, 3),
            "block_tokens": self.block_tokens,
            "cache_tokens": self.cache_tokens,
            "prefill_tokens_per_s": round(self.prefill_tokens_per_s, 1),
            "base_latency_s": round(self.base_latency_s, 6),
            "interference_s": round(self.interference_s, 6),
            "speed_confidence": round(self.speed.confidence, 3),
            "speed_stretches": self.speed.count,
            "delay_s": round(self.delay_s + self.wait_s(now_s), 6),
            "resident_tokens": self.residency.tokens + self.residency.pinned_tokens,
            "cache_lifetime_s": self.survival.lifetime_s(),
            "cache_found_age_s": self.survival.found_age_s(),
            "eviction_ratio": round(self.eviction_ratio, 3),
            "error_ratio": round(self.errors.ratio, 3),
            "failures": health.failures,
            "probe_failures": health.probe_failures,
            "ejections": health.strikes,
            "ejections_total": {reason.value: count for reason, count in health.ejections.items()},
            "restarts_total": self.restarts,
            "last_failure": self.last_failure,
            "retry_in_s": round(max(0.0, health.until_s - now_s), 3) if backing_off else None,
        }

    def validate(self) -> None:
        """Raises AssertionError where a derived figure does not follow from what it is derived from."""
        assert 0 <= self.waiting <= self.in_flight, (self.id, self.waiting, self.in_flight)
        assert self.waiting_tokens >= 0, (self.id, self.waiting_tokens)
        assert self.waiting > 0 or self.waiting_tokens == 0, (self.id, self.waiting_tokens)
        assert 0 <= self.trials <= self.in_flight, (self.id, self.trials)
        assert self.crowd_tokens >= 0, (self.id, self.crowd_tokens)
        assert len(self.queue) <= self.waiting, (self.id, len(self.queue))
        awaited_tokens = sum([d.uncached_tokens for d in self.queue if d.streams])
        assert self.awaited_tokens == awaited_tokens, (self.id, self.awaited_tokens)
        assert -MOST_STREAMED <= self.streamed <= MOST_STREAMED, (self.id, self.streamed)
        assert isclose(self.work_s, sum(self.queue.values()), abs_tol=1e-6), (self.id, self.work_s)
        assert self.head_s == next(iter(self.queue.values()), 0.0), (self.id, self.head_s)
        assert (self.stretch is None) == (not self.queue), self.id
        assert self.silent == sum(1 for decision in self.queue if not decision.streams), self.id
        assert self.planned_s == 0.0, (self.id, self.planned_s)
        terms = self.terms(0, 0, inf)
        total_s = self.delay_s + self.wait_s(inf) + self.crowd_s
        assert isclose(total_s, terms.total_s), (self.id, total_s, terms)
        assert self.models_known or not self.models, self.id


class Decision:
    """Where one attempt of a request goes, and the reservation that it holds there until it is settled."""

    __slots__ = (
        "believed_s",
        "believed_tokens",
        "computed",
        "counted",
        "doubtful",
        "expected_tokens",
        "first_rung",
        "fresh_s",
        "fresh_tokens",
        "gap_tokens",
        "incarnation",
        "kind",
        "known_tokens",
        "phase",
        "predicted_tokens",
        "remembered_s",
        "remembered_tokens",
        "replica",
        "reserved_s",
        "started_s",
        "streams",
        "stretch",
        "tells",
        "trial",
        "uncached_tokens",
    )

    def __init__(
        self,
        replica: Replica,
        kind: DecisionKind,
        predicted_tokens: int,
        uncached_tokens: int,
        trial: bool,
        streams: bool = True,
    ) -> None:
        self.replica = replica
        self.kind = kind
        self.predicted_tokens = predicted_tokens
        """Leading tokens that are counted on there: what costs and choices go by."""
        self.expected_tokens = predicted_tokens
        """Leading tokens that it is told to find there: those, and what is found beyond them in the mean."""
        self.uncached_tokens = uncached_tokens
        """The others, counted in the replica's `waiting_tokens` until its first byte."""
        self.phase = RESERVED
        """`RESERVED`, then `STARTED` at the first byte, then `SETTLED`; only `Fleet` moves it."""
        self.trial = trial
        """Whether it counts in the replica's `trials`."""
        self.streams = streams
        """Whether the first byte tells when the prefill is over."""
        self.tells = streams
        """Whether its end shows if the replica streams: of a refusal it does not."""
        self.started_s = 0.0
        """When the first byte was there."""
        self.stretch: Stretch | None = None
        """Where its prefill was timed; only after its first byte, and only if it streams."""
        self.known_tokens = predicted_tokens
        """Leading tokens that some replica that could have been chosen is expected to hold."""
        self.believed_tokens = 0
        """Leading tokens that the records say it holds; more than `predicted_tokens` where not all is counted on."""
        self.counted: tuple[int, int] = (0, 0)
        """What the replica's `residency` counts for it."""
        self.computed = True
        """False if its first byte came without a prefill."""
        self.gap_tokens = 0
        """Tokens from there to the next rung, which may be there in part; 0 if more is remembered."""
        self.doubtful = False
        """Whether part of what is believed to be there was evicted, by what the replica was sent since."""
        self.incarnation = replica.incarnation
        """The life of the replica that has it."""
        self.reserved_s = 0.0
        self.first_rung = 0
        """The first of its prompt's, where prompts may be passed; else 0."""
        self.believed_s = 0.0
        """When the deepest of what is believed to be there was last used there."""
        self.fresh_tokens = 0
        """Leading tokens that were used there clearly later than the rest; 0 if none were."""
        self.fresh_s = 0.0
        self.remembered_tokens = 0
        """Leading tokens that it once held and is believed to have evicted in part; 0 if not deeper than predicted."""
        self.remembered_s = 0.0
        """When the deepest of those was last used there."""
