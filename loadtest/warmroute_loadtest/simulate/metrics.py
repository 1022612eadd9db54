"""This module decides how the figures of one run are defined; it prints nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from warmroute_loadtest.simulate.simulation import Run, Served
from warmroute_replica.sim.step_time import StepTime

TARGET_BASE_S = 2.0
TARGET_TOKEN_S = 0.0005
"""A request is in time if its first token comes within 2 s plus 0.5 ms for each token of its prompt, cached or not:
four times what the modelled engine computes a short prompt's token in, about twice a cold 60,000-token prompt's time.
The Mooncake paper (FAST'25) allows ten times the unloaded time. At another `FleetConfig.speed` it is that
many times less."""


SETTLED_REQUESTS = 500
"""After so many answers a router is taken to have learnt what it can."""


JOINED_S = 60.0
"""For so long, at speed 1, the figures after a join are taken."""


def target_s(prompt_tokens: int, base_s: float = TARGET_BASE_S) -> float:
    """TTFT within which a request counts as good."""
    return base_s + prompt_tokens * TARGET_TOKEN_S


def cold_prefill_s(tokens: int, step_time: StepTime) -> float:
    """Time of the prompt alone on an idle replica without cache, in one step: the least a cold prompt can take."""
    return step_time.step_s(tokens, tokens * tokens / 2.0, 0, 0)


def quantile(ordered: Sequence[float], ratio: float) -> float:
    """Linear between neighbours; 0 of nothing."""
    if not ordered:
        return 0.0
    place = ratio * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


@dataclass(slots=True)
class Figures:
    """One policy on one workload at one rate."""

    policy: str
    requests: int
    ttft_mean_s: float
    ttft_p50_s: float
    ttft_p90_s: float
    ttft_p99_s: float
    cached_ratio: float
    """Prompt tokens found in the engines' caches."""
    goodput_ratio: float
    """Requests whose first token came within `target_s`."""
    uncached_imbalance: float
    """Prompt tokens computed, largest replica over the mean."""
    uncached_tokens: int
    preemptions: int
    busy_ratio: float
    """Share of the run that the mean engine spent in steps."""
    span_s: float
    predicted_ratio: float = 0.0
    """Prompt tokens that the router believed to be cached where it sent them."""
    settled_cached_ratio: float = 0.0
    settled_predicted_ratio: float = 0.0
    """The same two over all but the first `SETTLED_REQUESTS`."""
    joined_ttft_p50_s: float | None = None
    joined_ttft_p90_s: float | None = None
    joined_cached_ratio: float | None = None
    """These three of requests that came within `JOINED_S` after replicas joined; None if none did."""
    joined_share_ratio: float | None = None
    """Prompt tokens of these requests that replicas which joined were sent."""

    def as_dict(self) -> dict[str, float | int | str]:
        """For JSON."""
        return asdict(self)


def figures(run: Run, base_s: float = TARGET_BASE_S) -> Figures:
    """All figures of a run."""
    served = run.served
    times = sorted(s.ttft_s for s in served)
    count = len(times) or 1
    prompt = sum(s.turn.prompt_tokens for s in served) or 1
    good = sum(1 for s in served if s.ttft_s * run.speed <= target_s(s.turn.prompt_tokens, base_s))
    work = [0] * len(run.engines)
    for s in served:
        work[s.replica] += s.uncached_tokens
    total = sum(work)
    settled = served[SETTLED_REQUESTS:]
    settled_prompt = sum(s.turn.prompt_tokens for s in settled) or 1
    joined = [] if run.joined_s is None else _joined(run, run.joined_s)
    joined_times = sorted(s.ttft_s for s in joined)
    joined_prompt = sum(s.turn.prompt_tokens for s in joined) or 1
    new = sum(s.turn.prompt_tokens for s in joined if s.replica >= run.first_replicas)
    return Figures(
        policy=run.policy,
        requests=len(served),
        ttft_mean_s=sum(times) / count,
        ttft_p50_s=quantile(times, 0.5),
        ttft_p90_s=quantile(times, 0.9),
        ttft_p99_s=quantile(times, 0.99),
        cached_ratio=sum(s.cached_tokens for s in served) / prompt,
        goodput_ratio=good / count,
        uncached_imbalance=max(work) * len(work) / total if total else 1.0,
        uncached_tokens=total,
        preemptions=sum(engine.totals.preemptions for engine in run.engines),
        busy_ratio=sum(run.busy_s) / (len(run.busy_s) * run.span_s) if run.span_s > 0 else 0.0,
        span_s=run.span_s,
        predicted_ratio=sum(s.predicted_tokens for s in served) / prompt,
        settled_cached_ratio=sum(s.cached_tokens for s in settled) / settled_prompt,
        settled_predicted_ratio=sum(s.predicted_tokens for s in settled) / settled_prompt,
        joined_ttft_p50_s=quantile(joined_times, 0.5) if joined else None,
        joined_ttft_p90_s=quantile(joined_times, 0.9) if joined else None,
        joined_cached_ratio=sum(s.cached_tokens for s in joined) / joined_prompt if joined else None,
        joined_share_ratio=new / joined_prompt if joined else None,
    )


def _joined(run: Run, joined_s: float) -> list[Served]:
    """Requests that came in the time after a join."""
    return [s for s in run.served if joined_s <= s.arrival_s < joined_s + JOINED_S / run.speed]
