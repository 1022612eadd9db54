"""The memory registry lives inside one process: it is the default backend, and what the Redis backend falls back on.

It has two generations of dictionaries, rung to record. Reads look into both. Writes go to the young one and carry along
what they touch. When the young one has reached half of the allowed size, or the idle time has passed, it becomes the
old one, and what nobody touched since the turn before is given up. So what was least recently used goes first, at two
dictionary operations a rung and without links. A given-up generation is emptied a few entries a write, since freeing it
at once would stall the event loop.

All rungs that one request is first to touch share one record, so a rung costs its key and a dictionary slot, and a
reader may skip repeated records by identity. This module decides nothing about where requests go.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from math import inf
from os import urandom
from typing import Final

from warmroute.adapters.registry.owners import Batch, Owners
from warmroute.adapters.registry.response_homes import ResponseHomes
from warmroute.core.types import FingerprintHash, Holder, Incarnation, Record, Records, ReplicaId
from warmroute.wire.registry_record import MAX_HOLDERS

REFRESH_PARTS: Final = 64
MAX_REFRESH_S: Final = 0.25
"""A holder noted within this time, or this part of the idle time, is not noted again: a hot system prompt costs reads
only. `beliefs.residency` allows for it where a record's time is held against what a replica has evicted since."""

SLOT_BYTES: Final = 122
"""Memory of one rung without its record: measured over a growing dictionary, integer key included."""

MEMORY_ENTRIES: Final = 1_000_000
"""Rungs kept unless told otherwise."""

_RECORD_BYTES: Final = sys.getsizeof((0,)) + sys.getsizeof((0, 0.0)) + sys.getsizeof(0.5)
_HOLDER_BYTES: Final = 8
_GIVE_UP_PER_RUNG: Final = 3
_GIVE_UP_PER_TOUCH: Final = 16
_SAMPLE_MASK: Final = 63
_MAX_RESPONSES: Final = 100_000
MAX_KEPT: Final = 100_000
"""Rungs that are kept beyond the idle time; of more, those that were named first are forgotten as any. Carrying them
all over to the next generation takes some 15 ms."""


class MemoryRegistry:
    """Implements the port `Registry` for one process; see the module's text for the data structure.

    Args:
        idle_s: A holder not noted for this long is forgotten, until `expire_after` says otherwise; a response always.
        max_entries: Bound of rungs kept.
        max_bytes: Bound of memory used, by the estimate that `statistics` shows.
        most_owned: Rungs that one owner may have while there is another (`owners`), or a quarter of all; 0: any number.
        clock: Unix seconds; decides expiry at read.
        secret: The deployment's fingerprint secret, 16 bytes; made here when absent.
    """

    def __init__(
        self,
        *,
        idle_s: float = 1800.0,
        max_entries: int = MEMORY_ENTRIES,
        max_bytes: int = 512 * 1024 * 1024,
        most_owned: int = 0,
        clock: Callable[[], float] = time.time,
        secret: bytes | None = None,
    ) -> None:
        if idle_s <= 0 or max_entries < 2 or max_bytes < 2 * SLOT_BYTES:
            raise ValueError(
                "idle_s must be positive, max_entries and max_bytes must leave room for two entries"
            )
        self._idle_s = idle_s
        self._refresh_s = min(idle_s / REFRESH_PARTS, MAX_REFRESH_S)
        self._half_entries = max(max_entries // 2, 1)
        self._half_bytes = max_bytes // 2
        self._clock = clock
        self._secret = secret if secret is not None else urandom(16)
        self._young: dict[FingerprintHash, Record] = {}
        self._old: dict[FingerprintHash, Record] = {}
        self._dying: dict[FingerprintHash, Record] = {}
        self._kept: dict[FingerprintHash, float] = {}
        """Until when records of these rungs are kept whatever the idle time, Unix seconds."""
        self._owners = Owners(min(most_owned, max(max_entries // 4, 1))) if most_owned else None
        self._young_record_bytes = 0
        self._old_record_bytes = 0
        self._turned_s: float | None = None
        self._responses = ResponseHomes(idle_s, _MAX_RESPONSES)
        self._lookups = 0
        self._sampled_s = 0.0
        self._writes = 0
        self._evictions = 0

    @property
    def healthy(self) -> bool:
        """Always: there is nothing to lose."""
        return True

    @property
    def apart(self) -> bool:
        """Never: nobody shares it."""
        return False

    async def start(self, on_secret: Callable[[bytes], None]) -> None:
        """Hand out the secret."""
        on_secret(self._secret)

    async def stop(self) -> None:
        """Nothing is pending and nothing is kept."""

    def expire_after(self, idle_s: float) -> None:
        """What is too old is not shown from now on, and given up with the generations."""
        if idle_s <= 0:
            raise ValueError("idle_s must be positive")
        self._idle_s = idle_s
        self._refresh_s = min(idle_s / REFRESH_PARTS, MAX_REFRESH_S)

    def lookup(self, rungs: Sequence[FingerprintHash], done: Callable[[Records], None]) -> Records:
        """Always at hand. Complexity: two dictionary reads a rung."""
        self._lookups = count = self._lookups + 1
        if not count & _SAMPLE_MASK:
            started = time.perf_counter()
            records = self.read(rungs)
            self._sampled_s += time.perf_counter() - started
            return records
        return self.read(rungs)

    def read(self, rungs: Sequence[FingerprintHash]) -> Records:
        """`lookup` without counting it: for the backend that keeps this one as its local layer."""
        young = self._young
        old = self._old
        oldest_s = self._clock() - self._idle_s
        records: Records = []
        last: Record | None = None
        expired = False
        for rung in rungs:
            record = young.get(rung)
            if record is None:
                record = old.get(rung)
            records.append(record)
            # Holders stand oldest first, so the first tells whether any has expired.
            if record is not last and record is not None and record[0][1] < oldest_s:
                expired = True
            last = record
        if not expired:
            return records
        if self._kept:
            return self._but_kept(rungs, records, oldest_s)
        return _without_expired(records, oldest_s)

    def _but_kept(self, rungs: Sequence[FingerprintHash], records: Records, oldest_s: float) -> Records:
        """The same records less expired holders, except where the rung is kept."""
        kept = self._kept
        now_s = oldest_s + self._idle_s
        answer: Records = []
        for rung, record, left in zip(rungs, records, _without_expired(records, oldest_s), strict=True):
            answer.append(record if kept.get(rung, 0.0) > now_s else left)
        return answer

    def keep(
        self, rungs: Sequence[FingerprintHash], incarnation: Incarnation, now_s: float, until_s: float
    ) -> None:
        """Note the holder, and carry these rungs over from generation to generation until then."""
        self.touch(rungs, incarnation, now_s)
        kept = self._kept
        for rung in rungs:
            known_s = kept.pop(rung, 0.0)
            kept[rung] = until_s if until_s > known_s else known_s
        while len(kept) > MAX_KEPT:
            del kept[next(iter(kept))]

    def touch(
        self, rungs: Sequence[FingerprintHash], incarnation: Incarnation, now_s: float, owner: str = ""
    ) -> None:
        """Note the holder where it is not known fresh."""
        if owner and self._owners is not None:
            self.note_of(self._owners, owner, rungs, incarnation, now_s, now_s - self._refresh_s)
        else:
            self.note(rungs, incarnation, now_s, now_s - self._refresh_s)

    def note_of(
        self,
        owners: Owners,
        owner: str,
        rungs: Sequence[FingerprintHash],
        incarnation: Incarnation,
        now_s: float,
        fresh_s: float,
        given_up: dict[Incarnation, list[FingerprintHash]] | None = None,
    ) -> list[FingerprintHash]:
        """As `note`; an owner that has too much loses its oldest, which are told by holder in `given_up`. Complexity:
        so many operations more."""
        turned_s, young = self._turned_s, self._young
        brought: Batch = [rung for rung in rungs if rung not in young]
        changed = self.note(rungs, incarnation, now_s, fresh_s)
        if self._turned_s != turned_s and self._young:  # it began a generation with all of them
            brought = list(rungs)
        if brought:
            old, excess = owners.add(owner, brought)
            for batch in old:
                self._drop(self._old, batch, given_up)
            used = frozenset(rungs) if excess else frozenset()
            for batch in excess:
                in_use = [rung for rung in batch if rung in used]
                if in_use:  # what all of its prompts begin with was noted first, and must not go for that
                    owners.keep(owner, in_use)
                    batch = [rung for rung in batch if rung not in used]
                self._drop(self._young, batch, given_up)
                self._young_record_bytes = max(0, self._young_record_bytes - _RECORD_BYTES - _HOLDER_BYTES)
        return changed

    def _drop(
        self,
        generation: dict[FingerprintHash, Record],
        rungs: Batch,
        given_up: dict[Incarnation, list[FingerprintHash]] | None,
    ) -> None:
        for rung in rungs:
            record = generation.pop(rung, None) if rung not in self._kept else None
            if record is None:
                continue
            self._evictions += 1
            if given_up is not None:
                for incarnation, _ in record:
                    given_up.setdefault(incarnation, []).append(rung)

    @property
    def owners(self) -> Owners | None:
        """Whose records are whose; None where that is not asked for."""
        return self._owners

    def note(
        self, rungs: Sequence[FingerprintHash], incarnation: Incarnation, now_s: float, fresh_s: float
    ) -> list[FingerprintHash]:
        """Note the holder on every rung where it was last noted before `fresh_s`.

        Returns those rungs: what another layer has to be told. Complexity: one to two dictionary operations a rung.
        """
        if self._turned_s is None or now_s - self._turned_s >= self._idle_s:
            self._turn(now_s)
        young = self._young
        old = self._old
        holder: Holder = (incarnation, now_s)
        alone: Record = (holder,)
        changed: list[FingerprintHash] = []
        seen: Record | None = None
        becomes: Record = alone
        for rung in rungs:
            record = young.get(rung)
            carried = record is None
            if record is None:
                record = old.get(rung)
                if record is None:
                    young[rung] = alone
                    changed.append(rung)
                    continue
                del old[rung]
                # Carried to the young generation even when fresh, so that what is in use outlives the next turn.
                young[rung] = record
            if record is not seen:
                seen = record
                becomes = _with_holder(record, holder, alone, fresh_s, now_s - self._idle_s)
                if carried or becomes is not record:
                    self._young_record_bytes += _RECORD_BYTES + _HOLDER_BYTES * len(becomes)
            if becomes is not record:
                young[rung] = becomes
                changed.append(rung)
        if changed:
            self._writes += 1
            self._young_record_bytes += _RECORD_BYTES + _HOLDER_BYTES
            if (
                len(young) >= self._half_entries
                or len(young) * SLOT_BYTES + self._young_record_bytes >= self._half_bytes
            ):
                self._turn(now_s)
        if self._dying:
            self._give_up(len(rungs) * _GIVE_UP_PER_RUNG + _GIVE_UP_PER_TOUCH)
        return changed

    def forget(
        self, rungs: Sequence[FingerprintHash], incarnation: Incarnation, until_s: float = inf
    ) -> None:
        """Withdraw the holder where it was not noted later; a rung without holders is gone."""
        for rung in rungs:
            for generation in (self._young, self._old):
                record = generation.get(rung)
                if record is not None:
                    left = tuple([h for h in record if h[0] != incarnation or h[1] > until_s])
                    if not left:
                        del generation[rung]
                    elif len(left) < len(record):
                        generation[rung] = left

    def remember_response(self, response_id: str, replica: ReplicaId) -> None:
        """Keep the replica for the idle time of the beginning."""
        self._responses.remember(response_id, replica, self._clock())

    def find_response(self, response_id: str, done: Callable[[ReplicaId | None], None]) -> None:
        """Calls `done` before it returns."""
        done(self.response_home(response_id))

    def response_home(self, response_id: str) -> ReplicaId | None:
        """The replica that made the response, if noted within the idle time."""
        return self._responses.find(response_id, self._clock())

    def entries_since(self, since_s: float) -> Iterator[tuple[FingerprintHash, Record]]:
        """Rungs with a holder noted at `since_s` or later, as they stand now: what a returning Redis has missed."""
        for generation in (self._old, self._young):
            for rung, record in list(generation.items()):
                if record[-1][1] >= since_s:
                    yield rung, record

    def statistics(self) -> dict[str, float]:
        """Figures for `/metrics`; time is sampled from every 64th lookup, bytes are an upper estimate."""
        entries = len(self._young) + len(self._old)
        slots = entries + len(self._dying)
        return {
            "entries": entries,
            "bytes": slots * SLOT_BYTES + self._young_record_bytes + self._old_record_bytes,
            "responses": len(self._responses),
            "idle_s": self._idle_s,
            "lookups_total": self._lookups,
            "lookup_timeouts_total": 0,
            "lookup_seconds_total": self._sampled_s * (_SAMPLE_MASK + 1),
            "writes_total": self._writes,
            "errors_total": 0,
            "evictions_total": self._evictions,
        }

    def _turn(self, now_s: float) -> None:
        self._turned_s = now_s
        if self._old:
            self._evictions += len(self._old)
            # Two full generations at most are ever kept: what is left of the last one given up goes at once.
            self._dying = self._old
        self._old, self._old_record_bytes = self._young, self._young_record_bytes
        self._young, self._young_record_bytes = {}, 0
        if self._owners is not None:
            self._owners.turn()
        if self._kept:
            self._carry_kept(now_s)

    def _carry_kept(self, now_s: float) -> None:
        """Take what is kept from the generation given up into the young one."""
        dying, young, kept = self._dying, self._young, self._kept
        for rung, until_s in list(kept.items()):
            if until_s <= now_s:
                del kept[rung]
                continue
            record = dying.pop(rung, None)
            if record is not None:
                young[rung] = record
                self._young_record_bytes += _RECORD_BYTES + _HOLDER_BYTES * len(record)

    def _give_up(self, count: int) -> None:
        dying = self._dying
        if count >= len(dying):
            self._dying = {}
            return
        for _ in range(count):
            dying.popitem()


def _with_holder(record: Record, holder: Holder, alone: Record, fresh_s: float, oldest_s: float) -> Record:
    """The record with the holder noted; the same object when it was noted at `fresh_s` or later."""
    incarnation = holder[0]
    for known, at_s in record:
        if known == incarnation:
            if at_s >= fresh_s:
                return record
            break
    others = [other for other in record if other[0] != incarnation and other[1] >= oldest_s]
    if not others:
        return alone
    return (*others[-MAX_HOLDERS + 1 :], holder)


def _without_expired(records: Records, oldest_s: float) -> Records:
    """The same records less expired holders; repeated records stay one object."""
    answer: Records = []
    last: Record | None = None
    left: Record | None = None
    for record in records:
        if record is not last:
            last = left = record
            if record is not None and record[0][1] < oldest_s:
                left = tuple([holder for holder in record if holder[1] >= oldest_s]) or None
        answer.append(left)
    return answer
