"""The flags that set configuration, shared by the commands that load one. Decides nothing about values."""

from __future__ import annotations

import argparse
from typing import TypeAlias

from warmroute.config.load import load
from warmroute.config.schema import Config
from warmroute.config.sources import Setting

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001
"""Where a command declares its parser; argparse has no public name for it."""

_FLAGS = {
    "listen": "listen",
    "admin": "admin",
    "replica": "replicas",
    "discover": "discovery",
    "registry": "registry.url",
    "policy": "policy.name",
    "workers": "workers",
    "log_level": "log_level",
}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Declare every configuration flag. None has a default here: those live in the schema."""
    add = parser.add_argument
    add("--config", metavar="FILE", help="YAML file of settings")
    add("--listen", metavar="HOST:PORT", help="address clients call (default 127.0.0.1:8000)")
    add("--admin", metavar="HOST:PORT", help="address of health, metrics, explain (default 127.0.0.1:8001)")
    add(
        "--replica", metavar="URL", action="append", help="one vLLM server, http://HOST:PORT; repeat for each"
    )
    add(
        "--discover",
        metavar="URL",
        action="append",
        help="find replicas: kubernetes://NAMESPACE/SERVICE?port=http, dns://HOST:PORT, dns+srv://_http._tcp.NAME,"
        " redis://… or redis; repeat for each",
    )
    add(
        "--registry",
        metavar="URL",
        help="memory, or a Redis: redis://…, rediss://…, unix://…, redis+sentinel://… or redis+cluster://…"
        " (default memory)",
    )
    add("--policy", metavar="NAME", help="how a replica is chosen (default prefix-cost)")
    add("--workers", metavar="N", help="processes on the data port; more than one needs a Redis (default 1)")
    add("--log-level", metavar="LEVEL", help="debug, info, warning or error (default info)")
    add(
        "--access-log",
        metavar="FILE",
        nargs="?",
        const="-",
        help="one JSON line a request, on FILE or standard output",
    )
    add(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="any other setting: registry.idle_max_s=600",
    )


def load_from(arguments: argparse.Namespace) -> Config:
    """The configuration these flags, the environment and the file make.

    Raises:
        ConfigError: They make none.
    """
    settings: list[Setting] = []
    for name, key in _FLAGS.items():
        value = getattr(arguments, name)
        if value is not None:
            settings.append((f"--{name.replace('_', '-')}", key, value))
    if arguments.access_log is not None:
        settings.append(("--access-log", "access_log.enabled", "true"))
        settings.append(("--access-log", "access_log.path", arguments.access_log))
    for text in arguments.set:
        key, _, value = text.partition("=")
        settings.append((f"--set {key}", key.strip(), value))
    return load(settings, path=arguments.config)
