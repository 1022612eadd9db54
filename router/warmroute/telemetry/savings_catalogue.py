"""Metrics of what caching saves, and of why prompts miss: a part of the catalogue (`catalogue`). Data only."""

from __future__ import annotations

from warmroute.telemetry.metric import Across, Kind, Metric

ADVICE_REQUESTS = Metric(
    "warmroute_advice_requests_total",
    Kind.COUNTER,
    "requests",
    "Requests, of those looked at, whose prompt missed for a cause that can be mended (docs/advice.md).",
    ("cause",),
)
ADVICE_TOKENS = Metric(
    "warmroute_advice_tokens_total",
    Kind.COUNTER,
    "tokens",
    "Prompt tokens of these requests that engines computed for that cause; divide by the share that is looked at.",
    ("cause",),
)
ADVICE_LOOKS = Metric(
    "warmroute_advice_looks_total",
    Kind.COUNTER,
    "requests",
    "Prompts of the sample, by what became of them: looked_at, or passed_over for want of time (advice.budget_ratio).",
    ("outcome",),
)
ADVICE_SECONDS = Metric(
    "warmroute_advice_seconds_total",
    Kind.COUNTER,
    "seconds",
    "Time of the event loop that looking at prompts took.",
)
TENANT_SAVED = Metric(
    "warmroute_tenant_prefill_saved_seconds_total",
    Kind.COUNTER,
    "seconds",
    "Computing that cached tokens saved each tenant, at its replica's speed.",
    ("tenant",),
)
TENANT_COST = Metric(
    "warmroute_tenant_cost_total",
    Kind.COUNTER,
    "currency",
    "What each tenant's tokens cost by `usage.prices`.",
    ("tenant",),
)
CACHE_TOKENS = Metric(
    "warmroute_interface_prompt_tokens_total",
    Kind.COUNTER,
    "tokens",
    "Prompt tokens by the interface that requests spoke: `read` from a cache, `missed`, and of these `written` to it.",
    ("interface", "kind"),
)
CACHE_PREFILL_SAVED = Metric(
    "warmroute_interface_prefill_saved_seconds_total",
    Kind.COUNTER,
    "seconds",
    "Computing that cached tokens saved requests of each interface, at their replica's speed.",
    ("interface",),
)
CACHE_COST = Metric(
    "warmroute_interface_prompt_cost_total",
    Kind.COUNTER,
    "currency",
    "What prompt tokens cost by `usage.prices`, writes and reads included.",
    ("interface",),
)
CACHE_SAVED = Metric(
    "warmroute_interface_saved_cost",
    Kind.GAUGE,
    "currency",
    "What prompts would have cost more without a cache, since the start; below 0 if writes cost more than reads save.",
    ("interface",),
    across=Across.SUM,
)
CACHE_TIMES = Metric(
    "warmroute_interface_ttft_seconds_total",
    Kind.COUNTER,
    "seconds",
    "Times to the first token of streams, by size of the prompt (a power of two, in tokens): `cold`, at most a tenth of"
    " it cached, and `warm`, at least half.",
    ("interface", "size", "warmth"),
)
CACHE_TIMED = Metric(
    "warmroute_interface_ttft_requests_total",
    Kind.COUNTER,
    "requests",
    "Streams whose times to the first token these are.",
    ("interface", "size", "warmth"),
)

SAVINGS: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
