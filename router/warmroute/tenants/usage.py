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
PROMPT: Final = 4
CACHED: Final = 5
OUTPUT: Final = 6
SAVED: Final = 7
COST: Final = 9

MOST_ROWS: Final = 50_000
"""Rows counted between two flushes; what is beyond goes to one row of each tenant, then to one of all."""

REST: Final = "(other)"
"""Key or model of rows that were put together."""

RowKey = tuple[str, str, str]
"""Tenant, key's id, model."""

Prices = dict[str, tuple[int, int, int]]
"""Model, or `*` -> price in billionths of a prompt token that was computed, one that was cached, and one of output."""


class Row:
    """What one key used of one model since the last `Ledger.drain`. Whoever counts keeps it: then nothing is looked
    up."""

    __slots__ = (
        "_begun",
        "_cached",
        "_cost",
        "_failed",
        "_output",
        "_prompt",
        "_queued",
        "_requests",
        "_saved",
        "_unreported",
        "cached_price",
        "counted",
        "key",
        "output_price",
        "priced_by",
        "prompt_price",
    )

    def __init__(self, key: RowKey) -> None:
        self.key = key
        self.counted = False
        """It is in a ledger, to be drained."""
        self.priced_by: Prices | None = None
        """The table that the prices below are of."""
        self.prompt_price = self.cached_price = self.output_price = 0
        self._clear()

    def _clear(self) -> None:
        self.counted = False
        self._begun = self._requests = self._failed = self._unreported = 0
        self._prompt = self._cached = self._output = self._saved = self._queued = self._cost = 0

    def begin(self) -> None:
        """A request was let in."""
        self._begun += 1

    def end(
        self,
        failed: bool,
        reported: bool,
        prompt_tokens: int,
        cached_tokens: int,
        output_tokens: int,
        saved_s: float,
        queued_s: float,
    ) -> None:
        """One that had begun is over."""
        self._requests += 1
        if failed:
            self._failed += 1
        if not reported:
            self._unreported += 1
        self._prompt += prompt_tokens
        self._cached += cached_tokens
        self._output += output_tokens
        if saved_s > 0.0:
            self._saved += int(saved_s * 1e6)
        if queued_s > 0.0:
            self._queued += int(queued_s * 1e6)
        self._cost += self.cost_nano(prompt_tokens, cached_tokens, output_tokens)

    def cost_nano(self, prompt_tokens: int, cached_tokens: int, output_tokens: int) -> int:
        """What a request costs, by the prices that it was last counted with."""
        return (
            (prompt_tokens - cached_tokens) * self.prompt_price
            + cached_tokens * self.cached_price
            + output_tokens * self.output_price
        )

    def least_cost_nano(self, prompt_tokens: int) -> int:
        """What a request costs as far as that is known when it comes: its prompt, none of it cached. 0 if and only if
        it costs nothing whatever is answered."""
        if not (self.prompt_price or self.cached_price or self.output_price):
            return 0
        return max(1, prompt_tokens * self.prompt_price)

    def price(self, prices: Prices) -> None:
        """Its tokens cost what this table says from now on."""
        self.priced_by = prices
        price = prices.get(self.key[2]) or prices.get("*") or (0, 0, 0)
        self.prompt_price, self.cached_price, self.output_price = price

    def drained(self) -> list[int]:
        """What was counted, in the order of `COUNTERS`; it begins anew."""
        counts = [
            self._begun,
            self._requests,
            self._failed,
            self._unreported,
            self._prompt,
            self._cached,
            self._output,
            self._saved,
            self._queued,
            self._cost,
        ]
        self._clear()
        return counts


class Ledger:
    """What was used since the last `drain`."""

    __slots__ = ("_rest", "_rows", "prices")

    def __init__(self, prices: Prices) -> None:
        self.prices = prices
        self._rows: list[Row] = []
        """Those that count something."""
        self._rest: dict[RowKey, Row] = {}
        """Those of what is beyond `MOST_ROWS`."""

    def _found(self, row: Row) -> Row:
        """The row to count in: this one, unless there are too many."""
        if row.priced_by is not self.prices:
            row.price(self.prices)
        if row.counted:
            return row
        if len(self._rows) < MOST_ROWS:
            row.counted = True
            self._rows.append(row)
            return row
        key = (row.key[0], REST, REST) if len(self._rest) < MOST_ROWS else (REST, REST, REST)
        rest = self._rest.get(key)
        if rest is None:
            rest = self._rest[key] = Row(key)
        rest.prompt_price, rest.cached_price, rest.output_price = (
            row.prompt_price,
            row.cached_price,
            row.output_price,
        )
        return rest

    def begin(self, row: Row) -> None:
        """A request was let in."""
        self._found(row).begin()

    def end(
        self,
        row: Row,
        failed: bool,
        reported: bool,
        prompt_tokens: int,
        cached_tokens: int,
        output_tokens: int,
        saved_s: float,
        queued_s: float,
    ) -> None:
        """One that had begun is over."""
        self._found(row).end(failed, reported, prompt_tokens, cached_tokens, output_tokens, saved_s, queued_s)

    def drain(self) -> dict[RowKey, list[int]]:
        """All rows, which begin anew."""
        rows, self._rows = self._rows, []
        rest, self._rest = self._rest, {}
        return merged([(row.key, row.drained()) for row in (*rows, *rest.values())])


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
