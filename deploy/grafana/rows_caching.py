"""The dashboard's rows on promises, whether they are warm, and on recorded responses, how often they answer.

Content only; what a finding means and what to do is in docs/monitoring.md, docs/prompt-caching.md and
docs/response-cache.md.
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
            "1 while contents, and prompt schemas, can be read and changed; 1 while a router keeps them warm.",
            [
                Query(f"min(warmroute_cached_contents_up{{{R}}})", "store"),
                Query(f"min(warmroute_prompt_schemas_up{{{R}}})", "schemas"),
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
        Panel(
            "Prompts by schema",
            "Chats with prompt_schema, a second: put together, or refused since there is no such prompt.",
            [
                Query(
                    f"sum by (outcome) (rate(warmroute_prompt_schema_prompts_total{{{R}}}[{I}]))",
                    "{{outcome}}",
                )
            ],
            COUNT,
        ),
    ],
)

RESPONSES = Row(
    "Do recorded responses answer?",
    [
        Panel(
            "Requests of the response cache",
            "A second: answered by a recorded response (exact, semantic), sent to a replica (miss), not looked for"
            " (bypass).",
            [
                Query(
                    f"sum by (outcome) (rate(warmroute_response_cache_requests_total{{{R}}}[{I}]))",
                    "{{outcome}}",
                )
            ],
            COUNT,
        ),
        Panel(
            "Compared by meaning",
            "A second, by outcome: what became of requests that were compared with recorded ones by their meaning.",
            [
                Query(
                    f"sum by (outcome) (rate(warmroute_response_cache_compared_total{{{R}}}[{I}]))",
                    "{{outcome}}",
                )
            ],
            COUNT,
        ),
        Panel(
            "Responses recorded and refused",
            "A second: responses that were recorded, and answers that were not, by why.",
            [
                Query(f"sum(rate(warmroute_response_cache_kept_total{{{R}}}[{I}]))", "kept"),
                Query(f"sum by (why) (rate(warmroute_response_cache_refused_total{{{R}}}[{I}]))", "{{why}}"),
            ],
            COUNT,
        ),
        Panel(
            "Recorded responses",
            "How many there are, of all tenants and routers together; response_cache.records bounds it.",
            [Query(f"max(warmroute_response_cache_records{{{R}}})", "responses")],
            COUNT,
        ),
        Panel(
            "Bytes of recorded responses",
            "What they take together; response_cache.records_bytes bounds it.",
            [Query(f"max(warmroute_response_cache_bytes{{{R}}})", "bytes")],
            BYTES,
        ),
        Panel(
            "Response store",
            "1 while recorded responses can be looked for; and lookups a second that Redis answered too late.",
            [
                Query(f"min(warmroute_response_cache_up{{{R}}})", "store"),
                Query(f"sum(rate(warmroute_response_cache_late_total{{{R}}}[{I}]))", "late"),
            ],
            COUNT,
        ),
    ],
)
