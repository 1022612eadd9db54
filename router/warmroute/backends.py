"""Part of the composition root: where routers keep what they share, the registry and the board of their load.

Names the adapters; decides no behaviour. `app` starts and stops what is made here.
"""

from __future__ import annotations

from collections.abc import Callable

from warmroute.adapters.load_board.redis import NoBoard, RedisLoadBoard
from warmroute.adapters.registry.memory import MEMORY_ENTRIES, MemoryRegistry
from warmroute.adapters.registry.redis.registry import LOCAL_ENTRIES, RedisRegistry
from warmroute.config.errors import ConfigError
from warmroute.config.schema import Config
from warmroute.dataplane.caching import LONGEST_S
from warmroute.ports import LoadBoard, Registry


def registry(config: Config, clock: Callable[[], float]) -> Registry:
    """Where it is kept which replica served which prefix.

    Raises:
        ConfigError: The URL is none, or names files that cannot be read.
    """
    settings = config.registry
    most_owned = config.isolation.records if config.isolation.enabled else 0
    if settings.url == "memory":
        return MemoryRegistry(
            idle_s=settings.idle_max_s,
            max_entries=settings.max_entries or MEMORY_ENTRIES,
            most_owned=most_owned,
            clock=clock,
        )
    try:
        return RedisRegistry(
            settings.url,
            idle_s=settings.idle_max_s,
            lookup_deadline_s=settings.lookup_deadline_s,
            namespace=settings.namespace,
            local_entries=settings.max_entries or LOCAL_ENTRIES,
            keeps_s=LONGEST_S if config.caching.openai or config.caching.anthropic else 0.0,
            most_owned=most_owned,
            clock=clock,
        )
    except (ValueError, OSError) as error:  # OSError: a TLS file that cannot be read
        raise ConfigError("", "registry.url", str(error)) from error


def load_board(config: Config) -> LoadBoard:
    """Where the registry is shared, load is; a wrong URL is the registry's fault, and found there first."""
    settings = config.registry
    if settings.url == "memory":
        return NoBoard()
    return RedisLoadBoard(settings.url, namespace=settings.namespace, deadline_s=config.leases.expire_s / 2)
