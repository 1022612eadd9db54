"""The overlap of a prompt with a replica is how many of its leading tokens the replica is believed to hold.

This module reads it from what the registry knows of the prompt's rungs. A record counts in full as far as the replica,
by what it was sent since, still has what was last used then (`residency`). Where answers have shown that less of what
is so old is found, the record counts for that share (`trust`). The rule it keeps: an engine reuses whole blocks only,
and never the whole prompt, since it computes at least the last token.
"""

from __future__ import annotations

from math import inf

from warmroute.core.beliefs.residency import Residency
from warmroute.core.beliefs.returns import Returns
from warmroute.core.fleet.replica import Replica
from warmroute.core.types import Incarnation, Record, Records, RequestShape


def overlaps(
    shape: RequestShape,
    records: Records,
    known: dict[Incarnation, Replica],
    grid: tuple[int, ...],
    now_s: float,
) -> dict[Replica, int]:
    """Tokens that each known replica holds, deepest first; those that hold less than a block are left out.

    Args:
        records: One a rung, shallowest first. The deepest that names a replica counts. Records that repeat as the same
            object are looked at once.
        known: Replicas by incarnation; holders that are not among them (restarted, or not eligible) are skipped.
        grid: Depth of each rung in bytes.
    """
    found: dict[Replica, int] = {}
    prompt_bytes = shape.prompt_bytes
    prompt_tokens = shape.prompt_tokens
    if prompt_bytes <= 0 or prompt_tokens <= 1 or not shape.reads_cache:
        return found
    uncertain: dict[Replica, float] | None = None
    depth = len(records)
    last: Record | None = None
    while depth > 0:
        depth -= 1
        record = records[depth]
        if record is last or record is None:
            continue
        last = record
        for incarnation, used_s in record:
            replica = known.get(incarnation)
            if replica is None:
                continue
            if replica in found:
                if uncertain is not None and replica in uncertain:
                    # What lies less deep was used later, and more of it is there.
                    share = _share(replica, used_s, now_s)
                    gain = share - uncertain[replica]
                    if gain > 0.0:
                        found[replica] += int(grid[depth] * prompt_tokens // prompt_bytes * gain)
                        uncertain[replica] = share
                continue
            share = _share(replica, used_s, now_s)
            if share <= 0.0:
                continue
            tokens = grid[depth] * prompt_tokens // prompt_bytes
            if tokens >= prompt_tokens:
                tokens = prompt_tokens - 1
            if share < 1.0:
                if uncertain is None:
                    uncertain = {}
                uncertain[replica] = share
                found[replica] = int(tokens * share)
                continue
            tokens -= tokens % replica.overlap_block_tokens
            if tokens:
                found[replica] = tokens
    if uncertain is not None:
        for replica in uncertain:
            tokens = found[replica]
            tokens -= tokens % replica.overlap_block_tokens
            if tokens:
                found[replica] = tokens
            else:
                del found[replica]
    return found


def _share(replica: Replica, used_s: float, now_s: float) -> float:
    """How much of what was last used then is counted on."""
    share = replica.residency.resident_ratio(used_s)
    trust = replica.trust
    return share if trust.certain or share <= 0.0 else share * trust.share(now_s - used_s)


def tokens_at(shape: RequestShape, depth_bytes: int) -> int:
    """Estimated tokens of the prompt's first bytes; never all of it."""
    if shape.prompt_bytes <= 0:
        return 0
    tokens = depth_bytes * shape.prompt_tokens // shape.prompt_bytes
    return tokens if tokens < shape.prompt_tokens else shape.prompt_tokens - 1


def last_used_s(records: Records | None, incarnation: Incarnation | None) -> float:
    """When the deepest of what the records say of one replica was last sent there; minus infinity if nothing was."""
    if records:
        for record in reversed(records):
            if record is not None:
                for holder, used_s in record:
                    if holder == incarnation:
                        return used_s
    return -inf


def note_ages(
    shape: RequestShape, records: Records, grid: tuple[int, ...], now_s: float, returns: Returns
) -> None:
    """Tell `returns` how long ago each part of a prompt was last used, by whichever replica."""
    deeper_tokens = 0
    latest_s = -inf
    last: Record | None = None
    depth = len(records)
    while depth > 0:
        depth -= 1
        record = records[depth]
        if record is last or record is None:
            continue
        last = record
        used_s = record[-1][1]
        if used_s > latest_s:
            here_tokens = tokens_at(shape, grid[depth])
            if latest_s > -inf:
                returns.returned(deeper_tokens - here_tokens, now_s - latest_s)
            deeper_tokens = here_tokens
            latest_s = used_s
    if latest_s > -inf:
        returns.returned(deeper_tokens, now_s - latest_s)


def gap_tokens(shape: RequestShape, depth: int, grid: tuple[int, ...]) -> int:
    """Tokens between this rung and the next one, or the end of the prompt."""
    end = grid[depth + 1] if depth + 1 < len(grid) else shape.prompt_bytes
    if end > shape.prompt_bytes:
        end = shape.prompt_bytes
    return (end - grid[depth]) * shape.prompt_tokens // shape.prompt_bytes


class Uses:
    """What the records of one prompt say of one replica."""

    __slots__ = (
        "believed",
        "believed_s",
        "depths",
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
        self.depths: list[int] = []
        """The rungs at which the time of last use changes among what is believed to be there, deepest first."""
        self.times_s: list[float] = []
        """Those times: each holds down to the next rung."""


def uses(records: Records, incarnation: Incarnation | None, residency: Residency, now_s: float) -> Uses:
    """Read the records, deepest first, for what may be learnt from an answer."""
    found = Uses()
    latest_s = 0.0
    depth = len(records)
    last: Record | None = None
    while depth > 0:
        depth -= 1
        record = records[depth]
        if record is last or record is None:
            continue
        last = record
        for holder, used_s in record:
            if holder == incarnation:
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
                found.depths.append(depth)
                found.times_s.append(used_s)
                break
    return found
