"""Takes what was used from the ledger to where it is summed up, twice a second, and reads the sums back for people.

The rule it keeps: every row is added exactly once. Rows that may not have arrived are sent again under the same number,
before any later ones; a router that is killed loses what it had not sent, half a second and what was under way, which
shows as requests that had begun and never ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import io
from collections.abc import Callable, Mapping, Sequence

from warmroute.ports import UsageStore
from warmroute.tasks import Tasks
from warmroute.tenants.savings import TIMES, saving
from warmroute.tenants.usage import COLD, COUNTERS, Ledger, RowKey, shown

FLUSH_S = 0.5
_LAST_S = 1.0
_LAST_TRIES = 10
_ROWS_AT_ONCE = 500
"""Rows that are counted between two turns of the event loop: some milliseconds."""
_MOST_AT_ONCE = 64
"""Buckets that are read together where they have few rows."""
MOST_TENANTS = 200
"""Tenants that are labels of metrics; the rest share one."""
REST = "other"

GROUPS = ("tenant", "key", "model", "interface")
_SIZE = 4
"""Place of the size in a row's key: such rows compare times, and are no usage."""


class Accounting:
    """One worker's.

    Args:
        bucket_s: Length of the times for which there are sums.
        clock: Unix seconds.
    """

    def __init__(
        self, ledger: Ledger, store: UsageStore, tasks: Tasks, *, bucket_s: int, clock: Callable[[], float]
    ) -> None:
        self._ledger = ledger
        self._store = store
        self._tasks = tasks
        self.bucket_s = bucket_s
        self._clock = clock
        self._number = 0
        self._unsent: tuple[int, dict[RowKey, list[int]]] | None = None
        """Bucket and rows that may not have arrived, under `_number`."""
        self._flushing = asyncio.Lock()
        self.totals: dict[str, list[int]] = {}
        """By tenant, since the start of this process: for metrics."""
        self.by_interface: dict[str, list[int]] = {}
        """The same by interface."""
        self.times: dict[tuple[str, str], list[int]] = {}
        """By interface and size: requests and microseconds to the first token, cold and warm."""

    async def start(self) -> None:
        """Flush from now on."""
        await self._store.start()
        self._tasks.supervise(self._run, name="accounting")

    async def stop(self) -> None:
        """Flush what there is, for at most a second."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_S):
                for _ in range(_LAST_TRIES):
                    if await self.flush():
                        break
                    await asyncio.sleep(0.05)
        await self._store.stop()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            await self.flush()

    async def flush(self) -> bool:
        """Send what was counted. False: it did not arrive, as far as is known."""
        async with self._flushing:
            while True:
                if self._unsent is None:
                    rows = self._ledger.drain()
                    if not rows:
                        return True
                    self._total(rows)
                    self._number += 1
                    self._unsent = int(self._clock()) // self.bucket_s * self.bucket_s, rows
                if not await self._store.add(*self._unsent, self._number):
                    return False
                self._unsent = None

    def _total(self, rows: Mapping[RowKey, Sequence[int]]) -> None:
        for key, counts in rows.items():
            tenant, _, _, interface, size = key
            if size:
                _sum(self.times.setdefault((interface, size), [0] * len(TIMES)), counts[COLD:])
                continue
            label = tenant if tenant in self.totals or len(self.totals) < MOST_TENANTS else REST
            _sum(self.totals.setdefault(label, [0] * len(COUNTERS)), counts)
            _sum(self.by_interface.setdefault(interface, [0] * len(COUNTERS)), counts)

    async def report(
        self,
        *,
        from_s: int,
        to_s: int,
        by: Sequence[str],
        bucket_s: int,
        tenant: str = "",
    ) -> list[dict[str, object]]:
        """Sums by these of `GROUPS`, for each time of `bucket_s` (0: all of it together), of one tenant or of all.

        Raises:
            OSError: The sums cannot be read.
        """
        await self.flush()
        begin_s = from_s // self.bucket_s * self.bucket_s
        sums: dict[tuple[int, RowKey], list[int]] = {}
        shown_by = [name in by for name in GROUPS]

        def count(start: int, key: RowKey, counts: Sequence[int]) -> None:
            if key[_SIZE] or (tenant and key[0] != tenant):
                return
            names = [text if wanted else "" for wanted, text in zip(shown_by, key, strict=False)]
            at = start // bucket_s * bucket_s if bucket_s else begin_s
            row = (at, (names[0], names[1], names[2], names[3], ""))
            _sum(sums.setdefault(row, [0] * len(COUNTERS)), counts)

        await self._each(begin_s, to_s, count)
        return [
            {
                "from_s": at,
                "to_s": at + bucket_s if bucket_s else to_s,
                **{name: key[GROUPS.index(name)] for name in by},
                **shown(counts),
            }
            for (at, key), counts in sorted(sums.items())
        ]

    async def savings(self, *, from_s: int, to_s: int, tenant: str = "") -> list[dict[str, object]]:
        """What caching saved, by interface and model, beside what the interface's provider promises.

        Times are of all tenants.

        Raises:
            OSError: The sums cannot be read.
        """
        await self.flush()
        begin_s = from_s // self.bucket_s * self.bucket_s
        used: dict[tuple[str, str], list[int]] = {}
        times: dict[tuple[str, str], dict[int, list[int]]] = {}

        def count(_: int, key: RowKey, counts: Sequence[int]) -> None:
            of = key[3], key[2]
            if key[_SIZE]:
                _sum(times.setdefault(of, {}).setdefault(int(key[_SIZE]), [0] * len(TIMES)), counts[COLD:])
            elif not tenant or key[0] == tenant:
                _sum(used.setdefault(of, [0] * len(COUNTERS)), counts)

        await self._each(begin_s, to_s, count)
        return [saving(*of, counts, times.get(of, {})) for of, counts in sorted(used.items())]

    async def _each(
        self, from_s: int, to_s: int, count: Callable[[int, RowKey, Sequence[int]], None]
    ) -> None:
        """Have all rows of a time counted, some buckets after the others: in one go they could be seconds of work, in
        which no request would go on."""
        buckets = 1
        while from_s < to_s:
            end_s = min(from_s + buckets * self.bucket_s, to_s)
            rows = await self._store.read(from_s, end_s)
            for number, (start, key, counts) in enumerate(rows, 1):
                count(start, key, counts)
                if not number % _ROWS_AT_ONCE:
                    await asyncio.sleep(0)
            await asyncio.sleep(0)
            if len(rows) < _ROWS_AT_ONCE:
                buckets = min(2 * buckets, _MOST_AT_ONCE)
            elif len(rows) > 2 * _ROWS_AT_ONCE:
                buckets = max(buckets // 2, 1)
            from_s = end_s


def _sum(into: list[int], counts: Sequence[int]) -> None:
    for index, count in enumerate(counts):
        into[index] += count


def as_csv(rows: Sequence[Mapping[str, object]]) -> str:
    """The same as CSV (RFC 4180), with a head; cells that a spreadsheet would take for a formula are quoted so that it
    does not."""
    if not rows:
        return ""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(rows[0])
    for row in rows:
        writer.writerow([_cell(value) for value in row.values()])
    return text.getvalue()


def _cell(value: object) -> object:
    if isinstance(value, str) and value[:1] in "=+-@\t\r" and value:
        return "'" + value
    return value
