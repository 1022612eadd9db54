"""What each tenant used, by key and model: whole numbers, so that sums are exact whoever adds them up.

Decides what is counted of a request. Does not keep the sums (`ports.UsageStore`) and has no clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

COUNTERS: Final = (
    "begun",
    "requests",
    "failed",
    "unreported",
    "prompt_tokens",
    "cached_tokens",
    "output_tokens",
    "prefill_saved_us",
    "queued_us",
    "cost_nano",
)
"""Of a row, in order. `begun`: let in; `requests`: over, however; those that are neither are under way, or were when
their router died. `failed`: of these, answered with an error or not at all. `unreported`: of these, whose engine did
not say what they took: their prompt is the router's estimate. `cached_tokens` are part of `prompt_tokens`.
`prefill_saved_us`: microseconds of computing that cached tokens saved, as the replica's speed is believed to be.
`queued_us`: microseconds in the router's queue. `cost_nano`: billionths of the price table's currency."""

BEGUN: Final = 0
REQUESTS: Final = 1
FAILED: Final = 2
UNREPORTED: Final = 3
PROMPT: Final = 4
CACHED: Final = 5
OUTPUT: Final = 6
SAVED: Final = 7
QUEUED: Final = 8
COST: Final = 9

MOST_ROWS: Final = 50_000
"""Rows counted between two flushes; what is beyond goes to one row of each tenant, then to one of all."""

REST: Final = "(other)"
"""Key or model of rows that were put together."""

RowKey = tuple[str, str, str]
"""Tenant, key's id, model."""

Prices = dict[str, tuple[int, int, int]]
"""Model, or `*` -> price in billionths of a prompt token that was computed, one that was cached, and one of output."""


class Ledger:
    """What was used since the last `drain`."""

    __slots__ = ("_rows", "prices")

    def __init__(self, prices: Prices) -> None:
        self.prices = prices
        self._rows: dict[RowKey, list[int]] = {}

    def _row(self, key: RowKey) -> list[int]:
        row = self._rows.get(key)
        if row is None:
            if len(self._rows) >= MOST_ROWS:
                rest = (key[0], REST, REST) if len(self._rows) < 2 * MOST_ROWS else (REST, REST, REST)
                return self._rows.setdefault(rest, [0] * len(COUNTERS))
            row = self._rows[key] = [0] * len(COUNTERS)
        return row

    def begin(self, key: RowKey) -> None:
        """A request was let in."""
        self._row(key)[BEGUN] += 1

    def end(
        self,
        key: RowKey,
        failed: bool,
        reported: bool,
        prompt_tokens: int,
        cached_tokens: int,
        output_tokens: int,
        saved_s: float,
        queued_s: float,
    ) -> None:
        """One that had begun is over."""
        row = self._row(key)
        row[REQUESTS] += 1
        if failed:
            row[FAILED] += 1
        if not reported:
            row[UNREPORTED] += 1
        row[PROMPT] += prompt_tokens
        row[CACHED] += cached_tokens
        row[OUTPUT] += output_tokens
        if saved_s:
            row[SAVED] += int(saved_s * 1e6)
        if queued_s:
            row[QUEUED] += int(queued_s * 1e6)
        prices = self.prices
        if prices:
            price = prices.get(key[2]) or prices.get("*")
            if price is not None:
                computed_tokens = prompt_tokens - cached_tokens
                row[COST] += computed_tokens * price[0] + cached_tokens * price[1] + output_tokens * price[2]

    def drain(self) -> dict[RowKey, list[int]]:
        """All rows, which begin anew."""
        rows, self._rows = self._rows, {}
        return rows


def merged(rows: Iterable[tuple[RowKey, Iterable[int]]]) -> dict[RowKey, list[int]]:
    """The sums of rows with equal keys."""
    sums: dict[RowKey, list[int]] = {}
    for key, counts in rows:
        known = sums.get(key)
        sums[key] = list(counts) if known is None else [a + b for a, b in zip(known, counts, strict=True)]
    return sums


def shown(counts: Iterable[int]) -> dict[str, int | float]:
    """A row for people: seconds and money instead of their millionths."""
    values: dict[str, int | float] = dict(zip(COUNTERS, counts, strict=True))
    values["prefill_saved_s"] = values.pop("prefill_saved_us") / 1e6
    values["queued_s"] = values.pop("queued_us") / 1e6
    values["cost"] = values.pop("cost_nano") / 1e9
    return values
