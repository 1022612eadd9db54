"""Sums of what tenants used in this process alone, until it ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from warmroute.tenants.usage import RowKey, merged

MOST_ROWS = 500_000


class MemoryUsage:
    """Implements the port `UsageStore` for one router.

    Args:
        keep_s: How long a bucket is kept.
    """

    def __init__(self, keep_s: int) -> None:
        self._keep_s = keep_s
        self._buckets: dict[int, dict[RowKey, list[int]]] = {}
        self._number = 0

    async def start(self) -> None:
        """Nothing to connect to."""

    async def stop(self) -> None:
        """Nothing is kept."""

    async def add(self, bucket_s: int, rows: Mapping[RowKey, Sequence[int]], number: int) -> bool:
        """At once."""
        if number > self._number:
            self._number = number
            known = self._buckets.get(bucket_s, {})
            self._buckets[bucket_s] = merged([*known.items(), *rows.items()])
            for old in [old for old in self._buckets if old < bucket_s - self._keep_s]:
                del self._buckets[old]
            while len(self._buckets) > 1 and sum(map(len, self._buckets.values())) > MOST_ROWS:
                del self._buckets[min(self._buckets)]
        return True

    async def read(self, from_s: int, to_s: int) -> Sequence[tuple[int, RowKey, Sequence[int]]]:
        """In order."""
        return [
            (bucket_s, key, counts)
            for bucket_s in sorted([start for start in self._buckets if from_s <= start < to_s])
            for key, counts in sorted(self._buckets[bucket_s].items())
        ]
