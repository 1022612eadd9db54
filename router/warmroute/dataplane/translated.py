"""Requests that are sent to replicas in another form than they came: Google's API, and chats that name a cached
content.

Decides which requests these are (`translated_for`), and turns each into a request that all the rest of the data plane
takes for a client's own (`rewritten`); its answer is translated on its way back by what stands in for the client
(`translating`). What concerns cached contents alone is answered here.

Where nothing is switched on, `Gateway.caches` is None and no request is looked at. A request of Google's that names no
content needs no task, since nothing is looked up for it.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from warmroute.caching.content import CachedContent, Prefix
from warmroute.core.errors import ClientError, NotFoundError
from warmroute.core.types import Api
from warmroute.dataplane import whose
from warmroute.dataplane.client_side import ClientSide
from warmroute.dataplane.exchange import Exchange
from warmroute.dataplane.gateway import Gateway
from warmroute.dataplane.request import Request, RequestHead
from warmroute.dataplane.rewritten import CHATS, RewrittenExchange, names_content, promise_line
from warmroute.dataplane.shapes import readable
from warmroute.dataplane.translating import ANSWER, COUNT, GoogleClient
from warmroute.dialects import cached_contents, gemini, gemini_fields, gemini_paths
from warmroute.dialects.gemini_fields import Json
from warmroute.dialects.gemini_paths import Asked, Verb
from warmroute.dialects.routes import RouteKind
from warmroute.ports import Kept
from warmroute.service.cached_contents import CachedContents
from warmroute.tenants.prices import GOOGLE

_TOKENIZE: Final = b"/tokenize"
_NO_KEY: Final = re.compile(rb"[\x00-\x1f\x7f]")
"""What no header field can hold: a key in the query is decoded, and goes to replicas in one."""
_encode: Final = msgspec.json.Encoder().encode


def translated_for(
    gateway: Gateway, caches: CachedContents, client: ClientSide, request: Request
) -> TranslatedExchange | None:
    """The exchange of a request that is sent in another form; None: this one is not."""
    head = request.head
    if gemini_paths.concerns(head.path) and (head.route is None or not _others(head)):
        return TranslatedExchange(gateway, caches, client, request, chat=False)
    found = head.route
    if found is not None and found.api is Api.CHAT and found.kind is RouteKind.PREFIX:
        # Only what costs nothing is done here: the key is not checked yet.
        if head.coding or cached_contents.FIELD in request.body:
            return TranslatedExchange(gateway, caches, client, request, chat=True)
    return None


def _others(head: RequestHead) -> bool:
    """Whether a path that looks like one of these is another API's: a model's id may have a colon."""
    try:
        return gemini_paths.asked(head.method.decode("latin-1"), head.target.decode("latin-1")) is None
    except ClientError:
        return False


class TranslatedExchange(RewrittenExchange):
    """One such request.

    Args:
        chat: It is a chat request, which may name a content; else it is one of these by its path.
    """

    __slots__ = ("_caches", "_chat", "_google")

    def __init__(
        self,
        gateway: Gateway,
        caches: CachedContents,
        client: ClientSide,
        request: Request,
        *,
        chat: bool,
    ) -> None:
        super().__init__(gateway, client, request)
        self._caches = caches
        self._chat = chat
        self._google: GoogleClient | None = None
        head = request.head
        if not chat and not head.path.startswith(b"/v1/caches"):
            self._google = GoogleClient(client, head)
            self.client = self._google
            self._asked_key = _google_key(head)
            if self._asked_key and not head.credential and gateway.upstream_authorization is not None:
                head.credential = self._asked_key

    def interface(self) -> int:
        """Google's, unless it is a chat that names a content."""
        return Exchange.interface(self) if self._google is None else GOOGLE

    def _vet(self) -> None:
        _check_key(self._asked_key)

    def _rewrite(self) -> None:
        """Find out what is asked."""
        if self._chat:
            chat = self._naming()
            if chat is None:
                self._as_it_came()
            else:
                self._later(self._chat_with_content(self._caches, chat), "cached content")
            return
        asked = _asked(self._request.head)
        body = gemini_fields.read(readable(self._gateway, self._request)) if self._request.body_bytes else {}
        if asked.verb in (Verb.GENERATE, Verb.STREAM, Verb.COUNT) and _named(body) is None:
            self._generate(asked, body, None, None)
        else:
            self._later(self._go_on(asked, body), "cached content")

    def _naming(self) -> Json | None:
        """The body of a chat that names a content; None where it names none."""
        try:
            body = readable(self._gateway, self._request)
            chat = gemini_fields.read(body) if cached_contents.FIELD in body else {}
        except ClientError:
            return None  # whoever reads it next says what is wrong with it
        return chat if names_content(chat) else None

    async def _go_on(self, asked: Asked, body: Json) -> None:
        """What needs the store."""
        if asked.verb in (Verb.GENERATE, Verb.STREAM, Verb.COUNT):
            name = _named(body)
            assert name is not None
            kept, prefix = await self._caches.use(self._scope(), name)
            cached_contents.same_model(kept.content, asked.name)
            if not self._done:
                self._generate(asked, body, kept, prefix)
        else:
            await self._manage(asked, body)

    # -- use ----------------------------------------------------------------------------------------------------------

    def _generate(self, asked: Asked, body: Json, kept: Kept | None, prefix: Prefix | None) -> None:
        client = self._google
        assert client is not None
        if asked.verb is Verb.COUNT:
            counting = gemini.counting_request(asked.name, body, prefix)
            client.write_as(COUNT, "", False)
            self._begin_inner(_TOKENIZE, _encode(counting), as_framed=False)
            return
        told = gemini.chat_request(asked.name, body, prefix, stream=asked.verb is Verb.STREAM)
        client.write_as(ANSWER, asked.alt, told.thoughts)
        if told.ignored:
            client.added += b"x-warmroute-ignored: %b\r\n" % ", ".join(told.ignored).encode()
        if kept is not None:
            client.added += promise_line(kept)
        self._begin_inner(CHATS, _encode(told.body), as_framed=False)

    # -- the resource -------------------------------------------------------------------------------------------------

    async def _manage(self, asked: Asked, body: Json) -> None:
        caches, scope, google = self._caches, self._scope(), asked.google
        bounds = caches.bounds
        now_s = caches.clock()
        if asked.verb is Verb.CREATE:
            wanted = cached_contents.wanted(
                body, now_s, google=google, default_s=bounds.ttl_s, most_s=bounds.ttl_max_s
            )
            content = await caches.create(scope, self._sharing(), wanted, self._warm)
            self._stored(content, content.expires_s - content.created_s, content.created_s)
            shown = cached_contents.shown(content, google=google)
        elif asked.verb is Verb.GET:
            shown = cached_contents.shown(await caches.get(scope, asked.name), google=google)
        elif asked.verb is Verb.LIST:
            rows, more = await caches.page(scope, asked.page, asked.after)
            shown = cached_contents.shown_page(rows, more, google=google)
        elif asked.verb is Verb.PATCH:
            until_s = cached_contents.lifetime(body, now_s, None, bounds.ttl_max_s)
            before, content = await caches.extend(scope, asked.name, until_s)
            self._stored(content, content.expires_s - before.expires_s, content.created_s)
            shown = cached_contents.shown(content, google=google)
        else:
            gone = await caches.delete(scope, asked.name)
            self._stored(gone, min(now_s - gone.expires_s, 0.0), gone.created_s)
            shown = cached_contents.shown_deletion(gone.id, google=google)
        if not self._done:
            self._write(_encode(shown), 200, b"")

    # -- what storing takes -------------------------------------------------------------------------------------------

    def _stored(self, content: CachedContent, for_s: float, at_s: float) -> None:
        """It is kept for so much longer than was known before. What is given back was taken since `at_s`, when it was
        made: given back where it was extended last, it would free money again when what was taken first is free."""
        admission, caller = self._gateway.admission, self.caller
        if admission is not None and caller is not None:
            admission.stored(caller, content.model, content.tokens * for_s, at_s)


def _asked(head: RequestHead) -> Asked:
    """The call that a head names; paths with dots come here too, which have no route and name none."""
    asked = gemini_paths.asked(head.method.decode("latin-1"), head.target.decode("latin-1"))
    if asked is None:
        raise NotFoundError(
            f"no endpoint {head.path.decode('latin-1')[:200]!r} here", code="unknown_endpoint"
        )
    return asked


def _check_key(key: bytes) -> None:
    if _NO_KEY.search(key) is not None:
        raise ClientError(
            "the key in the query has a control character: send the key as it was given",
            code="invalid_key",
            param="key",
        )


def _named(body: Json) -> str | None:
    whole = gemini_fields.field(body, "generateContentRequest")
    return cached_contents.named(whole if isinstance(whole, dict) else body)


def _google_key(head: RequestHead) -> bytes:
    """The key in `x-goog-api-key`, where replicas would be sent it, or in the query."""
    key = whose.field(head, whose.GOOGLE_KEY)
    if key:
        return key
    query = head.target[len(head.path) + 1 :]
    return gemini_paths.key_of(query.decode("latin-1")).encode() if b"key=" in query else b""
