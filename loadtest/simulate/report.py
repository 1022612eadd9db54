"""Renders figures: tables for a terminal, an HTML page that needs nothing else, PNG where matplotlib is installed.

Decides how figures look; computes none.
"""

from __future__ import annotations

import html
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loadtest.simulate.cells import Outcome, geometric_means
from loadtest.simulate.metrics import Figures, quantile
from loadtest.simulate.simulation import Run

_COLUMNS = (
    ("policy", "policy", "s"),
    ("TTFT mean", "ttft_mean_s", ".3f"),
    ("p50", "ttft_p50_s", ".3f"),
    ("p90", "ttft_p90_s", ".3f"),
    ("p99", "ttft_p99_s", ".3f"),
    ("cached", "cached_ratio", ".1%"),
    ("goodput", "goodput_ratio", ".1%"),
    ("imbalance", "uncached_imbalance", ".2f"),
    ("busy", "busy_ratio", ".0%"),
    ("preempted", "preemptions", "d"),
)
_COLOURS = (
    "#0a7",
    "#c33",
    "#36c",
    "#e90",
    "#939",
    "#555",
    "#3aa",
    "#a63",
    "#68c",
    "#9b3",
    "#d6a",
    "#777",
    "#244",
)


def table(rows: Sequence[Figures]) -> str:
    """Figures of one workload and rate, a policy a row."""
    cells = [[title for title, _, _ in _COLUMNS]]
    cells += [[format(getattr(row, name), form) for _, name, form in _COLUMNS] for row in rows]
    return _aligned(cells)


def grid_table(outcomes: Sequence[Outcome], policy: str) -> str:
    """One cell a row: the policy's TTFT and its ratio to the best rival's."""
    cells = [
        [
            "cell",
            "rate",
            "TTFT mean",
            "ratio",
            "best rival",
            "p90",
            "ratio",
            "p99",
            "ratio",
            "cached",
            "imbalance",
        ]
    ]
    for outcome in outcomes:
        own = outcome.figures[policy]
        mean, p90, p99 = outcome.ratios(policy)
        cells.append(
            [
                outcome.cell.name,
                f"{outcome.cell.rate:.2f}",
                f"{own.ttft_mean_s:.3f}",
                f"{mean:.2f}",
                outcome.best("ttft_mean_s")[1],
                f"{own.ttft_p90_s:.3f}",
                f"{p90:.2f}",
                f"{own.ttft_p99_s:.3f}",
                f"{p99:.2f}",
                f"{own.cached_ratio:.3f}",
                f"{own.uncached_imbalance:.2f}",
            ]
        )
    means = geometric_means(list(outcomes), policy)
    lines = [_aligned(cells), "", "geometric mean of TTFT means, over each rival's:"]
    lines += [
        f"  {rival:16s} {ratio:.3f}" for rival, ratio in sorted(means.items(), key=lambda item: -item[1])
    ]
    return "\n".join(lines)


def _aligned(cells: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    return "\n".join(
        "  ".join(
            text.ljust(width) if i == 0 else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    )


def page(title: str, facts: dict[str, Any], rows: Sequence[Figures], runs: Sequence[Run]) -> str:
    """A self-contained page: facts, table, and the distribution of TTFT by policy."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name, _, _ in _COLUMNS)
    body = "".join(
        "<tr>"
        + "".join(f"<td>{html.escape(format(getattr(row, name), form))}</td>" for _, name, form in _COLUMNS)
        + "</tr>"
        for row in rows
    )
    listed = "".join(f"<li>{html.escape(str(k))}: {html.escape(str(v))}</li>" for k, v in facts.items())
    return (
        f"<!doctype html><meta charset=utf-8><title>{html.escape(title)}</title>"
        "<style>body{font:14px sans-serif;margin:2em}td,th{padding:.2em .8em;text-align:right}"
        "td:first-child,th:first-child{text-align:left}tr:nth-child(even){background:#f4f4f4}</style>"
        f"<h1>{html.escape(title)}</h1><ul>{listed}</ul>"
        f"<table><tr>{head}</tr>{body}</table><h2>Time to first token</h2>{_svg(runs)}"
    )


def _curve(run: Run) -> list[tuple[float, float]]:
    times = sorted(s.ttft_s for s in run.served)
    return [(quantile(times, i / 100), i / 100) for i in range(101)] if times else []


def _svg(runs: Sequence[Run]) -> str:
    """Share of requests against TTFT on a logarithmic axis from 10 ms to 1,000 s."""
    from math import log10

    width, height, left, top = 720, 360, 50, 10

    def x(seconds: float) -> float:
        return left + width * (log10(min(max(seconds, 0.01), 1000.0)) + 2) / 5

    parts = [f'<svg width="{width + 260}" height="{height + 50}" font-size="12">']
    for power in range(-2, 4):
        at = x(10.0**power)
        parts.append(f'<line x1="{at:.0f}" y1="{top}" x2="{at:.0f}" y2="{top + height}" stroke="#ddd"/>')
        parts.append(
            f'<text x="{at:.0f}" y="{top + height + 16}" text-anchor="middle">{10.0**power:g} s</text>'
        )
    for i, run in enumerate(runs):
        colour = _COLOURS[i % len(_COLOURS)]
        points = " ".join(f"{x(s):.1f},{top + height * (1 - share):.1f}" for s, share in _curve(run))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        at = top + 14 * (i + 1)
        parts.append(
            f'<text x="{left + width + 12}" y="{at}" fill="{colour}">{html.escape(run.policy)}</text>'
        )
    parts.append("</svg>")
    return "".join(parts)


def write_png(path: Path, title: str, runs: Sequence[Run]) -> None:
    """The distribution of TTFT as a picture.

    Raises:
        RuntimeError: matplotlib is not installed.
    """
    try:
        matplotlib: Any = importlib.import_module("matplotlib")
        matplotlib.use("Agg")
        pyplot: Any = importlib.import_module("matplotlib.pyplot")
    except ImportError as error:
        raise RuntimeError("PNG plots need matplotlib: pip install matplotlib, or use --html") from error
    figure, axes = pyplot.subplots(figsize=(9, 5))
    for i, run in enumerate(runs):
        curve = _curve(run)
        axes.plot(
            [s for s, _ in curve], [r for _, r in curve], label=run.policy, color=_COLOURS[i % len(_COLOURS)]
        )
    axes.set_xscale("log")
    axes.set_xlabel("time to first token, s")
    axes.set_ylabel("share of requests")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
