"""Which metric shows which figure of a registry's own statistics."""

from __future__ import annotations

from warmroute.telemetry import catalogue as c
from warmroute.telemetry.metric import Metric

REGISTRY_STATISTICS: dict[str, Metric] = {
    "entries": c.REGISTRY_ENTRIES,
    "bytes": c.REGISTRY_BYTES,
    "idle_s": c.REGISTRY_IDLE,
    "lookups_total": c.REGISTRY_LOOKUPS,
    "lookup_seconds_total": c.REGISTRY_LOOKUP_SECONDS,
    "lookup_timeouts_total": c.REGISTRY_TIMEOUTS,
    "lookups_skipped_total": c.REGISTRY_SKIPPED,
    "breaker_open": c.REGISTRY_BREAKER,
    "writes_total": c.REGISTRY_WRITES,
    "errors_total": c.REGISTRY_ERRORS,
    "evictions_total": c.REGISTRY_EVICTIONS,
    "reconnects_total": c.REGISTRY_RECONNECTS,
    "pending_rungs": c.REGISTRY_PENDING,
    "local_entries": c.REGISTRY_LOCAL,
}
"""Key of `Registry.statistics()` -> the metric that shows it; a backend without the figure leaves its metric empty."""
