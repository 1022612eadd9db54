"""A record is what routers are told of a replica: one JSON object, kept under its key and published when it changes.

It is the contract between agents and routers, format 1. A field that is null is unknown, and routers do not hold that
against the replica. Readers ignore fields that they do not know.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum

FORMAT = 1


class State(StrEnum):
    """A replica's state, which tells routers whether to send it new requests."""

    STARTING = "starting"
    """The engine does not answer, or is not warm yet: routers must not use the replica yet."""
    READY = "ready"
    DRAINING = "draining"
    """The replica finishes the requests that it has, and must get no new ones."""
    GONE = "gone"
    """The replica was withdrawn. This state is only published, never kept in Redis."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The state of one replica at one moment."""

    id: str
    url: str
    agent: str
    """Name of the agent that speaks: the Unix time of its start in milliseconds, then random digits. Of two names, the
    later agent's is the greater."""
    state: State
    interval_s: float
    """Time between two heartbeats, in seconds."""
    models: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()
    """LoRA adapters, by the names that requests use."""
    block_tokens: int | None = None
    cache_blocks: int | None = None
    """Blocks in the caches of all engines behind the URL together."""
    incarnation: float | None = None
    """Identifies the engine's life: the Unix time at which it began, in seconds, to the millisecond."""
    zone: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    ranks: int | None = None
    """Number of data-parallel ranks behind the URL; a request can name one by `X-data-parallel-rank`."""
    running: int | None = None
    waiting: int | None = None

    def text(self) -> str:
        """Return the record as the JSON text that is kept in Redis and published."""
        return json.dumps({"format": FORMAT, **asdict(self)}, separators=(",", ":"), ensure_ascii=False)

    def same_but_load(self, other: Record | None) -> bool:
        """Return whether the two records are equal but for the load; False where there is no other."""
        return other is not None and _unloaded(self) == _unloaded(other)


def _unloaded(record: Record) -> dict[str, object]:
    fields = asdict(record)
    del fields["running"], fields["waiting"]
    return fields
