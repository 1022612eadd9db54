"""Events are what discovery and probes tell the fleet. Their names are past participles, and they are plain data.

Each is of a whole server, named by its id, which is its replica's too where it has but one.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from warmroute.core.types import Incarnation, ReplicaId


@dataclass(frozen=True, slots=True)
class ReplicaAdded:
    """Discovery names a replica. Known ids change nothing, unless they drained, or moved to another URL."""

    replica_id: ReplicaId
    url: str
    models: frozenset[str] = frozenset()
    """What it is said to serve, until a probe tells; empty: unknown."""
    ranks: int = 1
    """Data-parallel ranks that requests are to name, as far as is known yet; 1: none is named."""


@dataclass(frozen=True, slots=True)
class RanksFound:
    """A server has so many data-parallel ranks. Those that are new have empty caches; those that are no more are gone
    as if their server were."""

    replica_id: ReplicaId
    ranks: int


@dataclass(frozen=True, slots=True)
class CacheEmptied:
    """A server lost what it had cached, and lives: all that was noted of it is void, and its incarnation another."""

    replica_id: ReplicaId
    incarnation: Incarnation


@dataclass(frozen=True, slots=True)
class ReplicaRemoved:
    """Discovery no longer names a replica. Requests under way go on; their counters go with them."""

    replica_id: ReplicaId


@dataclass(frozen=True, slots=True)
class DrainStarted:
    """A replica is about to leave: nothing new for it, except for what only it keeps."""

    replica_id: ReplicaId


@dataclass(frozen=True, slots=True)
class ProbeSucceeded:
    """A replica answered a probe. `None` means not asked this time, or not told; what was known stays."""

    replica_id: ReplicaId
    incarnation: Incarnation | None
    models: Collection[str] | None
    """Names; a mapping's values are kept as what `/v1/models` says of each."""
    block_tokens: int | None
    cache_tokens: int | None
    now_s: float
    life_told: bool = False
    """The engine says when it began: another incarnation is another process, not a guess after an outage."""
    process: Incarnation | None = None
    """What tells its processes apart, where that is known: another incarnation of the same process is an engine that
    lost its cache, by sleep or by new weights, and goes on. None: every other incarnation is another process."""
    rank_cache_tokens: tuple[int | None, ...] = ()
    """Cache of each rank, where it has several."""


@dataclass(frozen=True, slots=True)
class ProbeFailed:
    """A replica did not answer a probe, or badly."""

    replica_id: ReplicaId
    reason: str
    now_s: float
    detail: str = ""
    """What happened, for people."""


Event = (
    ReplicaAdded | RanksFound | CacheEmptied | ReplicaRemoved | DrainStarted | ProbeSucceeded | ProbeFailed
)
