"""Settings of recorded responses: who may be answered by one, what is kept of them, and how alike requests are judged:
a section of the schema (`schema`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from warmroute.config.bounds import Bytes, PositiveCount, PositiveSeconds, Range

Lifetime = Annotated[float, Range(1.0, 366 * 86_400.0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseRuleConfig:
    """Whose requests for which model may be answered by recorded responses."""

    tenant: str = "*"
    """Name of the tenant; `*`: everybody, each for himself."""
    model: str = "*"
    """Name of the model; `*`: all."""
    ttl_s: Lifetime = 3600.0
    """How long a response is kept."""
    sampled: bool = False
    """Whether requests count whose answer is drawn by chance: those with neither a temperature of 0 nor a seed."""
    semantic: bool = False
    """Whether a request may be answered by the response to one that says the same in other words. Needs
    `embedding_model`, or the extra `warmroute[semantic]`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseCacheConfig:
    """Responses that are recorded, and given again to whoever asks the same (docs/response-cache.md). Kept in the
    registry's Redis, for all routers together; without one in this process, until it ends."""

    rules: tuple[ResponseRuleConfig, ...] = ()
    """Who is served by it: the first rule that fits a request counts. Without any there is no such cache."""
    records: PositiveCount = 100_000
    """Most responses that are kept, of all tenants together; those that were used longest ago give way."""
    records_bytes: Bytes = 256 << 20
    """Most bytes that they have together."""
    response_bytes: Bytes = 256 << 10
    """Longest response that is kept."""
    lookup_deadline_s: PositiveSeconds = 0.005
    """A request waits at most this long for Redis, then it goes to a replica."""
    version: str = ""
    """Part of every record's name: change it when a model answers otherwise under the name that it had, and nothing
    that was recorded before is found."""
    threshold: Annotated[float, Range(0.0, 1.0)] = 0.9
    """Least cosine of two embeddings with which requests may mean the same; what they say must agree besides. For
    another embedding model than `warmroute[semantic]` has, measure yours."""
    embedding_model: str = ""
    """Model of the fleet that embeds last turns, by `/v1/embeddings`. Empty: the small one of `warmroute[semantic]`, in
    this process."""
    embedding_deadline_s: PositiveSeconds = 0.1
    """A request waits at most this long for its embedding, then it goes to a replica."""
    judge_model: str = ""
    """Model of the fleet that is asked whether two requests mean the same where their words differ: one token under an
    instruction that engines have cached. Empty: nobody is asked, and such requests are never answered by each other's
    responses."""
    judge_deadline_s: PositiveSeconds = 1.0
    """A request waits at most this long for the judge, then it goes to a replica."""
