"""Requests of the router's own: it has a replica compute a prompt, so that others find it cached.

Decides how such a request goes its way: as any client's, with all that is learned, noted and counted on it, but with
nobody waiting and, where its replica is named, on that one alone. What is sent and when, others decide
(`service.keep_warm`, `translated`).
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec

from warmroute.caching.prefilled import Prefilled
from warmroute.core.errors import RouterError
from warmroute.core.fleet.decision import Decision
from warmroute.core.types import Api, ReplicaId, RequestShape
from warmroute.dataplane.caching import CacheUse, Caching
from warmroute.dataplane.exchange import Exchange
from warmroute.dataplane.gateway import Gateway
from warmroute.dataplane.request import Request, RequestHead
from warmroute.dataplane.shapes import prefix_shape
from warmroute.dataplane.stand_in import StandIn
from warmroute.dialects.parsed import Parsed
from warmroute.dialects.reading import parse
from warmroute.dialects.routes import RouteKind
from warmroute.dialects.usage import Usage, believed
from warmroute.tenants.caller import Caller
from warmroute.tenants.prices import GOOGLE
from warmroute.tenants.salts import salted

if TYPE_CHECKING:
    from warmroute.dataplane.cors import Cors

monotonic: Final = time.monotonic
"""The module's own: a name of another module is looked up at every use."""

PATIENCE_S: Final = 300.0
"""After so long a prompt is not waited for any more."""
_JSON: Final = (b"content-type", b"application/json")
_PATHS: Final = {
    Api.CHAT: b"/v1/chat/completions",
    Api.MESSAGES: b"/v1/messages",
    Api.RESPONSES: b"/v1/responses",
}


class OwnClient(StandIn):
    """Keeps an answer for whoever waits for it."""

    __slots__ = ("_body", "_done")

    def __init__(self, done: asyncio.Future[bytes]) -> None:
        super().__init__(b"router")
        self._body: list[bytes] = []
        self._done = done

    @property
    def cors(self) -> Cors | None:
        """No page asks."""
        return None

    @property
    def draining(self) -> bool:
        """It ends with its request in any case."""
        return False

    def serves(self, exchange: object) -> bool:
        """It has only one."""
        return True

    def on_answer(self) -> None:
        """Wait for the rest."""

    def on_piece(self, data: bytes) -> None:
        """Keep it."""
        self._body.append(data)

    def exchange_done(self, *, keep_alive: bool) -> None:
        """The answer is there, or never will be."""
        if not self._done.done():
            self._done.set_result(b"".join(self._body))

    def abort(self) -> None:
        """It cannot be completed: then its status is not one of success."""
        self.status = 0


class OwnExchange(Exchange):
    """One request of the router's own."""

    __slots__ = ("_counts_as", "_on")

    def __init__(
        self,
        gateway: Gateway,
        client: OwnClient,
        request: Request,
        caller: Caller | None,
        on: ReplicaId | None,
        api: Api,
        counts_as: int = GOOGLE,
    ) -> None:
        super().__init__(gateway, client, request)
        self.caller = caller
        self._api = api
        self._on = on
        self._counts_as = counts_as

    def start(self) -> None:
        """It is let in already, or needs not be."""
        found = self._request.head.route
        try:
            if found is None or found.kind is RouteKind.PREFIX:
                self._start_by_prefix()
            else:
                self._choose_by_load()
        except RouterError as error:
            self.fail(error)
        except Exception as error:  # noqa: BLE001 - whoever waits must hear of it
            self.crashed(error)

    def _promise(self, use: CacheUse, decision: Decision) -> None:
        """Whoever asked for a prefix to be kept is not asking now: nothing is promised, and nothing renewed."""

    def interface(self) -> int:
        """That of what it is for, cached contents unless something else is said."""
        return self._counts_as

    def _read_use(self, caching: Caching, parsed: Parsed, body: bytes | bytearray) -> CacheUse | None:
        """No client wrote it, so it is no matter of advice."""
        return caching.read_own(self._api, parsed, body, self._request, self.caller)

    def _choose_by_prefix(self) -> None:
        replica = self._on
        if replica is None:
            super()._choose_by_prefix()
            return
        shape = self.shape
        assert shape is not None
        gateway = self._gateway
        now_s = gateway.clock()
        try:
            decision = gateway.fleet.reserve_on(replica, shape, now_s, self._records)
        except RouterError as error:
            self.fail(error)
            return
        self._pinned = replica
        self._decided(decision, now_s)


class OwnRequests:
    """Sends them, for one worker."""

    __slots__ = ("_gateway",)

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def shape(self, body: bytes, sharing: str, api: Api = Api.CHAT) -> RequestShape:
        """How a request is recognised in the registry.

        Raises:
            ClientError: It is none of this API.
        """
        gateway = self._gateway
        parsed = parse(api, self._salted(body, sharing))
        return prefix_shape(gateway, parsed, self._head(_PATHS[api], b"", b""))

    @property
    def fingerprints(self) -> object:
        """Changes when shapes of before are not comparable any more."""
        return self._gateway.fingerprinter

    async def send(
        self,
        body: bytes,
        *,
        caller: Caller | None = None,
        sharing: str = "",
        on: ReplicaId | None = None,
        head: RequestHead | None = None,
        path: bytes = b"",
        api: Api = Api.CHAT,
        counts_as: int = GOOGLE,
    ) -> Prefilled:
        """Have a request computed.

        Args:
            caller: Whose it is, if it counts as theirs; their limits hold for it. None: it is the router's.
            counts_as: By which of `prices.INTERFACES` it counts.
            sharing: Whose blocks these are, where it is the router's and tenants are kept apart.
            on: The replica; None: whichever would be chosen.
            head: Of a client's request, in whose place this is sent.
            path: As the access log shall have it; empty: as replicas are sent it.
            api: Whose request it is.
        """
        if caller is None:
            body = self._salted(body, sharing)
        request = Request(head or self._head(_PATHS[api], path, self._authorization()), body, monotonic())
        try:
            status, answer = await self._answered(request, caller, on, PATIENCE_S, api, counts_as)
        except TimeoutError:
            return Prefilled(504, "nothing was answered in time", "replica_timeout")
        return _prefilled(status, answer)

    async def ask(self, target: str, body: bytes, deadline_s: float, sharing: str = "") -> bytes:
        """Have a replica answer a request of the router's own; empty if it does not, or not in time.

        Args:
            target: The endpoint's path.
            sharing: Whose blocks the prompt's are, where tenants are kept apart; an endpoint without any takes none.
        """
        head = self._head(target.encode(), b"", self._authorization())
        assert head.route is not None
        request = Request(head, self._salted(body, sharing), monotonic())
        try:
            status, answer = await self._answered(request, None, None, deadline_s, head.route.api)
        except TimeoutError:
            return b""
        return answer if status == 200 else b""

    async def _answered(
        self,
        request: Request,
        caller: Caller | None,
        on: ReplicaId | None,
        deadline_s: float,
        api: Api,
        counts_as: int = GOOGLE,
    ) -> tuple[int, bytes]:
        """Status and body; 0 where it was cut.

        Raises:
            TimeoutError: Nothing was answered by then.
        """
        done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        client = OwnClient(done)
        exchange = OwnExchange(self._gateway, client, request, caller, on, api, counts_as)
        exchange.start()
        try:
            async with asyncio.timeout(deadline_s):
                answer = await done
        except BaseException:
            exchange.client_gone()
            raise
        return client.status, answer

    def _salted(self, body: bytes, sharing: str) -> bytes:
        admission = self._gateway.admission
        salts = None if admission is None else admission.salts
        return body if salts is None or not sharing else bytes(salted(body, salts.salt(sharing, "")))

    def _authorization(self) -> bytes:
        gateway = self._gateway
        known = gateway.upstream_authorization
        return gateway.own_authorization if known is None else known

    def _head(self, target: bytes, path: bytes, authorization: bytes) -> RequestHead:
        fields = [_JSON, (b"authorization", authorization)] if authorization else [_JSON]
        head = RequestHead(
            b"POST", target, fields, keep_alive=False, minor_version=0, sessions=self._gateway.sessions
        )
        if path:
            head.path = path
        return head


def _prefilled(status: int, answer: bytes) -> Prefilled:
    try:
        read: Any = msgspec.json.decode(answer)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        read = None
    if not isinstance(read, dict):
        return Prefilled(502, "the replica answered what cannot be read", "replica_failed")
    if status != 200:
        error = read.get("error")
        error = error if isinstance(error, dict) else read
        message, code = error.get("message"), error.get("code")
        return Prefilled(
            status or 502,
            message if isinstance(message, str) else f"it answered {status}",
            code if isinstance(code, str) else "",
        )
    usage = read.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    prompt, cached = _counted(usage)
    told = believed(Usage(prompt if type(prompt) is int else 0, cached if type(cached) is int else None, 0))
    if told is None:
        return Prefilled(200)
    return Prefilled(200, prompt_tokens=told.prompt_tokens, cached_tokens=told.cached_tokens)


def _counted(usage: dict[str, Any]) -> tuple[Any, Any]:
    """The prompt's tokens and what was cached of them, in whichever API's words."""
    read = usage.get("cache_read_input_tokens")
    if isinstance(read, int):
        created, rest = usage.get("cache_creation_input_tokens"), usage.get("input_tokens")
        parts = [part for part in (read, created, rest) if isinstance(part, int)]
        return sum(parts), read
    prompt = usage.get("prompt_tokens", usage.get("input_tokens"))
    details = usage.get("prompt_tokens_details", usage.get("input_tokens_details"))
    return prompt, details.get("cached_tokens") if isinstance(details, dict) else None
