"""A reload takes over what of new settings can take effect in a running router; the rest waits for a restart.

This module decides by key alone. A key that is not named here waits: nothing is half in effect.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

from warmroute.config.schema import Config
from warmroute.config.schema_walk import leaves

RELOADABLE = frozenset(
    {
        "replicas",
        "discovery",
        "tenants",
        "admin_auth.operator_tokens",
        "admin_auth.read_tokens",
        "admin_auth.open_metrics",
        "usage.prices",
        "max_attempts",
        "failover",
        "drain_grace_s",
        "log_level",
        "worker_memory_bytes",
        "limits.header_bytes",
        "limits.body_bytes",
        "limits.buffered_body_bytes",
        "limits.header_timeout_s",
        "limits.body_timeout_s",
        "limits.idle_timeout_s",
        "limits.connections",
        "upstream.connect_timeout_s",
        "upstream.first_byte_timeout_s",
        "upstream.stream_idle_timeout_s",
        "upstream.late_factor",
        "upstream.late_min_s",
        "upstream.late_max_s",
        "retries.budget_ratio",
        "retries.budget_min",
        "retries.backoff_s",
        "retries.hedge",
        "retries.hedge_factor",
        "retries.hedge_min_s",
        "upstream.keepalive_s",
        "upstream.pool_size",
        "health.probe_interval_s",
        "health.probe_timeout_s",
        "health.scrape_interval_s",
        "health.failures",
        "health.backoff_min_s",
        "health.backoff_max_s",
        "health.deadly_request_s",
        "health.api_key",
        "health.unlisted_models",
        "tls.cert_file",
        "tls.key_file",
        "tls.upstream_ca_file",
        "tls.upstream_verify",
        "headers.explain",
        "headers.early",
        "cors.allowed_origins",
        "cors.allowed_methods",
        "cors.allowed_headers",
        "cors.exposed_headers",
        "cors.credentials",
        "cors.max_age_s",
        "feedback.ask_usage",
        "access_log.enabled",
        "access_log.path",
        "access_log.fingerprints",
        "access_log.trusted_proxies",
    }
)
"""Certificates only where the router listens with TLS already, and still will: a socket is one or the other."""

_CERTIFICATES = frozenset({"tls.cert_file", "tls.key_file"})


class Reload(NamedTuple):
    """What comes of new settings."""

    config: Config
    """To run with from now on: the old settings but for what takes effect."""
    changed: tuple[str, ...]
    """Keys that take effect."""
    waiting: tuple[str, ...]
    """Keys that differ and wait for a restart."""


def reloaded(old: Config, new: Config) -> Reload:
    """Take over what can be, key by key."""
    before, after = _values(old), _values(new)
    fixed: frozenset[str] = frozenset()
    if (old.tls.cert_file is None) != (new.tls.cert_file is None):
        fixed = _CERTIFICATES
    changed: dict[str, Any] = {}
    waiting = []
    for key, value in after.items():
        if value != before[key]:
            if key in RELOADABLE and key not in fixed:
                changed[key] = value
            else:
                waiting.append(key)
    return Reload(_with(old, changed), tuple(changed), tuple(waiting))


def _values(config: Config) -> dict[str, Any]:
    return {key: _value(config, key) for key, _, _ in leaves(Config)}


def _value(config: Any, key: str) -> Any:
    for name in key.split("."):
        config = getattr(config, name)
    return config


def _with(config: Config, values: dict[str, Any]) -> Config:
    top: dict[str, Any] = {}
    sections: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        section, dot, name = key.partition(".")
        if dot:
            sections.setdefault(section, {})[name] = value
        else:
            top[section] = value
    for section, changes in sections.items():
        top[section] = dataclasses.replace(getattr(config, section), **changes)
    return dataclasses.replace(config, **top)
