"""Third part of the composition root: builds what caches contents on purpose and keeps them warm, by the settings.

Names the adapters that keep contents; decides no behaviour. Where it is not asked for it builds nothing, and the
request path does without.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from random import SystemRandom

from warmroute.adapters.caching.memory import MemoryContents
from warmroute.adapters.caching.redis import RedisContents
from warmroute.adapters.resp.link import RedisLink
from warmroute.caching.budget import PrefillBudget
from warmroute.config.errors import ConfigError
from warmroute.config.schema import Config
from warmroute.dataplane.gateway import Gateway
from warmroute.dataplane.own_requests import OwnRequests
from warmroute.ports import ContentStore
from warmroute.service.cached_contents import Bounds, CachedContents
from warmroute.service.content_promises import ContentPromises
from warmroute.service.keep_warm import KeepWarm
from warmroute.tasks import Tasks
from warmroute.telemetry import caching_catalogue as names
from warmroute.telemetry.logs import fields

log = logging.getLogger(__name__)


class Warmth:
    """What one worker has of it."""

    def __init__(self, config: Config, gateway: Gateway, tasks: Tasks, clock: Callable[[], float]) -> None:
        self.contents: CachedContents | None = None
        self.keeper: KeepWarm | None = None
        if not config.cached_contents.enabled:
            return
        settings = config.cached_contents
        bounds = Bounds(
            contents=settings.contents,
            contents_bytes=settings.contents_bytes,
            content_bytes=settings.content_bytes,
            least_tokens=settings.least_tokens,
            ttl_s=min(settings.ttl_s, settings.ttl_max_s),
            ttl_max_s=settings.ttl_max_s,
        )
        self.contents = gateway.caches = CachedContents(
            _store(config), bounds, clock=clock, entropy=os.urandom
        )
        warm = config.keep_warm
        if warm.budget_ratio <= 0.0:
            return
        if not gateway.needs_records:
            log.warning(
                "nothing_kept_warm", extra=fields(policy=config.policy.name, why="it keeps no records")
            )
            return
        router = f"{SystemRandom().getrandbits(64):016x}"
        store = self.contents.store
        self.keeper = KeepWarm(
            [ContentPromises(self.contents)],
            lead=lambda for_s: store.lead(router, for_s),
            fleet=gateway.fleet,
            registry=gateway.registry,
            sender=OwnRequests(gateway),
            budget=PrefillBudget(warm.budget_ratio, warm.tenant_ratio),
            tasks=tasks,
            interval_s=warm.interval_s,
            uses_per_copy_per_s=warm.uses_per_copy / 60.0,
            clock=clock,
        )

    async def start(self) -> None:
        """Connect, and begin to keep what was promised."""
        if self.contents is not None:
            await self.contents.store.start()
        if self.keeper is not None:
            self.keeper.start()

    async def stop(self) -> None:
        """Disconnect."""
        if self.contents is not None:
            await self.contents.store.stop()

    def figures(self) -> dict[str, float]:
        """For metrics (`telemetry.exposition`); empty where nothing is cached on purpose."""
        contents, keeper = self.contents, self.keeper
        if contents is None:
            return {}
        figures = {names.CACHE_STORE_UP.name: 1.0 if contents.store.healthy else 0.0}
        if keeper is not None:
            figures[names.CACHE_CONTENTS.name] = keeper.promises
            figures[names.KEEP_WARM_LEADER.name] = 1.0 if keeper.leads else 0.0
            figures[names.KEEP_WARM_SECONDS.name] = keeper.budget.spent_s
            figures[names.KEEP_WARM_TOKENS.name] = keeper.tokens
            figures[names.KEEP_WARM_LOST.name] = keeper.lost
            for metric, counts in (
                (names.KEEP_WARM_PREFILLS, keeper.prefills),
                (names.KEEP_WARM_GIVEN_UP, keeper.given_up),
            ):
                figures |= {f"{metric.name}:{label}": count for label, count in counts.items()}
        return figures


def _store(config: Config) -> ContentStore:
    registry = config.registry
    if registry.url == "memory":
        return MemoryContents()
    try:
        return RedisContents(RedisLink(registry.url, name="caches"), registry.namespace)
    except (ValueError, OSError) as error:
        raise ConfigError("", "registry.url", str(error)) from error
