"""The dashboard's row on what caching saves, by provider's interface, and why prompts miss.

Content only; what a finding means and what to do is in docs/monitoring.md, docs/tenants.md and docs/advice.md.
"""

from __future__ import annotations

from deploy.grafana.panels import COUNT, RATIO, Panel, Query, Row
from deploy.grafana.queries import I, R


def _rate(kinds: str) -> str:
    """Prompt tokens a second, by interface."""
    return f'sum by (interface) (rate(warmroute_interface_prompt_tokens_total{{{R},kind=~"{kinds}"}}[{I}]))'


def _mean(warmth: str) -> str:
    """Mean time to the first token, by interface and size of the prompt."""
    labels = f'{R},warmth="{warmth}"'
    seconds = f"sum by (interface, size) (increase(warmroute_interface_ttft_seconds_total{{{labels}}}[1h]))"
    return f"({seconds} / sum by (interface, size) (increase(warmroute_interface_ttft_requests_total{{{labels}}}[1h])))"


SAVINGS = Row(
    "What does caching save, and what could it?",
    [
        Panel(
            "Prompt tokens by interface",
            "Prompt tokens a second by the API that requests spoke: read from caches, missed, and of these written.",
            [
                Query(
                    f"sum by (interface, kind) (rate(warmroute_interface_prompt_tokens_total{{{R}}}[{I}]))",
                    "{{interface}} {{kind}}",
                )
            ],
            COUNT,
        ),
        Panel(
            "Share read by interface",
            "Of prompt tokens, the share that was read from a cache.",
            [
                Query(
                    f"{_rate('read')} / {_rate('read|missed')}",
                    "{{interface}}",
                )
            ],
            RATIO,
            most=1,
        ),
        Panel(
            "Computing saved by interface",
            "Seconds of prefill that cached tokens saved, a second of the clock.",
            [
                Query(
                    f"sum by (interface) (rate(warmroute_interface_prefill_saved_seconds_total{{{R}}}[{I}]))",
                    "{{interface}}",
                )
            ],
            COUNT,
        ),
        Panel(
            "Share of cost saved by interface",
            "Of what prompts would cost without a cache, by usage.prices, the share that they do not; since the start.",
            [
                Query(
                    f"sum by (interface) (warmroute_interface_saved_cost{{{R}}}) / (sum by (interface)"
                    f" (warmroute_interface_saved_cost{{{R}}})"
                    f" + sum by (interface) (warmroute_interface_prompt_cost_total{{{R}}}))",
                    "{{interface}}",
                )
            ],
            RATIO,
        ),
        Panel(
            "Latency saved at like sizes",
            "1 less the time to the first token of warm prompts over that of cold ones, by interface and size.",
            [Query(f"1 - {_mean('warm')} / {_mean('cold')}", "{{interface}} {{size}}")],
            RATIO,
        ),
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
