"""This module makes figures of measurements: shares, percentiles, balance, and how much cache the workload needs.

It is pure arithmetic over `client.Sample`s. Token counts are those that the engines report in `usage`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from warmroute_loadtest.demo.client import Measurements, Sample


@dataclass(frozen=True, slots=True)
class Side:
    """The figures of one policy."""

    policy: str
    requests: int
    failed: int
    elapsed_s: float
    prompt_tokens: int
    cached_tokens: int
    cached_ratio: float
    """Cached prompt tokens over all prompt tokens."""
    ttft_p50_ms: float
    ttft_p90_ms: float
    requests_per_replica: dict[str, int]
    late_requests: int
    """Number of requests sent over 50 ms after their time, because the answer before was not complete."""

    @property
    def computed_tokens(self) -> int:
        """Number of prompt tokens that the engines had to compute."""
        return self.prompt_tokens - self.cached_tokens

    def as_dict(self) -> dict[str, object]:
        """Return the figures as a dict for the JSON line."""
        return {**asdict(self), "computed_tokens": self.computed_tokens}


LATE_S = 0.05


def side(policy: str, measured: Measurements, replicas: Sequence[str]) -> Side:
    """Compute the figures of what was measured; replicas that got no request count as 0."""
    samples = measured.samples
    prompt_tokens = sum(sample.prompt_tokens for sample in samples)
    cached_tokens = sum(sample.cached_tokens for sample in samples)
    ttfts_s = [sample.ttft_s for sample in samples]
    counts = Counter(sample.replica for sample in samples)
    return Side(
        policy,
        len(samples),
        measured.failed,
        round(measured.elapsed_s, 3),
        prompt_tokens,
        cached_tokens,
        round(cached_tokens / prompt_tokens, 4) if prompt_tokens else 0.0,
        round(percentile(ttfts_s, 0.5) * 1000, 2),
        round(percentile(ttfts_s, 0.9) * 1000, 2),
        {replica: counts.pop(replica, 0) for replica in replicas} | counts,
        sum(sample.late_s > LATE_S for sample in samples),
    )


def percentile(values: Sequence[float], ratio: float) -> float:
    """Return the smallest value that at least this share of all values do not exceed; 0 where there are none."""
    if not values:
        return 0.0
    rank = -int(-ratio * len(values) // 1)
    return sorted(values)[max(0, rank - 1)]


def working_set_tokens(samples: Sequence[Sample]) -> int:
    """Return the most tokens that the conversations under way had at one moment.

    A conversation is under way from its first question to its last answer. An application's system prompt is counted
    with each of its conversations, so the result is slightly too large.
    """
    last_turn: dict[int, int] = {}
    for sample in samples:
        last_turn[sample.conversation] = max(sample.turn, last_turn.get(sample.conversation, 0))
    changes: list[tuple[float, int]] = []
    tokens: dict[int, int] = {}
    for sample in sorted(samples, key=lambda sample: sample.sent_s):
        now = sample.prompt_tokens + sample.completion_tokens
        changes.append((sample.sent_s, now - tokens.get(sample.conversation, 0)))
        tokens[sample.conversation] = now
        if sample.turn == last_turn[sample.conversation]:
            changes.append((sample.end_s, -now))
    level = most = 0
    for _, change in sorted(changes):
        level += change
        most = max(most, level)
    return most
