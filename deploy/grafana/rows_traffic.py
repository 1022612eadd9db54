"""The dashboard's first rows: is it working, what do clients see, does routing by prefix pay?

Content only; what a finding means and what to do is in docs/monitoring.md.
"""

from __future__ import annotations

from deploy.grafana.panels import (
    COUNT,
    GREEN,
    ORANGE,
    PER_SECOND,
    RATIO,
    RED,
    SECONDS,
    Panel,
    Query,
    Row,
)
from deploy.grafana.queries import (
    I,
    M,
    P,
    R,
    funnel,
    quantiles,
    saved,
    share,
    stat,
)

WORKING = Row(
    "Is it working?",
    [
        stat(
            "Alerts firing",
            "Warmroute's alerts that fire now; what each means and what to do is in docs/monitoring.md.",
            'count (ALERTS{alertname=~"Warmroute.+",alertstate="firing"}) or vector (0)',
            steps=((None, GREEN), (1, RED)),
        ),
        stat(
            "Routers ready",
            "Routers whose /ready answers 200. Fewer than you run: the others are down, draining or reach no"
            " replica.",
            f"sum (warmroute_ready{{{R}}})",
            steps=((None, RED), (1, ORANGE), (2, GREEN)),
        ),
        stat(
            "Replicas ready",
            "Replicas that some router would send any request to. The row on replicas shows the others'"
            " states.",
            f'count (max by (replica) (warmroute_replica_state{{{P},state="ready"}})) or vector (0)',
            steps=((None, RED), (1, GREEN)),
        ),
        stat(
            "Requests",
            "Finished requests a second over all routers, of all statuses and kinds.",
            f"sum (rate(warmroute_requests_total{{{M}}}[{I}]))",
            PER_SECOND,
        ),
        stat(
            "Failed",
            "Share of requests answered with a status of 500 or more, whoever caused it.",
            f'sum (rate(warmroute_requests_total{{{M},status=~"5.."}}[{I}]) or vector (0))'
            f" / sum (rate(warmroute_requests_total{{{M}}}[{I}]))",
            RATIO,
            ((None, GREEN), (0.01, ORANGE), (0.05, RED)),
        ),
        stat(
            "TTFT p90",
            "Nine of ten answers began within this time of their request's arrival, waiting in the router"
            " included.",
            f"histogram_quantile(0.9, sum by (le) (rate(warmroute_ttft_seconds_bucket{{{M}}}[{I}])))",
            SECONDS,
            ((None, GREEN), (5, ORANGE), (10, RED)),
        ),
        stat(
            "Prompt found cached",
            "Share of prompt tokens that engines found in their caches, of requests whose engine tells."
            " Grey: no engine tells; start vLLM with --enable-prompt-tokens-details.",
            share(f"warmroute_cached_tokens_total{{{M}}}", f"warmroute_confirmed_prompt_tokens_total{{{M}}}"),
            RATIO,
        ),
        stat(
            "Registry",
            "1 while every router reaches the registry. At 0 they serve on by the ring and their own last"
            " placements.",
            f"min (warmroute_registry_up{{{R}}})",
            steps=((None, RED), (1, GREEN)),
        ),
    ],
)

CLIENTS = Row(
    "What do clients see?",
    [
        Panel(
            "Requests by status",
            "Finished requests a second. 499: the client left before its answer was complete.",
            [Query(f"sum by (status) (rate(warmroute_requests_total{{{M}}}[{I}]))", "{{status}}")],
            PER_SECOND,
            stacked=True,
        ),
        Panel(
            "Time to first token",
            "From a request's arrival to the first event of its answer; of answers that do not stream, to"
            " the answer. Only of those answered 200.",
            quantiles("warmroute_ttft_seconds", M),
            SECONDS,
            steps=((None, GREEN), (10, RED)),
        ),
        Panel(
            "TTFT p90 by decision",
            "warm: sent where its prefix is. ring and load: nothing was cached anywhere. spill: its home was"
            " too busy. If warm is not well below ring, caching brings little here: short prompts, or queues"
            " in the engines.",
            [
                Query(
                    f"histogram_quantile(0.9, sum by (le, decision) (rate(warmroute_ttft_seconds_bucket{{{M}}}[{I}])))",
                    "{{decision}}",
                )
            ],
            SECONDS,
        ),
        Panel(
            "Whole answers",
            "From a request's arrival to its answer's last byte, of all requests.",
            quantiles("warmroute_duration_seconds", M),
            SECONDS,
        ),
        Panel(
            "The router's own errors",
            "Errors that the router itself answered, by code (docs/operations.md lists them). Replicas' own"
            " errors are passed on and not among these. Nothing here is good.",
            [
                Query(
                    f"sum by (code) (rate(warmroute_errors_total{{{R},code!='client_gone'}}[{I}]))",
                    "{{code}}",
                )
            ],
            PER_SECOND,
            stacked=True,
        ),
        Panel(
            "Clients that left",
            "Clients that closed before their answer was complete, by how far it was. Many before the first"
            " byte: their time-out is shorter than your time to first token.",
            [Query(f"sum by (phase) (rate(warmroute_client_disconnects_total{{{R}}}[{I}]))", "{{phase}}")],
            PER_SECOND,
            stacked=True,
        ),
    ],
)

PAYS = Row(
    "Does routing by prefix pay?",
    [
        Panel(
            "Cached share, predicted and delivered",
            "Share of prompt tokens that the chosen replica was believed to hold, and that its engine found."
            " Delivered well below predicted: caches are smaller or younger than believed (see the same by"
            " replica, below).",
            [
                Query(f"{funnel('chosen')} / {funnel('prompt')}", "predicted"),
                Query(f"{funnel('delivered')} / {funnel('prompt')}", "delivered"),
                Query(f"{funnel('reusable')} / {funnel('prompt')}", "seen before (the most there can be)"),
            ],
            RATIO,
            most=1,
        ),
        Panel(
            "Where tokens are lost",
            "Prompt tokens that were not found cached, as shares of all, by who lost them. traffic: never"
            " seen before. registry: seen, but nobody who could be chosen is known to hold them. routing:"
            " another replica holds them. engine: the chosen one was believed to, and did not."
            " docs/operations.md says what to do for each.",
            [
                Query(f"({funnel('prompt')} - {funnel('reusable')}) / {funnel('prompt')}", "traffic"),
                Query(f"({funnel('reusable')} - {funnel('known')}) / {funnel('prompt')}", "registry"),
                Query(f"({funnel('known')} - {funnel('chosen')}) / {funnel('prompt')}", "routing"),
                Query(
                    f"clamp_min({funnel('chosen')} - {funnel('delivered')}, 0) / {funnel('prompt')}", "engine"
                ),
            ],
            RATIO,
            stacked=True,
            most=1,
        ),
        Panel(
            "Decisions",
            "Requests a second by why their replica was chosen; docs/routing.md explains each. Much spill:"
            " homes are too busy, so prefixes are computed twice.",
            [Query(f"sum by (decision) (rate(warmroute_decisions_total{{{P}}}[{I}]))", "{{decision}}")],
            PER_SECOND,
            stacked=True,
        ),
        Panel(
            "Tokens",
            "Tokens a second: prompts found cached, prompts computed, answers. From what engines report.",
            [
                Query(f"sum (rate(warmroute_cached_tokens_total{{{M}}}[{I}]))", "prompt, cached"),
                Query(
                    f"sum (rate(warmroute_prompt_tokens_total{{{M}}}[{I}]))"
                    f" - sum (rate(warmroute_cached_tokens_total{{{M}}}[{I}]))",
                    "prompt, computed",
                ),
                Query(f"sum (rate(warmroute_completion_tokens_total{{{M}}}[{I}]))", "answers"),
            ],
            COUNT,
        ),
        Panel(
            "GPUs saved",
            "GPU seconds a second that prefills would have taken had nothing been cached: cached tokens by"
            " each replica's learned speed, times the GPUs of a replica (variable above). Of all caching;"
            " round robin would have had a part of it. A long context's tokens cost more than is counted"
            " here. The variable model has no effect.",
            [Query(saved(f"rate({{}}[{I}])"), "GPUs")],
            COUNT,
        ),
        stat(
            "Prompt tokens saved",
            "Prompt tokens that engines found cached, in the whole range of time shown.",
            f"sum (increase(warmroute_cached_tokens_total{{{M}}}[$__range]))",
            COUNT,
            width=4,
        ),
        stat(
            "GPU seconds saved",
            "The panel GPUs saved, summed over the whole range of time shown.",
            saved("increase({}[$__range])"),
            SECONDS,
            width=4,
        ),
    ],
)
