"""This module makes figures of samples: percentiles, shares, goodput, and whether the generator itself was late.

It is pure arithmetic over `samples.Sample`; token counts are those that the engines report. Hostile clients' own
requests have rows and are in no total.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from warmroute_loadtest.locust.recorder import Generator, is_in_time
from warmroute_loadtest.locust.samples import Sample

LATE_P99_S = 0.05
"""A run is late if more than one request in a hundred was sent later than this by the generator's own fault..."""
LAG_P99_S = 0.02
"""...or if its clock was read later than this in more than one of a hundred cases."""
MAX_ERRORS = 8


@dataclass(frozen=True, slots=True)
class Times:
    """A distribution in seconds; None in place of figures where there were no values."""

    mean: float | None
    p50: float | None
    p90: float | None
    p99: float | None


@dataclass(frozen=True, slots=True)
class Row:
    """The figures of one scenario, or of all together."""

    name: str
    requests: int
    failed: int
    ttft_s: Times
    itl_s: Times
    e2e_s: Times
    gap_p99_s: float | None
    """The 99th percentile of the longest time between two events in a stream, in seconds."""
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reported: int
    """Number of answers whose engine said how much was cached; the cached share is that of these answers."""
    cached_ratio: float | None
    goodput_ratio: float
    """Answers in time over all requests, failed ones included."""


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of one run."""

    total: Row
    rows: tuple[Row, ...]
    span_s: float
    """Time from the first request to the last answer, in seconds."""
    requests_per_s: float
    output_tokens_per_s: float
    goodput_per_s: float
    most_in_flight: int
    late_s: Times
    """How late requests were sent by the generator's own fault."""
    late_max_s: float
    waiting: int
    """Number of requests sent over 50 ms after their planned time because the answer before was not complete."""
    lag_p99_s: float | None
    """The 99th percentile of how late the generator's clock was read, in seconds."""
    cpu_ratios: tuple[float, ...]
    """Share of a core that each of the generator's processes used."""
    replicas: dict[str, int]
    decisions: dict[str, int]
    errors: dict[str, int]
    asked_tokens: int
    """Prompt tokens that were meant, of the answers whose engine counted tokens."""
    ttft_target_s: float
    itl_target_s: float | None

    @property
    def is_late(self) -> bool:
        """Whether the generator was too slow for its own schedule; then its times say more about the generator than
        about the router."""
        return (self.late_s.p99 or 0.0) > LATE_P99_S or (self.lag_p99_s or 0.0) > LAG_P99_S

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as a dict for JSON."""
        return {**asdict(self), "is_late": self.is_late}


def percentile(ordered: Sequence[float], ratio: float) -> float | None:
    """Return the smallest of sorted values that at least this share of them do not exceed; None where there are
    none."""
    return ordered[max(0, -int(-ratio * len(ordered) // 1) - 1)] if ordered else None


def times(values: Iterable[float | None]) -> Times:
    """Return the distribution of the values; those that are None are left out."""
    known = sorted(value for value in values if value is not None)
    if not known:
        return Times(None, None, None, None)
    mean = sum(known) / len(known)
    return Times(mean, percentile(known, 0.5), percentile(known, 0.9), percentile(known, 0.99))


def figures(
    samples: Sequence[Sample],
    generators: Mapping[str, Generator],
    *,
    ttft_target_s: float,
    itl_target_s: float | None = None,
) -> Figures:
    """Compute the figures of a run's samples."""
    measured = [sample for sample in samples if sample.is_measured]
    answered = [sample for sample in measured if not sample.error]
    total = _row("all", measured, ttft_target_s, itl_target_s)
    names = sorted({sample.name for sample in samples})
    rows = [_row(n, [s for s in samples if s.name == n], ttft_target_s, itl_target_s) for n in names]
    begin_s = min((sample.at_s for sample in measured), default=0.0)
    span_s = max((sample.end_s for sample in measured), default=0.0) - begin_s
    late = times(sample.late_s for sample in measured)
    lags = sorted(lag for generator in generators.values() for lag in generator.lags)
    in_time = sum(is_in_time(sample, ttft_target_s, itl_target_s) for sample in measured)
    errors = Counter(sample.error for sample in samples if sample.error)
    counted = [sample for sample in answered if sample.prompt_tokens is not None]
    return Figures(
        total=total,
        rows=tuple(rows),
        span_s=span_s,
        requests_per_s=len(answered) / span_s if span_s else 0.0,
        output_tokens_per_s=total.completion_tokens / span_s if span_s else 0.0,
        goodput_per_s=in_time / span_s if span_s else 0.0,
        most_in_flight=most_in_flight(samples),
        late_s=late,
        late_max_s=max((sample.late_s for sample in measured), default=0.0),
        waiting=sum(sample.waited_s > 0.05 for sample in measured),
        lag_p99_s=percentile(lags, 0.99),
        cpu_ratios=tuple(generator.cpu_ratio for generator in generators.values()),
        replicas=dict(sorted(Counter(sample.replica for sample in answered if sample.replica).items())),
        decisions=dict(Counter(sample.decision for sample in answered if sample.decision).most_common()),
        errors=dict(errors.most_common(MAX_ERRORS)),
        asked_tokens=sum(sample.asked_tokens for sample in counted),
        ttft_target_s=ttft_target_s,
        itl_target_s=itl_target_s,
    )


def most_in_flight(samples: Sequence[Sample]) -> int:
    """Return the most requests that were under way at one moment."""
    changes = sorted([(s.at_s, 1) for s in samples] + [(s.end_s, -1) for s in samples])
    level = most = 0
    for _, change in changes:
        level += change
        most = max(most, level)
    return most


def _row(name: str, samples: Sequence[Sample], ttft_target_s: float, itl_target_s: float | None) -> Row:
    answered = [sample for sample in samples if not sample.error]
    told = [s for s in answered if s.cached_tokens is not None and s.prompt_tokens is not None]
    prompt = sum(sample.prompt_tokens or 0 for sample in told)
    cached = sum(sample.cached_tokens or 0 for sample in told)
    in_time = sum(is_in_time(sample, ttft_target_s, itl_target_s) for sample in samples)
    return Row(
        name=name,
        requests=len(samples),
        failed=len(samples) - len(answered),
        ttft_s=times(sample.ttft_s for sample in answered),
        itl_s=times(sample.itl_s for sample in answered),
        e2e_s=times(sample.e2e_s for sample in answered),
        gap_p99_s=times(sample.gap_s for sample in answered).p99,
        prompt_tokens=sum(sample.prompt_tokens or 0 for sample in answered),
        cached_tokens=cached,
        completion_tokens=sum(sample.completion_tokens or 0 for sample in answered),
        reported=len(told),
        cached_ratio=cached / prompt if prompt else None,
        goodput_ratio=in_time / len(samples) if samples else 0.0,
    )
