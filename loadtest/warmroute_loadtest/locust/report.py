"""This module makes the reports of a run: an HTML page that stands alone, and Markdown with its plots beside it.

It decides which figures are shown and how they are compared; it computes none. One side is one router; several are
shown side by side, and a baseline is one more column.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from warmroute_loadtest.locust import plots
from warmroute_loadtest.locust.baseline import Baseline
from warmroute_loadtest.locust.figures import LAG_P99_S, LATE_P99_S, Figures, Row, times
from warmroute_loadtest.locust.samples import Sample
from warmroute_loadtest.locust.thresholds import Verdict
from warmroute_loadtest.simulate.page import STYLE


@dataclass(frozen=True, slots=True)
class Side:
    """One router's run."""

    name: str
    url: str
    figures: Figures
    samples: Sequence[Sample]


@dataclass(slots=True)
class Report:
    """What a report shows."""

    title: str
    facts: dict[str, str]
    """What was asked, in words for people."""
    sides: Sequence[Side]
    baseline: Baseline | None = None
    verdicts: Sequence[tuple[str, Verdict]] = ()
    """The verdicts, each with its side's name."""
    notes: list[str] = field(default_factory=list)
    """What a reader must know before believing the figures."""


Shown = tuple[str, Callable[[Figures], float | None], Callable[[float], str]]


def _s(value: float) -> str:
    return f"{value * 1000:,.0f} ms" if value < 10 else f"{value:,.1f} s"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _ratio(value: float) -> str:
    return f"{value:.1%}"


def _rate(value: float) -> str:
    return f"{value:,.2f}"


FIGURES: tuple[Shown, ...] = (
    ("requests", lambda f: f.total.requests, _count),
    ("failed", lambda f: f.total.failed, _count),
    ("answers a second", lambda f: f.requests_per_s, _rate),
    ("time to first token, mean", lambda f: f.total.ttft_s.mean, _s),
    ("time to first token, p50", lambda f: f.total.ttft_s.p50, _s),
    ("time to first token, p90", lambda f: f.total.ttft_s.p90, _s),
    ("time to first token, p99", lambda f: f.total.ttft_s.p99, _s),
    ("inter-token latency, p50", lambda f: f.total.itl_s.p50, lambda v: f"{v * 1000:,.1f} ms"),
    ("inter-token latency, p90", lambda f: f.total.itl_s.p90, lambda v: f"{v * 1000:,.1f} ms"),
    ("longest gap in a stream, p99", lambda f: f.total.gap_p99_s, _s),
    ("end to end, p50", lambda f: f.total.e2e_s.p50, _s),
    ("end to end, p90", lambda f: f.total.e2e_s.p90, _s),
    ("cached-token share", lambda f: f.total.cached_ratio, _ratio),
    ("prompt tokens", lambda f: f.total.prompt_tokens, _count),
    ("answer tokens a second", lambda f: f.output_tokens_per_s, _rate),
    ("in time (goodput)", lambda f: f.total.goodput_ratio, _ratio),
    ("in time, a second", lambda f: f.goodput_per_s, _rate),
    ("most under way", lambda f: f.most_in_flight, _count),
    ("sent late, p99", lambda f: f.late_s.p99, lambda v: f"{v * 1000:,.1f} ms"),
    ("waited for the answer before", lambda f: f.waiting, _count),
)


def table(report: Report) -> tuple[list[str], list[list[str]]]:
    """Return a table's head and rows: one row a figure, one column a side, then columns of ratios."""
    columns = [(side.name, side.figures) for side in report.sides]
    if report.baseline is not None:
        columns.append((f"baseline {report.baseline.name}", report.baseline.figures))
    compared = [(f"{columns[0][0]} ÷ {name}", other) for name, other in columns[1:]]
    rows = []
    for label, read, write in FIGURES:
        values = [read(figures) for _, figures in columns]
        cells = ["-" if value is None else write(value) for value in values]
        for _, other in compared:
            first, second = values[0], read(other)
            cells.append(f"{first / second:.2f}" if first is not None and second else "")
        rows.append([label, *cells])
    return ["", *(name for name, _ in columns), *(name for name, _ in compared)], rows


def by_scenario(side: Side) -> tuple[list[str], list[list[str]]]:
    """Return the head and the rows of a table of one side's scenarios."""
    head = ["scenario", "requests", "failed", "TTFT p50", "p90", "p99", "ITL p50", "end to end p90"]
    return [*head, "cached", "in time"], [_scenario(row) for row in side.figures.rows]


def _scenario(row: Row) -> list[str]:
    def known(value: float | None) -> str:
        return "-" if value is None else _s(value)

    ttft = row.ttft_s
    itl = "-" if row.itl_s.p50 is None else f"{row.itl_s.p50 * 1000:.1f} ms"
    cells = [
        row.name,
        _count(row.requests),
        _count(row.failed),
        known(ttft.p50),
        known(ttft.p90),
        known(ttft.p99),
    ]
    cached = "-" if row.cached_ratio is None else _ratio(row.cached_ratio)
    return [*cells, itl, known(row.e2e_s.p90), cached, _ratio(row.goodput_ratio)]


def notes(report: Report) -> list[str]:
    """Return everything that limits what the figures mean, the report's own notes first."""
    said = list(report.notes)
    for side in report.sides:
        figures, total = side.figures, side.figures.total
        if figures.is_late:
            ways = []
            if (figures.late_s.p99 or 0.0) > LATE_P99_S:
                limit = f"limit {LATE_P99_S * 1000:.0f} ms"
                ways.append(
                    f"requests were sent {_s(figures.late_s.p99 or 0.0)} after their time at p99 ({limit})"
                )
            if (figures.lag_p99_s or 0.0) > LAG_P99_S:
                limit = f"limit {LAG_P99_S * 1000:.0f} ms"
                ways.append(f"its clock was read {_s(figures.lag_p99_s or 0.0)} late at p99 ({limit})")
            said.append(
                f"THE GENERATOR WAS LATE ({side.name}): {', and '.join(ways)}. Times include what a busy generator"
                " adds: give it more processes (WORKERS=), a machine of its own, or fewer requests."
            )
        answered = total.requests - total.failed
        if total.reported < answered:
            said.append(
                f"{side.name}: {answered - total.reported:,} of {answered:,} answers do not say how many prompt tokens"
                " were cached (vLLM: --enable-prompt-tokens-details); the cached-token share is of the others."
            )
        if figures.asked_tokens and abs(total.prompt_tokens / figures.asked_tokens - 1) > 0.1:
            factor = total.prompt_tokens / figures.asked_tokens
            said.append(
                f"{side.name}: prompts have {factor:.2f} times the tokens that were meant;"
                " BYTES_PER_TOKEN corrects it for this model's tokenizer."
            )
        said += [f"{side.name}: {count:,} × {error}" for error, count in figures.errors.items()]
    return said


def pictures(report: Report) -> dict[str, str]:
    """Return the report's SVGs by name."""
    measured = [
        (side.name, [s for s in side.samples if s.is_measured and not s.error]) for side in report.sides
    ]

    def p90(samples: Sequence[Sample]) -> float | None:
        return times(s.ttft_s for s in samples).p90

    def cached(samples: Sequence[Sample]) -> float | None:
        told = [s for s in samples if s.cached_tokens is not None]
        prompt = sum(s.prompt_tokens or 0 for s in told)
        return sum(s.cached_tokens or 0 for s in told) / prompt if prompt else None

    def first(samples: Sequence[Sample]) -> list[float]:
        return [s.ttft_s for s in samples if s.ttft_s is not None]

    def between(samples: Sequence[Sample]) -> list[float]:
        return [s.itl_s for s in samples if s.itl_s is not None]

    made = {}
    if any(first(samples) for _, samples in measured):
        title = "Time to first token: share of answers within a time"
        made["ttft"] = plots.distribution(title, [(name, first(samples)) for name, samples in measured])
        made["ttft-course"] = plots.course(
            "Time to first token, p90, by the time of sending", measured, p90, "s"
        )
        title = "Inter-token latency: share of answers within a time"
        made["itl"] = plots.distribution(title, [(name, between(samples)) for name, samples in measured])
        made["cached-course"] = plots.course(
            "Cached-token share, by the time of sending", measured, cached, "%", 1.0
        )
    made["under-way"] = plots.under_way("Requests under way", measured)
    replicas = [(side.name, side.figures.replicas) for side in report.sides]
    if any(counts for _, counts in replicas):
        made["replicas"] = plots.bars("Answers by replica", replicas)
    return made


def title_of(svg: str) -> str:
    """Return what a picture shows."""
    return svg.partition("<title>")[2].partition("</title>")[0]


def markdown(report: Report) -> str:
    """Return the report as Markdown, with its pictures as files beside it."""
    lines = [f"# {report.title}", ""]
    lines += [f"- {name}: {value}" for name, value in report.facts.items()]
    if report.verdicts:
        lines += ["", "## Thresholds", ""]
        lines += [f"- {_named(report, name)}{verdict.text()}" for name, verdict in report.verdicts]
    said = notes(report)
    if said:
        lines += ["", "## Notes", "", *(f"- {note}" for note in said)]
    lines += ["", "## Figures", "", *_markdown_table(*table(report))]
    for side in report.sides:
        lines += ["", f"### {side.name}", "", *_markdown_table(*by_scenario(side))]
    for name, svg in pictures(report).items():
        lines += ["", f"![{title_of(svg)}]({name}.svg)", "", title_of(svg)]
    return "\n".join(lines) + "\n"


def page(report: Report) -> str:
    """Return the report as one HTML page, which loads nothing and has no scripts."""
    facts = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in report.facts.items()
    )
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width,initial-scale=1'>"
        f"<title>{escape(report.title)}</title><style>{STYLE}{_OWN_STYLE}</style><h1>{escape(report.title)}</h1>"
        f"<dl>{facts}</dl>"
    ]
    if report.verdicts:
        parts.append("<h2>Thresholds</h2>")
        for name, verdict in report.verdicts:
            kind = "met" if verdict.is_met else "missed"
            parts.append(f"<p class={kind}>{escape(_named(report, name) + verdict.text())}</p>")
    said = notes(report)
    if said:
        parts.append("<h2>Notes</h2><ul>" + "".join(f"<li>{escape(note)}</li>" for note in said) + "</ul>")
    parts.append(f"<h2>Figures</h2>{_html_table(*table(report))}")
    parts += [
        f"<h2>{escape(side.name)}</h2><p>{escape(side.url)}</p>{_html_table(*by_scenario(side))}"
        for side in report.sides
    ]
    parts.append("<div class=plots>")
    shown = pictures(report).values()
    parts += [f"<figure><figcaption>{title_of(svg)}</figcaption>{svg}</figure>" for svg in shown]
    return "".join([*parts, "</div></html>\n"])


def write(folder: Path, report: Report) -> None:
    """Write `report.html`, `report.md` and its pictures.

    Raises:
        OSError: A file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.html").write_text(page(report))
    (folder / "report.md").write_text(markdown(report))
    for name, svg in pictures(report).items():
        (folder / f"{name}.svg").write_text(svg)


_OWN_STYLE = """
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(420px,1fr));gap:1rem;margin:1.5rem 0}
figure{margin:0}figcaption{color:var(--soft);font-size:.85rem;margin-bottom:.3rem}
.plots svg text{fill:#1b1f24}.plots svg .soft{fill:#667}.plots svg line{stroke:#d8dce2}
.met,.missed{font-weight:600}.met{color:#00936b}.missed{color:#d1495b}
"""


def _named(report: Report, side: str) -> str:
    return f"{side}: " if len(report.sides) > 1 else ""


def _markdown_table(head: list[str], rows: list[list[str]]) -> list[str]:
    line = "|" + "|".join(["---", *("---:" for _ in head[1:])]) + "|"
    return [f"| {' | '.join(head)} |", line, *(f"| {' | '.join(row)} |" for row in rows)]


def _html_table(head: list[str], rows: list[list[str]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div class=wide><table><tr>{top}</tr>{body}</table></div>"
