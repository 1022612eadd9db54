"""What an answer's usage teaches of a replica's cache: how much of what was believed to be there was found.

This module corrects what a replica is counted to hold (`residency`), and learns by age how much of it is found
(`survival`, `trust`). It does not choose; choices go by what it has taught.

An engine that reuses chunks reports one number for prefix and chunks together. What is missing of it is missing of the
chunks first, so such an answer teaches of chunks alone (`chunk_trust`), and of prefixes nothing.
"""

from __future__ import annotations

from typing import Final

from warmroute.core.beliefs.belief import Belief, Uses
from warmroute.core.fleet.decision import Decision

KEPT_RATIO: Final = 0.75
"""If so much of what was believed to be cached was, all was: prompts are weighed by bytes, and engines count blocks."""

BEYOND_WEIGHT: Final = 1 / 64
"""Of a new answer in the mean of what is found beyond the deepest common rung, once there were as many."""


class Feedback:
    """What the answers of one fleet report as cached."""

    __slots__ = ("_beyond", "_beyond_count")

    def __init__(self) -> None:
        self._beyond = 0.0
        """How much of the way to the next rung is found too, where all is that is believed to be there. No choice goes
        by it: agent loops whose contexts just fit all caches took up to half as long again with it."""
        self._beyond_count = 0

    def expect(self, decision: Decision, belief: Belief, uses: Uses) -> None:
        """Note what the answer will be compared with: what the records say of the replica that was chosen."""
        if uses.remembered >= 0:
            decision.remembered_tokens = belief.tokens_at(uses.remembered)
            decision.remembered_s = uses.remembered_s
        if uses.believed >= 0:
            decision.believed_tokens = belief.tokens_at(uses.believed)
            decision.believed_s = uses.believed_s
            decision.doubtful = decision.replica.residency.resident_ratio(uses.believed_s) < 1.0
            if uses.remembered < 0 and decision.chunk_uses is None:
                self._expect_beyond(decision, belief.gap_tokens(uses.believed), belief.shape.prompt_tokens)
        if uses.fresh >= 0:
            decision.fresh_tokens = belief.tokens_at(uses.fresh)
            decision.fresh_s = uses.fresh_s

    def _expect_beyond(self, decision: Decision, gap_tokens: int, prompt_tokens: int) -> None:
        """Prompts part somewhere between the deepest rung that they share and the next."""
        decision.gap_tokens = gap_tokens
        beyond = self._beyond
        if beyond > 0.0 and decision.predicted_tokens:
            share = decision.predicted_tokens / decision.believed_tokens
            expected_tokens = decision.predicted_tokens + int(beyond * share * gap_tokens)
            decision.expected_tokens = min(expected_tokens, prompt_tokens - 1)

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
        if cached_tokens is not None and decision.chunk_uses is not None:
            _learn_chunks(decision, decision.chunk_uses, cached_tokens)
        elif cached_tokens is not None:
            beyond_tokens = cached_tokens - decision.believed_tokens
            if beyond_tokens > 0 and decision.believed_tokens:
                residency.reuse(beyond_tokens, decision.believed_s, now_s)  # the way to the next rung
            self._learn_survival(decision, cached_tokens)
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


def _learn_chunks(decision: Decision, uses: list[tuple[float, int]], cached_tokens: int) -> None:
    """What was found beyond the prefix are the chunks that were used last: engines drop those first that were not."""
    if decision.doubtful:
        return  # how much of it is prefix is not known
    replica = decision.replica
    leading_tokens = decision.believed_tokens
    leading_tokens -= leading_tokens % replica.overlap_block_tokens
    found_tokens = cached_tokens - leading_tokens
    for used_s, tokens in uses:
        if tokens > 0:
            share = _share(found_tokens, tokens)
            replica.chunk_trust.learn(decision.reserved_s - used_s, min(max(share, 0.0), 1.0))
            found_tokens -= tokens


def _share(found_tokens: int, tokens: int) -> float:
    share = found_tokens / tokens
    return share if share < KEPT_RATIO else 1.0
