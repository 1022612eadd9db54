"""Which series a panel asks for, and the shapes that several queries share.

Counters are summed over routers; what all routers see of one replica is the largest, the smallest or the mean of what
they say. No recording rules, so that the dashboard works before any Prometheus that scrapes a router.
"""

from __future__ import annotations

from deploy.grafana.panels import (
    COUNT,
    GREEN,
    NEUTRAL,
    ORANGE,
    RED,
    Panel,
    Query,
    Steps,
)

R = 'job=~"$job",namespace=~"$namespace",instance=~"$instance"'
"""Which routers."""
M = f'{R},model=~"$model"'
P = f'{R},replica=~"$replica"'
I = "$__rate_interval"  # noqa: E741 - the shortest range in which a counter's rate is known

STATES = (
    ("ready", GREEN),
    ("probing", ORANGE),
    ("draining", "blue"),
    ("starting", "yellow"),
    ("ejected", RED),
)


def stat(
    title: str, says: str, expr: str, unit: str = COUNT, steps: Steps = NEUTRAL, width: int = 3
) -> Panel:
    """One number."""
    return Panel(title, says, [Query(expr)], unit, "stat", width, 4, steps)


def quantiles(metric: str, labels: str) -> list[Query]:
    """p50, p90 and p99 of a histogram."""
    return [
        Query(f"histogram_quantile(0.{q}, sum by (le) (rate({metric}_bucket{{{labels}}}[{I}])))", f"p{q}")
        for q in (50, 90, 99)
    ]


def share(part: str, whole: str, by: str = "") -> str:
    """A ratio of two sums of rates, by a label."""
    grouped = f" by ({by})" if by else ""
    return f"sum{grouped} (rate({part}[{I}])) / sum{grouped} (rate({whole}[{I}]))"


def funnel(stage: str) -> str:
    """Tokens a second that came to a stage of the loss funnel, of prompts whose engine reports cached tokens."""
    return f'sum (rate(warmroute_funnel_tokens_total{{{M},reported="yes",stage="{stage}"}}[{I}]))'


def saved(window: str) -> str:
    """Tokens found cached, in seconds of the replica that would have computed them, each at its own speed."""
    return (
        f"sum (sum by (replica) ({window.format(f'warmroute_replica_cached_tokens_total{{{P}}}')})"
        f" / on (replica) avg by (replica) (warmroute_replica_prefill_tokens_per_second{{{P}}})) * $gpus"
    )
