"""Rules say what settings must satisfy beyond their type: rules of single values, then rules between them.

A rule says what is wrong; `load` adds where it was set. Nothing is repaired, except that a replica's URL loses a
trailing slash and its id defaults to `HOST:PORT`.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator
from ipaddress import ip_network
from urllib.parse import SplitResult, urlsplit

from warmroute.config.discovery_urls import REDIS_SCHEMES, RedisSource, parse_source
from warmroute.config.fault import Fault
from warmroute.config.schema import Config, ReplicaConfig, split_address
from warmroute.config.tenant_rules import admin_faults, tenant_faults

REGISTRY_SCHEMES = REDIS_SCHEMES
_ID = re.compile(r"[A-Za-z0-9._:\[\]-]{1,128}")
_NAMESPACE = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[^/\s,]+")
_TOKEN = re.compile(r"\*|[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_SESSION = re.compile(
    r"header:[!#$%&'*+.^_`|~0-9A-Za-z-]+"
    r"|(?:prompt_cache_key|session_id|metadata|client_metadata|vllm_xargs)(?:\.[^.\s]+)*"
)
_PASSWORD = re.compile(r"(://[^/?#@:]*):[^/?#@]*@")
_PASSWORD_AS_TYPED = re.compile(r"(://[^/?#@:]*):.*@", re.DOTALL)
"""The same where `/`, `?`, `#` or `@` of a password may have been left as they are."""
_PASSWORD_OPTION = re.compile(r"([?&](?:sentinel_)?password=)[^&#]*")
_WILDCARDS = frozenset({"0.0.0.0", "::", "*"})


def normalised(replica: ReplicaConfig) -> ReplicaConfig:
    """The replica with a canonical URL and an id; unchanged where the URL is not one."""
    parts = _split(replica.url)
    if parts is None:
        return replica
    default = 443 if parts.scheme == "https" else 80
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    authority = f"{host}:{parts.port or default}"
    return dataclasses.replace(
        replica, url=f"{parts.scheme}://{parts.netloc.lower()}", id=replica.id or authority
    )


def faults(config: Config) -> Iterator[Fault]:
    """Everything wrong with these settings, single values first."""
    yield from _replicas(config)
    yield from _discovery(config)
    yield from _values(config)
    yield from tenant_faults(config)
    yield from admin_faults(config)
    yield from _files(config)
    yield from _contradictions(config)


def _replicas(config: Config) -> Iterator[Fault]:
    if not config.replicas and not config.discovery:
        yield Fault(
            "replicas",
            "there is none: name at least one, for example --replica http://127.0.0.1:8100, or say where they are"
            " found, for example --discover kubernetes://default/vllm?port=http",
        )
    urls: set[str] = set()
    ids: set[str] = set()
    for index, replica in enumerate(config.replicas):
        key = f"replicas[{index}]"
        fault = replica_fault(replica)
        if fault:
            yield Fault(key, fault)
        elif replica.url in urls:
            yield Fault(key, f"{replica.url} is named twice")
        elif replica.id in ids:
            yield Fault(key, f"id {replica.id!r} is given to two replicas")
        urls.add(replica.url)
        ids.add(replica.id)


def replica_fault(replica: ReplicaConfig) -> str:
    """What is wrong with one replica by itself; empty if nothing is."""
    if _split(replica.url) is None:
        return f"must be http://HOST:PORT or https://HOST:PORT, without a path, not {redacted(replica.url)!r}"
    if not _ID.fullmatch(replica.id):
        return f"id {replica.id!r} must be 1 to 128 letters, digits, or . _ : [ ] -"
    return ""


def _discovery(config: Config) -> Iterator[Fault]:
    seen: set[str] = set()
    for index, url in enumerate(config.discovery):
        key = f"discovery[{index}]"
        try:
            source = parse_source(url)
        except ValueError as error:
            yield Fault(key, f"{redacted(url)!r}: {error}")
            continue
        if redacted(url) in seen:
            yield Fault(key, f"{redacted(url)} is named twice")
        seen.add(redacted(url))
        if isinstance(source, RedisSource) and not source.url and config.registry.url == "memory":
            yield Fault(
                key,
                "is redis, the registry's own, but the registry is memory: name a Redis as registry.url, or here as"
                " redis://HOST:PORT",
                "registry.url",
            )


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url.rstrip("/"))
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, an unclosed bracket
        return None
    extra = parts.path or parts.query or parts.fragment or parts.username is not None or "@" in parts.netloc
    plain = usable and not extra and url.isascii() and not re.search(r"[\s\\\x00-\x1f\x7f]", url)
    return parts if plain else None


def _values(config: Config) -> Iterator[Fault]:
    registry = config.registry
    if registry.url != "memory" and registry.url.partition("://")[0] not in REGISTRY_SCHEMES:
        schemes = ", ".join(f"{scheme}://" for scheme in sorted(REGISTRY_SCHEMES))
        yield Fault(
            "registry.url", f"must be memory or begin with one of {schemes}, not {redacted(registry.url)!r}"
        )
    elif registry.url.endswith("://"):
        yield Fault("registry.url", "names no server after ://")
    if not _NAMESPACE.fullmatch(registry.namespace):
        yield Fault("registry.namespace", "must be 1 to 64 letters, digits, or . _ : -")
    secret = config.fingerprint.secret
    if secret is not None and len(secret) < 16:
        yield Fault("fingerprint.secret", "must have at least 16 characters")
    key = config.health.api_key
    if key is not None and not re.fullmatch(r"[\x21-\x7e]+", key):
        yield Fault("health.api_key", "must be printable ASCII without spaces")
    for index, place in enumerate(config.sessions):
        if not _SESSION.fullmatch(place):
            yield Fault(
                f"sessions[{index}]",
                "must be header:NAME, or a path into the body that begins with prompt_cache_key, session_id, metadata,"
                f" client_metadata or vllm_xargs, not {place!r}",
            )
    yield from _cors(config)
    if not config.access_log.path:
        yield Fault("access_log.path", "must name a file, or be - for standard output")
    trusted = [
        ("access_log.trusted_proxies", entry) for entry in enumerate(config.access_log.trusted_proxies)
    ]
    trusted += [
        ("limits.proxy_protocol_from", entry) for entry in enumerate(config.limits.proxy_protocol_from)
    ]
    for name, (index, network) in trusted:
        try:
            ip_network(network, strict=False)
        except ValueError:
            yield Fault(
                f"{name}[{index}]",
                f"must be an address or a network, such as 10.0.0.0/8, not {network!r}",
            )


def _cors(config: Config) -> Iterator[Fault]:
    cors = config.cors
    for index, origin in enumerate(cors.allowed_origins):
        if not _ORIGIN.fullmatch(origin):
            yield Fault(
                f"cors.allowed_origins[{index}]",
                f"must be *, or an origin without a path such as https://chat.example.com, not {origin!r}",
            )
    for name in ("allowed_methods", "allowed_headers", "exposed_headers"):
        for index, token in enumerate(getattr(cors, name)):
            if not _TOKEN.fullmatch(token):
                yield Fault(f"cors.{name}[{index}]", f"must be a name or *, not {token!r}")
    if cors.credentials and not cors.allowed_origins:
        yield Fault("cors.credentials", "needs cors.allowed_origins: nobody is allowed anything")


def _files(config: Config) -> Iterator[Fault]:
    for name in ("cert_file", "key_file", "upstream_ca_file"):
        path = getattr(config.tls, name)
        if path is not None and not os.path.isfile(path):
            yield Fault(f"tls.{name}", f"there is no file {path!r}")
        elif path is not None and not os.access(path, os.R_OK):
            yield Fault(f"tls.{name}", f"{path!r} cannot be read by this user")


def _contradictions(config: Config) -> Iterator[Fault]:
    tls, limits, health = config.tls, config.limits, config.health
    if _same_socket(config.listen, config.admin):
        yield Fault("admin", f"{config.admin} is taken by listen ({config.listen})", "listen")
    if tls.cert_file is not None and tls.key_file is None:
        yield Fault("tls.cert_file", "needs tls.key_file", "tls.key_file")
    if tls.key_file is not None and tls.cert_file is None:
        yield Fault("tls.key_file", "needs tls.cert_file", "tls.cert_file")
    if tls.upstream_ca_file is not None and not tls.upstream_verify:
        yield Fault(
            "tls.upstream_verify", "is false: tls.upstream_ca_file is of no use", "tls.upstream_ca_file"
        )
    if limits.proxy_protocol_from and tls.cert_file is not None:
        yield Fault(
            "limits.proxy_protocol_from",
            "cannot be had with tls.cert_file: the header comes before the encryption",
            "tls.cert_file",
        )
    if limits.buffered_body_bytes < limits.body_bytes:
        yield Fault(
            "limits.buffered_body_bytes",
            "is less than limits.body_bytes: the largest body could never be taken",
            "limits.body_bytes",
        )
    if config.upstream.late_max_s < config.upstream.late_min_s:
        yield Fault("upstream.late_max_s", "is less than upstream.late_min_s", "upstream.late_min_s")
    if config.failover and config.max_attempts < 2:
        yield Fault(
            "failover", "needs max_attempts of 2 or more: no stream could go on elsewhere", "max_attempts"
        )
    if health.backoff_max_s < health.backoff_min_s:
        yield Fault("health.backoff_max_s", "is less than health.backoff_min_s", "health.backoff_min_s")
    if health.scrape_interval_s < health.probe_interval_s:
        yield Fault(
            "health.scrape_interval_s", "is less than health.probe_interval_s", "health.probe_interval_s"
        )
    if config.workers > 1 and config.registry.url == "memory":
        yield Fault(
            "workers",
            f"is {config.workers}, but registry memory is one process's own, and each worker would know only the "
            "prefixes that it served itself: name a Redis as registry.url (--registry redis://HOST:PORT), "
            "or run one worker",
            "registry.url",
        )
    if config.access_log.fingerprints and not config.access_log.enabled:
        yield Fault(
            "access_log.fingerprints",
            "needs access_log.enabled: there is no log to put them in",
            "access_log.enabled",
        )
    if config.leases.expire_s < 4 * config.leases.publish_interval_s:
        yield Fault(
            "leases.expire_s",
            "is less than 4 times leases.publish_interval_s: a router that speaks would be taken for dead",
            "leases.publish_interval_s",
        )
    if config.registry.idle_max_s < config.registry.idle_min_s:
        yield Fault("registry.idle_max_s", "is less than registry.idle_min_s", "registry.idle_min_s")
    if config.registry.idle_min_s <= config.registry.lookup_deadline_s:
        yield Fault(
            "registry.idle_min_s",
            "is not more than registry.lookup_deadline_s: every record would be gone when read",
            "registry.lookup_deadline_s",
        )


def _same_socket(one: str, other: str) -> bool:
    (one_host, one_port), (other_host, other_port) = split_address(one), split_address(other)
    if one_port != other_port or one_port == 0:
        return False
    return one_host == other_host or bool(_WILDCARDS & {one_host, other_host})


def redacted(url: str) -> str:
    """The URL without its passwords, before the host or among its options, and whatever characters they hold."""
    url = _PASSWORD_OPTION.sub(r"\1***", url)
    exact = url.partition("://")[0] in ("kubernetes", "dns", "dns+srv")
    return (_PASSWORD if exact else _PASSWORD_AS_TYPED).sub(r"\1:***@", url)
