"""The dashboard's row on what caching saves, by provider's interface, and why prompts miss.

Content only; what a finding means and what to do is in docs/monitoring.md, docs/tenants.md and docs/advice.md.
"""

from __future__ import annotations

from deploy.grafana.panels import COUNT, Panel, Query, Row
from deploy.grafana.queries import I, R

SAVINGS = Row(
    "What does caching save, and what could it?",
    [
        Panel(
            "Tokens lost by cause",
            "Prompt tokens a second that were computed though another prompt had them, in the requests looked at.",
            [Query(f"sum by (cause) (rate(warmroute_advice_tokens_total{{{R}}}[{I}]))", "{{cause}}")],
            COUNT,
        ),
        Panel(
            "Requests that miss by cause",
            "Requests a second, of those looked at, whose prompt missed for a cause that can be mended.",
            [Query(f"sum by (cause) (rate(warmroute_advice_requests_total{{{R}}}[{I}]))", "{{cause}}")],
            COUNT,
        ),
        Panel(
            "Prompts looked at",
            "Prompts a second that were compared with others, those passed over, and the event loop's time it took.",
            [
                Query(f"sum by (outcome) (rate(warmroute_advice_looks_total{{{R}}}[{I}]))", "{{outcome}}"),
                Query(f"sum(rate(warmroute_advice_seconds_total{{{R}}}[{I}]))", "seconds a second"),
            ],
            COUNT,
        ),
    ],
)
