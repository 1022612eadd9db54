"""The retry budget bounds how many requests are tried again only to see whose fault an error is.

It allows a share of the traffic, and a few a second. Without a bound, an error that many requests get would double
their load. It decides nothing else.
"""

from __future__ import annotations

from typing import Final

PER_ANSWER: Final = 0.1
PER_SECOND: Final = 2.0
"""So that a trial of a replica that erred costs no client an error where there is little traffic."""
BURST: Final = 20.0


class RetryBudget:
    """Tokens that answered requests and time bring."""

    def __init__(self) -> None:
        self._tokens = BURST
        self._answers = 0
        self._now_s = 0.0

    def take(self, answers: int, now_s: float) -> bool:
        """Spend one token if there is one.

        Args:
            answers: Requests answered since the beginning.
            now_s: Any clock that goes on.
        """
        elapsed_s = now_s - self._now_s
        tokens = self._tokens + PER_ANSWER * (answers - self._answers)
        if elapsed_s > 0.0:
            tokens += PER_SECOND * min(elapsed_s, BURST)
        self._answers = answers
        self._now_s = now_s
        self._tokens = tokens = min(tokens, BURST)
        if tokens < 1.0:
            return False
        self._tokens = tokens - 1.0
        return True
