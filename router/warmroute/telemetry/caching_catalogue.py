"""Metrics of cached contents and of keeping them warm: a part of the catalogue (`catalogue`). Data only."""

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

CACHING: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
