"""What a metric is: its name, its kind, what it measures, and what several workers make of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """Prometheus type."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Across(StrEnum):
    """What `--workers N` makes of the workers' values of a gauge; counters and histograms are summed."""

    SUM = "sum"
    MOST = "most"
    """All see the same thing, some a moment later."""
    LEAST = "least"
    EACH = "each"
    """One sample a worker, with a label `worker`."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric as exposed. A counter's name ends in `_total`."""

    name: str
    kind: Kind
    unit: str
    help: str
    labels: tuple[str, ...] = ()
    across: Across = Across.EACH
