"""A sample of prefill work on one replica says how much was computed there in how long.

A sample begins when a prompt is sent to a replica with none ahead of it, or with a first byte while more prompts wait.
It ends with a later first byte. Engines compute several prompts in one step, whose first bytes then come together;
taken one by one, the first prompt would have taken all the time and the others none.

A sample says nothing ("spoiled") if it holds a prompt whose prefill has no audible end (one that was given up, or whose
answer does not stream), or if prompts that another router did not tell of in time may be in it.

An answer that comes whole is a sample by itself, from when its prompt was sent to its end, with what was ahead of it by
expectation and the tokens that it decoded.

How much was computed is known for certain once the answers are over. Until then the prediction stands, if it can: where
most of a prompt was believed to be cached, by rungs an eighth apart, the rest may be any small number ("obscure").
"""

from __future__ import annotations

from typing import Final

WAY_S: Final = 0.005
"""From the router to an engine and back, event loops included: of the machines, not of the engine's speed. What differs
by less is taken for the same moment."""

ENOUGH_TOKENS: Final = 4096
"""About what a step computes (engines are told 2,048 to 8,192). A sample that has so much ends with the next step,
though prompts are waiting; and so much at most is computed of a prompt after its client has left."""

UNSURE_WEIGHT: Final = 0.2
"""Of a sample of which it is not known for certain what was computed: prompts were believed to be cached in part and
nothing has confirmed it, or other routers' prompts were computed first."""

UNHEARD_S: Final = 0.15
"""What another router is heard to have sent may have been sent this long before."""


MOST_S: Final = 600.0
"""Longer ones are not believed: the clock was set."""


class Sample:
    """Open until `close`; then, once nothing obscure is left, part of a `SpeedEstimate`, where answers correct it."""

    __slots__ = (
        "closed",
        "end_s",
        "expected_tokens",
        "from_idle",
        "obscure",
        "output_tokens",
        "prompts",
        "running",
        "share",
        "spoiled",
        "start_s",
        "tokens",
        "unconfirmed",
        "untold",
    )

    def __init__(self, start_s: float, from_idle: bool, running: int) -> None:
        self.start_s = start_s
        self.end_s = start_s
        """The last first byte in it."""
        self.from_idle = from_idle
        """Whether it began with a prompt being sent, so that it holds the way there and the start of a step."""
        self.running = running
        """Requests that were decoding when it began."""
        self.prompts = 0
        self.expected_tokens = 0
        """Uncached tokens of its prompts, as predicted."""
        self.output_tokens = 0
        """Tokens that were decoded before its end: of a whole answer all of its own, of first bytes none."""
        self.tokens = 0.0
        """What was computed, counted in tokens without context."""
        self.closed = False
        """It ended, and is fit to learn from."""
        self.obscure = 0
        """Prompts whose part to compute is too small beside the rest to be known before it is reported."""
        self.unconfirmed = 0
        """Prompts predicted to be cached in part, and not reported on."""
        self.untold = 0
        """How many of those have answers that are over: they will never be reported on."""
        self.spoiled = False
        self.share = 1.0
        """What it counts, besides the weights above."""

    def add(self, predicted_tokens: int, uncached_tokens: int, tokens: float, now_s: float) -> None:
        """A first byte came.

        Args:
            predicted_tokens: What was believed to be cached.
            tokens: The uncached ones, by what they cost with their context.
        """
        self.prompts += 1
        self.expected_tokens += uncached_tokens
        self.tokens += tokens
        self.end_s = now_s
        if predicted_tokens:
            self.unconfirmed += 1
            if predicted_tokens > uncached_tokens:
                self.obscure += 1

    def report(self, predicted_tokens: int, uncached_tokens: int, more_tokens: float) -> None:
        """The engine said what of such a prompt was cached: so many more tokens were computed, or fewer."""
        self.tokens += more_tokens
        if predicted_tokens:
            self.unconfirmed -= 1
            if predicted_tokens > uncached_tokens:
                self.obscure -= 1

    def ends_before(self, now_s: float) -> bool:
        """Whether a first byte at this time begins another one."""
        return (
            self.expected_tokens >= ENOUGH_TOKENS and now_s - self.end_s > WAY_S
        )  # else they come from one engine step

    def put_behind(self, tokens: float) -> None:
        """Other routers' prompts are computed first."""
        self.tokens = tokens
        self.share *= UNSURE_WEIGHT

    def peer_sent(self, now_s: float) -> None:
        """Other routers are heard to have sent prompts: after the only one of this sample, they do not matter."""
        if not self.from_idle or now_s - self.start_s < UNHEARD_S:
            self.spoiled = True

    def close(self) -> bool:
        """No more first bytes. True if it can be learned from."""
        self.closed = self.prompts > 0 and not self.spoiled and 0.0 < self.end_s - self.start_s < MOST_S
        return self.closed and self.obscure == 0

    @property
    def weight(self) -> float:
        """What it counts."""
        return self.share * UNSURE_WEIGHT if self.unconfirmed else self.share
