"""Promises of a tenant whose prompts are rewritten: what is kept warm is what replicas are sent for it.

A cached content or a schema is kept as it came, and each chat that uses it is rewritten as a whole
(`dataplane.advising`). So what computes it again has to be rewritten as well, or nobody would find it: before it is
looked for and before it is sent. Decides only whose rule holds: that of the tenant in the promise's scope, else that of
those without a key.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from warmroute.caching.content import tenant_in
from warmroute.caching.promise import Promise
from warmroute.core.types import Api
from warmroute.service.keep_warm import Promises
from warmroute.tenants.tenant import ANONYMOUS

Rewrite = Callable[[Api, bytes, str], bytes | None]


class RewrittenPromises:
    """Those of another source.

    Args:
        rewrite: The body as replicas are sent it for a tenant; None: as it is.
    """

    def __init__(self, source: Promises, rewrite: Rewrite) -> None:
        self._source = source
        self._rewrite = rewrite

    async def all(self, now_s: float) -> Sequence[Promise]:
        """Those of the source."""
        return await self._source.all(now_s)

    async def prompt(self, promise: Promise) -> bytes | None:
        """The source's, rewritten."""
        body = await self._source.prompt(promise)
        if body is None:
            return None
        told = self._rewrite(promise.api, body, tenant_in(promise.tenant) or ANONYMOUS)
        return body if told is None else told

    async def lapse(self, promise: Promise, lapsed: bool) -> None:
        """As the source does it."""
        await self._source.lapse(promise, lapsed)
