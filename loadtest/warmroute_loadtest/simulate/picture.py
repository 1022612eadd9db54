"""The picture draws one comparison as a PNG, where matplotlib is there: cached share against the bounds, and TTFT.

This module decides how the picture looks; it computes no figure.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from warmroute_loadtest.simulate.page import COLOURS
from warmroute_loadtest.simulate.report import Row


def write_png(path: Path, title: str, facts: dict[str, Any], rows: Sequence[Row]) -> None:
    """Write the picture.

    Raises:
        RuntimeError: matplotlib is not installed.
    """
    try:
        matplotlib: Any = importlib.import_module("matplotlib")
        matplotlib.use("Agg")
        pyplot: Any = importlib.import_module("matplotlib.pyplot")
    except ImportError as error:
        raise RuntimeError("PNG plots need matplotlib: pip install matplotlib, or use --html") from error
    figure, (shares, times) = pyplot.subplots(1, 2, figsize=(13, 5), width_ratios=(2, 3))
    colours = [COLOURS[i % len(COLOURS)] for i in range(len(rows))]
    names = [row.figures.policy for row in rows]
    shares.barh(names, [row.figures.cached_ratio for row in rows], color=colours)
    shares.invert_yaxis()
    for key, name, style in (
        ("pooled_lru_ratio", "pooled LRU", "--"),
        ("clairvoyant_ratio", "clairvoyant", ":"),
    ):
        if key in facts:
            shares.axvline(facts[key], color="#333", linestyle=style, linewidth=1, label=name)
    shares.set_xlabel("cached share of prompt tokens")
    shares.legend(fontsize=8, loc="upper left", bbox_to_anchor=(0.0, -0.1), ncols=2, frameon=False)
    for row, colour in zip(rows, colours, strict=True):
        ratios = [index / (len(row.curve_s) - 1) for index in range(len(row.curve_s))]
        times.plot(row.curve_s, ratios, label=row.figures.policy, color=colour)
    times.set_xscale("log")
    times.set_xlabel("time to first token, s")
    times.set_ylabel("share of requests")
    times.grid(alpha=0.3)
    times.legend(fontsize=8, loc="lower right")
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
