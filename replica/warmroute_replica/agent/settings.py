"""Settings are what an agent is told by flags or by environment variables of the same names, and what follows from
them.

This module decides the defaults and refuses settings that cannot work. It opens no file and no connection.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from warmroute_replica.agent.redis_url import RedisServers, local_address, parse_redis_url

PREFIX = "WARMROUTE_AGENT_"
"""Prefix of the environment variables: the flag `--drain-grace` is `WARMROUTE_AGENT_DRAIN_GRACE`."""

MAX_LABELS = 64
_ID = re.compile(r"[^\s\x00-\x1f\x7f]{1,256}")


class SettingsError(Exception):
    """A setting cannot work; the message says which flag is wrong, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one agent."""

    engine: str
    """Base URL of the engine as the agent reaches it."""
    redis: RedisServers
    replica_id: str
    advertise: str
    """Base URL of the engine as routers reach it."""
    listen: tuple[str, int]
    """Host and port on which the agent itself listens."""
    namespace: str
    zone: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    drain_grace_s: float
    """Longest time that a drain waits for requests under way, in seconds."""
    check_request: bool = False
    """Whether an engine has to answer a request of one token before the replica counts as ready."""
    engine_api_key: str | None = None


_FLAGS: tuple[tuple[str, str, str], ...] = (
    ("engine", "URL", "the engine, as the agent reaches it (default http://127.0.0.1:8000)"),
    (
        "redis",
        "URL",
        "the routers' Redis: redis://, rediss://, unix://, redis+sentinel://, redis+cluster:// (required)",
    ),
    ("id", "NAME", "the replica's name, the same after a restart (default: HOST:PORT of --advertise)"),
    (
        "advertise",
        "URL",
        "the engine, as routers reach it (default: this machine's address towards Redis, the engine's port)",
    ),
    ("listen", "HOST:PORT", "the agent's own port: health, metrics, drain (default 0.0.0.0:8011)"),
    ("namespace", "TEXT", "prefix of the keys in Redis, as the routers' registry.namespace (default w)"),
    ("zone", "NAME", "where the replica is"),
    ("drain-grace", "S", "longest wait for requests under way when it drains, seconds (default 60)"),
    ("engine-api-key", "KEY", "the engine's --api-key, if it has one (default: VLLM_API_KEY)"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags that `agent` and `serve` have in common."""
    for name, metavar, what in _FLAGS:
        parser.add_argument(f"--{name}", metavar=metavar, help=what)
    parser.add_argument(
        "--label",
        action="append",
        metavar="K=V",
        help="repeatable: what routers are told about it; in the environment separated by commas",
    )
    parser.add_argument(
        "--check-request",
        action="store_true",
        default=None,
        help="have the engine answer a request of one token before it counts as ready",
    )


def read(
    args: argparse.Namespace,
    environment: Mapping[str, str] = os.environ,
    *,
    engine: str | None = "http://127.0.0.1:8000",
    engine_api_key: str | None = None,
) -> Settings:
    """Read the settings from parsed flags and from the environment; flags win.

    Args:
        engine: The engine's URL where neither names one; None where one of them must.
        engine_api_key: The engine's key where neither names one.

    Raises:
        SettingsError: A setting is missing or cannot be understood.
    """

    def told(name: str) -> str | None:
        flag = getattr(args, name.replace("-", "_"))
        value = environment.get(_variable(name)) if flag is None else flag
        return value or None

    redis_url = told("redis")
    if redis_url is None:
        raise SettingsError(
            "no Redis: name the routers' one with --redis redis://HOST:PORT or " + _variable("redis")
        )
    try:
        servers = parse_redis_url(redis_url)
    except ValueError as error:
        raise SettingsError(f"--redis: {error}") from error
    engine = told("engine") or engine
    if engine is None:
        raise SettingsError(
            "cannot tell where the engine will listen: name it with --engine http://127.0.0.1:PORT"
        )
    engine = _base_url("engine", engine)
    advertise = told("advertise") or _own_url(engine, servers)
    advertise = _base_url("advertise", advertise)
    replica_id = told("id") or urlsplit(advertise).netloc
    if _ID.fullmatch(replica_id) is None:
        raise SettingsError(f"--id: {replica_id!r} has spaces or is longer than 256 characters")
    return Settings(
        engine=engine,
        redis=servers,
        replica_id=replica_id,
        advertise=advertise,
        listen=_address("listen", told("listen") or "0.0.0.0:8011"),
        namespace=told("namespace") or "w",
        zone=told("zone"),
        labels=_labels(args.label if args.label is not None else _listed(environment, "label")),
        drain_grace_s=_seconds("drain-grace", told("drain-grace") or "60"),
        check_request=_truth(args.check_request, environment.get(_variable("check-request"), "")),
        engine_api_key=told("engine-api-key") or engine_api_key or environment.get("VLLM_API_KEY") or None,
    )


def _variable(name: str) -> str:
    return PREFIX + name.upper().replace("-", "_")


def _listed(environment: Mapping[str, str], name: str) -> list[str]:
    return [part.strip() for part in environment.get(_variable(name), "").split(",") if part.strip()]


def _truth(flag: bool | None, text: str) -> bool:
    if flag is not None:
        return flag
    if text.lower() not in ("", "0", "false", "no", "1", "true", "yes"):
        raise SettingsError(f"{_variable('check-request')}: {text!r} is neither true nor false")
    return text.lower() in ("1", "true", "yes")


def _base_url(name: str, url: str) -> str:
    try:
        parts = urlsplit(url.rstrip("/"))
        usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port)
    except ValueError:
        usable = None
    if not usable or parts.path or parts.query or parts.fragment or parts.username or re.search(r"\s", url):
        raise SettingsError(f"--{name}: must be http://HOST:PORT or https://HOST:PORT, not {url!r}")
    return f"{parts.scheme}://{parts.netloc.lower()}"


def _own_url(engine: str, servers: RedisServers) -> str:
    """Return the engine's URL, with this machine's address in place of a host name that means "this machine"."""
    parts = urlsplit(engine)
    if parts.hostname not in ("127.0.0.1", "localhost", "::1", "0.0.0.0"):
        return engine
    host = local_address(servers)
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}:{parts.port or (443 if parts.scheme == 'https' else 80)}"


def _address(name: str, text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise SettingsError(f"--{name}: must be HOST:PORT, not {text!r}")
    return host.strip("[]"), int(port)


def _seconds(name: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 86_400:
        raise SettingsError(f"--{name}: must be seconds from 0 to 86400, not {text!r}")
    return seconds


def _labels(pairs: Sequence[str]) -> dict[str, str]:
    labels: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise SettingsError(f"--label: must be NAME=VALUE, not {pair!r}")
        labels[name.strip()] = value
    if len(labels) > MAX_LABELS:
        raise SettingsError(f"--label: {len(labels)} of them, at most {MAX_LABELS} are passed on")
    return labels
