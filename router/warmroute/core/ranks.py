"""Ids and incarnations of data-parallel ranks: what one engine of several behind one URL is called.

Pure. Every router computes the same ones. Source: vLLM 0.32, `--data-parallel-size`; a request goes to the rank that
`X-data-parallel-rank` names.
"""

from __future__ import annotations

from typing import Final

from warmroute.core.types import Incarnation, ReplicaId

RANK_SEPARATOR: Final = "#"
"""Between a server's id and a rank in the id of a replica; in no id that a setting may have."""

MOST_RANKS: Final = 1024
"""Data-parallel ranks of one server that are believed."""

_RANK_STEP: Final = 0x9E3779B97F4A
_INCARNATION_BITS: Final = (1 << 48) - 1


def rank_id(server_id: ReplicaId, rank: int, ranks: int) -> ReplicaId:
    """What the replica is called that is this rank of so many: the server's own id where it is the only one."""
    return server_id if ranks == 1 else ReplicaId(f"{server_id}{RANK_SEPARATOR}{rank}")


def server_id_of(replica_id: ReplicaId) -> ReplicaId:
    """The id of the server to which a replica of this id belongs, or belonged: without the rank."""
    server, separator, rank = replica_id.rpartition(RANK_SEPARATOR)
    return ReplicaId(server) if separator and rank.isdecimal() else replica_id


def rank_incarnation(incarnation: Incarnation, rank: int) -> Incarnation:
    """The incarnation of one rank of a server: every router computes the same one, and rank 0 has the server's."""
    return (
        Incarnation(((incarnation ^ (rank * _RANK_STEP)) & _INCARNATION_BITS) or 1) if rank else incarnation
    )
