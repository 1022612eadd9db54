"""Second part of the composition root: builds what knows tenants, by the settings, for a worker or a command.

Names the adapters of keys, limits, tokens and accounts; decides no behaviour. Where nothing of it is asked for it
builds nothing, and the request path does without.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from random import SystemRandom

from warmroute.adapters.resp.link import RedisLink
from warmroute.adapters.tenants.key_file import KeyFile
from warmroute.adapters.tenants.key_redis import RedisKeys
from warmroute.adapters.tenants.limits_memory import MemoryLimiter
from warmroute.adapters.tenants.limits_redis import RedisLimiter
from warmroute.adapters.tenants.usage_memory import MemoryUsage
from warmroute.adapters.tenants.usage_redis import RedisUsage
from warmroute.config.errors import ConfigError
from warmroute.config.schema import AllowanceConfig, Config
from warmroute.core.fleet.fleet import Fleet
from warmroute.dataplane.admission import Admission
from warmroute.ports import KeyStore, Limiter, TokenVerifier, UsageStore
from warmroute.service.accounting import Accounting
from warmroute.tasks import Tasks
from warmroute.telemetry.logs import fields
from warmroute.tenants.keys import KeyRecord
from warmroute.tenants.prices import STRUCTURES, Price, Prices
from warmroute.tenants.salts import Salts
from warmroute.tenants.tenant import Allowance, Priority, Tenant, Tenants
from warmroute.tenants.usage import Ledger

log = logging.getLogger(__name__)


class Links:
    """One connection to each Redis, whoever needs it."""

    def __init__(self) -> None:
        self._by_url: dict[str, RedisLink] = {}

    def to(self, url: str, key: str) -> RedisLink:
        """The connection to this Redis, which the setting `key` names.

        Raises:
            ConfigError: The URL is none, or names files that cannot be read.
        """
        link = self._by_url.get(url)
        if link is None:
            try:
                link = self._by_url[url] = RedisLink(url)
            except (ValueError, OSError) as error:
                raise ConfigError("", key, str(error)) from error
        return link


def key_store(config: Config, links: Links | None = None) -> KeyStore | None:
    """Where keys are kept; None where none are asked for.

    Raises:
        ConfigError: The place cannot be used.
    """
    url = config.keys.url
    if url is None:
        return None
    if url == "redis":
        url = config.registry.url
    if "://" not in url:
        return KeyFile(url, config.keys.poll_interval_s)
    link = (links or Links()).to(url, "keys.url")
    return RedisKeys(link, config.registry.namespace, config.keys.poll_interval_s)


class Tenancy:
    """What one worker has of it."""

    def __init__(
        self,
        config: Config,
        *,
        fleet: Fleet,
        tasks: Tasks,
        clock: Callable[[], float],
        routers: Callable[[], int],
    ) -> None:
        """`routers`: how many share the limits, this one included."""
        self._config = config
        links = Links()
        router = f"{SystemRandom().getrandbits(64):016x}"
        self.keys = key_store(config, links)
        self._tokens = _tokens(config)
        self._limiter: Limiter | None = None
        self.accounting: Accounting | None = None
        self.admission: Admission | None = None
        ledger = None
        if config.usage.enabled:
            ledger = Ledger(_prices(config))
            store = _usage_store(config, links, router)
            self.accounting = Accounting(ledger, store, tasks, bucket_s=config.usage.bucket_s, clock=clock)
        asked = self.keys is not None or self._tokens is not None
        if not asked and ledger is None:
            return
        self._limiter = _limiter(config, links, router, routers, clock)
        self.admission = Admission(
            keys=self.keys is not None,
            tokens=self._tokens,
            limiter=self._limiter,
            ledger=ledger,
            fleet=fleet,
            upstream=_upstream(config) if asked else None,
            clock=clock,
            open_metrics=config.admin_auth.open_metrics,
        )
        self.admission.use_tenants(tenants_of(config))
        if config.isolation.enabled:
            # Until the deployment's is known: apart from the first request on.
            self.admission.salts = Salts(SystemRandom().randbytes(16))

    async def start(self) -> None:
        """Read the keys, and connect.

        Raises:
            KeyStoreError: What is there is no record of keys.
        """
        admission = self.admission
        if admission is None:
            return
        if self.keys is not None:
            await self.keys.start(self._keys_read)
        if self._tokens is not None:
            await self._tokens.start(admission.forget)
        if self._limiter is not None:
            await self._limiter.start()
        if self.accounting is not None:
            await self.accounting.start()

    async def stop(self) -> None:
        """Tell what is not told yet, and disconnect."""
        if self.admission is None:
            return
        for part in (self.accounting, self._limiter, self._tokens, self.keys):
            if part is not None:
                await part.stop()

    def reload(self, config: Config) -> None:
        """Tenants and prices are these from now on."""
        self._config = config
        admission = self.admission
        if admission is not None:
            admission.use_tenants(tenants_of(config))
            admission.open_metrics = config.admin_auth.open_metrics
            if admission.asks:
                admission.upstream = _upstream(config)
            if admission.ledger is not None:
                admission.ledger.prices = _prices(config)

    def use_secret(self, secret: bytes) -> None:
        """The deployment's secret is known."""
        if self.admission is not None and self._config.isolation.enabled:
            self.admission.salts = Salts(secret)

    def refused(self) -> dict[str, int]:
        """Requests that were refused at the door, by code."""
        return {} if self.admission is None else self.admission.refused

    def totals(self) -> Mapping[str, Sequence[int]]:
        """What each tenant used since the start, for metrics."""
        return {} if self.accounting is None else self.accounting.totals

    def interfaces(
        self,
    ) -> tuple[Mapping[str, Sequence[int]], Mapping[tuple[str, str], Sequence[int]]] | None:
        """The same by interface, and times to the first token by interface and size; None where nothing is counted."""
        accounting = self.accounting
        return None if accounting is None else (accounting.by_interface, accounting.times)

    def keys_known(self) -> int | None:
        """How many keys are good; None where none are asked for."""
        return None if self.keys is None or self.admission is None else len(self.admission.keyring)

    def limiter_figures(self) -> dict[str, float]:
        """Figures of the limits for metrics; empty where nothing is limited."""
        limiter = self._limiter
        return {} if limiter is None else {**limiter.statistics(), "up": 1.0 if limiter.healthy else 0.0}

    def _keys_read(self, records: object) -> None:
        admission = self.admission
        assert admission is not None
        assert isinstance(records, list)
        before = len(admission.keyring)
        admission.keyring.use(
            [one for one in records if isinstance(one, KeyRecord)], tenants_of(self._config)
        )
        first, admission.keys_known = not admission.keys_known, True
        admission.forget()
        log.info("keys_read", extra=fields(keys=len(admission.keyring), before="none" if first else before))


def tenants_of(config: Config) -> Tenants:
    """The tenants of the settings."""
    return Tenants(
        {
            one.id: Tenant(
                one.id,
                one.group,
                Priority(one.priority),
                one.weight,
                frozenset(one.models),
                _allowance(one.limits),
                {entry.model: _allowance(entry.limits) for entry in one.model_limits},
            )
            for one in config.tenants
        }
    )


def _allowance(limits: AllowanceConfig) -> Allowance:
    return Allowance(
        requests_per_minute=limits.requests_per_minute,
        requests_per_day=limits.requests_per_day,
        tokens_per_minute=limits.tokens_per_minute,
        tokens_per_day=limits.tokens_per_day,
        cost_per_day=round(limits.cost_per_day * 1e9),
        cost_per_month=round(limits.cost_per_month * 1e9),
        concurrent_requests=limits.concurrent_requests,
        prompt_tokens=limits.prompt_tokens,
    )


def _prices(config: Config) -> Prices:
    def nano(price: float) -> int:
        return round(price * 1000)  # of a token, from what a million cost

    prices: Prices = {}
    for one in config.usage.prices:
        key = one.model, "" if one.interface == "any" else one.interface
        structure = STRUCTURES.get(one.structure)
        prices[key] = Price(
            nano(one.prompt),
            nano(one.cached if structure is None else one.prompt * structure.read),
            nano(one.output),
            write=-1 if structure is None else nano(one.prompt * structure.write),
            write_hour=-1 if structure is None else nano(one.prompt * structure.write_hour),
            storage=nano(one.storage),
        )
    return prices


def _upstream(config: Config) -> bytes:
    key = config.keys.upstream_key or config.health.api_key
    return b"" if key is None else b"Bearer " + key.encode()


def _tokens(config: Config) -> TokenVerifier | None:
    oidc = config.oidc
    if not oidc.issuer:
        return None
    # 60 ms of every start, for what few need.
    from warmroute.adapters.tenants.oidc import OidcTokens, OidcUnavailable

    try:
        return OidcTokens(
            issuer=oidc.issuer,
            audience=oidc.audience,
            jwks_url=oidc.jwks_url,
            algorithms=oidc.algorithms,
            tenant_claim=oidc.tenant_claim,
            priority_claim=oidc.priority_claim,
            leeway_s=oidc.leeway_s,
            refresh_s=oidc.refresh_s,
        )
    except OidcUnavailable as error:
        raise ConfigError("", "oidc.issuer", str(error)) from error


def _limiter(
    config: Config, links: Links, router: str, routers: Callable[[], int], clock: Callable[[], float]
) -> Limiter:
    registry = config.registry
    if registry.url == "memory":
        return MemoryLimiter(clock)
    return RedisLimiter(
        links.to(registry.url, "registry.url"),
        router=router,
        routers=routers,
        namespace=registry.namespace,
        clock=clock,
    )


def _usage_store(config: Config, links: Links, router: str) -> UsageStore:
    usage, registry = config.usage, config.registry
    keep_s = usage.keep_days * 86_400
    if registry.url == "memory":
        return MemoryUsage(keep_s)
    return RedisUsage(
        links.to(registry.url, "registry.url"),
        router=router,
        bucket_s=usage.bucket_s,
        keep_s=keep_s,
        namespace=registry.namespace,
    )
