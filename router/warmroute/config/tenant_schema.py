"""The settings of who may come in, who waits, and who pays: the sections of `schema` that are about tenants."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Final, Literal

from warmroute.config.bounds import Bytes, Count, PositiveCount, PositiveSeconds, Range, Seconds
from warmroute.core.holding.queue_parameters import QueueParameters

PriorityName = Literal["interactive", "default", "batch"]
PriceStructure = Literal["own", "openai", "openai-automatic", "anthropic", "google", "deepseek"]
PriceInterface = Literal["any", "openai", "anthropic", "google", "deepseek", "other"]
_QUEUE: Final = QueueParameters()


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueConfig:
    """The fleet's queue: requests for which no replica is free wait in the router by class and by tenant, and are
    refused where they would wait for too long. `true` or `false` stands for `{enabled: …}`. See docs/overload.md."""

    shorthand: ClassVar[str] = "enabled"

    enabled: bool | None = None
    """Whether there is one, for every route and policy. Without it requests wait by `hold` alone, and are never refused
    for it. Absent: where there are `tenants`."""
    max_requests: PositiveCount = 1024
    """Most requests that wait; beyond that the lowest class gives way, and then whoever has most waiting."""
    max_bytes: Bytes = _QUEUE.max_bytes
    """Most bytes of bodies that wait."""
    timeout_s: PositiveSeconds = 30.0
    """Longest time that a request waits: then it is refused (504). One that would wait for longer is refused at once
    (503). `X-Request-Timeout` may ask for less."""
    batch_timeout_s: PositiveSeconds = 300.0
    """The same of class `batch`."""
    aged_s: Seconds = _QUEUE.aged_s
    """A class of which one has waited for this long is served a tenth of what those above it are, at the least."""
    max_under_way: Count = _QUEUE.max_under_way
    """Requests under way on one replica with which it counts as busy: as many as its engine runs at once (vLLM's
    `--max-num-seqs`). 0: any number; then only prompts that are being computed make it busy."""
    spare_ratio: Annotated[float, Range(0.0, 1.0)] = 0.0
    """Share of the replicas that requests of class `batch` which wait leave free, so that whoever is more urgent finds
    one. It costs batch as much: prompts that are being computed are not interrupted."""
    cached_token: Annotated[float, Range(0.0, 10.0)] | None = None
    """What a cached token of a prompt counts of a computed one in a tenant's share. Absent: its share of the prompt's
    computing, by `policy.attention_context_tokens`."""
    output_token: Annotated[float, Range(0.0, 100.0)] = 1.0
    """What a token of an answer counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeysConfig:
    """API keys that clients must have. Where they are kept stands for `{url: …}`. See docs/tenants.md."""

    shorthand: ClassVar[str] = "url"

    url: str | None = None
    """Where the keys' hashes are kept: the path of a file, which is read again when it changes; `redis`, the registry's
    own; or `redis://…` and its like. Absent: keys of this kind are not asked for."""
    poll_interval_s: Annotated[float, Range(0.05, 0.5)] = 0.25
    """Time between two looks for changed keys: a key that was revoked is refused at most this much later, and the time
    that one look takes."""
    upstream_key: str | None = field(default=None, repr=False)
    """Key that replicas are sent in place of the client's, which never reaches them, as `Authorization: Bearer`.
    Absent: `health.api_key`; and without that none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OidcConfig:
    """Tokens (JWT) of an identity provider, taken beside API keys. An issuer's URL stands for `{issuer: URL}`. Needs
    the extra `warmroute[oidc]`."""

    shorthand: ClassVar[str] = "issuer"

    issuer: str = ""
    """URL of the provider, exactly as its tokens name it in `iss`. Empty: no tokens are taken."""
    audience: tuple[str, ...] = ()
    """Names of this service: a token must be for one of them (`aud`)."""
    jwks_url: str = ""
    """Where the provider's keys are. Empty: as `ISSUER/.well-known/openid-configuration` says."""
    algorithms: tuple[str, ...] = ("RS256", "ES256", "EdDSA")
    """Signatures that are accepted; those with a shared secret and `none` never are."""
    tenant_claim: str = "tenant"
    """Claim that names the tenant; a path with dots for one inside another. A token without it is refused."""
    priority_claim: str = ""
    """Claim that names the priority class. Empty, or a token without it: the tenant's own."""
    leeway_s: Annotated[float, Range(0.0, 300.0)] = 30.0
    """How much clocks may differ: a token is taken this long after its end and before its beginning."""
    refresh_s: Annotated[float, Range(10.0, 86_400.0)] = 300.0
    """Time between two readings of the provider's keys. One that is not known is looked for at once, at most every ten
    seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminAuthConfig:
    """Tokens of the admin port, sent as `Authorization: Bearer`. Without any, everybody who reaches it may do all."""

    operator_tokens: tuple[str, ...] = field(default=(), repr=False)
    """Tokens that may do everything: make and revoke keys, and call engines' administrative endpoints."""
    read_tokens: tuple[str, ...] = field(default=(), repr=False)
    """Tokens that may only look: replicas, explain, usage, savings, advice, the list of keys, metrics."""
    open_metrics: bool = True
    """Whether `GET /metrics` needs no token, for scrapers that have none. `/health` and `/ready` never need one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AllowanceConfig:
    """What a tenant may use, over all routers that share a Redis. 0: as much as it likes. Limits on money need
    `usage.prices`."""

    requests_per_minute: Count = 0
    """Most requests in any 60 s."""
    requests_per_day: Count = 0
    """Most requests in any 24 hours."""
    tokens_per_minute: Count = 0
    """Most tokens, of prompts and answers, in any 60 s. A prompt counts by an estimate until its answer tells."""
    tokens_per_day: Count = 0
    """Most tokens in any 24 hours."""
    cost_per_day: Annotated[float, Range(0.0, 1e6)] = 0.0
    """Most money in any 24 hours, by `usage.prices` and in their currency. A request counts by the price of its prompt,
    none of it cached, until its answer tells."""
    cost_per_month: Annotated[float, Range(0.0, 1e6)] = 0.0
    """Most money in any 30 days."""
    concurrent_requests: Count = 0
    """Most requests under way at once."""
    prompt_tokens: Count = 0
    """Longest prompt of one request, by the router's estimate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelAllowanceConfig:
    """What a tenant may use of one model, besides what it may use in all."""

    model: str
    """Name of the model."""
    limits: AllowanceConfig = field(default_factory=AllowanceConfig)
    """As of the tenant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantConfig:
    """One tenant. A plain name stands for `{id: NAME}`; the tenant `*` is whoever is named by a key or token and not
    here."""

    shorthand: ClassVar[str] = "id"

    id: str
    """Name, as keys and tokens have it: letters, digits, and `. _ : @ -`."""
    group: str = ""
    """Tenants of one group share cached prefixes where `isolation` keeps others apart. Empty: a group of its own."""
    priority: PriorityName = "default"
    """Class of its requests: `interactive`, `default` or `batch`."""
    weight: Annotated[float, Range(0.001, 1e6)] = 1.0
    """Its share beside others of its class."""
    models: tuple[str, ...] = ()
    """Models that it may use. Empty: all."""
    limits: AllowanceConfig = field(default_factory=AllowanceConfig)
    """What it may use of all models together."""
    model_limits: tuple[ModelAllowanceConfig, ...] = ()
    """What it may use of single models besides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceConfig:
    """What a million tokens of one model cost, in a currency of your choice."""

    model: str
    """Name of the model; `*`: of all that are not named."""
    prompt: Annotated[float, Range(0.0, 1e6)] = 0.0
    """Prompt tokens that had to be computed."""
    cached: Annotated[float, Range(0.0, 1e6)] = 0.0
    """Prompt tokens that the engine had in its cache; with another `structure` than `own` it follows from `prompt`."""
    output: Annotated[float, Range(0.0, 1e6)] = 0.0
    """Tokens of answers."""
    structure: PriceStructure = "own"
    """How a provider prices cached and written prompt tokens, beside `prompt`: `openai` (read 0.1, written 1.25),
    `openai-automatic` (read 0.5), `anthropic` (read 0.1, written 1.25, for an hour 2), `google` (read 0.1), `deepseek`
    (read 0.1). `own`: `cached` is the price of what was read, and writing costs nothing more."""
    interface: PriceInterface = "any"
    """Requests that speak this interface; `any`: all for which there is no price of their own."""
    storage: Annotated[float, Range(0.0, 1e6)] = 0.0
    """A million tokens that a cached content keeps for an hour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageConfig:
    """What each tenant used. `true` or `false` stands for `{enabled: …}`. Kept in the registry's Redis, for all routers
    together; without one in this process, until it ends."""

    shorthand: ClassVar[str] = "enabled"

    enabled: bool = False
    """Whether it is counted."""
    bucket_s: Annotated[int, Range(60, 86_400)] = 3600
    """Length of the times for which there are sums. A row of tenant, key, model and interface takes about 200 bytes in
    each."""
    keep_days: Annotated[int, Range(1, 3650)] = 35
    """How long they are kept."""
    prices: tuple[PriceConfig, ...] = ()
    """Prices by model. A model without one costs nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IsolationConfig:
    """Whether tenants share engines' prefix caches. `true` or `false` stands for `{enabled: …}`."""

    shorthand: ClassVar[str] = "enabled"

    enabled: bool = False
    """Give each group of tenants a `cache_salt` of its own, derived from the deployment's secret: what one group has
    asked can then not be told by another from an answer's speed. Needs `keys.url` or `oidc.issuer`."""
    records: Count = 250_000
    """Most records of the registry (44 for a prompt of 200 KB) that one group of tenants may have made at one router
    while there is another, and a quarter of all that the router keeps: so nobody's prompts push out what is known of
    another's. Beyond that its own oldest go, from Redis too. 0: any number."""
