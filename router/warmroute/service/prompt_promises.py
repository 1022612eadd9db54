"""The promises that requests ask for by OpenAI's and Anthropic's interfaces, as far as they can be computed again
(`keep_warm.Promises`).

They are this router's own: it made them, and their texts are in its memory. When it ends they are not kept warm any
more; what other routers were asked to keep, those keep. Promises whose text gave way, and shorter ones that a longer
one covers (`dataplane.caching`), are not told.
"""

from __future__ import annotations

from collections.abc import Sequence

from warmroute.caching.promise import Promise
from warmroute.caching.texts import Text, Texts
from warmroute.core.prompt import promises as asked
from warmroute.core.types import Api

_WHERE = {
    Api.CHAT: "/v1/chat/completions",
    Api.MESSAGES: "/v1/messages",
    Api.RESPONSES: "/v1/responses",
}


class PromptPromises:
    """Of all tenants whose requests came here."""

    def __init__(self, promises: asked.Promises, texts: Texts) -> None:
        self._promises = promises
        self._texts = texts

    async def all(self, now_s: float) -> Sequence[Promise]:
        """Those that have not expired, the longest first: what begins with another warms that, too. Texts of the
        others are forgotten."""
        found: list[Promise] = []
        for key in self._texts:
            promise, text = self._promises.find(key), self._texts.get(key)
            if promise is None or promise.until_s <= now_s or text is None:
                self._texts.drop(key)
                if promise is not None:
                    promise.lapsed = False  # it is over, not given up
            else:
                found.append(_told(promise, text))
        found.sort(key=lambda promise: promise.tokens, reverse=True)
        return found

    async def prompt(self, promise: Promise) -> bytes | None:
        """The request that has a replica compute it; None: its text has given way."""
        text = self._texts.get(int(promise.key, 16))
        return None if text is None else text.body

    async def lapse(self, promise: Promise, lapsed: bool) -> None:
        """Note whether it is given up, for the answers to requests that read it."""
        found = self._promises.find(int(promise.key, 16))
        if found is not None:
            found.lapsed = lapsed


def _told(promise: asked.Promise, text: Text) -> Promise:
    key = f"{promise.key:016x}"
    return Promise(
        key=key,
        name=key,
        tenant=promise.tenant,
        model=promise.model,
        tokens=promise.tokens,
        expires_s=promise.until_s,
        uses=promise.uses,
        lapsed=promise.lapsed,
        api=text.api,
        where=_WHERE[text.api],
    )
