"""The report renders figures as tables for a terminal.

This module decides which figures are shown, and how they are written; it computes none. The page and the picture are
`page`'s and `picture`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

from warmroute_loadtest.simulate.axes import summaries
from warmroute_loadtest.simulate.cells import KNEE_POLICY, TIMES, Outcome, geometric_means
from warmroute_loadtest.simulate.metrics import Figures


@dataclass(slots=True)
class Row:
    """The figures of one policy, with what they are compared to."""

    figures: Figures
    curve_s: list[float]
    """TTFT at every percent of the requests, from the fastest to the slowest, in seconds."""
    pooled_lru_ratio: float
    """The cached share of one LRU cache as large as all replicas' caches together."""
    knee_rate: float | None = None
    """The knee in requests a second; None where it was not searched, infinite where no rate is too much."""

    @property
    def of_bound_ratio(self) -> float | None:
        """The cached share over the pooled-LRU bound; None where nothing could be reused."""
        return self.figures.cached_ratio / self.pooled_lru_ratio if self.pooled_lru_ratio else None

    def as_dict(self) -> dict[str, Any]:
        """Return the row as a dict for JSON."""
        return {
            **self.figures.as_dict(),
            "of_bound_ratio": self.of_bound_ratio,
            "knee_rate": self.knee_rate if self.knee_rate != inf else None,
        }


def _figure(name: str, form: str) -> Callable[[Row], str]:
    return lambda row: format(getattr(row.figures, name), form)


def _of_bound(row: Row) -> str:
    return "" if row.of_bound_ratio is None else f"{row.of_bound_ratio:.2f}"


def _knee(row: Row) -> str:
    if row.knee_rate is None:
        return ""
    return f"{row.knee_rate:.2f}" if row.knee_rate < inf else "none"


COLUMNS: tuple[tuple[str, str, Callable[[Row], str]], ...] = (
    ("policy", "", _figure("policy", "s")),
    ("TTFT mean, s", "least", _figure("ttft_mean_s", ".3f")),
    ("p50", "least", _figure("ttft_p50_s", ".3f")),
    ("p90", "least", _figure("ttft_p90_s", ".3f")),
    ("p99", "least", _figure("ttft_p99_s", ".3f")),
    ("goodput", "most", _figure("goodput_ratio", ".1%")),
    ("cached", "most", _figure("cached_ratio", ".1%")),
    ("of bound", "most", _of_bound),
    ("imbalance", "least", _figure("uncached_imbalance", ".2f")),
    ("busy", "least", _figure("busy_ratio", ".0%")),
    ("preempted", "", _figure("preemptions", "d")),
    ("knee, 1/s", "most", _knee),
)
"""Each column's title, which of its values is the best, and what writes a row's value."""


def columns(rows: Sequence[Row]) -> list[tuple[str, str, Callable[[Row], str]]]:
    """Return the columns for which some row has a value."""
    return [column for column in COLUMNS if any(column[2](row) for row in rows)]


def table(rows: Sequence[Row]) -> str:
    """Render the figures of one workload and rate as a table, one row a policy."""
    shown = columns(rows)
    return aligned([[title for title, _, _ in shown], *([text(row) for _, _, text in shown] for row in rows)])


def grid_table(outcomes: Sequence[Outcome], policy: str) -> str:
    """Render a table with one row a cell: the policy's TTFT, and its ratio to the best rival's."""
    head = "cell|rate|TTFT mean|ratio|best rival|p90|ratio|best rival|p99|ratio|best rival|cached|of bound|imbalance"
    cells = [head.split("|")]
    for outcome in outcomes:
        own = outcome.figures[policy]
        bound = outcome.bounds["pooled_lru_ratio"]
        ratios = outcome.ratios(policy)
        row = [outcome.cell.name, f"{outcome.cell.rate:.2f}"]
        for measure, ratio in zip(TIMES, ratios, strict=True):
            row += [f"{getattr(own, measure):.3f}", f"{ratio:.2f}", outcome.best(measure)[1]]
        row += [
            f"{own.cached_ratio:.3f}",
            f"{own.cached_ratio / bound:.2f}" if bound else "",
            f"{own.uncached_imbalance:.2f}",
        ]
        cells.append(row)
    lost = [outcome.cell.name for outcome in outcomes if outcome.lost(policy)]
    means = geometric_means(outcomes, policy)
    lines = [aligned(cells), "", f"{len(outcomes) - len(lost)} of {len(outcomes)} cells not lost"]
    lines += [f"  lost: {name}" for name in lost]
    lines += ["geometric mean of TTFT means, over each rival's:"]
    lines += [
        f"  {rival:16s} {ratio:.3f}" for rival, ratio in sorted(means.items(), key=lambda item: -item[1])
    ]
    return "\n".join(lines)


def axes_table(outcomes: Sequence[Outcome], policy: str) -> str:
    """Render a table with one row a cell: the policy's TTFT, and its ratios to that of `KNEE_POLICY` and to that of the
    best rival played. Below it there is one line a case."""
    cells = [
        f"cell|rate|TTFT mean|ratio|best|p90|ratio|best|p99|ratio|best|cached|imbalance|{policy} over".split(
            "|"
        )
    ]
    for outcome in outcomes:
        own, rival = outcome.figures[policy], outcome.figures[KNEE_POLICY]
        row = [outcome.cell.name, f"{outcome.cell.rate:.2f}"]
        for measure, best in zip(TIMES, outcome.ratios(policy), strict=True):
            value = getattr(own, measure)
            row += [f"{value:.3f}", f"{value / getattr(rival, measure):.2f}", f"{best:.2f}"]
        row += [f"{own.cached_ratio:.3f}", f"{own.uncached_imbalance:.2f}", outcome.best("ttft_mean_s")[1]]
        cells.append(row)
    lines = [
        aligned(cells),
        "",
        f"geometric means over {KNEE_POLICY}; plain: the same workloads and loads there",
    ]
    rows = ["case|cells|mean|p90|p99|plain mean|p90|p99|own over plain|p90|p99|worst mean".split("|")]
    for one in summaries(outcomes, policy):
        parts = [one.over_rival, one.plain_over_rival, one.over_plain]
        figures = [f"{value:.3f}" for part in parts for value in part or ()]
        rows.append([one.name, str(one.cells), *figures, *[""] * (9 - len(figures)), one.worst])
    return "\n".join([*lines, "", aligned(rows)])


def aligned(cells: Sequence[Sequence[str]]) -> str:
    """Align columns of texts, the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    return "\n".join(
        "  ".join(
            text.ljust(width) if i == 0 else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    )
