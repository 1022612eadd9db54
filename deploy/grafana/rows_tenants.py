"""The dashboard's row on tenants: who uses how much, who is refused, and whether limits hold.

Content only; what a finding means and what to do is in docs/monitoring.md and docs/tenants.md.
"""

from __future__ import annotations

from deploy.grafana.panels import COUNT, Panel, Query, Row
from deploy.grafana.queries import I, R

TENANTS = Row(
    "Who uses it?",
    [
        Panel(
            "Requests by tenant",
            "Requests that are over, a second, whether or not they were answered well.",
            [Query(f"sum by (tenant) (rate(warmroute_tenant_requests_total{{{R}}}[{I}]))", "{{tenant}}")],
            COUNT,
        ),
        Panel(
            "Tokens by tenant",
            "Tokens of prompts and answers, a second; of prompts those from the cache too.",
            [
                Query(
                    f'sum by (tenant) (rate(warmroute_tenant_tokens_total{{{R},kind=~"prompt|output"}}[{I}]))',
                    "{{tenant}}",
                )
            ],
            COUNT,
        ),
        Panel(
            "Saved by tenant",
            "Seconds of computing that cached tokens saved, a second of the clock.",
            [
                Query(
                    f"sum by (tenant) (rate(warmroute_tenant_prefill_saved_seconds_total{{{R}}}[{I}]))",
                    "{{tenant}}",
                )
            ],
            COUNT,
        ),
        Panel(
            "Cost by tenant",
            "What tokens cost by the price table of the settings, an hour.",
            [Query(f"sum by (tenant) (rate(warmroute_tenant_cost_total{{{R}}}[{I}])) * 3600", "{{tenant}}")],
            COUNT,
        ),
        Panel(
            "Refused",
            "Requests refused for whose they were, a second: keys, models, limits.",
            [
                Query(f"sum by (code) (rate(warmroute_refused_total{{{R}}}[{I}]))", "{{code}}"),
                Query(
                    f"sum by (class) (rate(warmroute_queue_refused_total{{{R}}}[{I}]))", "queue: {{class}}"
                ),
            ],
            COUNT,
        ),
        Panel(
            "Limits shared",
            "1 while routers share their limits, 0 while one goes by its own share of them.",
            [Query(f"min by (instance) (warmroute_limits_up{{{R}}})", "{{instance}}")],
            most=1,
        ),
    ],
)
