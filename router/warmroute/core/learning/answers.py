"""Answers of one model tell how many prompt bytes make a token, and how many tokens an answer has.

Both figures are means over the last few hundred answers. A ratio far from the mean (a prompt that is mostly images, or
all digits) counts as one at the border of what is near, and the prior counts like some prompts, so that no single
answer decides.
"""

from __future__ import annotations

from math import sqrt
from typing import Final

from warmroute.core.learning.speed import confidence

MEMORY: Final = 256.0
"""Answers of which older ones count 37 %."""

PROMPT_TOKENS: Final = 1000.0
PRIOR_PROMPTS: Final = 2.0
"""Bytes per token counts by length: a prompt of so many tokens like half of an endless one, the prior like two of
those."""

NEAR: Final = 2.0
"""A prompt's bytes per token count for at most so many times the mean, and at least one over that."""

_FIRST_SPREAD: Final = 0.5
"""Spread of single answers, relative to their mean, while too few are known to tell."""


class Mean:
    """A weighted mean that forgets, with its standard error."""

    __slots__ = ("_squares", "_sum", "_weight", "answers", "value")

    def __init__(self, prior: float, weight: float = 0.0) -> None:
        """Args:
        weight: What the prior counts.
        """
        self._weight = weight
        self._sum = prior * weight
        self._squares = prior * prior * weight
        self.value = prior
        self.answers = 0

    def add(self, value: float, weight: float = 1.0) -> None:
        """One more."""
        self.answers += 1
        self._weight = self._weight * (1.0 - 1.0 / MEMORY) + weight
        self._sum = self._sum * (1.0 - 1.0 / MEMORY) + value * weight
        self._squares = self._squares * (1.0 - 1.0 / MEMORY) + value * value * weight
        self.value = self._sum / self._weight

    @property
    def confidence(self) -> float:
        """0 (the prior) to 1 (no doubt); one half at a standard error of a tenth of `value`."""
        if self.answers == 0 or self.value <= 0.0:
            return 0.0
        count = min(self.answers, MEMORY)
        variance = max(0.0, self._squares / self._weight / (self.value * self.value) - 1.0)
        return confidence(sqrt((variance + _FIRST_SPREAD * _FIRST_SPREAD / count) / count))


class ModelAnswers:
    """One model's figures."""

    __slots__ = ("answer_tokens", "bytes_per_token")

    def __init__(self, bytes_per_token: float, answer_tokens: float) -> None:
        self.bytes_per_token = Mean(bytes_per_token, PRIOR_PROMPTS)
        self.answer_tokens = Mean(answer_tokens)

    def answered(self, prompt_bytes: int, prompt_tokens: int, output_tokens: int) -> None:
        """Take note of what an engine reported; `prompt_bytes` is 0 where it is no text."""
        if prompt_bytes > 0:
            mean = self.bytes_per_token
            ratio = min(max(prompt_bytes / prompt_tokens, mean.value / NEAR), mean.value * NEAR)
            mean.add(ratio, prompt_tokens / (prompt_tokens + PROMPT_TOKENS))
        if output_tokens > 0:
            self.answer_tokens.add(float(output_tokens))

    def as_row(self) -> dict[str, object]:
        """For `/replicas`."""
        return {
            "bytes_per_token": round(self.bytes_per_token.value, 4),
            "bytes_per_token_confidence": round(self.bytes_per_token.confidence, 3),
            "answer_tokens": round(self.answer_tokens.value, 1),
            "answer_tokens_confidence": round(self.answer_tokens.confidence, 3),
            "answers": self.answer_tokens.answers,
        }
