"""Retry budgets bound how much traffic is tried again: a share of what was answered lately, and some in any case.

Without a bound, an outage is multiplied by the retries that it causes: requests that fail everywhere reach each engine
as often as they are tried. `RetryBudget` is for all tries that an engine may have to compute for (retries of what was
delivered, second tries of what is late, streams that go on elsewhere). `ComparisonBudget` is for tries that are made
only to see whose fault an error is, by comparing two replicas. They decide nothing else.
"""

from __future__ import annotations

from typing import Final

PER_ANSWER: Final = 0.1
PER_SECOND: Final = 2.0
"""So that a trial of a replica that erred costs no client an error where there is little traffic."""
BURST: Final = 20.0

WINDOW_S: Final = 30.0
"""Lately: long enough for all that waits at one of many replicas, when that dies, to be a small share of it."""


class ComparisonBudget:
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


class RetryBudget:
    """Tries made again within the last 30 to 60 seconds, against a share of the requests answered in them."""

    def __init__(self, ratio: float, least: int) -> None:
        """Args:
        ratio: Tries again for each answered request.
        least: Tries again that are allowed in the window however little is answered.
        """
        self.ratio = ratio
        self.least = least
        self.refused = 0
        """Tries that were not made for want of budget."""
        self._since_s = 0.0
        self._answers = 0
        """Answers at the beginning of the present window, and how many there were in the one before."""
        self._answers_before = 0
        self._spent = 0
        self._spent_before = 0

    def take(self, answers: int, now_s: float) -> bool:
        """Spend one try if there is one left.

        Args:
            answers: Requests answered since the beginning.
            now_s: A clock that goes on.
        """
        allowed = self._allowed(answers, now_s)
        if self._spent + self._spent_before + 1 > allowed:
            self.refused += 1
            return False
        self._spent += 1
        return True

    def used_ratio(self, answers: int, now_s: float) -> float:
        """Share of the budget that is spent, 0 to 1 (more where answers became fewer since)."""
        allowed = self._allowed(answers, now_s)
        spent = self._spent + self._spent_before
        return spent / allowed if allowed > 0.0 else (1.0 if spent else 0.0)

    def _allowed(self, answers: int, now_s: float) -> float:
        elapsed_s = now_s - self._since_s
        if not 0.0 <= elapsed_s < WINDOW_S:
            recent = 0.0 <= elapsed_s < 2.0 * WINDOW_S
            self._spent_before = self._spent if recent else 0
            self._answers_before = answers - self._answers if recent else 0
            self._spent = 0
            self._answers = answers
            self._since_s = now_s
        return self.least + self.ratio * (answers - self._answers + self._answers_before)


def pause_s(first_s: float, again: int, dice: float) -> float:
    """How long to wait before the next try: nothing before the first one made again, which goes to another replica;
    then, by chance, up to `first_s`, and up to twice as long each further time, at most a second. Chance, so that
    requests which failed together do not come back together.

    Args:
        again: How many tries were made again already.
        dice: Even between 0 and 1.
    """
    if again <= 0 or first_s <= 0.0:
        return 0.0
    most_s = first_s * 2.0 ** min(again - 1, 16)
    return dice * min(most_s, MOST_PAUSE_S)


MOST_PAUSE_S: Final = 1.0
