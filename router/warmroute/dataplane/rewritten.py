"""Requests that replicas are sent in another form than they came: what is common to all of them.

Decides whose such a request is, and how another takes its place: its body is rewritten before it is read, so that it is
fingerprinted, placed, held, tried again, gone on with and counted as any other, and nothing below knows of it. Which
requests these are, and what becomes of them, those who extend it decide (`translated`, `derived`).

What has to be looked up in a store is a task, since that is no hot path.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final

import msgspec

from warmroute.caching.prefilled import Prefilled
from warmroute.core.errors import RouterError
from warmroute.core.types import Api
from warmroute.dataplane import local, whose
from warmroute.dataplane.client_side import ClientSide
from warmroute.dataplane.exchange import Exchange
from warmroute.dataplane.gateway import Gateway
from warmroute.dataplane.large_body import LARGE_BYTES
from warmroute.dataplane.own_requests import OwnRequests
from warmroute.dataplane.request import Request
from warmroute.dataplane.stand_in import inner_head
from warmroute.dataplane.translating import AddingClient
from warmroute.dialects import cached_contents
from warmroute.dialects.gemini_fields import Json
from warmroute.dialects.routes import RouteKind
from warmroute.ports import Kept
from warmroute.service.cached_contents import CachedContents
from warmroute.tenants.prices import GOOGLE
from warmroute.tenants.tenant import ANONYMOUS

CHATS: Final = b"/v1/chat/completions"
_encode: Final = msgspec.json.Encoder().encode


class RewrittenExchange(Exchange):
    """One such request."""

    __slots__ = ("_asked_key", "_outer", "_ready")

    def __init__(self, gateway: Gateway, client: ClientSide, request: Request) -> None:
        super().__init__(gateway, client, request)
        self._outer = client
        self._asked_key = b""
        """What the client shows as a key elsewhere than in `Authorization`."""
        self._ready = False
        """The request is what replicas are sent."""

    def start(self) -> None:
        """Find out what is asked, and by whom."""
        if self._ready:
            Exchange.start(self)
            return
        gateway = self._gateway
        head = self._request.head
        try:
            cors = gateway.cors
            if cors is not None and head.method == b"OPTIONS" and head.cors_method and head.origin:
                self._write(b"", 200, cors.preflight(head))
                return
            self._vet()
            if gateway.admission is not None and self.caller is None and not self._let_in(RouteKind.PREFIX):
                return
            self._rewrite()
        except RouterError as error:
            self.fail(error)
        except Exception as error:  # noqa: BLE001 - ends this exchange, and no other on its connection
            self.crashed(error)

    def _vet(self) -> None:
        """Refuse what nobody need be known for.

        Raises:
            RouterError: It is refused.
        """

    def _rewrite(self) -> None:
        """Go on, now that it is known whose request it is.

        Raises:
            RouterError: It cannot.
        """
        raise NotImplementedError

    def _as_it_came(self) -> None:
        """Nothing is to be rewritten after all: replicas are sent what came."""
        self._ready = True
        Exchange.start(self)

    def _later(self, work: Awaitable[None], name: str) -> None:
        """Go on with what has to wait for a store."""
        self._gateway.tasks.spawn(self._guarded(work), name=name)

    async def _guarded(self, work: Awaitable[None]) -> None:
        try:
            await work
        except RouterError as error:
            if not self._done:
                self._searched = True  # whoever computed it has asked replicas for the model
                self.fail(error)
        except Exception as error:  # noqa: BLE001 - as in `start`
            self.crashed(error)

    def _begin_inner(self, target: bytes, body: bytes, *, as_framed: bool) -> None:
        """Go on with this request in the place of the one that came.

        Args:
            as_framed: Its answer goes to the client as it is framed.

        Raises:
            OverloadError: There is no room for it: what came may be short, and this long.
        """
        gateway = self._gateway
        came = self._request
        held_bytes = gateway.buffered_bytes - came.reserved_bytes
        if len(body) > LARGE_BYTES and held_bytes + len(body) > gateway.limits.buffered_body_bytes:
            raise local.buffers_full()
        head = inner_head(gateway, came.head, target, self._asked_key)
        if as_framed:
            head.keep_alive = came.head.keep_alive
            head.minor_version = came.head.minor_version
            head.origin = came.head.origin
        request = Request(head, body, came.received_s)
        gateway.drop_body(came)
        request.reserved_bytes = len(body)
        gateway.buffered_bytes += len(body)
        self._request = request
        self._ready = True
        Exchange.start(self)

    async def _chat_with_content(self, caches: CachedContents, chat: Json) -> None:
        """Begin a chat with the cached content that it names."""
        name = cached_contents.named({"cached_content": chat["cached_content"]})
        assert name is not None
        kept, prefix = await caches.use(self._scope(), name)
        body = _encode(cached_contents.joined(chat, kept.content, prefix))
        if self._done:
            return
        self.client = AddingClient(self._outer, promise_line(kept))
        self._begin_inner(CHATS, body, as_framed=True)

    async def _warm(self, body: bytes) -> Prefilled:
        gateway = self._gateway
        caller = self.caller
        head = inner_head(gateway, self._request.head, CHATS, self._asked_key)
        caching = gateway.caching
        if caching is not None:
            # As what begins with it will be.
            body = (
                caching.rewritten(Api.CHAT, body, ANONYMOUS if caller is None else caller.tenant.id) or body
            )
        return await OwnRequests(gateway).send(body, caller=caller, head=head, counts_as=self._warms_for())

    def _warms_for(self) -> int:
        """The interface, of `prices.INTERFACES`, that computing a prompt ahead counts by."""
        return GOOGLE

    def _write(self, body: bytes, status: int, added: bytes) -> None:
        head = self._request.head
        keep_alive = local.write(
            self.client, head, status, body, local.id_lines(head, self.request_id) + added
        )
        self.answered_locally(status, keep_alive=keep_alive)

    # -- whose --------------------------------------------------------------------------------------------------------

    def _scope(self) -> str:
        return whose.scope(self.caller, self._request.head, self._asked_key)

    def _sharing(self) -> str:
        return "" if self.caller is None else self.caller.tenant.sharing


def names_content(chat: Json) -> bool:
    """Whether a chat begins with a cached content."""
    return chat.get("cached_content") not in (None, "")


def promise_line(kept: Kept) -> bytes:
    """What the answer to a request that uses a content says of it."""
    return b"x-warmroute-cached-content: %b; promise=%b\r\n" % (
        kept.content.id.encode(),
        b"given-up" if kept.lapsed else b"kept",
    )
