"""The dashboard's rows on replicas: their load, their health, who waits for them, what was learned of them.

Content only; what a finding means and what to do is in docs/monitoring.md.
"""

from __future__ import annotations

from deploy.grafana.panels import (
    COUNT,
    PER_SECOND,
    RATIO,
    SECONDS,
    Panel,
    Query,
    Row,
)
from deploy.grafana.queries import (
    STATES,
    I,
    M,
    P,
    R,
    quantiles,
    share,
)

LOAD = Row(
    "Is the load even?",
    [
        Panel(
            "Requests by replica",
            "Requests a second that each replica was chosen for. They need not be equal: who holds long"
            " prefixes gets more requests, and less work.",
            [Query(f"sum by (replica) (rate(warmroute_decisions_total{{{P}}}[{I}]))", "{{replica}}")],
            PER_SECOND,
            stacked=True,
        ),
        Panel(
            "Prompt tokens computed by replica",
            "Prompt tokens a second that were not cached, where engines tell: the prefill work. This is what"
            " should be about equal among equal replicas of one model.",
            [
                Query(
                    f"sum by (replica) (rate(warmroute_replica_confirmed_prompt_tokens_total{{{P}}}[{I}]))"
                    f" - sum by (replica) (rate(warmroute_replica_cached_tokens_total{{{P}}}[{I}]))",
                    "{{replica}}",
                )
            ],
            COUNT,
        ),
        Panel(
            "Cached share by replica",
            "Share of the prompt tokens of its requests that each replica's engine found cached. One far"
            " below its fellows: prefix caching is off there, its cache is smaller, or it was restarted.",
            [
                Query(
                    share(
                        f"warmroute_replica_cached_tokens_total{{{P}}}",
                        f"warmroute_replica_confirmed_prompt_tokens_total{{{P}}}",
                        "replica",
                    ),
                    "{{replica}}",
                )
            ],
            RATIO,
            most=1,
        ),
        Panel(
            "Mean TTFT by replica",
            "Mean time to first token of what each replica answered. One well above its fellows under equal load:"
            " slower hardware, a neighbour on its GPU, or a queue of its own.",
            [
                Query(
                    share(
                        f"warmroute_replica_ttft_seconds_total{{{P}}}",
                        f"warmroute_replica_answers_total{{{P}}}",
                        "replica",
                    ),
                    "{{replica}}",
                )
            ],
            SECONDS,
        ),
        Panel(
            "In flight by replica",
            "Requests that all routers together have sent to each replica and not seen end.",
            [Query(f"sum by (replica) (warmroute_replica_in_flight{{{P}}})", "{{replica}}")],
        ),
        Panel(
            "Waiting in the engine by replica",
            "Requests that each engine last said it has queued. Not 0 for long: the fleet is too small, or"
            " clients send past these routers.",
            [Query(f"max by (replica) (warmroute_replica_engine_waiting{{{P}}})", "{{replica}}")],
        ),
        Panel(
            "Replicas",
            "Each replica now: share of the requests, prompt tokens found cached, believed to be cached,"
            " requests in flight, queued in the engine, ejections in the range of time shown.",
            [
                Query(
                    f"sum by (replica) (rate(warmroute_decisions_total{{{P}}}[{I}]))"
                    f" / on () group_left () sum (rate(warmroute_decisions_total{{{P}}}[{I}]))",
                    instant=True,
                ),
                Query(
                    share(
                        f"warmroute_replica_cached_tokens_total{{{P}}}",
                        f"warmroute_replica_confirmed_prompt_tokens_total{{{P}}}",
                        "replica",
                    ),
                    instant=True,
                ),
                Query(
                    share(
                        f"warmroute_replica_predicted_cached_tokens_total{{{P}}}",
                        f"warmroute_replica_confirmed_prompt_tokens_total{{{P}}}",
                        "replica",
                    ),
                    instant=True,
                ),
                Query(f"sum by (replica) (warmroute_replica_in_flight{{{P}}})", instant=True),
                Query(f"max by (replica) (warmroute_replica_engine_waiting{{{P}}})", instant=True),
                Query(
                    f"sum by (replica) (increase(warmroute_replica_ejections_total{{{P}}}[$__range]))",
                    instant=True,
                ),
            ],
            kind="table",
            width=24,
            columns=(
                ("replica", "replica", ""),
                ("Value #A", "share of requests", RATIO),
                ("Value #B", "found cached", RATIO),
                ("Value #C", "believed cached", RATIO),
                ("Value #D", "in flight", COUNT),
                ("Value #E", "queued in engine", COUNT),
                ("Value #F", "ejections", COUNT),
            ),
        ),
    ],
)

REPLICAS = Row(
    "Which replicas are unwell?",
    [
        Panel(
            "States",
            "The state of each replica, as the router sees it that thinks worst of it. GET /replicas on the"
            " admin port says why (last_failure).",
            [
                Query(
                    "max by (replica) ("
                    + " or ".join(
                        f'{code} * warmroute_replica_state{{{P},state="{state}"}}'
                        for code, (state, _) in enumerate(STATES, 1)
                    )
                    + ")",
                    "{{replica}}",
                )
            ],
            kind="state-timeline",
        ),
        Panel(
            "Ready replicas by model",
            "Replicas of each model that requests may be sent to. At 0 its requests are answered 503, or"
            " wait for whoever comes back.",
            [Query(f'max by (model) (warmroute_model_replicas{{{M},state="ready"}})', "{{model}}")],
        ),
        Panel(
            "Ejections",
            "Times that replicas were put out of use, by replica and reason, in the interval; each router"
            " and worker counts its own. refused: nothing listens. probe: its /health failed. error: it errs"
            " where others answer.",
            [
                Query(
                    f"sum by (replica, reason) (increase(warmroute_replica_ejections_total{{{P}}}[{I}])) > 0"
                    f" or sum by (replica, reason) (warmroute_replica_ejections_total{{{P}}}) * 0",
                    "{{replica}} {{reason}}",
                )
            ],
        ),
        Panel(
            "Retries",
            "Attempts that failed before the first byte and were made again on another replica, by why."
            " Clients do not see them, but for the time.",
            [Query(f"sum by (reason) (rate(warmroute_retries_total{{{R}}}[{I}]))", "{{reason}}")],
            PER_SECOND,
            stacked=True,
        ),
        Panel(
            "Late requests and broken streams",
            "Requests whose first byte was late and that were asked of a second replica, those that it answered first,"
            " and streams that broke where failover is on, by what became of them.",
            [
                Query(f"sum by (cause) (rate(warmroute_second_tries_total{{{R}}}[{I}]))", "late {{cause}}"),
                Query(
                    f"sum by (cause) (rate(warmroute_second_tries_won_total{{{R}}}[{I}]))", "won {{cause}}"
                ),
                Query(
                    f"sum by (outcome) (rate(warmroute_failovers_total{{{R}}}[{I}]))", "stream {{outcome}}"
                ),
            ],
            PER_SECOND,
        ),
        Panel(
            "Retry budget spent",
            "Share of the budget for tries made again that was spent in the last 30 to 60 s. At 1 failures are the"
            " clients'.",
            [Query(f"max by (instance) (warmroute_retry_budget_used_ratio{{{R}}})", "{{instance}}")],
            RATIO,
        ),
        Panel(
            "Replicas by source",
            "Replicas that each source of discovery named last. A step that you did not make: its Service,"
            " selector or agents changed.",
            [Query(f"max by (source, state) (warmroute_discovery_members{{{R}}})", "{{source}} {{state}}")],
        ),
        Panel(
            "Discovery failures",
            "Failed readings of each source, a second, by why. Replicas stay those that it named last, so new ones"
            " are not seen and those that left are found out by probes.",
            [
                Query(
                    f"sum by (source, reason) (rate(warmroute_discovery_errors_total{{{R}}}[{I}]))",
                    "{{source}} {{reason}}",
                )
            ],
        ),
        Panel(
            "Engine restarts",
            "Times in the range of time shown that an engine was found restarted, its cache empty.",
            [
                Query(
                    f"max by (replica) (increase(warmroute_replica_restarts_total{{{P}}}[$__range]))",
                    "{{replica}}",
                )
            ],
        ),
    ],
)

HELD = Row(
    "Do requests wait in the router?",
    [
        Panel(
            "Held and in flight",
            "Requests held in the routers until a replica can begin with them, beside those under way. Held"
            " for long: the fleet is too small.",
            [
                Query(f"sum (warmroute_held{{{R}}})", "held"),
                Query(f"sum (warmroute_in_flight{{{R}}})", "in flight"),
            ],
        ),
        Panel(
            "Time held",
            "How long requests waited in the router, of those that had to; part of their time to first"
            " token.",
            quantiles("warmroute_hold_seconds", R),
            SECONDS,
        ),
        Panel(
            "Held share",
            "Share of all requests that had to wait in the router.",
            [
                Query(
                    f"sum (rate(warmroute_hold_seconds_count{{{R}}}[{I}]))"
                    f" / sum (rate(warmroute_requests_total{{{R}}}[{I}]))",
                    "held",
                )
            ],
            RATIO,
        ),
    ],
)

LEARNED = Row(
    "What has the router learned?",
    [
        Panel(
            "Prefill speed by replica",
            "Prompt tokens a second that each replica is believed to compute. One far below its equals is"
            " slow or shared.",
            [
                Query(
                    f"avg by (replica) (warmroute_replica_prefill_tokens_per_second{{{P}}})",
                    "{{replica}}",
                )
            ],
            COUNT,
        ),
        Panel(
            "Confidence by replica",
            "How well that speed is known: 0: a setting; 0.5: to a tenth; 1: no doubt.",
            [
                Query(
                    f"min by (replica) (warmroute_replica_speed_confidence_ratio{{{P}}})",
                    "{{replica}}",
                )
            ],
            RATIO,
            most=1,
        ),
        Panel(
            "Cache lifetime by replica",
            "Age since last use from which less than half of a prefix is found; no line: nothing was missed"
            " yet. Shorter than the pauses of your conversations: caches are too small for the traffic.",
            [
                Query(
                    f"min by (replica) (warmroute_replica_cache_lifetime_seconds{{{P}}})",
                    "{{replica}}",
                )
            ],
            SECONDS,
        ),
        Panel(
            "Bytes a token",
            "Prompt bytes that make a token of each model.",
            [Query(f"avg by (model) (warmroute_model_bytes_per_token{{{M}}})", "{{model}}")],
        ),
        Panel(
            "Tokens an answer",
            "Mean tokens of each model's last few hundred answers.",
            [Query(f"avg by (model) (warmroute_model_answer_tokens{{{M}}})", "{{model}}")],
        ),
    ],
    collapsed=True,
)
