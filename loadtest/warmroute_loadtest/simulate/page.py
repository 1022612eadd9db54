"""The page renders one comparison as self-contained HTML: facts, table, distribution of TTFT, cached share, bounds.

This module decides how figures look in a browser; it computes none. Nothing is loaded from anywhere, and nothing is
scripted.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import ceil, floor, inf, log10
from typing import Any

from warmroute_loadtest.simulate.report import Row, columns

COLOURS = (
    "#00936b",
    "#d1495b",
    "#3066be",
    "#edae49",
    "#8e44ad",
    "#5c677d",
    "#2aa9b8",
    "#a0522d",
    "#7f9c3b",
    "#e377c2",
    "#c0392b",
    "#16537e",
    "#999999",
)
"""The policies' colours; they are repeated where there are more policies."""

STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#667;--line:#d8dce2;--back:#fff;--tint:#f5f7f9;--mark:#dff3ec}
@media(prefers-color-scheme:dark){:root{--ink:#e6e8eb;--soft:#9aa3ad;--line:#3a4048;--back:#16191d;--tint:#1e2227;
--mark:#173d32}}
body{font:15px/1.45 system-ui,sans-serif;color:var(--ink);background:var(--back);margin:0 auto;max-width:1080px;
padding:1.5rem}
h1{font-size:1.5rem;margin:0 0 .2rem}h2{font-size:1.1rem;margin:2rem 0 .5rem}p{color:var(--soft);margin:.2rem 0}
dl{display:grid;grid-template-columns:repeat(auto-fill,minmax(180px,1fr));gap:.6rem;margin:1rem 0}
dl div{background:var(--tint);border-radius:6px;padding:.5rem .7rem}
dt{color:var(--soft);font-size:.8rem}dd{margin:0;font-weight:600;overflow-wrap:anywhere}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .6rem;text-align:right;white-space:nowrap;border-bottom:1px solid var(--line)}
th{color:var(--soft);font-weight:500;font-size:.85rem}th:first-child,td:first-child{text-align:left}
td.best{background:var(--mark);font-weight:600}i{display:inline-block;width:.7rem;height:.7rem;border-radius:2px;
margin-right:.5rem}
svg{width:100%;height:auto;font:12px system-ui,sans-serif}svg text{fill:var(--ink)}svg .soft{fill:var(--soft)}
svg line{stroke:var(--line)}svg .bound{stroke:var(--ink);stroke-dasharray:4 3}
"""

_FACTS = (
    ("requests", "Requests", "{:,}"),
    ("mean_prompt_tokens", "Mean prompt, tokens", "{:,}"),
    ("rate", "Rate, requests/s", "{:.2f}"),
    ("replicas", "Replicas", "{}"),
    ("cache_tokens", "Cache a replica, tokens", "{:,}"),
    ("working_set_ratio", "Working set ÷ all caches", "{:.2f}"),
    ("pooled_lru_ratio", "Cached, one pooled LRU", "{:.1%}"),
    ("clairvoyant_ratio", "Cached, clairvoyant", "{:.1%}"),
    ("infinite_ratio", "Cached, endless cache", "{:.1%}"),
    ("target", "In time (goodput)", "{}"),
)


def page(title: str, facts: dict[str, Any], rows: Sequence[Row]) -> str:
    """Return the whole page as HTML."""
    shown = "".join(
        f"<div><dt>{escape(label)}</dt><dd>{escape(form.format(facts[key]))}</dd></div>"
        for key, label, form in _FACTS
        if key in facts
    )
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width,initial-scale=1'>"
        f"<title>{escape(title)}</title><style>{STYLE}</style><h1>{escape(title)}</h1>"
        f"<p>{escape(str(facts.get('source', '')))}. Virtual time, from empty caches; times rank policies and predict"
        f" no machine.</p><dl>{shown}</dl><h2>Policies</h2><div class=wide>{_table(rows)}</div>"
        "<p>Marked: the best of a column. Imbalance: prompt tokens computed, largest replica over the mean.</p>"
        f"<h2>Time to first token</h2><p>Share of requests answered within a time.</p>{_times(rows)}"
        f"<h2>Cached share of prompt tokens</h2>{_shares(facts, rows)}"
        f"<p>Engine: {escape(str(facts.get('engine', '')))}</p></html>\n"
    )


def _table(rows: Sequence[Row]) -> str:
    shown = columns(rows)
    best = {title: _best([text(row) for row in rows], which) for title, which, text in shown}
    lines = ["<table><tr>", *(f"<th>{escape(title)}</th>" for title, _, _ in shown), "</tr>"]
    for number, row in enumerate(rows):
        lines.append("<tr>")
        for place, (title, _which, text) in enumerate(shown):
            value = text(row)
            mark = " class=best" if value and value == best[title] and len(rows) > 1 else ""
            swatch = f"<i style='background:{_colour(number)}'></i>" if not place else ""
            lines.append(f"<td{mark}>{swatch}{escape(value)}</td>")
        lines.append("</tr>")
    return "".join([*lines, "</table>"])


def _best(texts: Sequence[str], which: str) -> str | None:
    """Return the best text of a column as it is written, so that policies whose texts are equal are marked alike."""
    values = {text: _number(text) for text in texts if text} if which else {}
    if len(set(values.values())) < 2:
        return None
    choose = min if which == "least" else max
    return choose(values, key=values.__getitem__)


def _number(text: str) -> float:
    return inf if text == "none" else float(text.rstrip("%"))


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _times(rows: Sequence[Row]) -> str:
    """Draw the cumulative distributions of TTFT on a logarithmic axis of whole decades."""
    width, height, left, top = 800, 340, 46, 10
    known = [s for row in rows for s in row.curve_s if s > 0] or [0.01, 1.0]
    low, high = floor(log10(min(known))), ceil(log10(max(known)))
    high = max(high, low + 1)

    def x(seconds: float) -> float:
        return left + width * (log10(max(seconds, 10.0**low)) - low) / (high - low)

    parts = [f"<svg viewBox='0 0 {left + width + 170} {height + 46}' role=img>"]
    for percent in range(0, 101, 25):
        at = top + height * (1 - percent / 100)
        parts.append(f"<line x1={left} y1={at:.0f} x2={left + width} y2={at:.0f} />")
        parts.append(f"<text class=soft x={left - 6} y={at + 4:.0f} text-anchor=end>{percent} %</text>")
    for power in range(low, high + 1):
        at = x(10.0**power)
        parts.append(f"<line x1={at:.0f} y1={top} x2={at:.0f} y2={top + height} />")
        parts.append(
            f"<text class=soft x={at:.0f} y={top + height + 18} text-anchor=middle>{10.0**power:g} s</text>"
        )
    # The first row is drawn last, above the others.
    for number, row in reversed(list(enumerate(rows))):
        last = len(row.curve_s) - 1
        points = " ".join(
            f"{x(s):.1f},{top + height * (1 - i / last):.1f}" for i, s in enumerate(row.curve_s)
        )
        name = escape(row.figures.policy)
        weight = 2.6 if number == 0 else 1.4
        parts.append(
            f"<polyline points='{points}' fill=none stroke='{_colour(number)}' stroke-width={weight}>"
            f"<title>{name}</title></polyline>"
        )
        at = top + 8 + 18 * number
        parts.append(f"<rect x={left + width + 14} y={at - 9} width=11 height=11 fill='{_colour(number)}' />")
        parts.append(f"<text x={left + width + 31} y={at + 1}>{name}</text>")
    return "".join([*parts, "</svg>"])


def _shares(facts: dict[str, Any], rows: Sequence[Row]) -> str:
    """Draw the cached share of each policy as a bar, and the bounds as lines."""
    width, left, top, step = 800, 150, 24, 22
    bounds = [
        (facts[key], name)
        for key, name in (
            ("pooled_lru_ratio", "pooled LRU"),
            ("clairvoyant_ratio", "clairvoyant"),
            ("infinite_ratio", "endless"),
        )
        if key in facts
    ]
    most = max([row.figures.cached_ratio for row in rows] + [ratio for ratio, _ in bounds] + [0.01]) * 1.08
    bottom = top + step * len(rows)
    parts = [f"<svg viewBox='0 0 {left + width + 66} {bottom + 16 + 15 * len(bounds)}' role=img>"]
    for number, row in enumerate(rows):
        at = top + step * number
        long = width * row.figures.cached_ratio / most
        parts.append(f"<text x={left - 8} y={at + 13} text-anchor=end>{escape(row.figures.policy)}</text>")
        parts.append(
            f"<rect x={left} y={at + 2} width={long:.1f} height={step - 7} fill='{_colour(number)}' />"
        )
        share = f"{row.figures.cached_ratio:.1%}"
        parts.append(f"<text x={left + width + 60} y={at + 13} text-anchor=end>{share}</text>")
    for number, (ratio, name) in enumerate(bounds):
        at = left + width * ratio / most
        low = bottom + 13 + 15 * number
        parts.append(f"<line class=bound x1={at:.1f} y1={top - 6} x2={at:.1f} y2={low} />")
        parts.append(f"<text class=soft x={at - 5:.1f} y={low} text-anchor=end>{name} {ratio:.1%}</text>")
    return "".join([*parts, "</svg>"])
