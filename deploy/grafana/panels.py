"""What a panel of the dashboard is: its queries and how it is drawn. Plain records; `dashboard` renders them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SECONDS, RATIO, PER_SECOND, BYTES, COUNT = "s", "percentunit", "reqps", "bytes", "short"
"""Grafana's names of units."""
GREEN, ORANGE, RED = "green", "orange", "red"
Steps = Sequence[tuple[float | None, str]]
"""From which value on which colour; None: from the beginning."""
NEUTRAL: Steps = ((None, GREEN),)


@dataclass(frozen=True, slots=True)
class Query:
    """One line of a panel."""

    expr: str
    legend: str = ""
    instant: bool = False
    """Only the latest value: for tables."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture; `says` is what the panel's info mark shows."""

    title: str
    says: str
    queries: Sequence[Query]
    unit: str = COUNT
    kind: str = "timeseries"
    width: int = 8
    height: int = 8
    steps: Steps = NEUTRAL
    most: float | None = None
    stacked: bool = False
    columns: Sequence[tuple[str, str, str]] = ()
    """Of a table, in order: field, heading, unit. Fields of the queries are `Value #A` and so on."""


@dataclass(frozen=True, slots=True)
class Row:
    """Panels that answer one question."""

    question: str
    panels: Sequence[Panel]
    collapsed: bool = False
