"""Recorded requests that differ in their last turn alone, group by group, with what those turns said and meant.

Decides which groups are remembered here: those used last, within a number of entries. What is forgotten is learned anew
from the store at its next use. It compares nothing but vectors, keeps no texts, and has no clock.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from operator import mul
from typing import Final, NamedTuple

from warmroute.caching.agreement import Facts

MOST_ENTRIES: Final = 20_000
"""Some 2.5 KB each."""


class Entry(NamedTuple):
    """One of them."""

    key: str
    """Of the record."""
    facts: Facts
    text: str
    vector: array[float]


class _Group:
    __slots__ = ("after", "entries")

    def __init__(self) -> None:
        self.after = 0
        self.entries: OrderedDict[str, Entry] = OrderedDict()


class Neighbours:
    """All groups of one worker."""

    def __init__(self, most: int = MOST_ENTRIES) -> None:
        self._most = most
        self._groups: OrderedDict[str, _Group] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def after(self, group: str) -> int:
        """Up to which number the group is known."""
        found = self._groups.get(group)
        return 0 if found is None else found.after

    def add(self, group: str, number: int, entry: Entry | None) -> None:
        """What the store has under this number; None: nothing that can be read."""
        found = self._groups.get(group)
        if found is None:
            found = self._groups[group] = _Group()
        self._groups.move_to_end(group)
        found.after = max(found.after, number)
        if entry is None:
            return
        if found.entries.pop(entry.key, None) is None:
            self._count += 1
        found.entries[entry.key] = entry
        while self._count > self._most and len(self._groups) > 1:
            _, dropped = self._groups.popitem(last=False)
            self._count -= len(dropped.entries)
        while self._count > self._most:
            found.entries.popitem(last=False)
            self._count -= 1

    def of(self, group: str) -> list[Entry]:
        """The group's, the latest first."""
        found = self._groups.get(group)
        if found is None:
            return []
        self._groups.move_to_end(group)
        return list(reversed(found.entries.values()))

    def forget(self, group: str, key: str) -> None:
        """Its record is gone."""
        found = self._groups.get(group)
        if found is not None and found.entries.pop(key, None) is not None:
            self._count -= 1


def cosine(one: array[float], other: array[float]) -> float:
    """Of two vectors of length 1; 0 where they cannot be compared."""
    return sum(map(mul, one, other)) if len(one) == len(other) else 0.0


def vector_of(data: bytes) -> array[float]:
    """What `response.vector_bytes` made; empty if it is none."""
    vector = array("f")
    if len(data) % vector.itemsize == 0:
        vector.frombytes(data)
    return vector
