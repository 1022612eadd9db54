"""Chats whose prompt is derived from a schema, and the resource `/v1/prompt_schemas`.

Decides which requests these are (`derived_for`). A chat with `prompt_schema` becomes the chat that it means
(`rewritten`), and its answer says in its head which version that was; what concerns schemas alone is answered here.
Where schemas are not switched on, `Gateway.schemas` is None and no request is looked at.
"""

from __future__ import annotations

from typing import Final

import msgspec

from warmroute.core.errors import ClientError
from warmroute.core.types import Api
from warmroute.dataplane.client_side import ClientSide
from warmroute.dataplane.gateway import Gateway
from warmroute.dataplane.request import Request
from warmroute.dataplane.rewritten import CHATS, RewrittenExchange, names_content
from warmroute.dataplane.shapes import default_model, readable
from warmroute.dataplane.translating import AddingClient
from warmroute.dialects import cached_contents, gemini_fields, prompt_schemas, schema_paths
from warmroute.dialects.gemini_fields import Json
from warmroute.dialects.routes import RouteKind
from warmroute.dialects.schema_paths import Called, Verb
from warmroute.service.prompt_schemas import PromptSchemas
from warmroute.tenants.prices import OPENAI

_encode: Final = msgspec.json.Encoder().encode


def derived_for(
    gateway: Gateway, schemas: PromptSchemas, client: ClientSide, request: Request
) -> DerivedExchange | None:
    """The exchange that a request takes; None: schemas do not concern it."""
    head = request.head
    if schema_paths.concerns(head.path):
        return DerivedExchange(gateway, schemas, client, request, chat=False)
    found = head.route
    if found is not None and found.api is Api.CHAT and found.kind is RouteKind.PREFIX:
        # Only what costs nothing is done here: the key is not checked yet.
        if head.coding or prompt_schemas.FIELD in request.body:
            return DerivedExchange(gateway, schemas, client, request, chat=True)
    return None


class DerivedExchange(RewrittenExchange):
    """One such request.

    Args:
        chat: It is a chat request, which may use a schema; else it is one of these by its path.
    """

    __slots__ = ("_chat", "_schemas")

    def __init__(
        self,
        gateway: Gateway,
        schemas: PromptSchemas,
        client: ClientSide,
        request: Request,
        *,
        chat: bool,
    ) -> None:
        super().__init__(gateway, client, request)
        self._schemas = schemas
        self._chat = chat

    def _warms_for(self) -> int:
        """Those that use a schema are chats."""
        return OPENAI

    def _rewrite(self) -> None:
        if self._chat:
            self._api = Api.CHAT
            chat = self._read()
            caches = self._gateway.caches
            if chat.get("prompt_schema") is not None:
                self._later(self._chat_by_schema(chat), "prompt schema")
            elif caches is not None and names_content(chat):
                # In a coded body, or with a field of the schema's name elsewhere: only here is it seen what it is.
                self._later(self._chat_with_content(caches, chat), "cached content")
            else:
                self._as_it_came()
            return
        head = self._request.head
        call = schema_paths.called(head.method.decode("latin-1"), head.target.decode("latin-1"))
        self._later(self._manage(call), "prompt schema")

    def _read(self) -> Json:
        """The body of a chat that may begin with a schema, or with a cached content; empty where it surely does not."""
        try:
            body = readable(self._gateway, self._request)
            concerns = prompt_schemas.FIELD in body or cached_contents.FIELD in body
            return gemini_fields.read(body) if concerns else {}
        except ClientError:
            return {}  # whoever reads it next says what is wrong with it

    async def _chat_by_schema(self, chat: Json) -> None:
        schemas = self._schemas
        asked = prompt_schemas.asked(chat["prompt_schema"])
        record, begun = await schemas.use(self._scope(), asked)
        inner = prompt_schemas.joined(chat, begun, asked, schemas.joint)
        if inner.get("model") is None and record.model:
            inner["model"] = record.model
        if self._done:
            return
        line = b"x-warmroute-prompt-schema: %b; version=%d\r\n" % (record.name.encode(), record.version)
        self.client = AddingClient(self._outer, line)
        self._begin_inner(CHATS, _encode(inner), as_framed=True)

    # -- the resource -------------------------------------------------------------------------------------------------

    async def _manage(self, call: Called) -> None:
        schemas, scope, verb = self._schemas, self._scope(), call.verb
        if verb is Verb.REGISTER:
            shown = await self._register(call, scope)
        elif verb is Verb.LIST:
            rows, more = await schemas.page(scope, call.most, call.after)
            shown = prompt_schemas.shown_page(rows, more)
        elif verb is Verb.VERSIONS:
            rows, more = await schemas.versions(scope, call.name, call.most)
            shown = prompt_schemas.shown_page(rows, more)
        elif verb is Verb.GET:
            record, entry = await schemas.get(scope, call.name, call.version)
            shown = prompt_schemas.shown_whole(
                record, entry.index, entry.registration.document, schemas.bytes_per_token
            )
        elif verb is Verb.RENDER:
            shown = await self._render(call, scope)
        else:
            gone = await schemas.delete(scope, call.name, call.version)
            shown = prompt_schemas.shown_deletion(call.name, gone)
        if not self._done:
            self._write(_encode(shown), 200, b"")

    async def _register(self, call: Called, scope: str) -> Json:
        schemas = self._schemas
        wanted = prompt_schemas.registration(self._document(call))
        model = wanted.model
        if not model:
            try:
                model = default_model(self._gateway)
            except ClientError:
                model = ""  # it may be for any of them: nothing is computed ahead
        made = await schemas.register(scope, self._sharing(), wanted, model, self._warm)
        shown = prompt_schemas.shown_whole(made.record, made.index, wanted.document, schemas.bytes_per_token)
        shown["prewarm"] = {**shown["prewarm"], "prefixes": made.beginnings, "warmed": made.warmed}
        return shown

    async def _render(self, call: Called, scope: str) -> Json:
        """What a use of the schema would begin with: nothing is computed or counted."""
        schemas = self._schemas
        body = gemini_fields.read(readable(self._gateway, self._request))
        messages = body.pop("messages", None)
        asked = prompt_schemas.asked({"version": call.version or None, **body, "name": call.name})
        record, entry = await schemas.get(scope, call.name, asked.version)
        begun = schemas.derive(entry, asked)
        chat = prompt_schemas.joined({"messages": messages}, begun, asked, schemas.joint)
        return {
            "object": "prompt_schema.prompt",
            "name": record.name,
            "version": record.version,
            "messages": chat["messages"],
        }

    def _document(self, call: Called) -> Json:
        """What is to be registered: JSON, or markup by itself."""
        body = readable(self._gateway, self._request)
        kind = self._request.head.content_type.lower()
        if b"xml" not in kind:
            return gemini_fields.read(body)
        try:
            document: Json = {"pml": bytes(body).decode()}
        except UnicodeDecodeError as error:
            prompt_schemas.refuse("pml", f"is no UTF-8: {error.reason} at byte {error.start}")
        if call.model:
            document["model"] = call.model
        return document
