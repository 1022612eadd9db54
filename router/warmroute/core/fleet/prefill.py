"""The prefill queue of one replica: when the engine should be through with what it was sent.

This module guesses at the engine's queue: prompts in order of dispatch, each for as long as its prefill should take,
the first since it was sent or since the one before it was heard of. What is left of it is `wait_s`. Where the first
takes longer than what its cache should have left of it, the cache had lost it, and it is computed whole. One that is
late is expected to be late for as long again. The queue times how long that work really took, which is what speeds are
learned from. Nothing here decides who is sent a prompt.

A prompt whose answer comes whole is silent: nothing is heard when its prefill ends. It ends by expectation, and at the
latest when a later one is heard of, since an engine computes prompts in order.

One whose client leaves is computed on until the step's end that the engine is at: nothing else begins before, and the
engine keeps what it has computed.
"""

from __future__ import annotations

from math import inf
from typing import Final

from warmroute.core.beliefs.residency import STALE_S
from warmroute.core.choice.cost import CostParameters
from warmroute.core.fleet.hold_terms import HoldTerms
from warmroute.core.fleet.peer_load import PeerLoad
from warmroute.core.fleet.prompt import Prefill
from warmroute.core.learning.sample import ENOUGH_TOKENS, WAY_S, Sample
from warmroute.core.learning.speed import SpeedEstimate

LATE_TIMES: Final = 4.0
"""A prefill that takes so many times as long as it should is late: the engine is held up by what nobody here knows of,
or waits for room in its cache."""


class PrefillQueue:
    """The queue of one replica; `Fleet` alone changes it."""

    __slots__ = (
        "attention_ratio",
        "attention_s",
        "awaited_tokens",
        "busy_until_s",
        "comes_whole",
        "delay_s",
        "peer_awaited_tokens",
        "peer_head_s",
        "peer_held_s",
        "peer_since_s",
        "peer_work_s",
        "peer_work_tokens",
        "head_s",
        "head_surprise_s",
        "held_tokens",
        "in_flight",
        "planned_s",
        "prefill_tokens_per_s",
        "queue",
        "shared_tokens",
        "silent",
        "since_s",
        "speed",
        "sample",
        "wait_token_s",
        "waiting",
        "work_s",
    )

    def __init__(self, cost: CostParameters) -> None:
        self.in_flight = 0
        """Requests sent to it and not settled."""
        self.waiting = 0
        """Those of them without a first byte."""
        self.queue: dict[Prefill, float] = {}
        """Expected prefill time of each waiting request still to be prefilled, in order of dispatch."""
        self.work_s = 0.0
        """Sum of `queue`."""
        self.head_s = 0.0
        """The first of `queue`; 0 when empty."""
        self.head_surprise_s = 0.0
        """How much longer it takes if nothing of it is cached; 0 when empty."""
        self.since_s = 0.0
        """When the first of `queue` began, or will, as far as is known."""
        self.busy_until_s = -inf
        """Until when the engine computes on what was given up."""
        self.sample: Sample | None = None
        """What is being timed; only while `queue` is not empty."""
        self.silent = 0
        """Prompts in `queue` whose prefill has no audible end."""
        self.speed = SpeedEstimate()
        """What was learned of it; what is believed is below."""
        self.comes_whole = False
        """Whether the last stream that could show it (`TELLING_TOKENS`) ended with its first byte: it, or a proxy
        before it, passes answers on as a whole. No request waits for such a replica, whose prompts end unheard."""
        self.planned_s = 0.0
        """Prefill time of requests held at the router and meant for it; only while they are looked through."""
        self.held_tokens = 0
        """Requests held at this router and meant for it when they were looked at last, in tokens without context."""
        self.peer_held_s = 0.0
        """Half of what other routers hold for it, as time: of two that are held at different routers, neither knows
        which goes first. 0 while nobody tells."""
        self.shared_tokens = cost.shared_step_tokens
        """`CostParameters.shared_step_tokens`."""
        self.awaited_tokens = 0
        """Uncached tokens of the streamed requests in `queue`: their first byte tells when their prefill is over."""
        self.peer_work_tokens = 0
        """Other routers' prompts that wait or are prefilled, in tokens without context; 0 while nobody tells."""
        self.peer_work_s = 0.0
        """The same as time."""
        self.peer_awaited_tokens = 0
        """Other routers' `awaited_tokens`; 0 while nobody tells."""
        self.peer_head_s = 0.0
        """The longest of the first prompts of each."""
        self.peer_since_s = -inf
        """The latest of other routers' `since_s`."""
        self.attention_ratio = (
            0.5 / cost.attention_context_tokens if cost.attention_context_tokens > 0 else 0.0
        )
        """Share by which a token's prefill takes longer for each token of the cached plus the whole prompt."""
        self.prefill_tokens_per_s = cost.prefill_tokens_per_s
        self.delay_s = 0.0
        """What every request costs there besides the queue: a step of the decoding ones, and the way there and back."""
        self.wait_token_s = 1.0 / cost.prefill_tokens_per_s
        """Seconds of prefill of a token without context."""
        self.attention_s = self.wait_token_s * self.attention_ratio
        """Seconds that a token's prefill takes longer for each token of the cached plus the whole prompt."""

    def prefill_s(self, prompt_tokens: int, overlap_tokens: int) -> float:
        """Expected time of a prompt's prefill, of which so many leading tokens are held."""
        return (prompt_tokens - overlap_tokens) * (
            self.wait_token_s + self.attention_s * (prompt_tokens + overlap_tokens)
        )

    def work_tokens(self, prompt_tokens: int, overlap_tokens: int) -> float:
        """The same work counted in tokens without context."""
        return (prompt_tokens - overlap_tokens) * (
            1.0 + self.attention_ratio * (prompt_tokens + overlap_tokens)
        )

    def surprise_s(self, prompt: Prefill) -> float:
        """How much later than expected the first byte of a prompt that was sent comes if its cache holds nothing of it,
        nor of the one that is computed now."""
        head = next(iter(self.queue), prompt)
        return _surprise_s(self, head) + (_surprise_s(self, prompt) if prompt is not head else 0.0)

    def wait_s(self, now_s: float) -> float:
        """Expected time until the queue's last prefill is over, what is planned on top included."""
        work_s = self.work_s + self.peer_work_s
        if self.busy_until_s > now_s:
            return work_s + self._busy_s(now_s) + self.planned_s
        if work_s > 0.0:
            # One prompt is prefilled at a time: whoever sent the one before, its end is where this one began.
            since_s = self.since_s
            if self.peer_since_s > since_s:
                since_s = self.peer_since_s
            elapsed_s = now_s - since_s
            if elapsed_s > 0.0:
                if self.silent == len(self.queue) and self.peer_awaited_tokens <= 0:
                    return (work_s - elapsed_s if work_s > elapsed_s else 0.0) + self.planned_s
                head_s = self.head_s
                awaits = self.silent == 0 or self.awaits
                if not awaits:
                    left_s, head_s, elapsed_s = self._left(elapsed_s)
                    work_s += left_s - self.work_s
                if self.peer_head_s > head_s:
                    head_s = self.peer_head_s
                more_s = self.head_surprise_s
                if awaits and more_s > 0.0 and elapsed_s > self.head_s + self.delay_s + WAY_S:
                    work_s += more_s
                    if self.head_s + more_s > head_s:
                        head_s = self.head_s + more_s
                # A prefill that takes longer than expected is taken to be about to end, not to have ended.
                most_s = head_s - WAY_S if head_s > 20.0 * WAY_S else 0.95 * head_s
                work_s -= elapsed_s if elapsed_s < most_s else most_s
                work_s += self._late_s(elapsed_s, head_s)
        return work_s + self.planned_s

    def _left(self, elapsed_s: float) -> tuple[float, float, float]:
        """What is left of `work_s` once the silent prompts at its head are over that should be by now, the first prompt
        that is left, and for how long that has been computed."""
        work_s = self.work_s
        for prompt, prefill_s in self.queue.items():
            if prompt.streams or elapsed_s < prefill_s:
                return work_s, prefill_s, elapsed_s
            work_s -= prefill_s
            elapsed_s -= prefill_s
        return 0.0, 0.0, 0.0

    def _late_s(self, elapsed_s: float, head_s: float) -> float:
        """For how long the first prompt has been late, and is expected to be so again; 0 where its first byte would not
        tell that it was prefilled."""
        late_s = elapsed_s - LATE_TIMES * (head_s + self.delay_s + WAY_S)
        if late_s <= 0.0 or self.comes_whole:
            return 0.0
        told = self.awaits if self.queue else self.peer_awaited_tokens > 0
        return late_s if told else 0.0

    def _busy_s(self, now_s: float) -> float:
        """For how long a prompt that was given up is still computed; 0 where none is, or the clock was set back."""
        left_s = self.busy_until_s - now_s
        return left_s if 0.0 < left_s <= ENOUGH_TOKENS * self.wait_token_s else 0.0

    @property
    def awaits(self) -> bool:
        """Whether the first of the queue tells by its first byte when it was prefilled."""
        for prompt in self.queue:
            return prompt.streams
        return False

    def wait_for_s(self, now_s: float, own_s: float) -> float:
        """Expected time until a prompt of so much prefill can be computed, with what other routers hold for it.

        Where the engine shares its steps, each prompt ahead takes about as much of them as this one, or its least
        part of a step, until this one is done; else all of it.
        """
        whole_s = self.wait_s(now_s) + self.peer_held_s
        shared_tokens = self.shared_tokens
        if shared_tokens <= 0.0 or whole_s <= 0.0:
            return whole_s
        part_s = shared_tokens * self.wait_token_s
        if part_s < own_s:
            part_s = own_s
        peer_s = self.peer_work_s
        wait_s = self.planned_s + (peer_s if peer_s < part_s else part_s)
        elapsed_s = now_s - self.since_s
        if self.queue:
            wait_s += self._late_s(elapsed_s, self.head_s)
        for prompt, prefill_s in self.queue.items():
            left_s = prefill_s - elapsed_s if elapsed_s > 0.0 else prefill_s
            # The first alone has begun, and the one after those that are over by expectation.
            elapsed_s = 0.0 if prompt.streams else elapsed_s - prefill_s
            if left_s > 0.0:
                wait_s += left_s if left_s < part_s else part_s
        return wait_s if wait_s < whole_s else whole_s

    def note_peers(self, peers: PeerLoad, now_s: float) -> None:
        """Take over what other routers have under way here, and what they hold for it."""
        token_s = self.wait_token_s
        self.peer_work_tokens = peers.work_tokens
        self.peer_work_s = peers.work_tokens * token_s
        self.peer_head_s = peers.head_tokens * token_s
        self.peer_since_s = now_s - peers.age_s
        self.peer_awaited_tokens = peers.awaited_tokens
        self.peer_held_s = 0.5 * peers.held_tokens * token_s

    def lets_pass(self, terms: HoldTerms, own_s: float, used_s: float, first_rung: int = 0) -> bool:
        """Whether a prompt held for it may be sent though it is not free, past much longer ones.

        Only where the engine shares its steps, one such prompt at a time: what else is ahead is counted as in
        `free_in_s`. Not if what is believed to be cached of it was last sent (`used_s`) with one of those that wait,
        which begins alike: it is still to be computed, and would be computed twice.

        Args:
            own_s: The prompt's own prefill time.
            used_s: Minus infinity where nothing of it is believed to be cached.
        """
        shared_tokens = self.shared_tokens
        if shared_tokens <= 0.0 or not self.queue or self.peer_awaited_tokens > 0:
            return False
        long_s = own_s + shared_tokens * self.wait_token_s
        short_s = 0.0
        elapsed_s = terms.now_s - self.since_s
        for prompt, prefill_s in self.queue.items():
            if prompt.first_rung == first_rung and -WAY_S <= prompt.reserved_s - used_s <= STALE_S:
                return False
            left_s = prefill_s - elapsed_s if elapsed_s > 0.0 else prefill_s
            elapsed_s = 0.0 if prompt.streams else elapsed_s - prefill_s
            if 0.0 < left_s < long_s:
                short_s += left_s
        return short_s <= self.most_ahead_s(terms.ahead_tokens)

    def most_ahead_s(self, ahead_tokens: float) -> float:
        """How much work may be ahead of a prompt that is sent there: so many tokens and the way there and back, or a
        step, where that takes longer: an engine with many to decode computes all that came since in its next one.
        Without such tokens no more than the way."""
        ahead_s = ahead_tokens * self.wait_token_s + WAY_S
        return self.delay_s if ahead_s < self.delay_s and ahead_tokens > 0.0 else ahead_s

    def enqueue(self, prompt: Prefill, prefill_s: float, now_s: float) -> None:
        """A prompt was sent."""
        queue = self.queue
        while queue:
            # Of answers that do not stream nothing is heard before the end: their prefill ends by expectation.
            head = next(iter(queue))
            if head.streams or now_s - self.since_s < self.head_s:
                break
            self.dequeue(head, now_s)
        sample = self.sample
        if sample is None:
            # Behind another router's prompt it has not begun yet; that it is late is no work.
            ahead_s = (
                min(self.wait_s(now_s) - self.planned_s, self.peer_work_s) if self.peer_work_s > 0.0 else 0.0
            )
            busy_s = self._busy_s(now_s)
            if busy_s > 0.0:
                self.since_s = self.busy_until_s
            elif self.peer_work_s <= 0.0:
                self.since_s = now_s
            elif self.peer_since_s > self.since_s:  # else it began when the last one from here was over
                self.since_s = self.peer_since_s
            self.head_s = prefill_s
            self.head_surprise_s = _surprise_s(self, prompt)
            sample = self.sample = Sample(now_s, True, self.in_flight - self.waiting)
            sample.spoiled = busy_s > 0.0
            if ahead_s > 0.0:
                sample.put_behind(ahead_s * self.prefill_tokens_per_s)
        elif self.peer_work_s > 0.0:
            sample.spoiled = True  # nobody knows what comes before this one
        if not prompt.streams:
            self.silent += 1
            sample.spoiled = True
            behind_s = self.wait_s(now_s) - self.planned_s
            prompt.sample = Sample(now_s, True, self.in_flight - self.waiting)
            if behind_s > 0.0:
                prompt.sample.put_behind(behind_s * self.prefill_tokens_per_s)
        queue[prompt] = prefill_s
        self.work_s += prefill_s
        if prompt.streams:
            self.awaited_tokens += prompt.uncached_tokens

    def prefilling(self, now_s: float) -> tuple[int, int, int, int, int]:
        """What other routers are told of the queue: its sum and its first prompt in tokens without context, for
        how many ms that has been under way, `awaited_tokens` and `held_tokens`. Not in seconds: each router learns a
        replica's speed by itself."""
        tokens_per_s = self.prefill_tokens_per_s
        age_s = now_s - self.since_s
        if age_s < 0.0 or age_s > 1e6:
            age_s = 0.0 if age_s < 0.0 else 1e6
        work_s, head_s = self.work_s, self.head_s
        if self.silent > 0:
            work_s, head_s, age_s = self._left(age_s)
        return (
            int(work_s * tokens_per_s + 0.5),
            int(head_s * tokens_per_s + 0.5),
            int(age_s * 1000.0),
            self.awaited_tokens,
            self.held_tokens,
        )

    def _time(self, prompt: Prefill, sample: Sample, now_s: float) -> None:
        """The prompt's first byte came, and belongs to the sample."""
        predicted_tokens, uncached_tokens = prompt.predicted_tokens, prompt.uncached_tokens
        work_tokens = self.work_tokens(predicted_tokens + uncached_tokens, predicted_tokens)
        sample.add(predicted_tokens, uncached_tokens, work_tokens, now_s)
        prompt.sample = sample

    def dequeue(self, prompt: Prefill, now_s: float, heard: bool = False) -> None:
        """A prompt was prefilled, or given up; a no-op if it is not in the queue. `heard`: its first byte is there."""
        queue = self.queue
        if heard and not prompt.streams and prompt.sample is not None:
            self._time(prompt, prompt.sample, now_s)
        if prompt not in queue:
            return
        while heard and self.silent > 0 and self.shared_tokens <= 0.0:
            head = next(iter(queue))
            if head is prompt or head.streams:
                break
            self.dequeue(head, now_s)
        first, prefill_s = next(iter(queue)) is prompt, queue.pop(prompt)
        if first and (prompt.streams or self.since_s + prefill_s > now_s):
            self.since_s = now_s
        elif (heard or not prompt.streams) and self.since_s + prefill_s <= now_s:
            self.since_s += prefill_s  # it was computed beside the first, which is as much later
        sample = self.sample
        assert sample is not None
        if prompt.streams:
            self.awaited_tokens -= prompt.uncached_tokens
        else:
            self.silent -= 1
        sample.spoiled |= not prompt.streams or not heard
        if prompt.streams and heard:
            if first and sample.ends_before(now_s):
                if sample.close():
                    self.speed.observe(sample)
                sample = self.sample = Sample(sample.end_s, False, self.in_flight - self.waiting)
                sample.spoiled = self.silent > 0 or self.peer_work_s > 0.0
            self._time(prompt, sample, now_s)
        if not queue:
            if sample.close():
                self.speed.observe(sample)
            self.sample = None
            self.work_s = self.head_s = self.head_surprise_s = 0.0
            return
        self.work_s -= prefill_s
        if first:
            head = next(iter(queue))
            self.head_s, self.head_surprise_s = queue[head], _surprise_s(self, head)

    def give_up(self, prompt: Prefill, now_s: float) -> bool:
        """The client of a prompt without a first byte is gone. Returns whether its engine should have begun it by now.

        If it has, the engine computes on until its step ends: as long as the prompt takes, or `ENOUGH_TOKENS` at most.
        """
        queue = self.queue
        if prompt not in queue:
            return True  # nothing of it was to be computed, or it is over by expectation
        ahead_s = prefill_s = 0.0
        for other, prefill_s in queue.items():
            if other is prompt:
                break
            ahead_s += prefill_s
        first, since_s = next(iter(queue)) is prompt, self.since_s
        elapsed_s = now_s - since_s - ahead_s
        self.dequeue(prompt, now_s)
        if not first:
            self.since_s = since_s
        else:
            left_s = prefill_s - elapsed_s if elapsed_s > WAY_S else -elapsed_s
            step_s = ENOUGH_TOKENS * self.wait_token_s
            if left_s > 0.0:
                self.since_s = self.busy_until_s = now_s + (left_s if left_s < step_s else step_s)
        return elapsed_s > WAY_S


def _surprise_s(queue: PrefillQueue, prompt: Prefill) -> float:
    """How much longer this prompt's prefill takes if nothing of it is cached."""
    predicted_tokens = prompt.predicted_tokens
    prompt_tokens = predicted_tokens + prompt.uncached_tokens
    return queue.prefill_s(prompt_tokens, 0) - queue.prefill_s(prompt_tokens, predicted_tokens)
