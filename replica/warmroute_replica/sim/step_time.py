"""The step time says how long one engine step takes: it is the simulator's only model of hardware.

This module decides nothing else. It is pure arithmetic, so that a schedule can be computed by hand:

    step = base + max(decode_step, prefill_tokens / rate) + attention + sequences * per_sequence + context * per_token

where `max` says that a step reads the weights once, and that prefill hides that read once it is long enough. With
`context` the tokens that the decoding sequences attend to, and

    attention = sum over prefilled chunks of tokens * mean context / (rate * attention_context_tokens)

Simulated times rank policies; they predict no machine ("Calibrate, Then Route", arXiv 2609.16206: even a fitted
simulator did not reproduce the measured winner).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StepTime:
    """Constants of the model; the defaults are of an 8-billion-parameter model on one H100-class GPU."""

    prefill_tokens_per_s: float = 8000.0
    """Uncached prompt tokens that the engine computes in a second in a short context. The published figures range from
    0.15-0.30 ms a token alone (llm-d-inference-sim, 8B on H100) to 0.05 ms in full batches (llm-d, 32B on 2 H100); this
    is 0.125 ms."""
    decode_step_s: float = 0.012
    """Shortest step: reading the weights once. Published token intervals are 10-15 ms (llm-d-inference-sim)."""
    base_s: float = 0.002
    """The part of every step that no batch hides: scheduling, input preparation, sampling, output."""
    attention_context_tokens: float = 32_000.0
    """Mean context at which a prefilled token's attention costs as much as all the rest of its forward pass: 16 GFLOP
    a token of weights against 4 * 4096 * 32 layers = 0.52 MFLOP a token of context, for 8B. 0 leaves attention out."""
    decode_sequence_s: float = 30e-6
    """Each decoding sequence adds this to a step: sampling, detokenising, its share of the matrix products."""
    decode_context_s: float = 40e-9
    """Each token of context of each decoding sequence adds this to a step: 128 KiB of KV at 3.35 TB/s."""
    speed: float = 1.0
    """Every duration is divided by this; 10 is ten times faster than the modelled machine."""

    def __post_init__(self) -> None:
        if self.prefill_tokens_per_s <= 0 or self.speed <= 0:
            raise ValueError("prefill_tokens_per_s and speed must be above 0")
        if min(self.decode_step_s, self.base_s, self.decode_sequence_s, self.decode_context_s) < 0:
            raise ValueError("step times must not be negative")
        if self.base_s + self.decode_step_s <= 0:
            raise ValueError("a step must take time: base and decode step are both 0")

    def step_s(
        self, prefill_tokens: int, attended_tokens: float, decode_sequences: int, decode_context_tokens: int
    ) -> float:
        """Return the duration of one step, in seconds.

        Args:
            prefill_tokens: Number of prompt tokens that the step computes.
            attended_tokens: Sum, over those tokens, of the number of tokens to which each attends.
            decode_sequences: Number of sequences that get one more token; those that the step prefills do not count.
            decode_context_tokens: Sum, over those sequences, of their tokens so far.
        """
        duration = self.decode_step_s
        if prefill_tokens:
            duration = max(duration, prefill_tokens / self.prefill_tokens_per_s)
            if self.attention_context_tokens:
                duration += attended_tokens / (self.prefill_tokens_per_s * self.attention_context_tokens)
        duration += self.base_s
        duration += decode_sequences * self.decode_sequence_s + decode_context_tokens * self.decode_context_s
        return duration / self.speed
