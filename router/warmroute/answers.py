"""Fourth part of the composition root: builds what records responses and gives them again, by the settings.

Names the adapters that keep responses and embed texts; decides no behaviour. Where no rule asks for it it builds
nothing, and the request path does without.
"""

from __future__ import annotations

from collections.abc import Callable

from warmroute.adapters.caching.responses_memory import MemoryResponses
from warmroute.adapters.caching.responses_redis import RedisResponses
from warmroute.adapters.resp.link import RedisLink
from warmroute.config.errors import ConfigError
from warmroute.config.schema import Config, ResponseCacheConfig
from warmroute.dataplane.gateway import Gateway
from warmroute.dataplane.own_requests import OwnRequests
from warmroute.ports import Embedder, ResponseStore
from warmroute.service.fleet_models import FleetEmbedder, FleetJudge
from warmroute.service.likeness import Likeness
from warmroute.service.response_cache import ResponseCache, Rule
from warmroute.telemetry import caching_catalogue as names


class Answers:
    """What one worker has of it."""

    def __init__(self, config: Config, gateway: Gateway, clock: Callable[[], float]) -> None:
        self.responses: ResponseCache | None = None
        settings = config.response_cache
        if not settings.rules:
            return
        likeness = None
        if any(rule.semantic for rule in settings.rules):
            likeness = _likeness(settings, OwnRequests(gateway))
        self.responses = gateway.responses = ResponseCache(
            _store(config),
            tuple(
                Rule(rule.tenant, rule.model, rule.ttl_s, rule.sampled, rule.semantic)
                for rule in settings.rules
            ),
            response_bytes=settings.response_bytes,
            version=settings.version,
            clock=clock,
            likeness=likeness,
        )
        gateway.special = True

    async def start(self) -> None:
        """Connect."""
        if self.responses is not None:
            await self.responses.store.start()
            if self.responses.likeness is not None:
                await self.responses.likeness.embedder.start()

    async def stop(self) -> None:
        """Disconnect."""
        if self.responses is not None:
            await self.responses.store.stop()
            if self.responses.likeness is not None:
                await self.responses.likeness.embedder.stop()

    def figures(self) -> dict[str, float]:
        """For metrics (`telemetry.exposition`); empty where nothing is recorded."""
        responses = self.responses
        if responses is None:
            return {}
        store = responses.store
        kept = store.figures()
        figures: dict[str, float] = {
            names.RESPONSE_CACHE_UP.name: 1.0 if store.healthy else 0.0,
            names.RESPONSE_CACHE_RECORDS.name: kept["records"],
            names.RESPONSE_CACHE_BYTES.name: kept["bytes"],
            names.RESPONSE_CACHE_LATE.name: kept["late"],
            names.RESPONSE_CACHE_KEPT.name: responses.kept,
        }
        likeness = responses.likeness
        for metric, counts in (
            (names.RESPONSE_CACHE_REQUESTS, responses.requests),
            (names.RESPONSE_CACHE_REFUSED, responses.refused),
            (names.RESPONSE_CACHE_COMPARED, {} if likeness is None else likeness.compared),
        ):
            figures |= {f"{metric.name}:{label}": count for label, count in counts.items()}
        return figures


def _store(config: Config) -> ResponseStore:
    registry, settings = config.registry, config.response_cache
    if registry.url == "memory":
        return MemoryResponses(settings.records, settings.records_bytes)
    try:
        return RedisResponses(
            RedisLink(registry.url, name="responses"),
            settings.records,
            settings.records_bytes,
            deadline_s=settings.lookup_deadline_s,
            namespace=registry.namespace,
        )
    except (ValueError, OSError) as error:
        raise ConfigError("", "registry.url", str(error)) from error


def _likeness(settings: ResponseCacheConfig, requests: OwnRequests) -> Likeness:
    embedder: Embedder
    if settings.embedding_model:
        embedder = FleetEmbedder(
            requests.ask, settings.embedding_model, deadline_s=settings.embedding_deadline_s
        )
    else:
        # Loads a model of 70 MB, for what few ask for.
        from warmroute.adapters.caching.local_embedder import EmbedderUnavailable, LocalEmbedder

        try:
            embedder = LocalEmbedder(settings.embedding_deadline_s)
        except EmbedderUnavailable as error:
            raise ConfigError("", "response_cache.rules", str(error)) from error
    judge = None
    if settings.judge_model:
        judge = FleetJudge(requests.ask, settings.judge_model, deadline_s=settings.judge_deadline_s)
    return Likeness(embedder, threshold=settings.threshold, judge=judge)
