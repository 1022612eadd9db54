"""A belief is what the records say of one prompt at one moment: how much of it each replica is taken to hold.

The registry's records are read once, when the belief is made. What they say of every replica (`Belief.overlap`) is what
choices go by; what they say of the chosen one in particular (`Belief.uses`) is compared with its answer
(`learning.feedback`).

A record counts in full as far as the replica, by what it was sent since, still has what was last used then
(`residency`). Where answers have shown that less of what is so old is found, the record counts for that share
(`trust`). The rule it keeps: an engine reuses whole blocks only, and never the whole prompt, since it computes at least
the last token.

Where engines reuse chunks of a prompt wherever these stand (`prompt.chunks`), a replica's chunks beyond its prefix
count as well, less what is computed of them all the same. They are kept apart from the blocks of prefixes, in memory
whose size nobody tells. So how many are still there is learned from answers alone, by age (`chunk_trust`).
"""

from __future__ import annotations

from collections.abc import Container
from math import inf
from typing import Final

from warmroute.core.beliefs.returns import Returns
from warmroute.core.fleet.replica import Replica
from warmroute.core.types import Chunks, Incarnation, Record, Records, RequestShape

Overlaps = dict[Replica, int]
"""Tokens that each replica is believed to hold, leading ones at least a block; only replicas that may be chosen."""

MOST_HOLDERS: Final = 32
"""Replicas that chunks may add to those that hold a prefix: each is a candidate in the largest fleet."""

_NO_OVERLAP: Final[Overlaps] = {}
_NO_DEPTHS: Final[list[int]] = []
_NO_RECORDS: Final[list[Record]] = []
_NO_RECORDS_OF_CHUNKS: Final[Records] = []


class Belief:
    """What is believed of one request's prompt. It does not change."""

    __slots__ = (
        "_chunk_records",
        "_depths",
        "_grid",
        "_records",
        "believed",
        "chunked",
        "now_s",
        "overlap",
        "shape",
    )

    def __init__(
        self,
        shape: RequestShape,
        records: Records | None,
        known: dict[Incarnation, Replica],
        grid: tuple[int, ...],
        now_s: float,
    ) -> None:
        """Args:
        records: One a rung, shallowest first, then one a chunk or none; None if the registry was not asked. Records
            of rungs that repeat as the same object are looked at once.
        known: Replicas by incarnation; holders that are not among them (restarted, or not eligible) overlap nothing.
        grid: Depth of each rung in bytes.
        """
        self.shape = shape
        self.now_s = now_s
        self._grid = grid
        self.overlap = _NO_OVERLAP
        """Tokens by replica, deepest first; those that hold less than a block are left out."""
        self.believed = -1
        """The deepest rung of which any replica that may be chosen is believed to hold something; -1 if none is."""
        self.chunked = _NO_OVERLAP
        """How many of those are chunks', beyond the leading ones."""
        self._chunk_records = _NO_RECORDS_OF_CHUNKS
        """One a chunk; none where the registry was not asked for chunks."""
        self._depths = _NO_DEPTHS
        """The rung of each of `_records`."""
        self._records = _NO_RECORDS
        """The records that differ from the one below them, deepest first."""
        if records:
            self._read(records, known)

    def _read(self, records: Records, known: dict[Incarnation, Replica]) -> None:
        depths = self._depths = []
        distinct = self._records = []
        shape = self.shape
        counts = shape.prompt_bytes > 0 and shape.prompt_tokens > 1 and shape.reads_cache
        found: Overlaps = {}
        uncertain: dict[Replica, float] = {}
        depth = len(records)
        if shape.chunks is not None and depth > len(shape.rungs):
            depth = len(shape.rungs)
            self._chunk_records = records[depth:]
        last: Record | None = None
        while depth > 0:
            depth -= 1
            record = records[depth]
            if record is last or record is None:
                continue
            last = record
            depths.append(depth)
            distinct.append(record)
            if counts:
                self._count(record, depth, known, found, uncertain)
        for replica in uncertain:
            _round(found, replica, found[replica])
        if counts and self._chunk_records and shape.chunks is not None:
            self._count_chunks(shape.chunks, known, found)
        self.overlap = found

    def _count_chunks(self, chunks: Chunks, known: dict[Incarnation, Replica], found: Overlaps) -> None:
        """Add to the leading tokens what chunks' records say of the rest."""
        shape, now_s = self.shape, self.now_s
        reused: dict[Replica, float] = {}
        for place, record in enumerate(self._chunk_records):
            if record is None:
                continue
            for incarnation, used_s in record:
                replica = known.get(incarnation)
                if replica is None:
                    continue
                tokens = self._beyond(chunks, place, found.get(replica, 0))
                if tokens <= 0:
                    continue
                trust = replica.chunk_trust
                share = 1.0 if trust.certain else trust.share(now_s - used_s)
                reused[replica] = reused.get(replica, 0.0) + tokens * share
        chunked: Overlaps = {}
        most_tokens = shape.prompt_tokens - 1
        for replica in sorted(reused, key=reused.__getitem__, reverse=True)[:MOST_HOLDERS]:
            leading_tokens = found.get(replica, 0)
            tokens = int(reused[replica] * chunks.reused_ratio)
            if tokens > most_tokens - leading_tokens:
                tokens = most_tokens - leading_tokens
            if tokens > 0:
                found[replica] = leading_tokens + tokens
                chunked[replica] = tokens
        self.chunked = chunked

    def _beyond(self, chunks: Chunks, place: int, leading_tokens: int) -> int:
        """Estimated tokens of a chunk that are none of the leading ones."""
        shape = self.shape
        start, end = chunks.bounds[place]
        start_tokens = start * shape.prompt_tokens // shape.prompt_bytes
        if start_tokens < leading_tokens:
            start_tokens = leading_tokens
        return end * shape.prompt_tokens // shape.prompt_bytes - start_tokens

    def chunk_uses(self, replica: Replica) -> list[tuple[float, int]]:
        """When a replica last used what it is said to have of the chunks, latest first, and how many tokens of each
        time need not be computed if they are all there."""
        chunks, incarnation = self.shape.chunks, replica.incarnation
        if chunks is None:
            return []
        leading_tokens = self.overlap.get(replica, 0) - self.chunked.get(replica, 0)
        uses: dict[float, int] = {}
        for place, record in enumerate(self._chunk_records):
            for holder, used_s in record or ():
                if holder == incarnation:
                    tokens = self._beyond(chunks, place, leading_tokens)
                    if tokens > 0:
                        uses[used_s] = uses.get(used_s, 0) + tokens
        return [(used_s, int(uses[used_s] * chunks.reused_ratio)) for used_s in sorted(uses, reverse=True)]

    def _count(
        self,
        record: Record,
        depth: int,
        known: dict[Incarnation, Replica],
        found: Overlaps,
        uncertain: dict[Replica, float],
    ) -> None:
        """Add what one record says, after all that are deeper. The deepest that names a replica counts."""
        shape, now_s = self.shape, self.now_s
        prompt_tokens = shape.prompt_tokens
        for incarnation, used_s in record:
            replica = known.get(incarnation)
            if replica is None:
                continue
            if replica in found:
                if uncertain and replica in uncertain:
                    # What lies less deep was used later, and more of it is there.
                    share = _share(replica, used_s, now_s)
                    gain = share - uncertain[replica]
                    if gain > 0.0:
                        found[replica] += int(self._grid[depth] * prompt_tokens // shape.prompt_bytes * gain)
                        uncertain[replica] = share
                continue
            share = _share(replica, used_s, now_s)
            if share <= 0.0:
                continue
            if self.believed < 0:
                self.believed = depth
            tokens = self._grid[depth] * prompt_tokens // shape.prompt_bytes
            if tokens >= prompt_tokens:
                tokens = prompt_tokens - 1
            if share < 1.0:
                uncertain[replica] = share
                found[replica] = int(tokens * share)
            else:
                _round(found, replica, tokens)

    @property
    def deepest(self) -> int:
        """The deepest rung that was sent to anybody; -1 if none was."""
        return self._depths[0] if self._depths else -1

    def known_tokens(self) -> int:
        """The most that any replica which may be chosen is believed to hold."""
        most_tokens = 0
        for tokens in self.overlap.values():
            if tokens > most_tokens:
                most_tokens = tokens
        return most_tokens

    def without(self, replicas: Container[Replica]) -> Belief:
        """The same, less what these are believed to hold."""
        belief = Belief(self.shape, None, {}, self._grid, self.now_s)
        belief._depths, belief._records, belief.believed = self._depths, self._records, self.believed
        belief._chunk_records, belief.chunked = self._chunk_records, self.chunked
        belief.overlap = {r: tokens for r, tokens in self.overlap.items() if r not in replicas}
        return belief

    def tokens_at(self, depth: int) -> int:
        """Estimated tokens of the prompt down to this rung; never all of it."""
        shape = self.shape
        if shape.prompt_bytes <= 0:
            return 0
        tokens = self._grid[depth] * shape.prompt_tokens // shape.prompt_bytes
        return tokens if tokens < shape.prompt_tokens else shape.prompt_tokens - 1

    def gap_tokens(self, depth: int) -> int:
        """Tokens between this rung and the next one, or the end of the prompt."""
        grid, shape = self._grid, self.shape
        end = grid[depth + 1] if depth + 1 < len(grid) else shape.prompt_bytes
        if end > shape.prompt_bytes:
            end = shape.prompt_bytes
        return (end - grid[depth]) * shape.prompt_tokens // shape.prompt_bytes

    def last_used_s(self, replica: Replica) -> float:
        """When the deepest of what one replica is said to hold was last sent there; minus infinity if nothing was."""
        incarnation = replica.incarnation
        for record in self._records:
            for holder, used_s in record:
                if holder == incarnation:
                    return used_s
        return -inf

    def uses(self, replica: Replica) -> Uses:
        """What the records say of one replica, for what may be learnt from its answer."""
        found = Uses()
        incarnation, residency = replica.incarnation, replica.residency
        now_s = self.now_s
        latest_s = 0.0
        for place, record in enumerate(self._records):
            for holder, used_s in record:
                if holder != incarnation:
                    continue
                depth = self._depths[place]
                if found.believed < 0:
                    if residency.resident_ratio(used_s) > 0.0:
                        found.believed, found.believed_s = depth, used_s
                    else:
                        if found.remembered < 0:
                            found.remembered, found.remembered_s = depth, used_s
                        break
                elif used_s <= latest_s:
                    break
                elif found.fresh < 0 and 2.0 * (now_s - used_s) < now_s - found.believed_s:
                    found.fresh, found.fresh_s = depth, used_s
                latest_s = used_s
                found.depths_tokens.append(self.tokens_at(depth))
                found.times_s.append(used_s)
                break
        return found

    def note_ages(self, returns: Returns) -> None:
        """Tell `returns` how long ago each part of the prompt was last used, by whichever replica."""
        now_s = self.now_s
        deeper_tokens = 0
        latest_s = -inf
        for place, record in enumerate(self._records):
            used_s = record[-1][1]
            if used_s > latest_s:
                here_tokens = self.tokens_at(self._depths[place])
                if latest_s > -inf:
                    returns.returned(deeper_tokens - here_tokens, now_s - latest_s)
                deeper_tokens = here_tokens
                latest_s = used_s
        if latest_s > -inf:
            returns.returned(deeper_tokens, now_s - latest_s)


class Uses:
    """What the records of one prompt say of one replica."""

    __slots__ = (
        "believed",
        "believed_s",
        "depths_tokens",
        "fresh",
        "fresh_s",
        "remembered",
        "remembered_s",
        "times_s",
    )

    def __init__(self) -> None:
        self.remembered = -1
        """The deepest rung that names it, if it is believed to be evicted, and when it was last used there."""
        self.remembered_s = 0.0
        self.believed = -1
        """The deepest rung that is believed to be there."""
        self.believed_s = 0.0
        self.fresh = -1
        """The deepest above that, if it was used clearly later."""
        self.fresh_s = 0.0
        self.depths_tokens: list[int] = []
        """The depths at which the time of last use changes among what is believed to be there, deepest first."""
        self.times_s: list[float] = []
        """Those times: each holds down to the next depth."""


def _share(replica: Replica, used_s: float, now_s: float) -> float:
    """How much of what was last used then is counted on."""
    share = replica.residency.resident_ratio(used_s)
    trust = replica.trust
    return share if trust.certain or share <= 0.0 else share * trust.share(now_s - used_s)


def _round(found: Overlaps, replica: Replica, tokens: int) -> None:
    """Count whole blocks, if it is one at least."""
    tokens -= tokens % replica.overlap_block_tokens
    if tokens:
        found[replica] = tokens
    else:
        found.pop(replica, None)
