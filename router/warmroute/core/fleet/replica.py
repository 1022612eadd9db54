"""A replica as the router sees it, and its server: plain mutable data. `Fleet` alone changes both.

This module decides nothing. Counters are integers, and what is derived from them is derived anew at every change, so
that it cannot drift; `validate` says what follows from what.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf, isclose
from typing import Final

from warmroute.core.beliefs.residency import Residency
from warmroute.core.beliefs.survival import Survival
from warmroute.core.choice.cost import CostParameters
from warmroute.core.fleet.hold_terms import FULL_S, HoldTerms
from warmroute.core.fleet.prefill import PrefillQueue
from warmroute.core.health.health import Health, HealthParameters, ReplicaState
from warmroute.core.health.outliers import ErrorRate
from warmroute.core.learning.sample import WAY_S
from warmroute.core.ranks import rank_incarnation
from warmroute.core.types import Incarnation, ReplicaId

TELLING_TOKENS: Final = 8
"""An answer of fewer tokens does not show whether a replica streams: it may end with its first byte, or a few steps of
a fast engine later. What is counted where no usage is told may be off by the events that have no token."""


class Server:
    """One URL, behind which one engine computes, or several data-parallel ranks. Health, errors and drain are the
    server's, since its ranks share one process, one port and one fate; load, cache and incarnation are each rank's own.

    Compared and hashed by identity.
    """

    __slots__ = ("errors", "health", "id", "last_failure", "process", "replicas", "restarts", "url")

    def __init__(self, server_id: ReplicaId, url: str, health: HealthParameters) -> None:
        self.id = server_id
        self.url = url
        self.health = Health(health)
        self.errors = ErrorRate()
        self.last_failure: str | None = None
        """Why a request or a probe failed last, for people; None before any and after a restart."""
        self.restarts = 0
        """How often another life was found in the place of a known one."""
        self.process: Incarnation | None = None
        """Which process it is; None until a probe told."""
        self.replicas: list[Replica] = []
        """Its ranks in order; never empty once it is in a fleet."""

    def note_failure(self, reason: str, detail: str) -> None:
        """A request or a probe failed."""
        self.last_failure = f"{reason}: {detail}" if detail else str(reason)

    @property
    def in_flight(self) -> int:
        """Requests sent to any of its ranks and not settled."""
        return sum([replica.in_flight for replica in self.replicas])


class Replica(PrefillQueue):
    """One engine: alone behind its URL, or one of its server's ranks.

    Compared and hashed by identity: a replica removed and added again under its id is another one.
    """

    __slots__ = (
        "base_latency_s",
        "began_s",
        "block_tokens",
        "cache_tokens",
        "cards",
        "chunk_trust",
        "recent_load_s",
        "recent_load_tokens",
        "crowd_weight",
        "errors",
        "eviction_ratio",
        "peer_in_flight",
        "former",
        "given_tokens",
        "health",
        "id",
        "incarnation",
        "index",
        "interference_s",
        "life_told",
        "models",
        "models_known",
        "overlap_block_tokens",
        "price",
        "rank",
        "residency",
        "server",
        "shunned_until_s",
        "silences",
        "survival",
        "trials",
        "trust",
        "url",
        "waiting_tokens",
    )

    def __init__(
        self, replica_id: ReplicaId, server: Server, rank: int | None, index: int, cost: CostParameters
    ) -> None:
        super().__init__(cost)
        self.id = replica_id
        self.server = server
        self.rank = rank
        """Which data-parallel rank it is, as requests name it; None where the server has one engine, or is left to
        spread requests over several by itself."""
        self.url = server.url
        self.index = index
        """Order of joining; never used twice by one fleet."""
        self.incarnation: Incarnation | None = None
        self.former: tuple[Incarnation, ...] = ()
        """Earlier incarnations of the same process: its cache was emptied since, and it lives."""
        self.life_told = False
        """Whether the engine told when this life began."""
        self.models: frozenset[str] = frozenset()
        self.models_known = False
        """False until a probe told the models. A working replica that never tells is taken to serve any."""
        self.cards: Mapping[str, object] = {}
        """What its `/v1/models` says of each model, where a probe passed that on."""
        self.health = server.health
        """The server's; once this rank is gone, one of its own."""
        self.errors = server.errors
        self.waiting_tokens = 0
        """Their uncached tokens."""
        self.given_tokens = 0
        """Uncached tokens of all requests ever sent to it."""
        self.residency = Residency()
        self.survival = Survival()
        """Shares found of all prefixes, by the age of their last use: they say how long prefixes live there."""
        self.trust = Survival()
        """Shares found of what was believed to be there without doubt, by age: they say how far to count on such
        beliefs."""
        self.chunk_trust = Survival()
        """Shares found of chunks beyond prefixes, by age: of all that is believed of chunks, so much is counted on."""
        self.eviction_ratio = 0.0
        """The share of what the replica's cache would lose next that will be asked for again (`beliefs.returns`),
        as of the last tick or reservation; 0 while the cache has room."""
        self.peer_in_flight = 0
        """Other routers' `in_flight`; 0 while nobody tells."""
        self.trials = 0
        """Requests under way that were sent while it was not `READY`; part of `Health.trials`."""
        self.began_s = -inf
        """When an answer that an engine had to compute began here last."""
        self.silences = 0
        """Requests that this rank was silent to since; only where it is one of several."""
        self.shunned_until_s = -inf
        """Until when it is passed over for that."""
        self.block_tokens: int | None = None
        self.cache_tokens: int | None = None
        self.overlap_block_tokens = 1
        """`block_tokens`; one where unknown."""
        self.crowd_weight = cost.crowd_weight
        self.recent_load_tokens = 0.0
        """The recent load: uncached tokens given to the replica lately, in the fleet's growing unit."""
        self.recent_load_s = 0.0
        """The same as weighted seconds of prefill, in that unit."""
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
        self.residency.price(self.wait_token_s)
        self.refresh()

    def change_rates(self, token_s: float, base_latency_s: float, interference_s: float) -> None:
        """`set_rates`, and count anew what was counted in seconds."""
        factor = token_s / self.wait_token_s
        queue = self.queue
        for prompt in queue:
            queue[prompt] *= factor
        self.work_s = sum(queue.values())
        self.head_s *= factor
        self.head_surprise_s *= factor
        self.peer_work_s *= factor
        self.peer_head_s *= factor
        self.peer_held_s *= factor
        self.set_rates(1.0 / token_s, base_latency_s, interference_s)

    def refresh(self) -> None:
        """Derive `recent_load_s`, `price` and `delay_s`, which is what every request costs there besides the queue."""
        ratio = self.eviction_ratio
        self.price = 2.0 + 2.0 * ratio + 2.0 * ratio * ratio
        """What a second of own prefill counts."""
        self.delay_s = self.base_latency_s + self.running * self.interference_s
        self.recent_load_s = self.crowd_weight * self.wait_token_s * self.recent_load_tokens

    @property
    def running(self) -> int:
        """Requests that are decoding; other routers' count whole, since they do not tell which wait."""
        return self.in_flight - self.waiting + self.peer_in_flight

    @property
    def load(self) -> int:
        """Requests under way there, whoever sent them."""
        return self.in_flight + self.peer_in_flight

    def begins_in_s(self, now_s: float, prompt_tokens: int, own_s: float) -> float:
        """Expected time until a prompt of so much prefill can be computed: until its turn comes, and there is room."""
        wait_s = self.wait_for_s(now_s, own_s)
        room_s = self.residency.room_in_s(now_s, prompt_tokens)
        return room_s if room_s > wait_s else wait_s

    def free_in_s(self, terms: HoldTerms) -> float:
        """Time until a request held for it should be sent; 0 or less: at once.

        It is held only while streamed prompts of more than `ahead_tokens`, whoever sent them, have no first byte: the
        one sign from outside that the engine has more to compute than a step of short prompts, however wrong the rates
        are; and their end will be heard. It is sent when what is ahead should take no longer than `most_ahead_s`: so
        the engine never runs dry.
        """
        if self.full(terms):
            return FULL_S
        if self.comes_whole or self.health.state is not ReplicaState.READY:
            return 0.0
        now_s, ahead_tokens, behind_s = terms.now_s, terms.ahead_tokens, terms.behind_s
        if behind_s > terms.behind_tokens * self.wait_token_s:
            behind_s = terms.behind_tokens * self.wait_token_s
        if self.awaited_tokens + self.peer_awaited_tokens <= ahead_tokens:
            if behind_s <= 0.0:
                return 0.0
            since_s = self.since_s
            if self.peer_since_s > since_s:
                since_s = self.peer_since_s
            return behind_s + since_s - now_s if since_s <= now_s else 0.0
        wait_s = self.wait_s(now_s) - self.most_ahead_s(ahead_tokens) + behind_s
        return wait_s if wait_s > 1e-9 else min(wait_s, 0.0)  # what rounding leaves is now

    def full(self, terms: HoldTerms) -> bool:
        """Whether as many requests are under way as may be."""
        return 0 < terms.max_under_way <= self.in_flight + self.peer_in_flight

    def begins_soon(self, terms: HoldTerms) -> bool:
        """Whether some request held for it might be sent now: it is free, or lets a short prompt pass a long one."""
        return self.free_in_s(terms) <= 0.0 or self.lets_pass(terms, 0.0, -inf)

    def note_ended(self, lasted_s: float, tokens: int) -> None:
        """An answer of so many tokens ended so long after its first byte; below 0 where that does not tell."""
        if lasted_s >= 0.0 and tokens >= TELLING_TOKENS:
            # What is passed on as a whole comes within a turn or two of an event loop.
            self.comes_whole = lasted_s < WAY_S

    def over(self, incarnation: Incarnation | None) -> bool:
        """Whether the life of this incarnation is over: another process answers. A cache that was emptied ends none."""
        return incarnation != self.incarnation and incarnation not in self.former

    @property
    def state(self) -> ReplicaState:
        """Where health stands."""
        return self.health.state

    @property
    def routable(self) -> bool:
        """Whether a request may be sent to it while there are others: ready, or owed a trial."""
        state = self.health.state
        return state is ReplicaState.READY or (state is ReplicaState.PROBING and not self.health.trials)

    def life(self, incarnation: Incarnation | None) -> tuple[Server, Incarnation | None]:
        """Which life of the server that was when this replica had this incarnation: the same for all its ranks."""
        if incarnation is None or not self.rank:
            return self.server, incarnation
        return self.server, rank_incarnation(incarnation, self.rank)

    def validate(self) -> None:
        """Raises AssertionError where a derived figure does not follow from what it is derived from."""
        assert 0 <= self.waiting <= self.in_flight, (self.id, self.waiting, self.in_flight)
        assert self.waiting_tokens >= 0, (self.id, self.waiting_tokens)
        assert self.waiting > 0 or self.waiting_tokens == 0, (self.id, self.waiting_tokens)
        assert 0 <= self.trials <= self.in_flight, (self.id, self.trials)
        assert self.recent_load_tokens >= 0, (self.id, self.recent_load_tokens)
        assert len(self.queue) <= self.waiting, (self.id, len(self.queue))
        awaited_tokens = sum([p.uncached_tokens for p in self.queue if p.streams])
        assert self.awaited_tokens == awaited_tokens, (self.id, self.awaited_tokens)
        assert isclose(self.work_s, sum(self.queue.values()), abs_tol=1e-6), (self.id, self.work_s)
        assert self.head_s == next(iter(self.queue.values()), 0.0), (self.id, self.head_s)
        surprise_s = self.surprise_s(next(iter(self.queue))) if self.queue else 0.0
        assert isclose(self.head_surprise_s, surprise_s, abs_tol=1e-6), (self.id, self.head_surprise_s)
        assert (self.sample is None) == (not self.queue), self.id
        assert self.silent == sum(1 for p in self.queue if not p.streams), self.id
        assert self.planned_s == 0.0, (self.id, self.planned_s)
        assert self.models_known or not self.models, self.id
