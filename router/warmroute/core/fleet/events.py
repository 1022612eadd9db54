"""Events are what discovery and probes tell the fleet. Their names are past participles, and they are plain data."""

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


@dataclass(frozen=True, slots=True)
class ProbeFailed:
    """A replica did not answer a probe, or badly."""

    replica_id: ReplicaId
    reason: str
    now_s: float
    detail: str = ""
    """What happened, for people."""


Event = ReplicaAdded | ReplicaRemoved | DrainStarted | ProbeSucceeded | ProbeFailed
