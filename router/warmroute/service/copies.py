"""Where a prefix is believed to be: what the fleet and the registry know of it, replica by replica. Changes nothing."""

from __future__ import annotations

from math import inf
from typing import Final

from warmroute.caching.promise import Copy, idle_since
from warmroute.core.beliefs.belief import Belief
from warmroute.core.errors import RouterError
from warmroute.core.fleet.fleet import Fleet, Replica
from warmroute.core.health.health import ReplicaState
from warmroute.core.prompt.fingerprint import GRID
from warmroute.core.types import Records, ReplicaId, RequestShape

_TAIL: Final = 0.75
"""Behind this share of a prefix, what uses it and what only warms it may look different."""


def copies_of(
    fleet: Fleet, shape: RequestShape, records: Records, now_s: float
) -> tuple[list[Copy], dict[ReplicaId, Replica]]:
    """What is believed of every replica that may be chosen, and those replicas."""
    ready = {
        replica.incarnation: replica
        for replica in fleet.replicas.values()
        if replica.state is ReplicaState.READY
        and replica.incarnation is not None
        and (shape.model in replica.models or not replica.models_known)
    }
    if not ready:
        return [], {}
    belief = Belief(shape, records, ready, GRID, now_s)
    held = belief.overlap
    whole_tokens = belief.tokens_at(len(shape.rungs) - 1) or 1
    copies = []
    for replica in ready.values():
        used_s = _last_used_s(belief, records, replica)
        share, behind = 0.0, 1.0
        if replica in held:
            # The overlap is of whole blocks, which the deepest rung need not end with.
            share = min(1.0, (held[replica] + replica.overlap_block_tokens) / whole_tokens)
            behind = replica.residency.behind_ratio(used_s)
        lifetime_s = replica.survival.lifetime_s() or inf
        copies.append(Copy(replica.id, share, idle_since(used_s, now_s), lifetime_s, behind))
    return copies, {replica.id: replica for replica in ready.values()}


def in_order(
    fleet: Fleet, shape: RequestShape, records: Records, now_s: float, copies: list[Copy]
) -> list[Copy]:
    """The same copies, in the order in which the ring and the costs would choose."""
    try:
        order = [one.replica.id for one in fleet.rank(shape, records, now_s).candidates]
    except RouterError:
        return copies
    by_id = {copy.replica: copy for copy in copies}
    return [by_id[replica] for replica in order if replica in by_id]


def _last_used_s(belief: Belief, records: Records, replica: Replica) -> float:
    """When the prefix was last used there; a use may differ from what only warms it at its end."""
    latest_s = -inf
    if not records:
        return latest_s
    least_tokens = _TAIL * belief.tokens_at(len(records) - 1)
    for depth in range(len(records) - 1, -1, -1):
        if depth < len(records) - 1 and belief.tokens_at(depth) < least_tokens:
            break
        for holder, used_s in records[depth] or ():
            if holder == replica.incarnation and used_s > latest_s:
                latest_s = used_s
    return latest_s
