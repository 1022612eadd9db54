"""What each tenant used, by key, model and interface: whole numbers, so that sums are exact whoever adds them up.

Decides what is counted of a request. Does not keep the sums (`ports.UsageStore`) and has no clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from warmroute.tenants.prices import FREE, HOUR_S, Price, Prices, price_of

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
    "written_tokens",
    "written_hour_tokens",
    "prompt_cost_nano",
    "saved_nano",
    "stored_token_s",
    "cold_requests",
    "cold_us",
    "warm_requests",
    "warm_us",
)
"""Of a row, in order. `begun`: let in; `requests`: over, however; those that are neither are under way, or were when
their router died. `failed`: of these, answered with an error or not at all. `unreported`: of these, whose engine did
not say what they took: their prompt, and what was passed on of their answer, are the router's estimates.
`cached_tokens` are part of `prompt_tokens`.
`prefill_saved_us`: microseconds of computing that cached tokens saved, as the replica's speed is believed to be.
`queued_us`: microseconds in the router's queue. `cost_nano`: billionths of the price table's currency.
`written_tokens`: of those that were not cached, what the engine put into its cache; of these `written_hour_tokens` for
an hour. `prompt_cost_nano`: the part of the cost that prompts are. `saved_nano`: what prompts would have cost more
without a cache; below 0 where writing cost more than reading saved. `stored_token_s`: seconds for which cached contents
are kept, times their tokens. The last four are of rows that compare times to the first token, and 0 in all others."""

BEGUN: Final = 0
REQUESTS: Final = 1
FAILED: Final = 2
PROMPT: Final = 4
CACHED: Final = 5
OUTPUT: Final = 6
SAVED: Final = 7
COST: Final = 9
WRITTEN: Final = 10
PAID: Final = 12
GAINED: Final = 13
STORED: Final = 14
COLD: Final = 15
WARM: Final = 17
WIDTH: Final = len(COUNTERS)

COLD_RATIO: Final = 0.1
"""A prompt of which no more is cached is cold."""
WARM_RATIO: Final = 0.5
"""One of which at least so much is cached is warm; those between are neither."""
LEAST_SIZE: Final = 256
"""Shorter prompts are not compared: their first token takes as long either way."""

MOST_ROWS: Final = 50_000
"""Rows counted between two flushes; what is beyond goes to one row of each tenant, then to one of all."""

REST: Final = "(other)"
"""Key or model of rows that were put together."""

RowKey = tuple[str, str, str, str, str]
"""Tenant, key's id, model, interface, size. Rows that compare times have a size, a power of two of prompt tokens, and
neither tenant nor key; all others have none."""


class Row:
    """What one key used of one model since the last `Ledger.drain`. Whoever counts keeps it: then nothing is looked
    up."""

    __slots__ = (
        "_begun",
        "_cached",
        "_cost",
        "_gained",
        "_paid",
        "_failed",
        "_output",
        "_prompt",
        "_queued",
        "_requests",
        "_saved",
        "_stored",
        "_unreported",
        "_written",
        "_written_hour",
        "counted",
        "key",
        "price",
        "priced_by",
    )

    def __init__(self, key: RowKey) -> None:
        self.key = key
        self.counted = False
        """It is in a ledger, to be drained."""
        self.priced_by: Prices | None = None
        """The table that the prices below are of."""
        self.price = FREE
        self._clear()

    def _clear(self) -> None:
        self.counted = False
        self._begun = self._requests = self._failed = self._unreported = 0
        self._prompt = self._cached = self._output = self._saved = self._queued = self._cost = 0
        self._written = self._written_hour = self._paid = self._gained = self._stored = 0

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
        written_tokens: int = 0,
        written_hour_tokens: int = 0,
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
        price = self.price
        paid = self._paid_nano(prompt_tokens, cached_tokens, written_tokens, written_hour_tokens)
        if written_tokens:
            self._written += written_tokens
            self._written_hour += written_hour_tokens
        self._paid += paid
        self._gained += prompt_tokens * price.prompt - paid
        self._cost += paid + output_tokens * price.output

    def cost_nano(
        self,
        prompt_tokens: int,
        cached_tokens: int,
        output_tokens: int,
        written_tokens: int = 0,
        written_hour_tokens: int = 0,
    ) -> int:
        """What a request costs, by the prices that it was last counted with."""
        paid = self._paid_nano(prompt_tokens, cached_tokens, written_tokens, written_hour_tokens)
        return paid + output_tokens * self.price.output

    def least_cost_nano(self, prompt_tokens: int) -> int:
        """What a request costs as far as that is known when it comes: its prompt, none of it cached. 0 if and only if
        it costs nothing whatever is answered."""
        price = self.price
        if not (price.prompt or price.cached or price.output):
            return 0
        return max(1, prompt_tokens * price.prompt)

    def _paid_nano(
        self, prompt_tokens: int, cached_tokens: int, written_tokens: int, written_hour_tokens: int
    ) -> int:
        """What the prompt costs."""
        price = self.price
        if not written_tokens:
            return (prompt_tokens - cached_tokens) * price.prompt + cached_tokens * price.cached
        return (
            (prompt_tokens - cached_tokens - written_tokens) * price.prompt
            + cached_tokens * price.cached
            + (written_tokens - written_hour_tokens) * price.write
            + written_hour_tokens * price.write_hour
        )

    def store(self, token_s: int) -> None:
        """A cached content is kept for so many token seconds more; below 0: fewer."""
        self._stored += token_s
        self._cost += self.stored_nano(token_s)

    def stored_nano(self, token_s: int) -> int:
        """What that costs, by the prices that it was last counted with."""
        return token_s * self.price.storage // HOUR_S

    def use_prices(self, prices: Prices) -> None:
        """Its tokens cost what this table says from now on."""
        self.priced_by = prices
        self.price = price_of(prices, self.key[2], self.key[3])

    def use_price(self, price: Price) -> None:
        """Its tokens cost this, until it is told otherwise."""
        self.price = price

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
            self._written,
            self._written_hour,
            self._paid,
            self._gained,
            self._stored,
            0,
            0,
            0,
            0,
        ]
        self._clear()
        return counts


class Ledger:
    """What was used since the last `drain`."""

    __slots__ = ("_rest", "_rows", "_timed", "prices")

    def __init__(self, prices: Prices) -> None:
        self.prices = prices
        self._rows: list[Row] = []
        """Those that count something."""
        self._rest: dict[RowKey, Row] = {}
        """Those of what is beyond `MOST_ROWS`."""
        self._timed: dict[RowKey, list[int]] = {}
        """Those that compare times."""

    def _found(self, row: Row) -> Row:
        """The row to count in: this one, unless there are too many."""
        self.price(row)
        if row.counted:
            return row
        if len(self._rows) < MOST_ROWS:
            row.counted = True
            self._rows.append(row)
            return row
        tenant = row.key[0] if len(self._rest) < MOST_ROWS else REST
        key = (tenant, REST, REST, row.key[3], "")
        rest = self._rest.get(key)
        if rest is None:
            rest = self._rest[key] = Row(key)
        rest.use_price(row.price)
        return rest

    def price(self, row: Row) -> None:
        """Have its tokens cost what they cost now."""
        if row.priced_by is not self.prices:
            row.use_prices(self.prices)

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
        written_tokens: int = 0,
        written_hour_tokens: int = 0,
    ) -> None:
        """One that had begun is over."""
        self._found(row).end(
            failed,
            reported,
            prompt_tokens,
            cached_tokens,
            output_tokens,
            saved_s,
            queued_s,
            written_tokens,
            written_hour_tokens,
        )

    def store(self, row: Row, token_s: int) -> None:
        """A cached content is kept for so many token seconds more; below 0: fewer."""
        self._found(row).store(token_s)

    def time(self, row: Row, prompt_tokens: int, cached_tokens: int, ttft_s: float) -> None:
        """A stream's first token took so long, of a prompt of which so much was cached."""
        if prompt_tokens < LEAST_SIZE:
            return
        place = COLD
        if cached_tokens >= WARM_RATIO * prompt_tokens:
            place = WARM
        elif cached_tokens > COLD_RATIO * prompt_tokens:
            return
        key = ("", "", row.key[2], row.key[3], str(1 << (prompt_tokens.bit_length() - 1)))
        counts = self._timed.get(key)
        if counts is None:
            counts = self._timed[key] = [0] * WIDTH
        counts[place] += 1
        counts[place + 1] += int(ttft_s * 1e6)

    def drain(self) -> dict[RowKey, list[int]]:
        """All rows, which begin anew."""
        rows, self._rows = self._rows, []
        rest, self._rest = self._rest, {}
        timed, self._timed = self._timed, {}
        counted = [(row.key, row.drained()) for row in (*rows, *rest.values())]
        return merged([*counted, *timed.items()])


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
    values["prompt_cost"] = values.pop("prompt_cost_nano") / 1e9
    values["saved"] = values.pop("saved_nano") / 1e9
    values["stored_token_hours"] = values.pop("stored_token_s") / HOUR_S
    values["missed_tokens"] = values["prompt_tokens"] - values["cached_tokens"]
    for name in COUNTERS[COLD:]:
        del values[name]
    return values
