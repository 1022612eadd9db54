"""The dashboard's row on promises: whether they are warm, and what it takes to keep them so.

Content only; what a finding means and what to do is in docs/monitoring.md and docs/prompt-caching.md.
"""

from __future__ import annotations

from deploy.grafana.panels import BYTES, COUNT, Panel, Query, Row
from deploy.grafana.queries import I, R

CACHING = Row(
    "Are promises kept?",
    [
        Panel(
            "Cached contents",
            "Contents that clients have made and that are kept warm until they expire.",
            [Query(f"max(warmroute_cached_contents{{{R}}})", "contents")],
            COUNT,
        ),
        Panel(
            "Store and leader",
            "1 while contents can be read and changed; 1 while a router keeps them warm.",
            [
                Query(f"min(warmroute_cached_contents_up{{{R}}})", "store"),
                Query(f"max(warmroute_keep_warm_leader{{{R}}})", "leader"),
            ],
            most=1,
        ),
        Panel(
            "Prompts sent to keep them warm",
            "A second: refreshes of copies that might be lost, new copies, and copies that a refresh found lost.",
            [
                Query(f"sum by (why) (rate(warmroute_keep_warm_prefills_total{{{R}}}[{I}]))", "{{why}}"),
                Query(f"sum(rate(warmroute_keep_warm_lost_total{{{R}}}[{I}]))", "found lost"),
            ],
            COUNT,
        ),
        Panel(
            "Prefill to keep them warm",
            "Seconds of one replica's prefill, a second of the clock. keep_warm.budget_ratio bounds it.",
            [Query(f"sum(rate(warmroute_keep_warm_prefill_seconds_total{{{R}}}[{I}]))", "seconds")],
            COUNT,
        ),
        Panel(
            "Tokens to keep them warm",
            "Prompt tokens that replicas computed for it, a second.",
            [Query(f"sum(rate(warmroute_keep_warm_tokens_total{{{R}}}[{I}]))", "tokens")],
            COUNT,
        ),
        Panel(
            "Promises given up",
            "A second: for want of budget, or since no replica would compute them.",
            [Query(f"sum by (why) (rate(warmroute_keep_warm_given_up_total{{{R}}}[{I}]))", "{{why}}")],
            COUNT,
        ),
        Panel(
            "Promised prompts",
            "Prefixes that requests asked to be kept, as routers remember them, and those that gave way, a second.",
            [
                Query(f"sum(warmroute_promises{{{R}}})", "promised"),
                Query(f"sum(rate(warmroute_promises_dropped_total{{{R}}}[{I}]))", "gave way"),
            ],
            COUNT,
        ),
        Panel(
            "Texts of promised prompts",
            "Memory of all routers for the texts by which they are kept warm; keep_warm.prompts_bytes bounds it.",
            [Query(f"sum(warmroute_promise_text_bytes{{{R}}})", "texts")],
            BYTES,
        ),
        Panel(
            "Texts that gave way",
            "A second: for want of room. Their promises hold, but nothing keeps them warm.",
            [Query(f"sum(rate(warmroute_promise_texts_dropped_total{{{R}}}[{I}]))", "gave way")],
            COUNT,
        ),
    ],
)
