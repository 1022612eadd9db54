"""The catalogue is the one list of metrics: name, kind, labels, unit, help.

`exposition` and the documentation are rendered from it. A metric that is not here cannot be exposed. Renaming one is a
breaking change.
"""

from __future__ import annotations

from warmroute.telemetry.caching_catalogue import CACHING
from warmroute.telemetry.metric import Across, Kind, Metric
from warmroute.telemetry.savings_catalogue import SAVINGS

_C, _G, _H = Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM

REQUESTS = Metric(
    "warmroute_requests_total",
    _C,
    "requests",
    "Finished requests. `decision` is why the replica was chosen; `none` where none was.",
    ("api", "model", "status", "decision"),
)
ERRORS = Metric(
    "warmroute_errors_total",
    _C,
    "requests",
    "Errors the router itself answered, by stable code.",
    ("code",),
)
TTFT = Metric(
    "warmroute_ttft_seconds",
    _H,
    "seconds",
    "Time from a request's arrival to its answer's first byte from the replica.",
    ("model", "decision"),
)
DURATION = Metric(
    "warmroute_duration_seconds",
    _H,
    "seconds",
    "Time from a request's arrival to the end of its answer.",
    ("api", "model"),
)
PROMPT_TOKENS = Metric(
    "warmroute_prompt_tokens_total",
    _C,
    "tokens",
    "Prompt tokens of answered requests: the engine's count where reported, else the router's estimate.",
    ("model",),
)
PREDICTED_TOKENS = Metric(
    "warmroute_predicted_cached_tokens_total",
    _C,
    "tokens",
    "Prompt tokens the chosen replica was believed to hold.",
    ("model",),
)
CACHED_TOKENS = Metric(
    "warmroute_cached_tokens_total",
    _C,
    "tokens",
    "Prompt tokens the engine reported as cached.",
    ("model",),
)
CONFIRMED_TOKENS = Metric(
    "warmroute_confirmed_prompt_tokens_total",
    _C,
    "tokens",
    "Prompt tokens of requests whose engine reported cached tokens: divide warmroute_cached_tokens_total by it.",
    ("model",),
)
FUNNEL_TOKENS = Metric(
    "warmroute_funnel_tokens_total",
    _C,
    "tokens",
    "Prompt tokens of answered requests routed by prefix, by how far they came: `prompt` all, `reusable` seen before,"
    " `known` held by some replica that could be chosen, `chosen` by the chosen one, `delivered` found in its cache."
    " `reported` is `no` where the engine does not say what it found.",
    ("model", "stage", "reported"),
)
COMPLETION_TOKENS = Metric(
    "warmroute_completion_tokens_total",
    _C,
    "tokens",
    "Completion tokens the engine reported.",
    ("model",),
)
DECISIONS = Metric(
    "warmroute_decisions_total",
    _C,
    "requests",
    "Finished requests by why and which replica was chosen.",
    ("decision", "replica"),
)
REPLICA_PROMPT_TOKENS = Metric(
    "warmroute_replica_prompt_tokens_total",
    _C,
    "tokens",
    "Prompt tokens of requests that the replica answered, cached ones included.",
    ("replica",),
)
REPLICA_ANSWERS = Metric(
    "warmroute_replica_answers_total",
    _C,
    "requests",
    "Requests that the replica answered 200, with a first byte.",
    ("replica",),
)
REPLICA_TTFT = Metric(
    "warmroute_replica_ttft_seconds_total",
    _C,
    "seconds",
    "Their times from arrival to first byte; divide by warmroute_replica_answers_total for the mean.",
    ("replica",),
)
REPLICA_CONFIRMED_TOKENS = Metric(
    "warmroute_replica_confirmed_prompt_tokens_total",
    _C,
    "tokens",
    "Those of requests whose answer reported cached tokens: divide the two below by it.",
    ("replica",),
)
REPLICA_PREDICTED_TOKENS = Metric(
    "warmroute_replica_predicted_cached_tokens_total",
    _C,
    "tokens",
    "Prompt tokens that the replica was believed to hold, of requests whose answer reported cached tokens.",
    ("replica",),
)
REPLICA_CACHED_TOKENS = Metric(
    "warmroute_replica_cached_tokens_total",
    _C,
    "tokens",
    "Prompt tokens that the replica reported as cached; divided by warmroute_replica_prefill_tokens_per_second, the"
    " time for which it would have computed them.",
    ("replica",),
)
RETRIES = Metric(
    "warmroute_retries_total",
    _C,
    "attempts",
    "Attempts that failed before the first byte and were made again on another replica.",
    ("reason",),
)
RETRY_BUDGET_USED = Metric(
    "warmroute_retry_budget_used_ratio",
    _G,
    "ratio",
    "Share of the budget for tries made again (retries.budget_ratio) spent in the last 30 to 60 s; at 1 no more are"
    " made.",
    across=Across.MOST,
)
RETRY_BUDGET_REFUSED = Metric(
    "warmroute_retry_budget_refused_total",
    _C,
    "attempts",
    "Tries that were not made again for want of budget.",
)
SECOND_TRIES = Metric(
    "warmroute_second_tries_total",
    _C,
    "requests",
    "Requests whose first byte was late and that were asked of a second replica as well, by cause: silence"
    " (upstream.late_factor) or hedge (retries.hedge).",
    ("cause",),
)
SECOND_WINS = Metric(
    "warmroute_second_tries_won_total",
    _C,
    "requests",
    "Those of them that the second replica answered first.",
    ("cause",),
)
SECOND_WASTED = Metric(
    "warmroute_second_tries_wasted_tokens_total",
    _C,
    "tokens",
    "Prompt tokens believed uncached that the replica whose answer came second, or not at all, was given for nothing.",
    ("cause",),
)
FAILOVERS = Metric(
    "warmroute_failovers_total",
    _C,
    "streams",
    "Streams that broke in the middle where failover is on, by what became of them: tried on another replica; completed"
    " there; ended, since only the end was missing; or not gone on with: unfit (the request, or what was said), deadly"
    " (replicas die of it), refused (no replica or no budget).",
    ("outcome",),
)
DISCONNECTS = Metric(
    "warmroute_client_disconnects_total",
    _C,
    "requests",
    "Clients that left before their answer was complete, by phase.",
    ("phase",),
)
HELD = Metric(
    "warmroute_held",
    _G,
    "requests",
    "Requests that wait in the router until a replica comes free.",
    across=Across.SUM,
)
QUEUE_REFUSED = Metric("warmroute_queue_refused_total", _C, "requests", "Refused by the queue.", ("class",))
HOLD_SECONDS = Metric(
    "warmroute_hold_seconds",
    _H,
    "seconds",
    "Time that requests waited in the router, of those that had to; part of warmroute_ttft_seconds.",
)
IN_FLIGHT = Metric(
    "warmroute_in_flight",
    _G,
    "requests",
    "Requests sent to replicas and not finished.",
    across=Across.SUM,
)
REPLICA_STATE = Metric(
    "warmroute_replica_state",
    _G,
    "1",
    "1 for the state a replica is in; other states are absent.",
    ("replica", "state"),
    across=Across.MOST,
)
REPLICA_EJECTIONS = Metric(
    "warmroute_replica_ejections_total",
    _C,
    "ejections",
    "Times the replica was put out of use, by why, failed trials included; each router and worker counts its own.",
    ("replica", "reason"),
)
REPLICA_RESTARTS = Metric(
    "warmroute_replica_restarts_total",
    _C,
    "restarts",
    "Times the replica's engine was found restarted, its cache empty; each router and worker counts what it saw.",
    ("replica",),
)
MODEL_REPLICAS = Metric(
    "warmroute_model_replicas",
    _G,
    "replicas",
    "Replicas that serve the model, by state; `other`: those that have not told what they serve.",
    ("model", "state"),
    across=Across.MOST,
)
REPLICA_IN_FLIGHT = Metric(
    "warmroute_replica_in_flight",
    _G,
    "requests",
    "Requests this router sent to the replica and has not finished.",
    ("replica",),
    across=Across.SUM,
)
REPLICA_WAITING_TOKENS = Metric(
    "warmroute_replica_waiting_tokens",
    _G,
    "tokens",
    "Uncached prompt tokens sent to the replica that have no first byte yet.",
    ("replica",),
    across=Across.SUM,
)
REPLICA_CACHE_LIFETIME = Metric(
    "warmroute_replica_cache_lifetime_seconds",
    _G,
    "seconds",
    "Age since last use from which less than half of a prefix is found, by what answers reported; absent while nothing"
    " was missed.",
    ("replica",),
    across=Across.MOST,
)
REPLICA_RUNNING = Metric(
    "warmroute_replica_engine_running",
    _G,
    "requests",
    "Requests the engine last reported as running.",
    ("replica",),
    across=Across.MOST,
)
REPLICA_WAITING = Metric(
    "warmroute_replica_engine_waiting",
    _G,
    "requests",
    "Requests the engine last reported as waiting.",
    ("replica",),
    across=Across.MOST,
)
REPLICA_PREFILL_RATE = Metric(
    "warmroute_replica_prefill_tokens_per_second",
    _G,
    "tokens per second",
    "Prompt tokens without context that the replica is believed to compute a second.",
    ("replica",),
)
REPLICA_BASE_LATENCY = Metric(
    "warmroute_replica_base_latency_seconds",
    _G,
    "seconds",
    "First-byte time of a fully cached prompt on the idle replica, as believed.",
    ("replica",),
)
REPLICA_INTERFERENCE = Metric(
    "warmroute_replica_interference_seconds",
    _G,
    "seconds",
    "What each request that the replica decodes adds to another's first-byte time, as believed.",
    ("replica",),
)
REPLICA_SPEED_CONFIDENCE = Metric(
    "warmroute_replica_speed_confidence_ratio",
    _G,
    "ratio",
    "0: the replica's speed is a setting or its fellows'; 0.5: known to a tenth; 1: no doubt.",
    ("replica",),
)
MODEL_BYTES_PER_TOKEN = Metric(
    "warmroute_model_bytes_per_token",
    _G,
    "bytes",
    "Prompt bytes that make a token of the model, by what engines reported.",
    ("model",),
)
MODEL_BYTES_PER_TOKEN_CONFIDENCE = Metric(
    "warmroute_model_bytes_per_token_confidence_ratio",
    _G,
    "ratio",
    "0: warmroute_model_bytes_per_token is the setting; 0.5: known to a tenth; 1: no doubt.",
    ("model",),
)
MODEL_ANSWER_TOKENS = Metric(
    "warmroute_model_answer_tokens",
    _G,
    "tokens",
    "Mean tokens of the model's last few hundred answers, by what engines reported.",
    ("model",),
)
MODEL_ANSWER_TOKENS_CONFIDENCE = Metric(
    "warmroute_model_answer_tokens_confidence_ratio",
    _G,
    "ratio",
    "0: warmroute_model_answer_tokens is a guess; 0.5: known to a tenth; 1: no doubt.",
    ("model",),
)
REGISTRY_UP = Metric(
    "warmroute_registry_up",
    _G,
    "1",
    "1 while the registry's backend answers, and does so in time.",
    across=Across.LEAST,
)
REGISTRY_ENTRIES = Metric(
    "warmroute_registry_entries",
    _G,
    "records",
    "Records held: by the Redis servers, a moment ago, or by this process.",
    across=Across.MOST,
)
REGISTRY_BYTES = Metric(
    "warmroute_registry_bytes",
    _G,
    "bytes",
    "Memory of what the Redis servers hold, a moment ago; or an upper estimate for this process.",
    across=Across.MOST,
)
REGISTRY_IDLE = Metric(
    "warmroute_registry_idle_seconds",
    _G,
    "seconds",
    "A prefix unused for this long is forgotten: registry.idle_max_s, or less as the replicas' caches keep prefixes.",
    across=Across.MOST,
)
REGISTRY_LOOKUPS = Metric(
    "warmroute_registry_lookups_total",
    _C,
    "lookups",
    "Lookups, one a request routed by prefix.",
)
REGISTRY_LOOKUP_SECONDS = Metric(
    "warmroute_registry_lookup_seconds_total",
    _C,
    "seconds",
    "Time requests waited for lookups; divide by warmroute_registry_lookups_total.",
)
REGISTRY_TIMEOUTS = Metric(
    "warmroute_registry_lookup_timeouts_total",
    _C,
    "lookups",
    "Lookups given up at the deadline.",
)
REGISTRY_SKIPPED = Metric(
    "warmroute_registry_lookups_skipped_total",
    _C,
    "lookups",
    "Lookups answered from own placements at once, because the backend is slow (warmroute_registry_breaker_open).",
)
REGISTRY_BREAKER = Metric(
    "warmroute_registry_breaker_open",
    _G,
    "1",
    "1 while requests do not wait for the backend because its answers keep coming late.",
    across=Across.MOST,
)
REGISTRY_WRITES = Metric(
    "warmroute_registry_writes_total",
    _C,
    "records",
    "Records written.",
)
REGISTRY_ERRORS = Metric(
    "warmroute_registry_errors_total",
    _C,
    "errors",
    "Failures of the backend or its connection.",
)
REGISTRY_EVICTIONS = Metric(
    "warmroute_registry_evictions_total",
    _C,
    "records",
    "Records dropped for lack of room.",
)
REGISTRY_RECONNECTS = Metric(
    "warmroute_registry_reconnects_total",
    _C,
    "connections",
    "Times the connection to the backend was made again.",
)
REGISTRY_PENDING = Metric(
    "warmroute_registry_pending_records",
    _G,
    "records",
    "Records waiting to be written to the backend.",
    across=Across.SUM,
)
REGISTRY_LOCAL = Metric(
    "warmroute_registry_local_entries",
    _G,
    "records",
    "Records of this process's own placements, kept beside a shared backend.",
    across=Across.SUM,
)
READY = Metric(
    "warmroute_ready",
    _G,
    "1",
    "1 while `/ready` answers 200: some replica may be sent requests, and the router does not drain.",
    across=Across.LEAST,
)
SETTINGS_CURRENT = Metric(
    "warmroute_settings_current",
    _G,
    "1",
    "0 from a reload of the settings that failed until one that succeeds; the log says what was wrong.",
    across=Across.LEAST,
)
CLIENT_CONNECTIONS = Metric(
    "warmroute_client_connections",
    _G,
    "connections",
    "Open connections of clients, idle ones included; limits.connections bounds them.",
    across=Across.SUM,
)
BUFFERED_BODY_BYTES = Metric(
    "warmroute_buffered_body_bytes",
    _G,
    "bytes",
    "Request bodies in memory until no retry can need them; limits.buffered_body_bytes bounds them.",
    across=Across.SUM,
)
LATENESS = Metric(
    "warmroute_loop_lateness_seconds",
    _H,
    "seconds",
    "How much later than due a timer was called, asked twice a second: what a busy router adds to every request.",
)
DISCOVERY_UP = Metric(
    "warmroute_discovery_up",
    _G,
    "0 or 1",
    "1 while a source of replicas can be read, as far as is known; 0 from a failure until the next success. Its last"
    " members stay.",
    ("source",),
    across=Across.LEAST,
)
DISCOVERY_MEMBERS = Metric(
    "warmroute_discovery_members",
    _G,
    "replicas",
    "Replicas that a source names, by state: ready, or draining, to finish only.",
    ("source", "state"),
    across=Across.MOST,
)
DISCOVERY_AGE = Metric(
    "warmroute_discovery_age_seconds",
    _G,
    "seconds",
    "Time since a source was read last, or showed that what it said holds; absent until it is read first.",
    ("source",),
    across=Across.MOST,
)
DISCOVERY_ERRORS = Metric(
    "warmroute_discovery_errors_total",
    _C,
    "failures",
    "Failures to read a source, by reason: unreachable, timeout, unauthorized, forbidden, not_found, overloaded,"
    " server, unreadable.",
    ("source", "reason"),
)
ACCESS_LOG_DROPPED = Metric(
    "warmroute_access_log_dropped_total",
    _C,
    "lines",
    "Access-log lines dropped because the disk or pipe was too slow.",
)
PEERS = Metric(
    "warmroute_peers",
    _G,
    "routers",
    "Other routers and workers whose load is heard of and counted.",
    across=Across.LEAST,
)
TENANT_REQUESTS = Metric(
    "warmroute_tenant_requests_total",
    _C,
    "requests",
    "Requests of each tenant that are over; `failed`: by an error, or not answered. Beyond 200 tenants: `other`.",
    ("tenant", "outcome"),
)
TENANT_TOKENS = Metric(
    "warmroute_tenant_tokens_total",
    _C,
    "tokens",
    "Tokens of each tenant: `prompt`, of these `cached`, and `output`.",
    ("tenant", "kind"),
)
REFUSED = Metric(
    "warmroute_refused_total",
    _C,
    "requests",
    "Requests refused for whose they were: keys, models, limits; by stable code.",
    ("code",),
)
KEYS = Metric(
    "warmroute_keys",
    _G,
    "keys",
    "API keys that are known.",
    across=Across.MOST,
)
LIMITS_UP = Metric(
    "warmroute_limits_up",
    _G,
    "1",
    "1 while limits are shared as they should be, 0 while this router goes by its own share of them.",
    across=Across.LEAST,
)
LIMITS_LOCAL = Metric(
    "warmroute_limits_local_total",
    _C,
    "requests",
    "Requests that this router judged by its own share of the limits, because Redis did not answer.",
)
WORKERS = Metric(
    "warmroute_workers",
    _G,
    "processes",
    "Worker processes that answered this scrape.",
    across=Across.SUM,
)
WORKER_RESTARTS = Metric(
    "warmroute_worker_restarts_total",
    _C,
    "processes",
    "Workers that died and were started again; always 0 without `--workers`.",
)
BUILD_INFO = Metric(
    "warmroute_build_info",
    _G,
    "1",
    "Always 1; labels tell the version and settings, and whether the request path is `compiled` (true, false).",
    ("version", "compiled", "policy", "registry"),
    across=Across.MOST,
)

CATALOGUE: tuple[Metric, ...] = (
    *(value for value in list(globals().values()) if isinstance(value, Metric)),
    *CACHING,
    *SAVINGS,
)
