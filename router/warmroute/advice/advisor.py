"""The advisor looks at some of the prompts, within a budget of time and memory, and sums up why they miss.

Decides which prompts are looked at, and what is counted of them once it is known what the engine had cached: of what a
departure costs, no more than what had to be computed. Keeps sums by ten minutes for a day. Time, dice and what a look
took are told to it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from warmroute.advice import sketch
from warmroute.advice.cause import REMEDIES, Cause
from warmroute.advice.departure import Finding, find
from warmroute.advice.memory import Owner, Recent

BUCKET_S: Final = 600
KEPT_BUCKETS: Final = 144
MOST_ROWS: Final = 20_000
"""Of tenant, model and ten minutes; beyond that the oldest ten minutes are forgotten, and where these are all there is,
whoever comes next is counted in `REST`."""
REST: Final = ("(other)", "(other)")


class Look(NamedTuple):
    """That one prompt was looked at."""

    owner: Owner
    finding: Finding | None
    prompt_tokens: int
    """By the router's estimate."""


class _Tally:
    """Of one tenant and model."""

    __slots__ = ("causes", "looked", "missed_tokens", "prompt_tokens")

    def __init__(self) -> None:
        self.looked = self.prompt_tokens = self.missed_tokens = 0
        self.causes: dict[Cause, _Cost] = {}


class _Cost:
    __slots__ = ("example", "requests", "tokens")

    def __init__(self) -> None:
        self.requests = self.tokens = 0
        self.example = ""


class _Bucket:
    __slots__ = ("looked", "rows", "seen")

    def __init__(self) -> None:
        self.seen = self.looked = 0
        self.rows: dict[Owner, _Tally] = {}


class Advisor:
    """One worker's.

    Args:
        sample: Share of the prompts that are looked at.
        budget_ratio: Share of the event loop's time that this may take.
        memory_bytes: Memory that remembered prompts may take.
        minimum_tokens: A departure that costs less is none.
        show_shared: Whether examples have the words that prompts share.
        dice: From 0 to 1, less than 1.
        stopwatch: Seconds, monotonic.
        clock: Unix seconds.
    """

    def __init__(
        self,
        *,
        sample: float,
        budget_ratio: float,
        memory_bytes: int,
        minimum_tokens: int,
        show_shared: bool,
        dice: Callable[[], float],
        stopwatch: Callable[[], float],
        clock: Callable[[], float],
    ) -> None:
        self.sample = sample
        self._budget_ratio = budget_ratio
        self._minimum_tokens = minimum_tokens
        self._show_shared = show_shared
        self._dice = dice
        self._stopwatch = stopwatch
        self._clock = clock
        self.recent = Recent(memory_bytes)
        self._left_s = budget_ratio
        """Of the budget; a second of it may be saved up."""
        self._filled_s = stopwatch()
        self._buckets: dict[int, _Bucket] = {}
        self.spent_s = 0.0
        self.looked = self.skipped = 0
        self.requests: dict[Cause, int] = dict.fromkeys(Cause, 0)
        self.tokens: dict[Cause, int] = dict.fromkeys(Cause, 0)

    def wants(self) -> bool:
        """One more prompt has come; whether it is to be looked at."""
        self._bucket().seen += 1
        return self._dice() < self.sample

    def look(self, owner: Owner, canonical: bytes, prompt_tokens: int) -> Look | None:
        """Compare a prompt with recent ones, and remember it. None: no time is left for that."""
        begun_s = self._stopwatch()
        ratio = self._budget_ratio
        self._left_s = min(self._left_s + (begun_s - self._filled_s) * ratio, ratio)
        self._filled_s = begun_s
        if self._left_s <= 0.0:
            self.skipped += 1
            return None
        finding = None
        reading = sketch.read(canonical)
        if reading is not None:
            finding = find(
                reading,
                self.recent.of(owner),
                prompt_tokens,
                minimum_tokens=self._minimum_tokens,
                show_shared=self._show_shared,
            )
            self.recent.add(owner, reading.sketch)
        took_s = self._stopwatch() - begun_s
        self._left_s -= took_s
        self.spent_s += took_s
        self.looked += 1
        return Look(owner, finding, prompt_tokens)

    def ended(self, look: Look, prompt_tokens: int, cached_tokens: int | None) -> None:
        """A prompt that was looked at was answered; its tokens and those cached as the engine told, None if it does
        not."""
        bucket = self._bucket()
        bucket.looked += 1
        owner = look.owner
        tally = bucket.rows.get(owner)
        if tally is None:
            self._make_room()
            if len(bucket.rows) >= MOST_ROWS:
                owner = REST
            tally = bucket.rows.setdefault(owner, _Tally())
        missed = prompt_tokens - (cached_tokens or 0)
        tally.looked += 1
        tally.prompt_tokens += prompt_tokens
        tally.missed_tokens += missed
        finding = look.finding
        if finding is None:
            return
        tokens = finding.tokens * prompt_tokens // max(look.prompt_tokens, 1)
        if cached_tokens is not None:
            tokens = min(tokens, missed)
        if tokens < self._minimum_tokens:
            return  # the engine had it all the same, from another prompt
        cost = tally.causes.get(finding.cause)
        if cost is None:
            cost = tally.causes[finding.cause] = _Cost()
        cost.requests += 1
        cost.tokens += tokens
        cost.example = finding.example
        self.requests[finding.cause] += 1
        self.tokens[finding.cause] += tokens

    def report(
        self, since_s: float, *, tenant: str | None = None, model: str | None = None
    ) -> dict[str, Any]:
        """What was found since then, by tenant and model, dearest cause first."""
        sums: dict[Owner, _Tally] = {}
        expected: dict[tuple[Owner, Cause], float] = {}
        seen = looked = 0
        starts = [start for start in sorted(self._buckets) if (start + 1) * BUCKET_S > since_s]
        for start in starts:
            bucket = self._buckets[start]
            seen += bucket.seen
            looked += bucket.looked
            for owner, tally in bucket.rows.items():
                if (tenant is None or owner[0] == tenant) and (model is None or owner[1] == model):
                    factor = max(bucket.seen / max(bucket.looked, 1), 1.0)  # those of before ended in it, too
                    _add(sums.setdefault(owner, _Tally()), tally)
                    for cause, cost in tally.causes.items():
                        key = owner, cause
                        expected[key] = expected.get(key, 0.0) + cost.tokens * factor
        return {
            "since_s": min((start * BUCKET_S for start in starts), default=int(self._clock())),
            "requests_seen": seen,
            "requests_looked_at": looked,
            "advice": [
                _row(owner, tally, expected)
                for owner, tally in sorted(sums.items(), key=lambda item: -_lost(item[1]))
            ],
        }

    def _bucket(self) -> _Bucket:
        start = int(self._clock()) // BUCKET_S
        bucket = self._buckets.get(start)
        if bucket is None:
            bucket = self._buckets[start] = _Bucket()
            for old in [old for old in self._buckets if old <= start - KEPT_BUCKETS]:
                del self._buckets[old]
        return bucket

    def _make_room(self) -> None:
        while len(self._buckets) > 1 and sum(len(one.rows) for one in self._buckets.values()) >= MOST_ROWS:
            del self._buckets[min(self._buckets)]


def _add(into: _Tally, tally: _Tally) -> None:
    into.looked += tally.looked
    into.prompt_tokens += tally.prompt_tokens
    into.missed_tokens += tally.missed_tokens
    for cause, cost in tally.causes.items():
        known = into.causes.setdefault(cause, _Cost())
        known.requests += cost.requests
        known.tokens += cost.tokens
        known.example = cost.example


def _lost(tally: _Tally) -> int:
    return sum(cost.tokens for cost in tally.causes.values())


def _row(owner: Owner, tally: _Tally, expected: dict[tuple[Owner, Cause], float]) -> dict[str, Any]:
    return {
        "tenant": owner[0],
        "model": owner[1],
        "looked_at": tally.looked,
        "prompt_tokens": tally.prompt_tokens,
        "missed_tokens": tally.missed_tokens,
        "causes": [
            {
                "cause": cause.value,
                "requests": cost.requests,
                "tokens": cost.tokens,
                "tokens_expected": int(expected[owner, cause]),
                "example": cost.example,
                "remedy": REMEDIES[cause],
            }
            for cause, cost in sorted(tally.causes.items(), key=lambda item: -item[1].tokens)
        ],
    }
