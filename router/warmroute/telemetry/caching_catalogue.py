"""Metrics of cached contents, of keeping them warm, and of recorded responses: a part of `catalogue`. Data only."""

from __future__ import annotations

from warmroute.telemetry.metric import Across, Kind, Metric

CACHE_CONTENTS = Metric(
    "warmroute_cached_contents",
    Kind.GAUGE,
    "contents",
    "Cached contents that are kept warm, as the router knows that does it.",
    across=Across.MOST,
)
CACHE_STORE_UP = Metric(
    "warmroute_cached_contents_up",
    Kind.GAUGE,
    "1",
    "1 while cached contents can be read and changed, 0 while their Redis does not answer.",
    across=Across.LEAST,
)
KEEP_WARM_LEADER = Metric(
    "warmroute_keep_warm_leader",
    Kind.GAUGE,
    "1",
    "1 at the router that keeps cached contents warm for all.",
    across=Across.MOST,
)
KEEP_WARM_PREFILLS = Metric(
    "warmroute_keep_warm_prefills_total",
    Kind.COUNTER,
    "requests",
    "Prompts that the router had computed to keep a promise, by why: refresh (a copy that might be lost),"
    " copy (one that"
    " was missing).",
    ("why",),
)
KEEP_WARM_SECONDS = Metric(
    "warmroute_keep_warm_prefill_seconds_total",
    Kind.COUNTER,
    "seconds",
    "Prefill that this took, by what engines reported as not cached; keep_warm.budget_ratio bounds it.",
)
KEEP_WARM_TOKENS = Metric(
    "warmroute_keep_warm_tokens_total",
    Kind.COUNTER,
    "tokens",
    "Prompt tokens that engines computed for it, cached ones left out.",
)
KEEP_WARM_LOST = Metric(
    "warmroute_keep_warm_lost_total",
    Kind.COUNTER,
    "copies",
    "Copies that a refresh found lost.",
)
KEEP_WARM_GIVEN_UP = Metric(
    "warmroute_keep_warm_given_up_total",
    Kind.COUNTER,
    "promises",
    "Promises given up for a time, by why: budget (it would have cost more than may be spent), failed (no replica would"
    " compute it).",
    ("why",),
)
PROMISES = Metric(
    "warmroute_promises",
    Kind.GAUGE,
    "prefixes",
    "Prefixes that requests asked to be kept, as the router remembers them (caching.promises bounds them); some may be"
    " over.",
)
PROMISES_DROPPED = Metric(
    "warmroute_promises_dropped_total",
    Kind.COUNTER,
    "prefixes",
    "Promises that gave way to others before they were over.",
)
PROMISE_TEXT_BYTES = Metric(
    "warmroute_promise_text_bytes",
    Kind.GAUGE,
    "bytes",
    "Memory of the texts by which promised prefixes are kept warm (keep_warm.prompts_bytes bounds it).",
)
PROMISE_TEXTS_DROPPED = Metric(
    "warmroute_promise_texts_dropped_total",
    Kind.COUNTER,
    "prefixes",
    "Texts that gave way to others or were too long: their promises hold, but are not kept warm.",
)

RESPONSE_CACHE_REQUESTS = Metric(
    "warmroute_response_cache_requests_total",
    Kind.COUNTER,
    "requests",
    "Requests that a rule of response_cache is for, by outcome: exact and semantic (answered by a recorded response),"
    " miss (sent to a replica), bypass (neither looked for, as the client or the request itself wanted).",
    ("outcome",),
)
RESPONSE_CACHE_KEPT = Metric(
    "warmroute_response_cache_kept_total", Kind.COUNTER, "responses", "Responses that were recorded."
)
RESPONSE_CACHE_REFUSED = Metric(
    "warmroute_response_cache_refused_total",
    Kind.COUNTER,
    "responses",
    "Answers that were not recorded, by why: incomplete (cut, filtered, or with an error), long (more than"
    " response_cache.response_bytes), store (its Redis did not take it).",
    ("why",),
)
RESPONSE_CACHE_COMPARED = Metric(
    "warmroute_response_cache_compared_total",
    Kind.COUNTER,
    "requests",
    "Requests that were compared by meaning with recorded ones, by outcome: hit, far (below response_cache.threshold),"
    " unlike (what they say does not agree), judged (the judge refused), failed (no embedding in time), alone (nothing"
    " to compare with), limited (the tenant is over a limit).",
    ("outcome",),
)
RESPONSE_CACHE_RECORDS = Metric(
    "warmroute_response_cache_records",
    Kind.GAUGE,
    "responses",
    "Recorded responses, of all routers that share a Redis, as this one heard last.",
    across=Across.MOST,
)
RESPONSE_CACHE_BYTES = Metric(
    "warmroute_response_cache_bytes",
    Kind.GAUGE,
    "bytes",
    "What they take, by the same count; response_cache.records_bytes bounds it.",
    across=Across.MOST,
)
RESPONSE_CACHE_LATE = Metric(
    "warmroute_response_cache_late_total",
    Kind.COUNTER,
    "lookups",
    "Lookups that Redis did not answer within response_cache.lookup_deadline_s.",
)
RESPONSE_CACHE_UP = Metric(
    "warmroute_response_cache_up",
    Kind.GAUGE,
    "1",
    "1 while recorded responses can be looked for, 0 while their Redis does not answer.",
    across=Across.LEAST,
)
SCHEMA_STORE_UP = Metric(
    "warmroute_prompt_schemas_up",
    Kind.GAUGE,
    "1",
    "1 while prompt schemas can be read and changed, 0 while their Redis does not answer.",
    across=Across.LEAST,
)
SCHEMA_PROMPTS = Metric(
    "warmroute_prompt_schema_prompts_total",
    Kind.COUNTER,
    "requests",
    "Chats with prompt_schema, by outcome: derived (their prompt was put together), refused (there is no such prompt).",
    ("outcome",),
)

CACHING: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
