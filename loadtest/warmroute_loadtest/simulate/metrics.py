"""This module decides how the figures of one run are defined; it prints nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from warmroute_loadtest.simulate.simulation import Run, Served
from warmroute_replica.sim.step_time import StepTime

TARGET_BASE_S = 2.0
TARGET_TOKEN_S = 0.0005
"""A request is in time if its first token comes within 2 s plus 0.5 ms for each token of its prompt, cached or not.
That is four times what the modelled engine needs for a token of a short prompt, and about twice the time of a cold
prompt of 60,000 tokens. The Mooncake paper (FAST'25) allows ten times the unloaded time. The target is divided by
`FleetConfig.speed`."""


SETTLED_REQUESTS = 500
"""After this many answers a router is taken to have learnt what it can."""


JOINED_S = 60.0
"""The figures after a join are taken over this time, in seconds at speed 1."""


def target_s(prompt_tokens: int, base_s: float = TARGET_BASE_S) -> float:
    """Return the TTFT within which a request counts as good, in seconds."""
    return base_s + prompt_tokens * TARGET_TOKEN_S


def cold_prefill_s(tokens: int, step_time: StepTime) -> float:
    """Return the time that a prompt takes alone on an idle replica without cache, in one step: the least that a cold
    prompt can take."""
    return step_time.step_s(tokens, tokens * tokens / 2.0, 0, 0)


def quantile(ordered: Sequence[float], ratio: float) -> float:
    """Return a quantile of sorted values, linear between neighbours; 0 if there are none."""
    if not ordered:
        return 0.0
    place = ratio * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


@dataclass(slots=True)
class Figures:
    """The figures of one policy on one workload at one rate."""

    policy: str
    requests: int
    ttft_mean_s: float
    ttft_p50_s: float
    ttft_p90_s: float
    ttft_p99_s: float
    cached_ratio: float
    """Share of the prompt tokens that the engines found in their caches."""
    goodput_ratio: float
    """Share of the requests whose first token came within `target_s`."""
    uncached_imbalance: float
    """Prompt tokens that were computed: the largest replica's over the mean of all replicas."""
    uncached_tokens: int
    preemptions: int
    busy_ratio: float
    """Share of the run that the mean engine spent in steps."""
    span_s: float
    predicted_ratio: float = 0.0
    """Share of the prompt tokens that the router believed to be cached on the replica that it chose."""
    settled_cached_ratio: float = 0.0
    settled_predicted_ratio: float = 0.0
    """`settled_cached_ratio` and this leave out the first `SETTLED_REQUESTS` requests."""
    joined_ttft_p50_s: float | None = None
    joined_ttft_p90_s: float | None = None
    joined_cached_ratio: float | None = None
    """This ratio and the two times above are of requests that came within `JOINED_S` after replicas joined; None if
    none came."""
    joined_share_ratio: float | None = None
    """Share of those requests' prompt tokens that went to the replicas which joined."""
    in_vain_ratio: float = 0.0
    """Share of the requests whose clients left before anything came. Their TTFT is the time that they waited, and no
    cached tokens are known of them."""

    def as_dict(self) -> dict[str, float | int | str]:
        """Return the figures as a dict for JSON."""
        return asdict(self)


def figures(run: Run, base_s: float = TARGET_BASE_S) -> Figures:
    """Compute all figures of a run."""
    served = run.served
    times = sorted(s.ttft_s for s in served)
    count = len(times) or 1
    answered = [s for s in served if not s.in_vain]
    prompt = sum(s.turn.prompt_tokens for s in answered) or 1
    good = sum(1 for s in answered if s.ttft_s * run.speed <= target_s(s.turn.prompt_tokens, base_s))
    work = [0] * len(run.engines)
    for s in answered:
        work[s.replica] += s.uncached_tokens
    total = sum(work)
    settled = answered[SETTLED_REQUESTS:]
    settled_prompt = sum(s.turn.prompt_tokens for s in settled) or 1
    joined = [] if run.joined_s is None else _joined(run, run.joined_s)
    joined_times = sorted(s.ttft_s for s in joined)
    joined_prompt = sum(s.turn.prompt_tokens for s in joined if not s.in_vain) or 1
    new = sum(s.turn.prompt_tokens for s in joined if not s.in_vain and s.replica >= run.first_replicas)
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
        in_vain_ratio=1.0 - len(answered) / count,
    )


def _joined(run: Run, joined_s: float) -> list[Served]:
    """Return the requests that came within `JOINED_S` after a join."""
    return [s for s in run.served if joined_s <= s.arrival_s < joined_s + JOINED_S / run.speed]
