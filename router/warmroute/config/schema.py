"""The schema has every setting with its type, default, bounds and manual: one frozen dataclass a section.

The text under a field is its manual, which `reference` renders. Defaults live only here, or in the core's parameters
which a section sets. This module reads and judges nothing: `load` converts and checks single fields, and `rules` checks
what two fields say together.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Final, Literal, NewType

from warmroute.config.advice import AdviceConfig, RewriteConfig
from warmroute.config.blend import BlendConfig
from warmroute.config.bounds import Bytes, Count, PositiveCount, PositiveSeconds, Range, Rate, Seconds
from warmroute.config.cache_tiers import CacheTierConfig as CacheTierConfig
from warmroute.config.cached_contents import CachedContentsConfig as CachedContentsConfig
from warmroute.config.cached_contents import KeepWarmConfig as KeepWarmConfig
from warmroute.config.prompt_schemas import PromptSchemasConfig
from warmroute.config.provider_caching import CachingConfig
from warmroute.config.response_cache import ResponseCacheConfig as ResponseCacheConfig
from warmroute.config.response_cache import ResponseRuleConfig as ResponseRuleConfig
from warmroute.config.tenant_schema import (
    AdminAuthConfig,
    AllowanceConfig,
    IsolationConfig,
    KeysConfig,
    ModelAllowanceConfig,
    OidcConfig,
    PriceConfig,
    PriorityName,
    QueueConfig,
    TenantConfig,
    UsageConfig,
)
from warmroute.core.choice.cost import CostParameters
from warmroute.core.holding.parameters import HoldParameters

__all__ = [
    "Bytes",
    "Count",
    "PositiveCount",
    "PositiveSeconds",
    "Range",
    "Rate",
    "Seconds",
    "AdminAuthConfig",
    "AdviceConfig",
    "AllowanceConfig",
    "BlendConfig",
    "IsolationConfig",
    "KeysConfig",
    "ModelAllowanceConfig",
    "OidcConfig",
    "PriceConfig",
    "PriorityName",
    "PromptSchemasConfig",
    "QueueConfig",
    "RewriteConfig",
    "TenantConfig",
    "UsageConfig",
]
"""What is defined elsewhere and is part of it."""

Address = NewType("Address", str)
"""`HOST:PORT`, or `[IPV6]:PORT`; see `split_address`. Port 0 takes any free port."""


PolicyName = Literal["prefix-cost", "prefix-hash", "round-robin", "random", "least-loaded", "power-of-two"]
_COST: Final = CostParameters()
_HOLD: Final = HoldParameters()

LogLevel = Literal["debug", "info", "warning", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaConfig:
    """One vLLM server. A plain URL stands for `{url: URL}`."""

    shorthand: ClassVar[str] = "url"

    url: str
    """`http://HOST:PORT` or `https://HOST:PORT`, without a path."""
    id: str = ""
    """Stable name in headers, metrics and logs, and the replica's place on the ring. All routers of a fleet must give
    a replica the same one. Empty: `HOST:PORT` of the URL."""
    ranks: Annotated[int, Range(1, 1024)] | None = None
    """Data-parallel ranks behind the URL (vLLM's `--data-parallel-size`; on its own port, of this node): each is a
    replica `ID#RANK` of its own. 1: the server spreads requests over its ranks itself, which keep little of their
    prefixes so. Absent: as many as its metrics name engines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryConfig:
    """Where routers keep which replica recently served which prefix. A plain URL stands for `{url: URL}`."""

    shorthand: ClassVar[str] = "url"

    url: str = "memory"
    """`memory` (this process only), or a Redis shared by all routers: `redis://`, `rediss://` (TLS), `unix://`,
    `redis+sentinel://`, `redis+cluster://`."""
    idle_min_s: PositiveSeconds = 300.0
    """A prefix used within this time is never forgotten for its age."""
    idle_max_s: PositiveSeconds = 3600.0
    """A prefix unused for this long is forgotten. As answers show that the engines' caches keep prefixes for less, so
    does the registry: four times what they do, not less than `idle_min_s`. Equal to that: a fixed time."""
    max_entries: Annotated[int, Range(2, 1_000_000_000)] | None = None
    """Most records kept in this process, in 512 MiB at most; the longest unused go first. Absent: 1,000,000, or
    100,000 beside a Redis, which answers for the rest. A Redis is bounded by its own `maxmemory`."""
    lookup_deadline_s: PositiveSeconds = 0.005
    """A request waits at most this long for the registry, then goes on with what this process knows itself."""
    namespace: str = "w"
    """Prefix of every Redis key. Routers share what they know if and only if it is equal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyConfig:
    """How a replica is chosen. A plain name stands for `{name: NAME}`."""

    shorthand: ClassVar[str] = "name"

    name: PolicyName = "prefix-cost"
    """`prefix-cost` minimises the expected time to first token. The others are baselines: `prefix-hash` (the first
    1,024 tokens on a bounded-load ring), `round-robin`, `random`, `least-loaded`, `power-of-two`."""
    prefill_tokens_per_s: Rate = _COST.prefill_tokens_per_s
    """Prefill speed a replica is believed to have until the fleet's first answers show one (`learning`), in uncached
    prompt tokens a second. It need not be right: choices compare replicas that are all believed alike until then."""
    bytes_per_token: Annotated[float, Range(0.1, 1000.0)] = 4.0
    """Prompt bytes that make one token, for estimates, until a model's usage tells: the router never tokenises."""
    bounded_load_factor: Annotated[float, Range(1.0, 1000.0)] = _COST.bounded_load_factor
    """Where nobody holds part of a prompt the ring decides, but passes over replicas that have this many times the mean
    of requests under way, other routers' included."""
    shared_step_tokens: Annotated[float, Range(0.0, 1e9)] = _COST.shared_step_tokens
    """What the replicas were started with as `--long-prefill-token-threshold` (vLLM; with its `-adaptive` form too, and
    best with both): the least part of an engine's step that a long prompt gets while others are there. Then short
    prompts are sent past a long one that is being computed instead of waiting for its end. 0: engines compute prompts
    one after the other."""
    attention_context_tokens: Annotated[float, Range(0.0, 1e9)] = _COST.attention_context_tokens
    """Mean context, in tokens, at which attention makes a token's prefill take twice as long: 32,000 for an 8B model
    with full attention, up to twice that for larger ones; 0 for models whose attention costs next to nothing."""
    crowd_weight: Annotated[float, Range(0.0, 1000.0)] = _COST.crowd_weight
    """Price of the recent load: the prefill work that a replica was given lately, done or not. With a higher price,
    prefixes that many share are copied to more replicas, and conversations are loyal to theirs for less long."""
    crowd_requests: Annotated[float, Range(1.0, 1e9)] = _COST.crowd_requests
    """After so many requests for each replica of the fleet, the recent load has faded to 37 %."""
    tie_ratio: Annotated[float, Range(0.0, 1.0)] = _COST.tie_ratio
    """Costs that exceed the smallest by at most this share of the request's own cost on the cheapest replica are equal
    to it: then the fewest requests under way decide, then the ring. The own cost is `base_s` and all terms that are
    priced by the request's prefill (`prefill_s`, `miss_s`, `eviction_s`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldConfig:
    """Requests that wait in the router until a replica can begin with them, short and warm ones first, instead of in
    an engine's queue. Only with policy `prefix-cost`. `true` or `false` stands for `{enabled: …}`."""

    shorthand: ClassVar[str] = "enabled"

    enabled: bool = True
    """Whether any request waits here. Without it, each is sent at once."""
    ahead_tokens: Annotated[float, Range(0.0, 1e9)] = _HOLD.ahead_tokens
    """A replica whose work ahead is no more than this many uncached tokens, or should be over in their time, is given
    the next prompt, so that it never runs dry: about two steps of what a GPU computes beside an empty one. More: closer
    to an engine's own queue, where the order is that of arrival."""
    max_requests: Count = _HOLD.max_held
    """Most requests held at once; more are sent as without holding."""
    max_s: Seconds = _HOLD.max_hold_s
    """Longest time that a request is held; then it is sent to the best replica, however busy. Less: conversations that
    begin while others fill the caches are let go sooner, and then push these out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsConfig:
    """What one client may ask of the router."""

    header_bytes: Bytes = 65_536
    """Longest request line and headers together; more is answered 431."""
    body_bytes: Bytes = 64 << 20
    """Longest request body; more is answered 413."""
    buffered_body_bytes: Bytes = 1 << 30
    """Most memory all request bodies under way may take together; requests beyond it are answered 503."""
    header_timeout_s: PositiveSeconds = 10.0
    """Longest time from a request's first byte to the end of its headers; later is answered 408."""
    body_timeout_s: PositiveSeconds = 60.0
    """Longest time from the end of the headers to the end of the body, and 16 s more for each MiB of it that has come;
    later is answered 408."""
    idle_timeout_s: PositiveSeconds = 75.0
    """A client connection without a request is closed after this long."""
    connections: PositiveCount = 10_000
    """Most client connections at once. Each stream takes two file descriptors: see `ulimit -n`."""
    connections_per_address: Count = 0
    """Most client connections from one address at once; more are answered 503. 0: as many as there may be in all.
    Proxies in front (`access_log.trusted_proxies`) are not counted, clients that `proxy_protocol_from` names are."""
    proxy_protocol_from: tuple[str, ...] = ()
    """Addresses and networks of proxies that begin each connection with a PROXY header (version 1 or 2), which names
    the client: theirs must have one, nobody else's may. Not with `tls.cert_file`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamConfig:
    """Connections to replicas."""

    connect_timeout_s: PositiveSeconds = 2.0
    """A replica that does not accept a connection within this long has failed; the next one is tried."""
    first_byte_timeout_s: PositiveSeconds = 600.0
    """Longest wait for a response's first byte. Long: it includes queueing and prefill of a long prompt."""
    stream_idle_timeout_s: PositiveSeconds = 300.0
    """Longest silence in a response once it has begun; comments (`: keep-alive`) are silence. vLLM may leave streams
    open and silent while it shuts down."""
    late_factor: Annotated[float, Range(0.0, 1000.0)] = 4.0
    """A request whose replica says nothing for this many times as long as its first byte was predicted to take is asked
    of a second replica as well, and the silent one is probed; the first answer counts. Predictions that have been too
    short on a replica count for more. 0: no request is asked twice for being late."""
    late_min_s: PositiveSeconds = 1.0
    """No request is late before that: predictions leave out what an engine does only sometimes. Half of it where the
    replica is suspected already, or on trial after an ejection; a quarter on trial where it was silent."""
    late_max_s: PositiveSeconds = 60.0
    """Longest silence before a second replica is asked for a stream, whatever was predicted, and where nothing is."""
    keepalive_s: Seconds = 4.0
    """An idle connection is closed after this long; 0 uses each connection once. Must stay under the replica's own
    keep-alive time, or requests meet connections that are just being closed: 5 s for vLLM, unless raised there by
    `VLLM_HTTP_TIMEOUT_KEEP_ALIVE` (recommended: 75, with 60 here)."""
    pool_size: Count = 256
    """Most idle connections kept to one replica. Connections in use are not bounded by it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetriesConfig:
    """Requests that are tried again, or on two replicas at once."""

    budget_ratio: Annotated[float, Range(0.0, 10.0)] = 0.2
    """Tries made again for each request answered within the last 30 to 60 s; a request that never reached a replica is
    tried again freely. More are not made, so that retries cannot multiply an outage."""
    budget_min: Count = 100
    """Tries made again in that time however little was answered."""
    backoff_s: Seconds = 0.05
    """Longest pause before the second try made again; its length is a matter of chance, and its bound doubles with each
    further one, up to 1 s. The first is made at once, on another replica. 0: no pauses."""
    hedge: bool = False
    """Whether a second replica is asked already when a stream's first byte is late by the two settings below: it costs
    the fleet a prefill more, out of the same budget, and the slower answer is aborted."""
    hedge_factor: Annotated[float, Range(1.0, 1000.0)] = 2.0
    """Times of the predicted time to the first byte after which it is."""
    hedge_min_s: Seconds = 0.5
    """No request is hedged before that. Requests are looked at twice a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthConfig:
    """How replicas are watched."""

    probe_interval_s: PositiveSeconds = 2.0
    """Time between two `GET /health` to one replica. A replica that is not well is asked sooner."""
    probe_timeout_s: PositiveSeconds = 2.0
    """A probe unanswered for this long has failed."""
    scrape_interval_s: PositiveSeconds = 10.0
    """Time between two readings of a replica's `/v1/models` and `/metrics`. They are also read whenever the replica
    comes back or its connection was replaced, so that a restart is noticed by the next probe."""
    failures: PositiveCount = 3
    """Requests failed in a row after which a replica is ejected. A refused connection ejects at once."""
    backoff_min_s: PositiveSeconds = 1.0
    """Time an ejected replica is left alone, at first; it doubles with each further failure."""
    backoff_max_s: PositiveSeconds = 30.0
    """Longest time an ejected replica is left alone."""
    deadly_request_s: Seconds = 300.0
    """A request that two replicas died with, one after the other, is refused (422) for this long. 0: never."""
    api_key: str | None = field(default=None, repr=False)
    """Key sent with probes as `Authorization: Bearer`, for replicas started with `--api-key`. Clients' requests keep
    their own; with this set, models are shown only to clients whose key a replica takes."""
    unlisted_models: bool = False
    """Whether a model that no replica lists, even when asked again, is sent to one of them all the same: for LoRA
    adapters that a resolver loads at first use. Otherwise such a request is answered 404."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsConfig:
    """Encryption on both sides."""

    cert_file: str | None = None
    """PEM certificate chain of the data port; needs `key_file`. Absent: plain HTTP. The admin port speaks plain HTTP in
    any case: keep it, and the tokens that it is sent, on loopback or on a network of its own."""
    key_file: str | None = None
    """PEM private key of the certificate, without a passphrase."""
    upstream_ca_file: str | None = None
    """PEM certificates trusted for `https://` replicas. Absent: the system's."""
    upstream_verify: bool = True
    """Whether the certificates of `https://` replicas are checked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadersConfig:
    """What the router adds to responses."""

    explain: bool = True
    """Add `X-Warmroute-Replica`, `X-Warmroute-Decision` and `X-Warmroute-Predicted-Cached-Tokens`."""
    early: bool = False
    """Pass an answer's head on when it comes, not with the first byte of the body: for clients and proxies with a limit
    on the time to the head, since engines send a stream's at once and its first token after the prefill. What fails
    after it can no longer be answered with a status of its own: a stream that no replica goes on with ends with an
    error event, and anything else is cut off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CorsConfig:
    """Which web pages may call the data port from a browser. Off unless origins are named, as in vLLM from 0.33 on."""

    allowed_origins: tuple[str, ...] = ()
    """Origins such as `https://chat.example.com`, or `*` for any. The router answers their preflights, and adds the
    headers to its own answers and to those of replicas that lack them. Empty: it adds nothing; preflights are 405."""
    allowed_methods: tuple[str, ...] = ("GET", "POST", "DELETE")
    """What a page may use beyond what browsers always allow."""
    allowed_headers: tuple[str, ...] = ("*",)
    """Request headers that a page may set; `*`: those it asks for."""
    exposed_headers: tuple[str, ...] = (
        "x-request-id",
        "x-warmroute-replica",
        "x-warmroute-decision",
        "retry-after",
    )
    """Answer headers that a page may read beyond what browsers always allow."""
    credentials: bool = False
    """Whether pages may send cookies and client certificates; keys in `Authorization` need no such permission."""
    max_age_s: Count = 600
    """How long a browser may remember the answer to a preflight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessLogConfig:
    """One JSON line a request. `true` or `false` stands for `{enabled: …}`."""

    shorthand: ClassVar[str] = "enabled"

    enabled: bool = False
    """Whether it is written."""
    path: str = "-"
    """File it is appended to; `-` is standard output. Lines that a slow disk or pipe cannot take are dropped and
    counted, never waited for."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses and networks (`10.0.0.0/8`) of the proxies in front. A line's `client` is then the last address in
    `X-Forwarded-For`, or else in `Forwarded`, that is none of these; without any, it is whoever made the connection."""
    fingerprints: bool = False
    """Whether each line also says, in keyed hashes, which prompts share how long a prefix, and which belong to one
    session: the input of `warmroute simulate --access-log`. Never text. A line grows by 0.8 KB for a prompt of
    200 KB, by 1.9 KB at most. Without a `fingerprint.secret` or a shared registry, lines of before and after a
    restart have nothing in common."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackConfig:
    """What the router learns from answers."""

    ask_usage: bool = True
    """Ask engines for the usage of streams whose client did not (`stream_options.include_usage`), and give the client
    the very bytes it would have had. Without it, only answers that tell their usage anyway say what was cached. An
    engine whose streams cannot be given back unchanged, or that refuses, is not asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningConfig:
    """Whether what is believed of replicas and models follows their answers. `true` or `false` stands for
    `{enabled: …}`."""

    shorthand: ClassVar[str] = "enabled"

    enabled: bool = True
    """Learn each replica's prefill speed, base latency and decode interference from first-byte times, and each model's
    bytes per token from reported usage. Off: `policy.prefill_tokens_per_s` and
    `policy.bytes_per_token` hold for all, for ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FingerprintConfig:
    """How prompts are recognised."""

    secret: str | None = field(default=None, repr=False)
    """At least 16 characters that keep fingerprints from being guessed. Absent: made once and kept in the registry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeasesConfig:
    """How routers and workers that share a Redis tell each other their load. Without one there is nobody to tell."""

    publish_interval_s: PositiveSeconds = 0.05
    """Shortest time between two notices of one router, but for changes by a whole prompt, which go out after 5 ms
    (more than ten routers: 0.5 ms each). Others see any change within twice this."""
    expire_s: PositiveSeconds = 1.0
    """The load of a router that is silent for this long no longer counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of one router. Checked by `load`; never changed afterwards."""

    listen: Address = Address("127.0.0.1:8000")
    """Address clients call."""
    admin: Address = Address("127.0.0.1:8001")
    """Address of health, metrics, replicas, explain, keys, usage and advice. Without `admin_auth` keep it private."""
    replicas: tuple[ReplicaConfig, ...] = ()
    """Replicas by their URLs: at least one, unless `discovery` names others."""
    discovery: tuple[str, ...] = ()
    """Where replicas are found, as URLs: `kubernetes://NAMESPACE/SERVICE?port=http`, `dns://HOST:PORT`,
    `dns+srv://_http._tcp.NAME`, `redis://…` (agents' heartbeats), or `redis` (the same in the registry's Redis).
    Several make one fleet, together with `replicas`; where two name one id, the first counts. See docs/discovery.md."""
    max_attempts: Annotated[int, Range(1, 100)] = 3
    """Most replicas one request is sent to. Only a request without a response byte so far is sent again, and, with
    `failover`, a stream that broke."""
    failover: bool = False
    """Whether a stream of `/v1/chat/completions` or `/v1/completions` whose replica fails in the middle goes on at
    another one, from the text that the client has. Not for requests with tools, `logprobs`, `n` above 1, structured
    output or reasoning. See docs/failures.md for what it cannot promise."""
    workers: Annotated[int, Range(1, 256)] = 1
    """Processes that serve the data port together, about one a core. More than one needs a Redis as registry. What is
    said elsewhere of one router (`limits`, `upstream.pool_size`) is said of each."""
    worker_memory_bytes: Bytes | None = None
    """Resident memory above which one of several workers is replaced by a new one and drained, whatever it takes that
    memory for. Absent: never; that a worker keeps growing is in the log (`worker_grows`) all the same."""
    sessions: tuple[str, ...] = (
        "prompt_cache_key",
        "header:X-Session-Id",
        "header:X-Claude-Code-Session-Id",
        "metadata.user_id.session_id",
        "header:session-id",
        "header:thread-id",
        "client_metadata.session_id",
        "client_metadata.thread_id",
        "header:x-session-affinity",
        "session_id",
        "vllm_xargs.session_id",
    )
    """Where a request may say which session it belongs to; the first place that says so counts: `header:NAME`, or a
    path into the JSON body. It chooses the request's place on the ring, and never makes cold warm."""
    data_metrics: bool = False
    """Whether `GET /metrics` is also answered on the data port, for tools that look there. Of several workers, those of
    one."""
    drain_grace_s: Seconds = 30.0
    """Time that requests under way have to finish after SIGTERM."""
    log_level: LogLevel = "info"
    """Least severe event logged on standard error: `debug`, `info`, `warning` or `error`."""
    registry: RegistryConfig = field(default_factory=RegistryConfig)
    leases: LeasesConfig = field(default_factory=LeasesConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    hold: HoldConfig = field(default_factory=HoldConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    upstream: UpstreamConfig = field(default_factory=UpstreamConfig)
    retries: RetriesConfig = field(default_factory=RetriesConfig)
    health: HealthConfig = field(default_factory=HealthConfig)
    tls: TlsConfig = field(default_factory=TlsConfig)
    headers: HeadersConfig = field(default_factory=HeadersConfig)
    cors: CorsConfig = field(default_factory=CorsConfig)
    feedback: FeedbackConfig = field(default_factory=FeedbackConfig)
    learning: LearningConfig = field(default_factory=LearningConfig)
    access_log: AccessLogConfig = field(default_factory=AccessLogConfig)
    fingerprint: FingerprintConfig = field(default_factory=FingerprintConfig)
    tenants: tuple[TenantConfig, ...] = ()
    """Tenants by name, with what each may use. Tenants that are not named may use everything."""
    keys: KeysConfig = field(default_factory=KeysConfig)
    oidc: OidcConfig = field(default_factory=OidcConfig)
    admin_auth: AdminAuthConfig = field(default_factory=AdminAuthConfig)
    usage: UsageConfig = field(default_factory=UsageConfig)
    isolation: IsolationConfig = field(default_factory=IsolationConfig)
    caching: CachingConfig = field(default_factory=CachingConfig)
    queue: QueueConfig = field(default_factory=QueueConfig)
    cache_tiers: tuple[CacheTierConfig, ...] = ()
    """What replicas keep below their GPU's cache, the fastest tier first; none: what the GPU evicts is lost."""
    cached_contents: CachedContentsConfig = field(default_factory=CachedContentsConfig)
    keep_warm: KeepWarmConfig = field(default_factory=KeepWarmConfig)
    advice: AdviceConfig = field(default_factory=AdviceConfig)
    rewrites: tuple[RewriteConfig, ...] = ()
    """What is changed in prompts of tenants that ask for it, so that they find more cached. Empty: nothing."""
    response_cache: ResponseCacheConfig = field(default_factory=ResponseCacheConfig)
    prompt_schemas: PromptSchemasConfig = field(default_factory=PromptSchemasConfig)
    blend: BlendConfig = field(default_factory=BlendConfig)


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT`; brackets of an IPv6 host are taken off.

    Raises:
        ValueError: It has another form, or the port is beyond 65535.
    """
    host, colon, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError("an IPv6 host needs brackets: [HOST]:PORT")
    if not colon or not host or not (port.isascii() and port.isdigit()) or int(port) > 65_535:
        raise ValueError("expected HOST:PORT")
    return host, int(port)
