"""Settings of prompt schemas, and of engines that reuse what is no prefix: sections of the schema (`schema`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from warmroute.config.bounds import Bytes, Count, PositiveCount, Seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSchemasConfig:
    """Templates that clients register, and derive their prompts from (docs/prompt-schemas.md). `true` or `false` stands
    for `{enabled: …}`. Kept in the registry's Redis, for all routers together; without one in this process, until it
    ends."""

    shorthand: ClassVar[str] = "enabled"

    enabled: bool = False
    """Whether `/v1/prompt_schemas` is served, and `prompt_schema` in chat requests."""
    versions: PositiveCount = 1000
    """Most versions of schemas that one tenant may have, over all names."""
    versions_bytes: Bytes = 64 << 20
    """Most bytes that those of one tenant have together."""
    schema_bytes: Bytes = 1 << 20
    """Most bytes that one version may have."""
    prewarm_prefixes: Count = 8
    """Most beginnings of prompts that are computed when a schema is registered, and kept warm (`keep_warm`)."""
    prewarm_s: Seconds = 3600.0
    """For how long after a version's last use, or its registration, its beginnings are kept warm."""
