"""What settings of tenants, keys and the admin port must satisfy beyond their types. Nothing is repaired (`rules`)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from urllib.parse import urlsplit

from warmroute.config.discovery_urls import REDIS_SCHEMES
from warmroute.config.fault import Fault
from warmroute.config.schema import Config

TENANT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}")
_TOKEN = re.compile(r"[\x21-\x7e]{16,}")
_ALGORITHM = re.compile(r"(RS|ES|PS)(256|384|512)|EdDSA|ES256K")


def tenant_faults(config: Config) -> Iterator[Fault]:
    """What is wrong with tenants, keys, tokens and prices."""
    seen: set[str] = set()
    for index, tenant in enumerate(config.tenants):
        key = f"tenants[{index}]"
        if tenant.id != "*" and not TENANT_ID.fullmatch(tenant.id):
            yield Fault(key, f"id {tenant.id!r} must be *, or 1 to 128 letters, digits, or . _ : @ -")
        if tenant.id in seen:
            yield Fault(key, f"{tenant.id!r} is named twice")
        seen.add(tenant.id)
        if tenant.group and not TENANT_ID.fullmatch(tenant.group):
            yield Fault(key, f"group {tenant.group!r} must be 1 to 128 letters, digits, or . _ : @ -")
        yield from _twice(key, [entry.model for entry in tenant.model_limits], "model_limits")
        allowances = [tenant.limits, *[entry.limits for entry in tenant.model_limits]]
        if any(one.cost_per_day or one.cost_per_month for one in allowances) and not _priced(config):
            yield Fault(
                key,
                "a limit on money needs usage: true and usage.prices: they say what a request costs",
                "usage.prices",
            )
    yield from _prices(config)
    yield from _rewrites(config)
    yield from _keys(config)
    yield from _oidc(config)
    asked = config.keys.url is not None or bool(config.oidc.issuer)
    if config.tenants and not asked:
        yield Fault("tenants", "are of no use without keys.url or oidc.issuer: nobody is known", "keys.url")
    yield from _responses(config, asked)
    if config.isolation.enabled and not asked:
        yield Fault("isolation.enabled", "needs keys.url or oidc.issuer: nobody is known", "keys.url")


def _responses(config: Config, asked: bool) -> Iterator[Fault]:
    """What is wrong with the rules of recorded responses."""
    seen: set[tuple[str, str]] = set()
    for index, rule in enumerate(config.response_cache.rules):
        key = f"response_cache.rules[{index}]"
        if not rule.model:
            yield Fault(key, "the model's name is empty")
        if rule.tenant != "*" and not TENANT_ID.fullmatch(rule.tenant):
            yield Fault(key, f"tenant {rule.tenant!r} must be *, or 1 to 128 letters, digits, or . _ : @ -")
        elif rule.tenant != "*" and not asked:
            yield Fault(key, f"names the tenant {rule.tenant!r}, but nobody is known", "keys.url")
        wider = [(rule.tenant, rule.model), ("*", rule.model), (rule.tenant, "*"), ("*", "*")]
        if any(one in seen for one in wider):
            yield Fault(key, "is never reached: a rule before it is for all that this one is for")
        seen.add((rule.tenant, rule.model))


def admin_faults(config: Config) -> Iterator[Fault]:
    """What is wrong with the admin port's tokens."""
    admin = config.admin_auth
    for name in ("operator_tokens", "read_tokens"):
        for index, token in enumerate(getattr(admin, name)):
            if not _TOKEN.fullmatch(token):
                yield Fault(
                    f"admin_auth.{name}[{index}]", "must be at least 16 printable ASCII characters, no spaces"
                )
    if admin.read_tokens and not admin.operator_tokens:
        yield Fault(
            "admin_auth.read_tokens",
            "need an operator token beside them: without one nobody could change anything",
            "admin_auth.operator_tokens",
        )
    if set(admin.read_tokens) & set(admin.operator_tokens):
        yield Fault("admin_auth.read_tokens", "has a token that is an operator's too")
    if not admin.open_metrics and not admin.operator_tokens:
        yield Fault(
            "admin_auth.open_metrics", "is false, but there is no token", "admin_auth.operator_tokens"
        )


def _prices(config: Config) -> Iterator[Fault]:
    seen: set[tuple[str, str]] = set()
    for index, price in enumerate(config.usage.prices):
        key = f"usage.prices[{index}]"
        of = f"{price.model!r}" + ("" if price.interface == "any" else f" by {price.interface}")
        if not price.model:
            yield Fault(key, "prices: the model's name is empty")
        if (price.model, price.interface) in seen:
            yield Fault(key, f"prices: {of} is named twice")
        seen.add((price.model, price.interface))
        if price.structure != "own" and price.cached:
            yield Fault(key, f"has cached, which structure: {price.structure} makes of prompt: leave one out")


def _rewrites(config: Config) -> Iterator[Fault]:
    for index, rewrite in enumerate(config.rewrites):
        key = f"rewrites[{index}]"
        if not rewrite.tenants:
            yield Fault(key, "names no tenants: name some, or * for everybody")
        for tenant in rewrite.tenants:
            if tenant != "*" and not TENANT_ID.fullmatch(tenant):
                yield Fault(
                    f"{key}.tenants", f"{tenant!r} must be *, or 1 to 128 letters, digits, or . _ : @ -"
                )
        if bool(rewrite.passages_begin) != bool(rewrite.passages_end):
            yield Fault(key, "passages_begin and passages_end need each other")
        if not (rewrite.sort_tools or rewrite.sort_keys or rewrite.passages_begin):
            yield Fault(
                key, "rewrites nothing: set sort_tools, sort_keys, or passages_begin and passages_end"
            )


def _keys(config: Config) -> Iterator[Fault]:
    url = config.keys.url
    if url == "redis" and config.registry.url == "memory":
        yield Fault(
            "keys.url",
            "is redis, the registry's own, but the registry is memory: name a Redis",
            "registry.url",
        )
    elif url is not None and "://" in url and url.partition("://")[0] not in REDIS_SCHEMES:
        yield Fault("keys.url", "must be the path of a file, redis, or begin with redis:// or its like")
    elif url == "":
        yield Fault("keys.url", "names no file")
    upstream = config.keys.upstream_key
    if upstream is not None and not re.fullmatch(r"[\x21-\x7e]+", upstream):
        yield Fault("keys.upstream_key", "must be printable ASCII without spaces")


def _oidc(config: Config) -> Iterator[Fault]:
    oidc = config.oidc
    for name in ("issuer", "jwks_url"):
        url = getattr(oidc, name)
        if url:
            try:
                parts = urlsplit(url)
                host, usable = parts.hostname, parts.scheme in ("http", "https") and not parts.fragment
            except ValueError:
                host, usable = None, False
            if not host or not usable:
                yield Fault(f"oidc.{name}", "must be an https:// URL")
            elif parts.scheme == "http" and host not in ("127.0.0.1", "::1", "localhost"):
                yield Fault(f"oidc.{name}", "must be https: who answers in between could make any token good")
    if oidc.issuer and not oidc.audience:
        yield Fault(
            "oidc.audience", "must name this service: tokens for others are not for it", "oidc.issuer"
        )
    for index, algorithm in enumerate(oidc.algorithms):
        if not _ALGORITHM.fullmatch(algorithm):
            yield Fault(f"oidc.algorithms[{index}]", f"{algorithm!r} is no signature with a public key")
    if oidc.issuer and not oidc.tenant_claim:
        yield Fault("oidc.tenant_claim", "must name the claim that says whose a token is", "oidc.issuer")


def _priced(config: Config) -> bool:
    return config.usage.enabled and any(p.prompt or p.cached or p.output for p in config.usage.prices)


def _twice(key: str, names: Iterable[str], what: str) -> Iterator[Fault]:
    seen: set[str] = set()
    for name in names:
        if not name:
            yield Fault(key, f"{what}: the model's name is empty")
        if name in seen:
            yield Fault(key, f"{what}: {name!r} is named twice")
        seen.add(name)
