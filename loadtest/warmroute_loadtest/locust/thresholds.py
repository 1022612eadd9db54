"""Thresholds are figures that a run must reach. They are read from `NAME=VALUE` and compared with the run's figures.

A threshold's name tells its unit, and so its side: times and failures must not be above it, shares and rates not below.
A figure that cannot be had (because there was no answer, or the engine does not report cached tokens) misses its
threshold, since nothing shows that it was reached.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from warmroute_loadtest.locust.figures import Figures, Times


class SettingError(ValueError):
    """A setting is wrong; the message says which one, what is wrong, and what to write instead."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """One threshold."""

    name: str
    bound: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """A run's figure, compared with a threshold."""

    threshold: Threshold
    value: float | None
    is_upper: bool
    is_met: bool

    def text(self) -> str:
        """The verdict in words, for people."""
        name = self.threshold.name
        bound = written(name, self.threshold.bound)
        value = "no figure" if self.value is None else written(name, self.value)
        side = "at most" if self.is_upper else "at least"
        return f"{name}: {value}, {side} {bound}: {'met' if self.is_met else 'MISSED'}"


def _time(part: str, which: str) -> Callable[[Figures], float | None]:
    def read(figures: Figures) -> float | None:
        times: Times = getattr(figures.total, f"{part}_s")
        value: float | None = getattr(times, which)
        return value

    return read


_UPPER: dict[str, Callable[[Figures], float | None]] = {
    **{
        f"{part.upper()}_{which.upper()}_S": _time(part, which)
        for part in ("ttft", "itl", "e2e")
        for which in ("mean", "p50", "p90", "p99")
    },
    "FAILED_RATIO": lambda f: f.total.failed / f.total.requests if f.total.requests else None,
    "LATE_P99_S": lambda f: f.late_s.p99,
}
_LOWER: dict[str, Callable[[Figures], float | None]] = {
    "CACHED_RATIO": lambda f: f.total.cached_ratio,
    "GOODPUT_RATIO": lambda f: f.total.goodput_ratio if f.total.requests else None,
    "REQUESTS_PER_S": lambda f: f.requests_per_s,
    "OUTPUT_TOKENS_PER_S": lambda f: f.output_tokens_per_s,
}
NAMES = (*_UPPER, *_LOWER)


def value_of(name: str, figures: Figures) -> float | None:
    """Return the figure that a threshold of this name looks at."""
    return (_UPPER.get(name) or _LOWER[name])(figures)


def parse(settings: Mapping[str, str]) -> list[Threshold]:
    """Return the thresholds among settings, in the order of `NAMES`.

    Raises:
        SettingError: A threshold is no number, or out of range.
    """
    return [Threshold(name, _bound(name, settings[name])) for name in NAMES if name in settings]


def judge(thresholds: list[Threshold], figures: Figures) -> list[Verdict]:
    """Return a verdict for each threshold."""
    verdicts: list[Verdict] = []
    for threshold in thresholds:
        value = value_of(threshold.name, figures)
        is_upper = threshold.name in _UPPER
        met = value is not None and (value <= threshold.bound if is_upper else value >= threshold.bound)
        verdicts.append(Verdict(threshold, value, is_upper, met))
    return verdicts


def written(name: str, value: float) -> str:
    """Return a figure as people write it."""
    if name.endswith("_RATIO"):
        return f"{value:.1%}"
    if name.endswith("_PER_S"):
        return f"{value:,.1f}/s"
    return f"{value * 1000:,.1f} ms" if value < 1 else f"{value:,.2f} s"


def _bound(name: str, text: str) -> float:
    unit = "a share from 0 to 1" if name.endswith("_RATIO") else "a number of seconds"
    if name.endswith("_PER_S"):
        unit = "a rate a second"
    try:
        bound = float(text)
    except ValueError:
        raise SettingError(f"{name}={text}: not {unit}; write for example {name}=0.5") from None
    if not 0 <= bound < float("inf") or (name.endswith("_RATIO") and bound > 1):
        raise SettingError(f"{name}={text}: not {unit}; write for example {name}=0.5")
    return bound
