"""Third part of the composition root: builds what caches contents on purpose and keeps promises warm, by the settings.

Names the adapters that keep contents; decides no behaviour. Where it is not asked for it builds nothing, and the
request path does without.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable
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
from warmroute.service.keep_warm import KeepWarm, Promises
from warmroute.service.prompt_promises import PromptPromises
from warmroute.tasks import Tasks
from warmroute.telemetry import caching_catalogue as names
from warmroute.telemetry.logs import fields

log = logging.getLogger(__name__)


class Warmth:
    """What one worker has of it."""

    def __init__(self, config: Config, gateway: Gateway, tasks: Tasks, clock: Callable[[], float]) -> None:
        self.contents: CachedContents | None = None
        self.keepers: list[KeepWarm] = []
        self._gateway = gateway
        self._tasks = tasks
        self._clock = clock
        self._warm = warm = config.keep_warm
        if config.cached_contents.enabled:
            self.contents = gateway.caches = _contents(config, clock)
            gateway.special = True
        caching = gateway.caching
        texts = None if caching is None else caching.texts
        if warm.budget_ratio <= 0.0 or (self.contents is None and texts is None):
            return
        if not gateway.needs_records:
            log.warning(
                "nothing_kept_warm", extra=fields(policy=config.policy.name, why="it keeps no records")
            )
            return
        part = 1.0 if self.contents is None or texts is None else 0.5
        if self.contents is not None:
            router = f"{SystemRandom().getrandbits(64):016x}"
            store = self.contents.store
            self._keep(ContentPromises(self.contents), lambda for_s: store.lead(router, for_s), lambda: part)
        if caching is not None and texts is not None:
            fleet = gateway.fleet
            self._keep(PromptPromises(caching.promises, texts), _always, lambda: part / fleet.routers)

    def _keep(
        self, source: Promises, lead: Callable[[float], Awaitable[bool]], share: Callable[[], float]
    ) -> None:
        gateway, warm = self._gateway, self._warm
        keeper = KeepWarm(
            [source],
            lead=lead,
            share=share,
            fleet=gateway.fleet,
            registry=gateway.registry,
            sender=OwnRequests(gateway),
            budget=PrefillBudget(warm.budget_ratio, warm.tenant_ratio),
            tasks=self._tasks,
            interval_s=warm.interval_s,
            uses_per_copy_per_s=warm.uses_per_copy / 60.0,
            clock=self._clock,
        )
        self.keepers.append(keeper)

    async def start(self) -> None:
        """Connect, and begin to keep what was promised."""
        if self.contents is not None:
            await self.contents.store.start()
        for keeper in self.keepers:
            keeper.start()

    async def stop(self) -> None:
        """Disconnect."""
        if self.contents is not None:
            await self.contents.store.stop()

    def figures(self) -> dict[str, float]:
        """For metrics (`telemetry.exposition`); empty where nothing is cached on purpose."""
        figures: dict[str, float] = {}
        contents, caching, keepers = self.contents, self._gateway.caching, self.keepers
        if caching is not None:
            promises, texts = caching.promises, caching.texts
            figures[names.PROMISES.name] = len(promises)
            figures[names.PROMISES_DROPPED.name] = promises.dropped
            if texts is not None:
                figures[names.PROMISE_TEXT_BYTES.name] = texts.bytes
                figures[names.PROMISE_TEXTS_DROPPED.name] = texts.dropped
        if contents is not None:
            figures[names.CACHE_STORE_UP.name] = 1.0 if contents.store.healthy else 0.0
            if keepers:
                figures[names.CACHE_CONTENTS.name] = keepers[0].promises
                figures[names.KEEP_WARM_LEADER.name] = 1.0 if keepers[0].leads else 0.0
        if keepers:
            figures[names.KEEP_WARM_SECONDS.name] = sum([keeper.budget.spent_s for keeper in keepers])
            figures[names.KEEP_WARM_TOKENS.name] = sum([keeper.tokens for keeper in keepers])
            figures[names.KEEP_WARM_LOST.name] = sum([keeper.lost for keeper in keepers])
            for why in keepers[0].prefills:
                label = f"{names.KEEP_WARM_PREFILLS.name}:{why}"
                figures[label] = sum([keeper.prefills[why] for keeper in keepers])
            for why in keepers[0].given_up:
                label = f"{names.KEEP_WARM_GIVEN_UP.name}:{why}"
                figures[label] = sum([keeper.given_up[why] for keeper in keepers])
        return figures


async def _always(_for_s: float) -> bool:
    """What only this router knows nobody else keeps warm."""
    return True


def _contents(config: Config, clock: Callable[[], float]) -> CachedContents:
    settings = config.cached_contents
    bounds = Bounds(
        contents=settings.contents,
        contents_bytes=settings.contents_bytes,
        content_bytes=settings.content_bytes,
        least_tokens=settings.least_tokens,
        ttl_s=min(settings.ttl_s, settings.ttl_max_s),
        ttl_max_s=settings.ttl_max_s,
    )
    return CachedContents(_store(config), bounds, clock=clock, entropy=os.urandom)


def _store(config: Config) -> ContentStore:
    registry = config.registry
    if registry.url == "memory":
        return MemoryContents()
    try:
        return RedisContents(RedisLink(registry.url, name="caches"), registry.namespace)
    except (ValueError, OSError) as error:
        raise ConfigError("", "registry.url", str(error)) from error
