"""Third part of the composition root: builds what caches contents on purpose, prompt schemas, and what keeps them warm.

Names the adapters that keep contents and schemas; decides no behaviour. Where it is not asked for it builds nothing,
and the request path does without.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable
from random import SystemRandom

from warmroute.adapters.caching.memory import MemoryContents
from warmroute.adapters.caching.redis import RedisContents
from warmroute.adapters.caching.schemas_memory import MemorySchemas
from warmroute.adapters.caching.schemas_redis import RedisSchemas
from warmroute.adapters.resp.link import RedisLink
from warmroute.caching.budget import PrefillBudget
from warmroute.caching.schemas.compiler import Blend
from warmroute.config.errors import ConfigError
from warmroute.config.schema import Config
from warmroute.dataplane.gateway import Gateway
from warmroute.dataplane.own_requests import OwnRequests
from warmroute.ports import ContentStore, SchemaStore
from warmroute.service import cached_contents as contents
from warmroute.service import prompt_schemas
from warmroute.service.cached_contents import CachedContents
from warmroute.service.content_promises import ContentPromises
from warmroute.service.keep_warm import KeepWarm, Promises
from warmroute.service.prompt_promises import PromptPromises
from warmroute.service.prompt_schemas import PromptSchemas
from warmroute.service.rewritten_promises import RewrittenPromises
from warmroute.service.schema_promises import SchemaPromises
from warmroute.tasks import Tasks
from warmroute.telemetry import caching_catalogue as names
from warmroute.telemetry.logs import fields

log = logging.getLogger(__name__)

Lead = Callable[[str, float], Awaitable[bool]]


class Warmth:
    """What one worker has of it."""

    def __init__(self, config: Config, gateway: Gateway, tasks: Tasks, clock: Callable[[], float]) -> None:
        self.contents: CachedContents | None = None
        self.schemas: PromptSchemas | None = None
        self.keepers: list[KeepWarm] = []
        self._gateway = gateway
        self._tasks = tasks
        self._clock = clock
        self._warm = warm = config.keep_warm
        leads: list[Lead] = []
        sources: list[Promises] = []
        """Of what all routers share: one of them keeps it warm."""
        if config.cached_contents.enabled:
            self.contents = gateway.caches = _contents(config, clock)
            leads.append(self.contents.store.lead)
            sources.append(ContentPromises(self.contents))
        if config.prompt_schemas.enabled:
            self.schemas = gateway.schemas = _schemas(config, clock)
            leads.append(self.schemas.store.lead)
            sources.append(SchemaPromises(self.schemas, config.prompt_schemas.prewarm_s))
        if sources:
            gateway.special = True
        caching = gateway.caching
        texts = None if caching is None else caching.texts
        if warm.budget_ratio <= 0.0 or not (sources or texts is not None):
            return
        if not gateway.needs_records:
            log.warning(
                "nothing_kept_warm", extra=fields(policy=config.policy.name, why="it keeps no records")
            )
            return
        part = 0.5 if sources and texts is not None else 1.0
        if sources:
            router = f"{SystemRandom().getrandbits(64):016x}"
            lead = leads[0]
            if caching is not None:
                sources = [RewrittenPromises(source, caching.rewritten) for source in sources]
            self._keep(sources, lambda for_s: lead(router, for_s), lambda: part)
        if caching is not None and texts is not None:
            fleet = gateway.fleet
            self._keep([PromptPromises(caching.promises, texts)], _always, lambda: part / fleet.routers)

    def _keep(
        self, sources: list[Promises], lead: Callable[[float], Awaitable[bool]], share: Callable[[], float]
    ) -> None:
        gateway, warm = self._gateway, self._warm
        keeper = KeepWarm(
            sources,
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
        if self.schemas is not None:
            await self.schemas.store.start()
        for keeper in self.keepers:
            keeper.start()

    async def stop(self) -> None:
        """Disconnect."""
        if self.contents is not None:
            await self.contents.store.stop()
        if self.schemas is not None:
            await self.schemas.store.stop()

    def figures(self) -> dict[str, float]:
        """For metrics (`telemetry.exposition`); empty where nothing is cached on purpose."""
        figures: dict[str, float] = {}
        contents, schemas = self.contents, self.schemas
        caching, keepers = self._gateway.caching, self.keepers
        if caching is not None:
            promises, texts = caching.promises, caching.texts
            figures[names.PROMISES.name] = len(promises)
            figures[names.PROMISES_DROPPED.name] = promises.dropped
            if texts is not None:
                figures[names.PROMISE_TEXT_BYTES.name] = texts.bytes
                figures[names.PROMISE_TEXTS_DROPPED.name] = texts.dropped
        if contents is not None:
            figures[names.CACHE_STORE_UP.name] = 1.0 if contents.store.healthy else 0.0
        if schemas is not None:
            figures[names.SCHEMA_STORE_UP.name] = 1.0 if schemas.store.healthy else 0.0
            figures[f"{names.SCHEMA_PROMPTS.name}:derived"] = schemas.prompts
            figures[f"{names.SCHEMA_PROMPTS.name}:refused"] = schemas.refused
        if keepers and (contents is not None or schemas is not None):
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
    settings, registry = config.cached_contents, config.registry
    bounds = contents.Bounds(
        contents=settings.contents,
        contents_bytes=settings.contents_bytes,
        content_bytes=settings.content_bytes,
        least_tokens=settings.least_tokens,
        ttl_s=min(settings.ttl_s, settings.ttl_max_s),
        ttl_max_s=settings.ttl_max_s,
    )
    store: ContentStore = MemoryContents()
    if registry.url != "memory":
        store = RedisContents(_link(config, "caches"), registry.namespace)
    return CachedContents(store, bounds, clock=clock, entropy=os.urandom)


def _schemas(config: Config, clock: Callable[[], float]) -> PromptSchemas:
    settings, registry, blend = config.prompt_schemas, config.registry, config.blend
    bounds = prompt_schemas.Bounds(
        versions=settings.versions,
        versions_bytes=settings.versions_bytes,
        schema_bytes=settings.schema_bytes,
        prompt_bytes=config.limits.body_bytes,
        prefixes=settings.prewarm_prefixes,
    )
    store: SchemaStore = MemorySchemas()
    if registry.url != "memory":
        store = RedisSchemas(_link(config, "schemas"), registry.namespace)
    bytes_per_token = config.policy.bytes_per_token
    apart = Blend(blend.separator, blend.chunk_tokens, bytes_per_token) if blend.separator else None
    return PromptSchemas(store, bounds, clock=clock, bytes_per_token=bytes_per_token, blend=apart)


def _link(config: Config, name: str) -> RedisLink:
    try:
        return RedisLink(config.registry.url, name=name)
    except (ValueError, OSError) as error:
        raise ConfigError("", "registry.url", str(error)) from error
