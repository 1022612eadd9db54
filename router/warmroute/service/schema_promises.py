"""The promises that prompt schemas are: beginnings of versions in use are to stay warm (`keep_warm.Promises`).

Decides which: those of versions that were used, or registered, within `prewarm_s`, and that were made for a model. Uses
of a version count for each of its beginnings alike, since the store does not tell which modules a use took.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

import msgspec

from warmroute.caching.content import ContentLostError
from warmroute.caching.promise import Promise
from warmroute.core.errors import ClientError
from warmroute.dialects.prompt_schemas import warming_request
from warmroute.ports import KeptSchema
from warmroute.service.prompt_schemas import PromptSchemas
from warmroute.telemetry.logs import fields

log = logging.getLogger(__name__)

MOST_VERSIONS: Final = 2_000
_encode: Final = msgspec.json.Encoder().encode


class SchemaPromises:
    """Of all tenants' schemas."""

    def __init__(self, schemas: PromptSchemas, prewarm_s: float) -> None:
        self._schemas = schemas
        self._prewarm_s = prewarm_s
        self._kept: dict[str, tuple[KeptSchema, int]] = {}
        """By promise's key: the version, and which of its beginnings."""
        self._lapsed: set[str] = set()

    async def all(self, now_s: float) -> Sequence[Promise]:
        """Those of versions in use.

        Raises:
            StoreAwayError: Nobody can say.
        """
        found = await self._schemas.store.all(now_s - self._prewarm_s, most=MOST_VERSIONS)
        self._kept = {
            f"{kept.record.key}#{number}": (kept, number)
            for kept in found
            if kept.record.model
            for number in range(len(kept.record.prefix_tokens))
        }
        self._lapsed &= self._kept.keys()
        return [self._promise(key, kept, number) for key, (kept, number) in self._kept.items()]

    async def prompt(self, promise: Promise) -> bytes | None:
        """The chat request that has a replica compute it; None: there is none any more.

        Raises:
            StoreAwayError: Nobody can say.
        """
        kept, number = self._kept.get(promise.key, (None, 0))
        if kept is None:
            return None
        try:
            beginnings = await self._schemas.beginnings_of(kept.record)
        except (ContentLostError, ClientError, msgspec.MsgspecError) as error:
            log.error("prompt_schema_lost", extra=fields(schema=promise.name, error=str(error)))
            return None
        if number >= len(beginnings):
            return None  # it was registered where more are computed
        return _encode(warming_request(promise.model, beginnings[number]))

    async def lapse(self, promise: Promise, lapsed: bool) -> None:
        """Note whether it is given up; whoever uses the schema is not told, since nothing was promised to them."""
        if lapsed:
            self._lapsed.add(promise.key)
        else:
            self._lapsed.discard(promise.key)

    def _promise(self, key: str, kept: KeptSchema, number: int) -> Promise:
        record = kept.record
        return Promise(
            key=key,
            name=f"{record.name}/{record.version}#{number}",
            tenant=record.scope,
            model=record.model,
            tokens=record.prefix_tokens[number],
            expires_s=kept.used_s + self._prewarm_s,
            sharing=record.sharing,
            uses=kept.uses,
            lapsed=key in self._lapsed,
        )
