"""Caching is what one request asks of engines' caches by a provider's interface, and what its answer is told of it.

This module decides what is done about it: which interface a request speaks, what of its body changes on the way to a
replica, in whose words its usage is told, and, once a replica has computed it, which prefixes are promised to be kept
and so stay in the registry. `dialects.cache_control` and `dialects.prompt_cache` say what the fields mean. It keeps
nothing warm: engines keep what they can, and whoever keeps prefixes warm (`service.prompt_promises`) finds them in
`promises`, and what has to be sent for them in `texts`, where these are kept at all.

Where no interface is switched on there is no `Caching`, and requests pay nothing.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from hashlib import blake2b
from typing import Final

import msgspec
from xxhash import xxh3_64_hexdigest, xxh3_64_intdigest

from warmroute.caching.texts import Text, Texts
from warmroute.config.provider_caching import CachingConfig
from warmroute.core.errors import ClientError
from warmroute.core.prompt.fingerprint import GRID, Fingerprinter
from warmroute.core.prompt.promises import Promise, Promises, chain
from warmroute.core.types import Api, FingerprintHash, Incarnation, RequestShape
from warmroute.dataplane import whose
from warmroute.dataplane.request import Request
from warmroute.dialects import cache_control, prompt_cache
from warmroute.dialects.cache_asked import Asked
from warmroute.dialects.chat_request import ChatRequest
from warmroute.dialects.messages import MessagesRequest
from warmroute.dialects.parsed import Parsed
from warmroute.dialects.prefix_request import prefix_request
from warmroute.dialects.responses import ResponsesRequest
from warmroute.dialects.usage_told import UsageTold
from warmroute.ports import Registry
from warmroute.tenants.caller import Caller

HEAD_BYTES: Final = 1024
"""Some 256 tokens: how much of a prompt is joined with its `prompt_cache_key`, as OpenAI does it."""

LONGEST_S: Final = 86_400.0
"""The longest lifetime that any interface has."""

GIVEN_UP: Final = b"x-warmroute-promise: given-up\r\n"
"""What the answer to a request is told that reads a promise which is not kept warm for now."""

_CHAT: Final = Api.CHAT
_COMPLETIONS: Final = Api.COMPLETIONS
_MESSAGES: Final = Api.MESSAGES
_RESPONSES: Final = Api.RESPONSES
_DEEPSEEK: Final = b"deepseek"


class Point:
    """One breakpoint, as far as it is worth a promise."""

    __slots__ = ("at", "first", "path", "rungs", "tokens", "ttl_s")

    def __init__(self, at: int, first: int, rungs: int, tokens: int, ttl_s: float, path: str) -> None:
        self.at = at
        """Its key among `CacheUse.keys`."""
        self.first = first
        """The earliest key at which an earlier promise is looked for."""
        self.rungs = rungs
        """How many of the prompt's rungs its prefix has: never 0."""
        self.tokens = tokens
        self.ttl_s = ttl_s
        self.path = path
        """The block that ends it."""


class CacheUse:
    """What one request asks, and how its answer is told."""

    __slots__ = ("api", "asked", "body", "given_up", "keys", "lines", "points", "tenant", "told")

    def __init__(self, asked: Asked | None, told: UsageTold | None, tenant: str) -> None:
        self.asked = asked
        self.told = told
        """None: the answer passes as it is."""
        self.tenant = tenant
        self.api = Api.OTHER
        self.body: bytes | bytearray = b""
        """What texts are made of; only where they are kept, and until the prompt is computed."""
        self.given_up = False
        """It reads a prefix that is promised, and that is not kept warm for now."""
        self.keys: list[int] = []
        self.points: list[Point] = []
        self.lines = b""
        """Header lines that the answer gets besides."""


class Caching:
    """The interfaces of one worker."""

    __slots__ = ("_config", "_minimums", "_plain", "_registry", "_tenants", "promises", "texts")

    def __init__(self, config: CachingConfig, registry: Registry, texts_bytes: int = 0) -> None:
        """Args:
        texts_bytes: How much is kept of promised prefixes' texts; 0: none are.
        """
        self._config = config
        self._registry = registry
        self._minimums = {minimum.model: minimum.tokens for minimum in config.anthropic_minimums}
        self._tenants = frozenset(config.deepseek_tenants)
        self._plain: dict[tuple[Api, bool], CacheUse] = {
            (api, deepseek): CacheUse(None, UsageTold(api, openai=config.openai, deepseek=deepseek), "")
            for api in (_CHAT, _COMPLETIONS)
            for deepseek in (False, True)
        }
        """Of requests that ask for nothing: shared by all of them."""
        self.promises = Promises(config.promises)
        self.texts = Texts(texts_bytes) if texts_bytes else None

    # -- before it is placed ----------------------------------------------------------------------------------------

    def read(
        self, api: Api, parsed: Parsed, body: bytes | bytearray, request: Request, caller: Caller | None
    ) -> CacheUse | None:
        """What a request, whose body says this, asks, and how it is answered; it becomes what replicas are sent.

        Raises:
            ClientError: 400, what it asks for is refused as its provider refuses it; 415, its body is coded and would
                have to be changed.
        """
        config = self._config
        fields = parsed.request
        if api is _MESSAGES:
            if config.anthropic and isinstance(fields, MessagesRequest):
                return self._read_messages(fields, body, request, caller)
            return None
        asked = None
        if config.openai and isinstance(fields, ChatRequest | ResponsesRequest):
            asked = prompt_cache.read(fields, body)
            if asked is not None and config.openai_strip_fields:
                _change(request, prompt_cache.stripped)
        told = None
        if api is not _RESPONSES:
            deepseek = self.tells_deepseek(api, request, caller)
            if config.openai or deepseek:
                plain = self._plain[api, deepseek]
                if asked is None:
                    return plain
                told = plain.told
        return None if asked is None else CacheUse(asked, told, tenant_of(request, caller))

    def read_own(
        self, api: Api, parsed: Parsed, body: bytes | bytearray, request: Request, caller: Caller | None
    ) -> CacheUse | None:
        """`read` of a request of the router's own."""
        return self.read(api, parsed, body, request, caller)

    def rewritten(self, api: Api, body: bytes | bytearray, tenant: str) -> bytes | None:
        """A body as replicas are sent it for this tenant (`advising`); None: as it is."""
        return None

    def _read_messages(
        self, fields: MessagesRequest, body: bytes | bytearray, request: Request, caller: Caller | None
    ) -> CacheUse | None:
        asked = cache_control.read(fields, body)
        prewarms = cache_control.prewarms(fields, body)
        if prewarms:
            _change(request, cache_control.with_one_token)
        if asked is None and not prewarms:
            return None
        told = UsageTold(_MESSAGES, prewarms=True) if prewarms else None
        return CacheUse(asked, told, tenant_of(request, caller))

    def tells_deepseek(self, api: Api, request: Request, caller: Caller | None) -> bool:
        """Whether its usage is told in DeepSeek's words."""
        if not self._config.deepseek or (api is not _CHAT and api is not _COMPLETIONS):
            return False
        if request.head.usage_words == _DEEPSEEK:
            return True
        tenants = self._tenants
        return bool(tenants) and ("*" in tenants or (caller is not None and caller.tenant.id in tenants))

    def session(self, session: str | None, parsed: Parsed) -> str | None:
        """The session of a request whose session is a `prompt_cache_key`: that and how the prompt begins, so that one
        key for all of an application does not make one place of all its prompts."""
        told = parsed.told
        if session is None or told is None or not self._config.openai or told.prompt_cache_key is None:
            return session
        if session != str(told.prompt_cache_key):
            return session
        return f"{session}\0{xxh3_64_hexdigest(parsed.canonical[:HEAD_BYTES])}"

    def bind(
        self,
        api: Api,
        use: CacheUse,
        parsed: Parsed,
        shape: RequestShape,
        fingerprinter: Fingerprinter,
        body: bytes | bytearray,
    ) -> None:
        """Find the prefixes that breakpoints mean among the request's rungs; short ones are passed over.

        Args:
            body: As replicas are sent it, without a content coding.
        """
        asked = use.asked
        if asked is None or not asked.breakpoints:
            return
        rungs = len(shape.rungs)
        tokens_per_byte = shape.prompt_tokens / max(shape.prompt_bytes, 1)
        if api is _MESSAGES:
            minimum = self._minimums.get(shape.model, self._config.anthropic_minimum_tokens)
        else:
            minimum = self._config.openai_minimum_tokens
        ends = asked.ends_bytes
        hour_bytes = last_bytes = 0
        for point in asked.breakpoints:
            end = ends[point.at]
            tokens = int(end * tokens_per_byte)
            covered = min(bisect_right(GRID, end), rungs)
            if tokens >= minimum and covered:
                use.points.append(Point(point.at, point.first, covered, tokens, point.ttl_s, point.path))
                last_bytes = end
                if point.ttl_s > cache_control.TTL_S[cache_control.DEFAULT_TTL]:
                    hour_bytes = end
        if not use.points:
            return
        # Each tenant's promises are its own, though the blocks that they are about may be shared.
        space = fingerprinter.space(shape.model, parsed.scope_salt) ^ xxh3_64_intdigest(use.tenant.encode())
        use.keys = chain(space, parsed.canonical, ends)
        if self.texts is not None:
            use.api, use.body = api, body
            use.given_up = self._given_up(use)
        if api is _MESSAGES:
            ratio = 1.0 if hour_bytes == last_bytes else hour_bytes / max(len(parsed.canonical), 1)
            prewarms = use.told is not None and use.told.prewarms
            use.told = UsageTold(_MESSAGES, hour_ratio=ratio, prewarms=prewarms)

    def _given_up(self, use: CacheUse) -> bool:
        """Whether a promise that it reads is given up."""
        find = self.promises.find
        for point in use.points:
            for key in use.keys[point.first : point.at + 1]:
                promise = find(key)
                if promise is not None and promise.lapsed:
                    return True
        return False

    # -- once a replica has computed it -----------------------------------------------------------------------------

    def computed(self, use: CacheUse, shape: RequestShape, incarnation: Incarnation, now_s: float) -> None:
        """A replica has the prompt: what was promised of it before is renewed where it is read, and what its
        breakpoints mean is promised. The registry keeps both."""
        promises = self.promises
        rungs = shape.rungs
        untils = [0.0] * len(rungs)
        held: dict[int, Promise] = {}
        for point in use.points:
            read = promises.read(use.keys[point.first : point.at + 1], now_s)
            promise = Promise(
                use.keys[point.at],
                use.tenant,
                shape.model,
                rungs[: point.rungs],
                point.tokens,
                point.ttl_s,
                0.0,
            )
            if read is not None:
                held[use.keys.index(read.key)] = read
            held[point.at] = promises.make(promise, now_s)
            for kept in (read, promise):
                if kept is not None:
                    at = min(len(kept.rungs), len(untils)) - 1
                    untils[at] = max(untils[at], now_s + kept.ttl_s)
        self._keep(rungs, untils, incarnation, now_s)
        if self.texts is not None:
            self._keep_texts(self.texts, use, held)

    def _keep_texts(self, texts: Texts, use: CacheUse, held: dict[int, Promise]) -> None:
        """Keep what computes these again, by their places among the keys. A prefix needs no text of its own while a
        longer one that begins with it is promised for as long, and has one."""
        body, use.body = use.body, b""
        paths = {point.at: point.path for point in use.points}
        longer_until_s = 0.0
        for at in sorted(held, reverse=True):
            promise = held[at]
            if promise.until_s <= longer_until_s:
                texts.drop(promise.key)
                promise.lapsed = False  # whether it is kept is the longer one's matter
                continue
            there = texts.renew(promise.key)
            if not there and at in paths:
                text = prefix_request(use.api, body, paths[at])
                there = text is not None and texts.put(promise.key, Text(use.api, text))
            if there:
                longer_until_s = promise.until_s

    def _keep(
        self, rungs: list[FingerprintHash], untils: list[float], incarnation: Incarnation, now_s: float
    ) -> None:
        """A prefix is kept for as long as the longest that begins with it."""
        end = len(rungs)
        while end and not untils[end - 1]:
            end -= 1
        until_s = 0.0
        for at in range(end - 1, -1, -1):
            if untils[at] > until_s:
                if until_s:
                    self._registry.keep(rungs[at + 1 : end], incarnation, now_s, until_s)
                until_s, end = untils[at], at + 1
        if until_s:
            self._registry.keep(rungs[:end], incarnation, now_s, until_s)


def _change(request: Request, change: Callable[[bytes | bytearray], bytes | bytearray]) -> None:
    if request.head.coding:
        raise ClientError(
            "send the body without Content-Encoding: this router changes what it asks of caches for the engine",
            status=415,
            code="unsupported_coding",
        )
    try:
        request.body = change(request.body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return  # the engine judges it
    request.body_bytes = len(request.body)


def tenant_of(request: Request, caller: Caller | None) -> str:
    """Whose promises these are: the tenant's, or the key's, where the router asks for none itself; Anthropic's clients
    show theirs as `x-api-key`."""
    if caller is not None and caller.key_id:
        return caller.tenant.id
    key = whose.shown_key(request.head)
    return f"key:{blake2b(key, digest_size=8).hexdigest()}" if key else ""
