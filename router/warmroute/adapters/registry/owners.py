"""Whose records are whose, where tenants are kept apart: so that nobody's prompts push out what another's left.

Decides which of an owner's records go when it has more than it may have: its own oldest ones but for what the request
in hand uses, and none while it is the only one. Does not keep records (`memory`) and does not tell Redis
(`redis.registry`). An owner is whoever shares fingerprints; records of no owner are not counted. Every call does as
much as it was given, and a bit more.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from warmroute.core.types import FingerprintHash

MOST_OWNERS: Final = 10_000
"""Owners that are told apart at once; those that come later are not counted until there is room."""

_GIVE_UP_AT_ONCE: Final = 4
"""Batches given up for each one that is added."""

Batch = list[FingerprintHash]
"""Rungs that one request noted."""


class _Owned:
    """What one owner has, in the memory registry's two generations."""

    __slots__ = ("count", "old", "young")

    def __init__(self) -> None:
        self.young: deque[Batch] = deque()
        self.old: deque[Batch] = deque()
        self.count = 0


class Owners:
    """Of one process's records. A rung belongs to whoever brought it into one of `MemoryRegistry`'s generations."""

    __slots__ = ("_most", "_owned")

    def __init__(self, most: int) -> None:
        """`most`: rungs that an owner may have while there is another."""
        self._most = most
        self._owned: dict[str, _Owned] = {}

    def add(self, owner: str, rungs: Batch) -> tuple[list[Batch], list[Batch]]:
        """These came into the young generation. Returns what is to go: from the old one, if it is still there, and from
        the young one."""
        owned = self._owned.get(owner)
        if owned is None:
            if len(self._owned) >= MOST_OWNERS:
                return [], []
            owned = self._owned[owner] = _Owned()
        owned.young.append(rungs)
        owned.count += len(rungs)
        old: list[Batch] = []
        young: list[Batch] = []
        if len(self._owned) > 1:
            for _ in range(_GIVE_UP_AT_ONCE):
                if owned.count <= self._most:
                    break
                if owned.old:
                    gone = owned.old.popleft()
                    old.append(gone)
                elif len(owned.young) > 1:
                    gone = owned.young.popleft()
                    young.append(gone)
                else:
                    break
                owned.count -= len(gone)
        return old, young

    def keep(self, owner: str, rungs: Batch) -> None:
        """These were to go from the young generation, and are in use just now: they count as the newest."""
        owned = self._owned[owner]
        owned.young[-1].extend(rungs)
        owned.count += len(rungs)

    def turn(self) -> None:
        """The young generation is the old one now, and the old one is gone."""
        owned = self._owned
        for name, one in list(owned.items()):
            one.old = one.young
            one.young = deque()
            one.count = sum([len(batch) for batch in one.old])
            if not one.count:
                del owned[name]
