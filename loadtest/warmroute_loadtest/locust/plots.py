"""Charts are SVG, made by hand so that a report needs no plotting library: lines, and bars.

The axis of lines is linear or logarithmic. This module decides how figures look; it computes none but the windows of
a course over time. An SVG stands alone (a Markdown report links it) and inside a page alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

from warmroute_loadtest.locust.figures import percentile
from warmroute_loadtest.locust.samples import Sample
from warmroute_loadtest.simulate.page import COLOURS

_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM, _RIGHT = 560, 220, 62, 12, 40, 14
WINDOWS = 40
"""Number of points of a course over time."""
CURVE_POINTS = 200

_STYLE = (
    "<style>text{font:11px system-ui,sans-serif;fill:#1b1f24}.soft{fill:#667}"
    "line{stroke:#d8dce2}polyline{fill:none;stroke-width:2;stroke-linejoin:round}</style>"
)


@dataclass(frozen=True, slots=True)
class Series:
    """One curve."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Axis:
    """How values become places on an axis."""

    low: float
    high: float
    unit: str
    is_logarithmic: bool = False

    def place(self, value: float) -> float:
        """Return a value's place on the axis, from 0 to 1."""
        if self.is_logarithmic:
            low, high = log10(self.low), log10(self.high)
            return (log10(max(value, self.low)) - low) / (high - low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Return the values at which lines are drawn."""
        if self.is_logarithmic:
            return [10.0**power for power in range(round(log10(self.low)), round(log10(self.high)) + 1)]
        step = _step(self.high - self.low)
        return [self.low + step * n for n in range(int((self.high - self.low) / step + 1e-9) + 1)]

    def label(self, value: float) -> str:
        """Return the text that is written at a value."""
        if self.unit == "%":
            return f"{value * 100:.0f} %"
        return f"{value:g} {self.unit}".strip()


def distribution(title: str, sides: Sequence[tuple[str, Sequence[float]]]) -> str:
    """Draw which share of the requests took at most a time, on a logarithmic axis of whole decades."""
    known = [value for _, values in sides for value in values if value > 0] or [0.01, 1.0]
    low, high = floor(log10(min(known))), ceil(log10(max(known)))
    axis = Axis(10.0**low, 10.0 ** max(high, low + 1), "s", is_logarithmic=True)
    return lines(title, [Series(name, _cumulative(values)) for name, values in sides], axis, Axis(0, 1, "%"))


def course(
    title: str,
    sides: Sequence[tuple[str, Sequence[Sample]]],
    value: Callable[[Sequence[Sample]], float | None],
    unit: str,
    high: float | None = None,
) -> str:
    """Draw a figure of the requests sent in each of 40 windows of the run."""
    end_s = max((sample.at_s for _, samples in sides for sample in samples), default=1.0) or 1.0
    window_s = end_s / WINDOWS
    series = []
    for name, samples in sides:
        windows: list[list[Sample]] = [[] for _ in range(WINDOWS)]
        for sample in samples:
            windows[min(int(sample.at_s / window_s), WINDOWS - 1)].append(sample)
        known = [(window_s * (n + 0.5), value(window)) for n, window in enumerate(windows) if window]
        series.append(Series(name, [(at_s, figure) for at_s, figure in known if figure is not None]))
    top = high or max([figure for each in series for _, figure in each.points] + [1e-3]) * 1.1
    return lines(title, series, Axis(0, end_s, "s"), Axis(0, top, unit))


def under_way(title: str, sides: Sequence[tuple[str, Sequence[Sample]]]) -> str:
    """Draw the number of requests under way over time."""
    end_s = max((sample.end_s for _, samples in sides for sample in samples), default=1.0) or 1.0
    series = []
    for name, samples in sides:
        changes = sorted([(s.at_s, 1) for s in samples] + [(s.end_s, -1) for s in samples])
        peaks = [0.0] * (4 * WINDOWS)
        level = 0
        for at_s, change in changes:
            level += change
            place = min(int(at_s / end_s * len(peaks)), len(peaks) - 1)
            peaks[place] = max(peaks[place], level)
        series.append(Series(name, [(end_s * n / len(peaks), peak) for n, peak in enumerate(peaks)]))
    top = max([peak for each in series for _, peak in each.points] + [1.0]) * 1.1
    return lines(title, series, Axis(0, end_s, "s"), Axis(0, top, ""))


def lines(title: str, series: Sequence[Series], across: Axis, up: Axis) -> str:
    """Draw curves; the first is drawn last, so that it lies above the others."""

    def x(value: float) -> float:
        return _LEFT + _WIDTH * min(max(across.place(value), 0.0), 1.0)

    def y(value: float) -> float:
        return _TOP + _HEIGHT * (1 - min(max(up.place(value), 0.0), 1.0))

    parts = [_opening(title, _TOP + _HEIGHT + _BOTTOM + 16 * len(series))]
    for tick in up.ticks():
        parts.append(f"<line x1='{_LEFT}' y1='{y(tick):.1f}' x2='{_LEFT + _WIDTH}' y2='{y(tick):.1f}'/>")
        label = escape(up.label(tick))
        parts.append(
            f"<text class='soft' x='{_LEFT - 6}' y='{y(tick) + 4:.1f}' text-anchor='end'>{label}</text>"
        )
    for tick in across.ticks():
        parts.append(f"<line x1='{x(tick):.1f}' y1='{_TOP}' x2='{x(tick):.1f}' y2='{_TOP + _HEIGHT}'/>")
        label = escape(across.label(tick))
        parts.append(
            f"<text class='soft' x='{x(tick):.1f}' y='{_TOP + _HEIGHT + 16}' text-anchor='middle'>{label}</text>"
        )
    for number, each in reversed(list(enumerate(series))):
        points = " ".join(
            f"{x(across_value):.1f},{y(up_value):.1f}" for across_value, up_value in each.points
        )
        parts.append(f"<polyline points='{points}' stroke='{colour(number)}'/>")
        parts.append(_legend(number, each.name, _TOP + _HEIGHT + _BOTTOM + 16 * number))
    return "".join([*parts, "</svg>"])


def bars(title: str, sides: Sequence[tuple[str, dict[str, int]]]) -> str:
    """Draw one bar for each name and side."""
    names = sorted({name for _, counts in sides for name in counts})
    most = max([count for _, counts in sides for count in counts.values()] + [1])
    step, left = 8 + 14 * len(sides), 150
    bottom = _TOP + step * len(names) + 14
    parts = [_opening(title, bottom + 16 * len(sides))]
    for place, name in enumerate(names):
        parts.append(
            f"<text x='{left - 8}' y='{_TOP + step * place + 12}' text-anchor='end'>{escape(name[-24:])}</text>"
        )
        for number, (_, counts) in enumerate(sides):
            at = _TOP + step * place + 14 * number
            long = (_LEFT + _WIDTH - left - 40) * counts.get(name, 0) / most
            parts.append(
                f"<rect x='{left}' y='{at}' width='{long:.1f}' height='12' fill='{colour(number)}'/>"
            )
            parts.append(
                f"<text class='soft' x='{left + long + 5:.1f}' y='{at + 10}'>{counts.get(name, 0)}</text>"
            )
    parts += [_legend(number, side, bottom + 16 * number) for number, (side, _) in enumerate(sides)]
    return "".join([*parts, "</svg>"])


def colour(number: int) -> str:
    """Return the colour of side `number`."""
    return COLOURS[number % len(COLOURS)]


def _opening(title: str, height: float) -> str:
    width = _LEFT + _WIDTH + _RIGHT
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height:.0f}' role='img'>{_STYLE}"
        f"<title>{escape(title)}</title><rect width='{width}' height='{height:.0f}' fill='#fff'/>"
    )


def _legend(number: int, name: str, at: float) -> str:
    return (
        f"<rect x='{_LEFT}' y='{at - 9:.0f}' width='10' height='10' fill='{colour(number)}'/>"
        f"<text x='{_LEFT + 16}' y='{at:.0f}'>{escape(name)}</text>"
    )


def _cumulative(values: Sequence[float]) -> list[tuple[float, float]]:
    ordered = sorted(values)
    made = []
    for number in range(CURVE_POINTS + 1):
        value = percentile(ordered, number / CURVE_POINTS)
        if value is not None:
            made.append((value, number / CURVE_POINTS))
    return made


def _step(span: float) -> float:
    """Return a round number that cuts a span into four to eight parts."""
    rough = span / 5
    power = 10.0 ** floor(log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
