"""The recorder keeps what one process measures, sums it up as it comes, and hands on to a master what is new.

This module decides how live figures are kept: in histograms with steps of 2 %, since sorting all samples for a web page
would hold up the clients of the same process. `figures` computes the final figures from the samples themselves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import exp, log
from typing import Any

from warmroute_loadtest.locust.samples import Sample, of_row, to_row

STEP = log(1.02)
TOTAL = "all measured"


class Histogram:
    """Counts of times in steps of 2 %."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self._total = 0

    def add(self, seconds: float) -> None:
        """Count one time."""
        self._counts[round(log(max(seconds, 1e-6)) / STEP)] += 1
        self._total += 1

    def percentile(self, ratio: float) -> float | None:
        """Return the smallest step that this share of the times does not exceed; None where no times were counted."""
        left = ratio * self._total
        for step in sorted(self._counts):
            left -= self._counts[step]
            if left <= 0:
                return exp(step * STEP)
        return None


@dataclass(slots=True)
class Live:
    """Running sums of one row."""

    requests: int = 0
    failed: int = 0
    in_time: int = 0
    """Number of answers that came in time; see `is_in_time`."""
    prompt_tokens: int = 0
    """Prompt tokens of the answers whose engine says how much was cached."""
    cached_tokens: int = 0
    completion_tokens: int = 0
    ttft: Histogram = field(default_factory=Histogram)
    itl: Histogram = field(default_factory=Histogram)
    e2e: Histogram = field(default_factory=Histogram)

    @property
    def cached_ratio(self) -> float | None:
        """Cached tokens over prompt tokens; None where no engine reports cached tokens."""
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else None

    def add(self, sample: Sample, in_time: bool) -> None:
        """Count one sample."""
        self.requests += 1
        if sample.error:
            self.failed += 1
            return
        self.in_time += in_time
        self.e2e.add(sample.e2e_s)
        if sample.ttft_s is not None:
            self.ttft.add(sample.ttft_s)
        if sample.itl_s is not None:
            self.itl.add(sample.itl_s)
        if sample.prompt_tokens and sample.cached_tokens is not None:
            self.prompt_tokens += sample.prompt_tokens
            self.cached_tokens += sample.cached_tokens
        self.completion_tokens += sample.completion_tokens or 0


@dataclass(slots=True)
class Generator:
    """What one process of the load generator reports of itself."""

    cpu_ratio: float = 0.0
    """Share of one core that the process used over the whole run."""
    lags: list[float] = field(default_factory=list)
    """How late a timer of 20 ms went off, each time, in seconds; the process reads its clock late by as much."""


class Recorder:
    """The samples of a run, of this process or of all workers."""

    def __init__(self, ttft_target_s: float, itl_target_s: float | None = None) -> None:
        self._ttft_target_s = ttft_target_s
        self._itl_target_s = itl_target_s
        self.samples: list[Sample] = []
        self.rows: dict[str, Live] = {TOTAL: Live()}
        self.late = Histogram()
        self.generators: dict[str, Generator] = {}
        self._sent = 0

    def add(self, sample: Sample) -> None:
        """Add one sample."""
        self.samples.append(sample)
        in_time = is_in_time(sample, self._ttft_target_s, self._itl_target_s)
        self.rows.setdefault(sample.name, Live()).add(sample, in_time)
        if sample.is_measured:
            self.rows[TOTAL].add(sample, in_time)
            self.late.add(sample.late_s)

    def news(self) -> list[list[Any]]:
        """Return rows of the samples that were not handed on yet."""
        rows = [to_row(sample) for sample in self.samples[self._sent :]]
        self._sent = len(self.samples)
        return rows

    def take(self, rows: Iterable[list[Any]]) -> None:
        """Add the samples of a worker."""
        for row in rows:
            self.add(of_row(row))

    def fared(self, who: str, cpu_ratio: float, lags: Iterable[float]) -> None:
        """Add what a process of the generator reports of itself since its last report."""
        generator = self.generators.setdefault(who, Generator())
        generator.cpu_ratio = cpu_ratio
        generator.lags.extend(lags)

    def progress(self, elapsed_s: float, in_flight: int) -> str:
        """Return one line that says how far the run is."""
        total = self.rows[TOTAL]
        parts = [f"{elapsed_s:5.0f} s", f"{total.requests:6,} answered", f"{total.failed} failed"]
        parts.append(f"{in_flight} under way")
        parts.append(f"TTFT p50 {_ms(total.ttft.percentile(0.5))}, p90 {_ms(total.ttft.percentile(0.9))}")
        ratio = total.cached_ratio
        parts.append("cached share not reported" if ratio is None else f"cached {ratio:.0%}")
        parts.append(f"late p99 {_ms(self.late.percentile(0.99))}")
        return "  ".join(parts)


def is_in_time(sample: Sample, ttft_target_s: float, itl_target_s: float | None) -> bool:
    """Return whether an answer counts as goodput: it is complete, its first token came in time, and its later tokens
    did if there is a target for them."""
    if sample.error:
        return False
    first_s = sample.e2e_s if sample.ttft_s is None else sample.ttft_s
    if first_s > ttft_target_s:
        return False
    return itl_target_s is None or sample.itl_s is None or sample.itl_s <= itl_target_s


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.0f} ms"
