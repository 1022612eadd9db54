"""The overlay is what a router believes of a rung: the shared record, with its own last placements laid over it.

Redis is right about everything that it can know. It cannot yet know a placement whose write it has not confirmed, and
it may have lost what was noted before `trusted_s` (an outage, a refused write). Those of our own placements stay
visible. Any other placement of which Redis says nothing was withdrawn by another router, and is dropped here too, so
that the next touch notes it anew.

Records are decoded once: repeated bytes give the same object.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from warmroute.adapters.registry.memory import MemoryRegistry
from warmroute.core.types import FingerprintHash, Incarnation, Record, Records
from warmroute.wire.registry_record import MAX_HOLDERS, unpack_record

_SAME_S = 0.2
"""Stored times are tenths of a second: a smaller difference is none."""

_CACHE_S = 1.0
_CACHE_MAX = 16_384


class Overlay:
    """Merges answers of Redis with the local layer.

    Args:
        local: This process's own placements.
        idle_s: Holders older than this are not shown.
        keeps_s: But up to this age they are where Redis still has their record, which it then was told to keep.
        unwritten_s: Tells the time of the oldest of our placements that Redis has not confirmed; infinity for none.
            Confirmations and lookups come back in order, so this is exact.
        clock: Unix seconds.
    """

    def __init__(
        self,
        local: MemoryRegistry,
        idle_s: float,
        unwritten_s: Callable[[], float],
        clock: Callable[[], float],
        keeps_s: float = 0.0,
    ) -> None:
        self.trusted_s = 0.0
        """Unix seconds: our placements noted before may be missing in Redis."""
        self._local = local
        self._keeps_s = keeps_s
        self._idle_s = max(idle_s, keeps_s)
        self._unwritten_s = unwritten_s
        self._clock = clock
        self._decoded: dict[bytes, Record] = {}
        self._decoded_until_s = 0.0
        self._withdrawn: dict[FingerprintHash, set[Incarnation]] = {}
        self._stale = False

    def expire_after(self, idle_s: float) -> None:
        """Show holders up to this age from now on."""
        self._idle_s = max(idle_s, self._keeps_s)
        self._decoded = {}

    def merge(self, rungs: Sequence[FingerprintHash], raws: Sequence[bytes | None]) -> Records:
        """Records of the rungs, given what Redis has under their keys; empty bytes where it could not be asked."""
        now_s = self._clock()
        decoded = self._decoded
        if now_s >= self._decoded_until_s or len(decoded) > _CACHE_MAX:
            decoded = self._decoded = {}
            self._decoded_until_s = now_s + _CACHE_S
        owns = self._local.read(rungs)
        unwritten_s = self._unwritten_s()
        answer: Records = []
        append = answer.append
        last_raw: bytes | None = None
        last_own: Record | None = None
        record: Record | None = None
        for raw, own in zip(raws, owns, strict=False):
            if own is last_own and raw == last_raw:
                append(record)
                continue
            last_raw = raw
            last_own = own
            if raw is None:
                record = None
            elif not raw:
                record = own  # No server was there to answer for this key.
                append(record)
                continue
            else:
                record = decoded.get(raw)
                if record is None:
                    record = unpack_record(raw, now_s - self._idle_s)
                    if record is not None:
                        decoded[raw] = record
            if own is not None:
                record = self._with_own(record, own, unwritten_s)
            append(record)
        if self._stale:
            self._stale = False
            self._drop_stale(rungs, answer, owns)
        return self._without_withdrawn(rungs, answer) if self._withdrawn else answer

    def withdraw(self, rungs: Sequence[FingerprintHash], incarnation: Incarnation) -> None:
        """Hide a holder until Redis has forgotten it."""
        for rung in rungs:
            self._withdrawn.setdefault(rung, set()).add(incarnation)

    def withdrawal_ended(self, rungs: Sequence[FingerprintHash], incarnation: Incarnation) -> None:
        """Redis has forgotten the holder (or never will); or it is a holder again."""
        if not self._withdrawn:
            return
        for rung in rungs:
            hidden = self._withdrawn.get(rung)
            if hidden is not None:
                hidden.discard(incarnation)
                if not hidden:
                    del self._withdrawn[rung]

    def _with_own(self, record: Record | None, own: Record, unwritten_s: float) -> Record | None:
        trusted_s = self.trusted_s
        known = dict(record) if record is not None else {}
        changed = False
        for incarnation, at_s in own:
            stored_s = known.get(incarnation)
            if at_s >= unwritten_s or at_s < trusted_s:
                if stored_s is None or stored_s < at_s - _SAME_S:
                    known[incarnation] = at_s
                    changed = True
            elif stored_s is None:
                self._stale = True
        if not changed:
            return record
        if record is None and len(known) == len(own):
            return own
        return tuple(sorted(known.items(), key=_at_s)[-MAX_HOLDERS:])

    def _drop_stale(self, rungs: Sequence[FingerprintHash], answer: Records, owns: Records) -> None:
        for rung, record, own in zip(rungs, answer, owns, strict=False):
            if own is not None and own is not record:
                shown = {incarnation for incarnation, _ in record or ()}
                for incarnation, _ in own:
                    if incarnation not in shown:
                        self._local.forget((rung,), incarnation)

    def _without_withdrawn(self, rungs: Sequence[FingerprintHash], answer: Records) -> Records:
        for at, rung in enumerate(rungs):
            hidden = self._withdrawn.get(rung)
            record = answer[at]
            if hidden and record is not None:
                answer[at] = tuple([holder for holder in record if holder[0] not in hidden]) or None
        return answer


def _at_s(holder: tuple[Incarnation, float]) -> float:
    return holder[1]
