"""The engine is vLLM as a step machine: what each step computes, how long it takes, and who gets a token.

This module decides the schedule: continuous batching, prompts chunked under a token budget shared with decoding,
first come first served or by priority, preemption by recomputation. It holds no clock, no sockets, no text: the
driver passes `now_s`, and delivers a step's tokens when the step ends. Prefix reuse is `block_cache`'s, durations are
`step_time`'s.

The rules, as in vLLM V1 (`v1/core/sched/scheduler.py`), in the order in which a step applies them:

1. With a long-prefill threshold, and more than one unfinished request, no sequence computes more tokens in this step
   than the threshold; adaptive, than its fair share of the budget if that is more. One alone is not capped.
2. Running sequences first, in order of admission: one token each where decoding, the rest of the prompt where not, as
   far as cap and budget go. Without a free block for it, the sequence admitted last is preempted; by priority, the one
   of the largest priority, the latest to arrive among those, and what it was to compute in this step is given back. It
   loses its blocks and goes to the head of the waiting queue; by priority, to its place in it.
3. Then, unless something was preempted, waiting ones, by arrival or by priority (smaller first) and arrival, while
   there are seats, budget, and free blocks for the *whole* prompt (`scheduler_reserve_full_isl`, vLLM's default). The
   first that does not fit holds up all behind it. Priority takes nothing from those that run.
4. A block can be hit from the step on that computes it. The last token of a prompt is always computed.
5. Where the engine has a chunk store, what a prompt's chunks beyond its cached prefix save (`chunk_store`) is there
   when the sequence is admitted, in blocks of its own, and the rest is computed. Its chunks can be found once its
   prompt is computed.

One simplification: a sequence that did not fit is not tried again until blocks are freed.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from warmroute_replica.sim.block_cache import BlockCache
from warmroute_replica.sim.chunk_store import Chunk, ChunkStore
from warmroute_replica.sim.engine_config import EngineConfig, SchedulingPolicy
from warmroute_replica.sim.lower_tier import LowerTier


@dataclass(frozen=True, slots=True)
class SimRequest:
    """A request to the engine for one sequence."""

    id: str
    """An id that no other unfinished request of the engine has."""
    prompt_tokens: int
    output_tokens: int
    """Number of tokens that the sequence generates before it finishes, at least 1: the simulator knows the answer
    beforehand."""
    block_keys: Sequence[Hashable] = ()
    """The key of each full block of the prompt and, as far as it is known, of prompt and output together. A key stands
    for the block and all before it. Blocks beyond the last key are computed and never found again."""
    priority: int = 0
    """The smaller one goes first where the engine schedules by priority; elsewhere it has no effect."""
    reads_cache: bool = True
    """False where the request is not looked up in the cache, as with `prompt_logprobs`; the blocks that it computes are
    stored all the same."""
    chunks: Sequence[Chunk] = ()
    """The prompt's chunks, in their order; they matter to an engine with a chunk store alone."""


class RunState:
    """A request inside the engine. Drivers read it, only the engine writes it; two states are equal if they are
    identical."""

    __slots__ = (
        "admitted_s",
        "arrival_s",
        "blended",
        "blocks",
        "cached_tokens",
        "computed",
        "first_token_s",
        "generated",
        "id",
        "preemptions",
        "rank",
        "request",
        "stored",
    )

    def __init__(self, request: SimRequest, now_s: float, number: int) -> None:
        self.id = request.id
        self.rank = (request.priority, number)
        """Orders requests where priorities count; `number` counts arrivals, so that the earlier of equals goes
        first."""
        self.request = request
        self.arrival_s = now_s
        self.admitted_s: float | None = None
        """When the step that first scheduled the request started."""
        self.first_token_s: float | None = None
        """When the step that finished the request's prompt ended."""
        self.generated = 0
        """Number of output tokens generated so far."""
        self.cached_tokens = 0
        """Number of prompt tokens found in the cache, and in the chunk store, when the request was first scheduled."""
        self.blended = 0
        """Number of tokens among `computed` that came from the chunk store, in the current stay."""
        self.computed = 0
        """Number of tokens whose KV entries exist: all but the newest token, once the sequence decodes."""
        self.blocks: list[int] = []
        self.stored = 0
        """Number of `blocks` that carry a key."""
        self.preemptions = 0

    @property
    def tokens(self) -> int:
        """Number of tokens of the prompt and of the output so far."""
        return self.request.prompt_tokens + self.generated


@dataclass(slots=True)
class StepResult:
    """What one step, or a run of steps, did. Its tokens exist at `end_s`, not before."""

    end_s: float
    duration_s: float
    steps: int = 0
    """Number of steps; 0 when there was nothing to do."""
    tokens: list[RunState] = field(default_factory=list)
    """Sequences with new tokens, those that finished included; `generated` says how many tokens each has."""
    first: list[RunState] = field(default_factory=list)
    """Sequences among `tokens` that got their first token."""
    finished: list[RunState] = field(default_factory=list)
    """Sequences among `tokens` that got their last token; they have left the engine."""
    prefill_tokens: int = 0
    """Number of prompt tokens computed, recomputation after a preemption included."""
    generated_tokens: int = 0
    preempted: int = 0


@dataclass(slots=True)
class EngineTotals:
    """Counters since the engine's start, with the meaning of vLLM's metrics."""

    queried_tokens: int = 0
    """Number of prompt tokens looked up in the cache; each request counts once."""
    hit_tokens: int = 0
    loaded_tokens: int = 0
    """Number of those of `hit_tokens` that came from the tier below."""
    blended_tokens: int = 0
    """Number of prompt tokens that came from the chunk store instead of being computed."""
    prompt_tokens: int = 0
    """Number of prompt tokens of the requests that got their first token."""
    generated_tokens: int = 0
    preemptions: int = 0
    steps: int = 0
    aborted: int = 0


class Engine:
    """The scheduler and the cache of one replica.

    Every unfinished request is either in the waiting queue or in the running list. Complexity: a request costs O(its
    blocks) once; a step O(running sequences); `advance` makes a run of plain decode steps cost O(running) together
    instead of O(running) each.
    """

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        tier_blocks = config.tier_tokens // config.block_tokens
        self.tier = LowerTier(tier_blocks) if tier_blocks else None
        self.cache = BlockCache(config.cache_blocks, self.tier)
        self._loaded_tokens = 0
        """Number of tokens that the step being made loads from the tier."""
        self.chunks = (
            ChunkStore(config.chunk_store_tokens, config.recompute_ratio)
            if config.chunk_store_tokens
            else None
        )
        self.totals = EngineTotals()
        self._waiting: deque[RunState] = deque()
        self._running: list[RunState] = []
        self._by_id: dict[str, RunState] = {}
        self._arrived = 0
        self._by_priority = config.scheduling_policy is SchedulingPolicy.PRIORITY
        self._stuck = False
        """True where the head of the queue did not fit, and no block has been freed since."""
        self._plain = False
        """True where every running sequence is known to have exactly one token to compute next."""

    @property
    def idle(self) -> bool:
        """Whether the engine has nothing to do until the next `add`."""
        return not self._by_id

    @property
    def running(self) -> int:
        """Number of sequences that hold a seat."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Number of sequences in the queue."""
        return len(self._waiting)

    @property
    def usage_ratio(self) -> float:
        """Share of the cache that running sequences use; blocks that are cached but unused count as free."""
        return 1.0 - self.cache.free_blocks / self.cache.blocks

    @property
    def backlog_tokens(self) -> int:
        """Number of prompt tokens accepted and not yet computed. What waiting requests will find cached is not
        deducted. O(unfinished requests)."""
        return sum(max(0, state.request.prompt_tokens - state.computed) for state in self._by_id.values())

    def states(self) -> Iterator[RunState]:
        """Return all unfinished requests, in order of arrival."""
        return iter(self._by_id.values())

    def overlap_tokens(self, block_keys: Sequence[Hashable], prompt_tokens: int) -> int:
        """Return how many of its prompt tokens a request would find in the cache if it were scheduled at once."""
        limit = (prompt_tokens - 1) // self.config.block_tokens
        found = len(self.cache.match(block_keys, limit))
        if self.tier is not None:
            found += self.tier.match(block_keys, found, limit)
        return found * self.config.block_tokens

    def change_speed(self, speed: float) -> None:
        """Divide the durations of steps that start from now on by `speed`, as where the GPU's clock rate changes or
        another tenant comes to the GPU."""
        self.config = replace(self.config, step_time=replace(self.config.step_time, speed=speed))

    def add(self, request: SimRequest, now_s: float) -> RunState:
        """Queue a request.

        Raises:
            ValueError: The id is in use, a length is below 1, or the sequence is larger than the whole cache.
        """
        if request.id in self._by_id:
            raise ValueError(f"request id {request.id!r} is in use")
        if request.prompt_tokens < 1 or request.output_tokens < 1:
            raise ValueError("a request needs at least one prompt token and one output token")
        if request.prompt_tokens + request.output_tokens > self.cache.blocks * self.config.block_tokens:
            raise ValueError("the sequence would not fit into the empty cache")
        self._arrived += 1
        state = RunState(request, now_s, self._arrived)
        self._by_id[request.id] = state
        self._queue(state)
        return state

    def abort(self, request_id: str) -> bool:
        """Drop a request, whatever its state; return False if the engine does not have it (any more)."""
        state = self._by_id.pop(request_id, None)
        if state is None:
            return False
        if state in self._running:
            self._running.remove(state)
            self.cache.release(state.blocks)
        else:
            self._waiting.remove(state)
        self._stuck = False
        self.totals.aborted += 1
        return True

    def step(self, now_s: float) -> StepResult:
        """Compute one step that starts at `now_s`. If there is nothing to do, the result has no steps and no
        duration."""
        if not self._by_id:
            return StepResult(now_s, 0.0)
        budget = self.config.max_num_batched_tokens
        most = self._most_tokens(budget)
        scheduled: list[tuple[RunState, int]] = []
        preempted = 0
        index = 0
        running = self._running
        while index < len(running) and budget > 0:
            state = running[index]
            new = min(state.tokens - state.computed, most, budget)
            grown = self._grow(state, state.computed + new)
            while not grown:
                victim = self._victim()
                at = running.index(victim)
                del running[at]
                if at < index:
                    index -= 1
                    budget += _withdraw(victim, scheduled)
                self._preempt(victim)
                preempted += 1
                if victim is state:
                    break
                grown = self._grow(state, state.computed + new)
            if not grown:
                break
            scheduled.append((state, new))
            budget -= new
            index += 1
        if preempted and not scheduled and running:
            # Under scheduling by priority the first sequence may have preempted itself. vLLM then makes an empty step,
            # which takes no time worth counting.
            result = self.step(now_s)
            result.preempted += preempted
            return result
        if not preempted or not scheduled:
            # If nothing is scheduled, the last sequence preempted itself, and is admitted to the empty cache at once.
            self._admit(scheduled, budget, most, now_s)
        return self._finish_step(scheduled, preempted, now_s)

    def advance(self, now_s: float, until_s: float) -> StepResult:
        """Compute steps back to back, the first starting at `now_s`, until a step gives a sequence its first or last
        token, or the next step would start at or after `until_s`. Unless the engine is idle, at least one step is
        computed.

        The result is exactly that of repeated calls of `step`, each starting at the `end_s` of the one before; but a
        run of steps in which sequences only decode is computed at once. The caller may `add` what arrived during these
        steps afterwards, since a step under way admits no new request.
        """
        total = StepResult(now_s, 0.0)
        gained: dict[RunState, None] = {}
        while self._by_id:
            part = self._decode_run(total.end_s, until_s) or self.step(total.end_s)
            total.end_s = part.end_s
            total.steps += part.steps
            total.prefill_tokens += part.prefill_tokens
            total.generated_tokens += part.generated_tokens
            total.preempted += part.preempted
            gained.update(dict.fromkeys(part.tokens))
            if part.first or part.finished:
                total.first = part.first
                total.finished = part.finished
                break
            if total.end_s >= until_s:
                break
        total.tokens = list(gained)
        total.duration_s = total.end_s - now_s
        return total

    def validate(self) -> None:
        """Raise AssertionError where the engine's records contradict each other; tests call this."""
        self.cache.validate()
        assert len(self._by_id) == len(self._running) + len(self._waiting)
        assert len(self._running) <= self.config.max_num_seqs
        block_tokens = self.config.block_tokens
        used: set[int] = set()
        for state in self._running:
            assert len(state.blocks) == -(-state.computed // block_tokens)
            assert state.computed < state.tokens
            used.update(state.blocks)
        assert all(not state.blocks and not state.computed for state in self._waiting)
        assert self.cache.blocks - self.cache.free_blocks == len(used)

    def _most_tokens(self, budget: int) -> int:
        """Return how many tokens of one sequence the next step computes at most."""
        threshold = self.config.long_prefill_token_threshold
        eligible = len(self._by_id)
        if not threshold or eligible < 2:
            return budget
        if self.config.long_prefill_token_threshold_adaptive:
            return max(threshold, budget // eligible)
        return threshold

    def _victim(self) -> RunState:
        """Return the running sequence to preempt."""
        return max(self._running, key=_rank) if self._by_priority else self._running[-1]

    def _queue(self, state: RunState) -> None:
        """Put a sequence in its place in the waiting queue."""
        waiting = self._waiting
        if not self._by_priority:
            waiting.append(state)
            return
        insort(waiting, state, key=_rank)
        if waiting[0] is state:
            self._stuck = False

    def _admit(self, scheduled: list[tuple[RunState, int]], budget: int, most: int, now_s: float) -> None:
        cache = self.cache
        block_tokens = self.config.block_tokens
        while (
            self._waiting and budget > 0 and len(self._running) < self.config.max_num_seqs and not self._stuck
        ):
            state = self._waiting[0]
            tokens = state.tokens
            reads = state.request.reads_cache
            hits = cache.match(state.request.block_keys, (tokens - 1) // block_tokens) if reads else []
            if -(-tokens // block_tokens) - len(hits) + cache.unused(hits) > cache.free_blocks:
                self._stuck = True
                return
            self._waiting.popleft()
            cache.take(hits)
            state.blocks = hits
            state.stored = len(hits)
            state.computed = len(hits) * block_tokens
            if self.tier is not None and reads:
                self._load(self.tier, state, (tokens - 1) // block_tokens)
            if self.chunks is not None and reads:
                saved = self.chunks.reuse(state.request.chunks, state.computed)
                state.blended = max(0, min(saved, state.request.prompt_tokens - 1 - state.computed))
                state.computed += state.blended
            if state.admitted_s is None:
                state.admitted_s = now_s
                state.cached_tokens = state.computed
                self.totals.queried_tokens += tokens if reads else 0
                self.totals.hit_tokens += state.computed - state.blended
                self.totals.blended_tokens += state.blended
            new = min(tokens - state.computed, most, budget)
            self._grow(state, state.computed + new)
            self._running.append(state)
            scheduled.append((state, new))
            budget -= new

    def _load(self, tier: LowerTier, state: RunState, limit: int) -> None:
        """Go on from what the GPU has of a sequence with what the tier has of it."""
        keys = state.request.block_keys
        start = len(state.blocks)
        count = tier.match(keys, start, limit)
        if count:
            loaded = keys[start : start + count]
            tier.load(loaded)
            self._loaded_tokens += count * self.config.block_tokens
            state.computed += count * self.config.block_tokens
            if state.admitted_s is None:
                self.totals.loaded_tokens += count * self.config.block_tokens
            self._grow(state, state.computed)

    def _finish_step(self, scheduled: list[tuple[RunState, int]], preempted: int, now_s: float) -> StepResult:
        result = StepResult(now_s, 0.0, steps=1, preempted=preempted)
        attended = 0.0
        decoding = context = 0
        for state, new in scheduled:
            if state.generated and new == 1:
                decoding += 1
                context += state.tokens
            else:
                result.prefill_tokens += new
                attended += new * (state.computed + new / 2)
            state.computed += new
            if state.computed < state.tokens:
                continue
            state.generated += 1
            result.tokens.append(state)
            if state.generated == 1:
                result.first.append(state)
                self.totals.prompt_tokens += state.request.prompt_tokens
                if self.chunks is not None:
                    self.chunks.keep(state.request.chunks)
            if state.generated == state.request.output_tokens:
                result.finished.append(state)
        result.duration_s = self.config.step_time.step_s(result.prefill_tokens, attended, decoding, context)
        if self._loaded_tokens:
            result.duration_s += self._loaded_tokens * self.config.tier_token_s / self.config.step_time.speed
            self._loaded_tokens = 0
        result.end_s = now_s + result.duration_s
        result.generated_tokens = len(result.tokens)
        for state in result.first:
            state.first_token_s = result.end_s
        self._plain = len(result.tokens) == len(self._running)
        for state in result.finished:
            self._retire(state)
        self.totals.generated_tokens += result.generated_tokens
        self.totals.steps += result.steps
        return result

    def _decode_run(self, now_s: float, until_s: float) -> StepResult | None:
        """Compute steps up to and including the first that ends a sequence or reaches `until_s`. Return None where a
        step may do anything but give every running sequence one token."""
        running = self._running
        count = len(running)
        if not self._plain or not running:
            return None
        if self._waiting and not self._stuck and count < self.config.max_num_seqs:
            return None
        step_s = self.config.step_time.step_s
        limit = min(state.request.output_tokens - state.generated for state in running)
        context = sum(state.tokens for state in running)
        end_s = now_s
        steps = 0
        while steps < limit:
            end_s += step_s(0, 0.0, count, context)
            context += count
            steps += 1
            if end_s >= until_s:
                break
        edges = self._block_edges(steps)
        if sum(taken for _later, _index, taken in edges) > self.cache.free_blocks:
            return None
        for later, index, _taken in edges:
            self._grow(running[index], running[index].computed + later)
        result = StepResult(end_s, end_s - now_s, steps, list(running), generated_tokens=steps * count)
        for state in result.tokens:
            state.computed += steps
            state.generated += steps
            if state.generated == state.request.output_tokens:
                result.finished.append(state)
        for state in result.finished:
            self._retire(state)
        self.totals.generated_tokens += result.generated_tokens
        self.totals.steps += steps
        return result

    def _block_edges(self, steps: int) -> list[tuple[int, int, bool]]:
        """Return when running sequences take or fill a block in the next plain decode steps. Each entry has the step's
        number from 1, the sequence's index, and whether a block is taken. The entries have the order in which single
        steps would come to them, so that a run of steps and single steps leave the same cache."""
        block_tokens = self.config.block_tokens
        edges: list[tuple[int, int, bool]] = []
        for index, state in enumerate(self._running):
            to_full = block_tokens - state.computed % block_tokens
            taking = to_full % block_tokens + 1
            edges.extend((later, index, True) for later in range(taking, steps + 1, block_tokens))
            if block_tokens > 1:
                edges.extend((later, index, False) for later in range(to_full, steps + 1, block_tokens))
        edges.sort()
        return edges

    def _grow(self, state: RunState, computed: int) -> bool:
        """Give a sequence the blocks for `computed` tokens, and store those that it fills. Return False, and change
        nothing, where there is no room."""
        blocks = state.blocks
        missing = -(-computed // self.config.block_tokens) - len(blocks)
        if missing > 0:
            if missing > self.cache.free_blocks:
                return False
            blocks.extend(self.cache.allocate(missing))
        keys = state.request.block_keys
        full = min(_leading(state, computed) // self.config.block_tokens, len(keys))
        store = self.cache.store
        for index in range(state.stored, full):
            store(blocks[index], keys[index])
        state.stored = max(state.stored, full)
        return True

    def _preempt(self, state: RunState) -> None:
        # The step that takes the blocks away was still to compute some of them, so their content does not exist.
        kept = _leading(state, state.computed) // self.config.block_tokens
        self.cache.forget(state.blocks[kept : state.stored])
        self.cache.release(state.blocks)
        state.blocks = []
        state.stored = state.computed = state.blended = 0
        state.preemptions += 1
        if self._by_priority:
            self._queue(state)
        else:
            self._waiting.appendleft(state)
        self._stuck = False
        self.totals.preemptions += 1

    def _retire(self, state: RunState) -> None:
        self._running.remove(state)
        del self._by_id[state.id]
        self.cache.release(state.blocks)
        self._stuck = False


def _leading(state: RunState, computed: int) -> int:
    """Return how many leading tokens are certainly among so many computed ones: chunks may stand anywhere."""
    return computed if computed >= state.request.prompt_tokens else computed - state.blended


def _rank(state: RunState) -> tuple[int, int]:
    return state.rank


def _withdraw(state: RunState, scheduled: list[tuple[RunState, int]]) -> int:
    """Take a sequence out of what a step computes, and return the number of its tokens that were to be computed."""
    for index, (other, new) in enumerate(scheduled):
        if other is state:
            del scheduled[index]
            return new
    return 0
