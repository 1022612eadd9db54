"""How much of a prompt each replica is believed to hold, from what the registry knows of its rungs.

A record is taken at its word unless the replica has, by what it was sent since, evicted what was last used then
(`residency`). The rule it keeps: an engine reuses whole blocks only, and never the whole prompt, since it computes at
least the last token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from router.core.replica import Replica
from router.core.types import Incarnation, Record, RequestShape

STALE_S = 2.5
"""How much later than its record says a rung may have been used: registries note a use at most every 2 s, and Redis a
few milliseconds after it."""


def overlaps(
    shape: RequestShape,
    records: Sequence[Record | None],
    known: Mapping[Incarnation, Replica],
    grid: Sequence[int],
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
    if prompt_bytes <= 0 or prompt_tokens <= 1:
        return found
    depth = len(records)
    last: Record | None = None
    for record in reversed(records):
        depth -= 1
        if record is last or record is None:
            continue
        last = record
        for incarnation, used_s in record:
            replica = known.get(incarnation)
            if (
                replica is not None
                and replica not in found
                and used_s + STALE_S >= replica.residency.horizon_s
            ):
                tokens = grid[depth] * prompt_tokens // prompt_bytes
                if tokens >= prompt_tokens:
                    tokens = prompt_tokens - 1
                tokens -= tokens % replica.overlap_block_tokens
                if tokens:
                    found[replica] = tokens
    return found


def last_use_s(
    records: Sequence[Record | None], incarnation: Incarnation | None, horizon_s: float
) -> float | None:
    """When the deepest rung that is believed to be at the replica was last used there; None where none is."""
    for record in reversed(records):
        if record is not None:
            for holder, used_s in record:
                if holder == incarnation and used_s + STALE_S >= horizon_s:
                    return used_s
    return None
