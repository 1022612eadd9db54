"""The promises that cached contents are: each is to stay warm until it expires (`keep_warm.Promises`)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

import msgspec

from warmroute.caching.content import ContentLostError
from warmroute.caching.promise import Promise
from warmroute.dialects.cached_contents import warming_request
from warmroute.ports import Kept
from warmroute.service.cached_contents import CachedContents
from warmroute.telemetry.logs import fields

log = logging.getLogger(__name__)

MOST_PROMISES: Final = 10_000


class ContentPromises:
    """Of all tenants' contents."""

    def __init__(self, contents: CachedContents) -> None:
        self._contents = contents
        self._kept: dict[str, Kept] = {}

    async def all(self, now_s: float) -> Sequence[Promise]:
        """Those that have not expired.

        Raises:
            StoreAwayError: Nobody can say.
        """
        found = await self._contents.store.all(now_s, most=MOST_PROMISES)
        self._kept = {kept.content.promise: kept for kept in found}
        return [_promise(kept) for kept in found]

    async def prompt(self, promise: Promise) -> bytes | None:
        """The chat request that has a replica compute it; None: there is none any more.

        Raises:
            StoreAwayError: Nobody can say.
        """
        kept = self._kept.get(promise.key)
        if kept is None:
            return None
        try:
            return warming_request(promise.model, await self._contents.prefix(kept))
        except (ContentLostError, msgspec.MsgspecError) as error:
            log.error("cached_content_lost", extra=fields(content=promise.name, error=str(error)))
            return None

    async def lapse(self, promise: Promise, lapsed: bool) -> None:
        """Note whether it is given up, for whoever uses the content.

        Raises:
            StoreAwayError: It cannot be noted.
        """
        kept = self._kept.get(promise.key)
        if kept is not None:
            await self._contents.store.lapse(kept.content.scope, kept.content.id, lapsed)


def _promise(kept: Kept) -> Promise:
    content = kept.content
    return Promise(
        key=content.promise,
        name=content.id,
        tenant=content.scope,
        model=content.model,
        tokens=content.tokens,
        expires_s=content.expires_s,
        sharing=content.sharing,
        uses=kept.uses,
        lapsed=kept.lapsed,
    )
