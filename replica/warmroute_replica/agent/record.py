"""A record is what routers are told of a replica: one JSON object, kept under its key and published when it changes.

It is the contract between agents and routers, format 1. A field that is null is not known, which says nothing against
the replica. Readers leave out fields that they do not know.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum

FORMAT = 1


class State(StrEnum):
    """How a replica stands towards new requests."""

    STARTING = "starting"
    """The engine does not answer (any more), or is not warm: not to be used yet."""
    READY = "ready"
    DRAINING = "draining"
    """Finishes what it has; nothing new."""
    GONE = "gone"
    """Withdrawn; only published, never kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One state of one replica."""

    id: str
    url: str
    agent: str
    """Which agent speaks: its start in Unix milliseconds, then random digits: of two, the later is greater."""
    state: State
    interval_s: float
    """Time between two heartbeats."""
    models: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()
    """LoRA adapters, by the names that requests use."""
    block_tokens: int | None = None
    cache_blocks: int | None = None
    """Of all engines behind the URL together."""
    incarnation: float | None = None
    """Which life of the engine this is: the Unix time at which it began, to the millisecond."""
    zone: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    ranks: int | None = None
    """Data-parallel ranks behind the URL, each of which requests can name (`X-data-parallel-rank`)."""
    running: int | None = None
    waiting: int | None = None

    def text(self) -> str:
        """As it is kept and published."""
        return json.dumps({"format": FORMAT, **asdict(self)}, separators=(",", ":"), ensure_ascii=False)

    def same_but_load(self, other: Record | None) -> bool:
        """Whether only the load differs from another."""
        return other is not None and _unloaded(self) == _unloaded(other)


def _unloaded(record: Record) -> dict[str, object]:
    fields = asdict(record)
    del fields["running"], fields["waiting"]
    return fields
