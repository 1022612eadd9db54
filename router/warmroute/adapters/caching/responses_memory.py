"""Recorded responses in this process alone, until it ends."""

from __future__ import annotations

from collections import OrderedDict
from heapq import heappop, heappush
from typing import Final, NamedTuple

from warmroute.ports import Recalled

ENTRY_BYTES: Final = 512
"""What a record takes besides itself."""
GROUP_RECORDS: Final = 1000
"""Most records of one group that can be found by it: the latest."""
GROUP_PART: Final = 100
"""Most of them in one answer."""


class _Kept(NamedTuple):
    record: bytes
    expires_s: float
    group: str
    number: int
    near: bytes

    @property
    def size_bytes(self) -> int:
        return len(self.record) + len(self.near) + ENTRY_BYTES


class MemoryResponses:
    """Implements the port `ResponseStore` for one router."""

    def __init__(self, records: int, records_bytes: int) -> None:
        self._most = records
        self._most_bytes = records_bytes
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        """Used last behind."""
        self._bytes = 0
        self._expiries: list[tuple[float, str]] = []
        self._groups: dict[str, dict[int, str]] = {}
        """Keys by number, in order."""
        self._number = 0

    @property
    def healthy(self) -> bool:
        """Nothing can be away."""
        return True

    async def start(self) -> None:
        """Nothing to connect to."""

    async def stop(self) -> None:
        """Nothing is kept."""

    async def find(self, key: str, now_s: float, *, group: str = "", after: int = 0) -> Recalled:
        """At once."""
        self._expire(now_s)
        kept = self._kept.get(key)
        if kept is not None:
            self._kept.move_to_end(key)
            return Recalled(kept.record)
        near = []
        for number, one in self._groups.get(group, {}).items():
            if number > after:
                near.append((number, one, self._kept[one].near))
                if len(near) == GROUP_PART:
                    break
        return Recalled(None, near)

    async def add(
        self, key: str, record: bytes, now_s: float, expires_s: float, *, group: str = "", near: bytes = b""
    ) -> bool:
        """At once."""
        self._expire(now_s)
        self._drop(key)
        self._number += 1
        kept = _Kept(record, expires_s, group, self._number, near)
        if kept.size_bytes > self._most_bytes or expires_s <= now_s:
            return False
        while len(self._kept) >= self._most or self._bytes + kept.size_bytes > self._most_bytes:
            self._drop(next(iter(self._kept)))
        self._kept[key] = kept
        self._bytes += kept.size_bytes
        heappush(self._expiries, (expires_s, key))
        if group:
            members = self._groups.setdefault(group, {})
            members[self._number] = key
            if len(members) > GROUP_RECORDS:
                del members[next(iter(members))]
        return True

    async def remove(self, key: str) -> None:
        """At once."""
        self._drop(key)

    def figures(self) -> dict[str, float]:
        """As it stands."""
        return {"records": len(self._kept), "bytes": self._bytes, "late": 0}

    def _expire(self, now_s: float) -> None:
        expiries = self._expiries
        while expiries and expiries[0][0] <= now_s:
            _, key = heappop(expiries)
            kept = self._kept.get(key)
            if kept is not None and kept.expires_s <= now_s:
                self._drop(key)
        if len(expiries) > 2 * self._most + GROUP_RECORDS:  # of keys that were replaced or gave way
            expiries[:] = sorted((kept.expires_s, key) for key, kept in self._kept.items())

    def _drop(self, key: str) -> None:
        kept = self._kept.pop(key, None)
        if kept is None:
            return
        self._bytes -= kept.size_bytes
        members = self._groups.get(kept.group)
        if members is not None:
            members.pop(kept.number, None)
            if not members:
                del self._groups[kept.group]
