"""Advising shows prompts to the advisor, and rewrites those of tenants that ask for it.

This module decides which requests are looked at besides the sample (`X-Warmroute-Advice: 1`), and when a rewritten body
is read again. `advice` compares prompts, `dialects.rewrites` rewrites them. It takes the places of `Caching` and of
`Accounts` in a gateway that advises or rewrites, so that others do not pay for it.
"""

from __future__ import annotations

from typing import Final

from warmroute.advice.advisor import Advisor, Look
from warmroute.config.advice import RewriteConfig
from warmroute.config.provider_caching import CachingConfig
from warmroute.core.fleet.fleet import Decision, Fleet
from warmroute.core.prompt.fingerprint import Fingerprinter
from warmroute.core.types import Api, RequestShape
from warmroute.dataplane.accounts import Accounts
from warmroute.dataplane.admission import Admission
from warmroute.dataplane.caching import CacheUse, Caching, tenant_of
from warmroute.dataplane.outcome import Outcome
from warmroute.dataplane.queueing import Queueing
from warmroute.dataplane.request import Request
from warmroute.dialects.parsed import Parsed
from warmroute.dialects.reading import parse
from warmroute.dialects.rewrites import Rewrites, rewritten
from warmroute.dialects.usage import Usage
from warmroute.ports import Registry
from warmroute.telemetry.access_log import AccessLog
from warmroute.telemetry.metrics import Metrics
from warmroute.tenants.caller import Caller
from warmroute.tenants.tenant import ANONYMOUS

ASKS: Final = b"\r\nx-warmroute-advice: 1\r\n"
"""As a head has it that asks for advice on its own request."""
MOST_UNDER_WAY: Final = 4096
"""Requests that were looked at and are not over; more are not counted."""


class AdvisedUse(CacheUse):
    """That of a request which is to be looked at."""

    __slots__ = ("asks",)

    def __init__(self, use: CacheUse | None, tenant: str, asks: bool) -> None:
        if use is None:
            super().__init__(None, None, tenant)
        else:
            super().__init__(use.asked, use.told, tenant)  # one that asks nothing is shared, and nobody's
        self.asks = asks
        """Its answer's head tells what was found."""


class AdvisedCaching(Caching):
    """The interfaces of one worker that advises, or rewrites.

    Args:
        advisor: None: only rewrites.
        tells: Whether answers may tell what was found (`headers.explain`).
        texts_bytes: As of any `Caching`.
    """

    __slots__ = ("_rewrites", "advisor", "tells", "under_way")

    def __init__(
        self,
        config: CachingConfig,
        registry: Registry,
        advisor: Advisor | None,
        rewrites: tuple[RewriteConfig, ...],
        tells: bool,
        texts_bytes: int = 0,
    ) -> None:
        super().__init__(config, registry, texts_bytes)
        self.advisor = advisor
        self.tells = tells
        self._rewrites: dict[str, Rewrites] = {}
        for entry in rewrites:
            wanted = Rewrites(entry.sort_tools, entry.sort_keys, entry.passages_begin, entry.passages_end)
            for tenant in entry.tenants:
                self._rewrites.setdefault(tenant, wanted)
        self.under_way: dict[RequestShape, Look] = {}
        """What was found of requests that are not over."""

    def read(
        self, api: Api, parsed: Parsed, body: bytes | bytearray, request: Request, caller: Caller | None
    ) -> CacheUse | None:
        """As of any `Caching`, of a body that may first become another."""
        if self._rewrites and not request.head.coding:
            told = self.rewritten(api, body, ANONYMOUS if caller is None else caller.tenant.id)
            if told is not None:
                again = parse(api, told)
                parsed.canonical = again.canonical
                parsed.prompt_bytes = again.prompt_bytes
                parsed.request = again.request
                if parsed.told is not None:
                    parsed.told = again.told
                body = request.body = told
                request.body_bytes = len(told)
        use = super().read(api, parsed, body, request, caller)
        advisor = self.advisor
        if advisor is None or not parsed.canonical:
            return use
        wants = advisor.wants()
        asks = self.tells and ASKS in request.head.prefix
        if not (wants or asks):
            return use
        return AdvisedUse(use, tenant_of(request, caller), asks)

    def read_own(
        self, api: Api, parsed: Parsed, body: bytes | bytearray, request: Request, caller: Caller | None
    ) -> CacheUse | None:
        """As of any `Caching`: no client wrote it, and it is rewritten already."""
        return super().read(api, parsed, body, request, caller)

    def rewritten(self, api: Api, body: bytes | bytearray, tenant: str) -> bytes | None:
        """A body as replicas are sent it for this tenant; None: as it is."""
        wanted = self._rewrites.get(tenant) or self._rewrites.get("*")
        return None if wanted is None else rewritten(api, body, wanted)

    def bind(
        self,
        api: Api,
        use: CacheUse,
        parsed: Parsed,
        shape: RequestShape,
        fingerprinter: Fingerprinter,
        body: bytes | bytearray,
    ) -> None:
        """As of any `Caching`; the prompt is looked at."""
        super().bind(api, use, parsed, shape, fingerprinter, body)
        advisor = self.advisor
        if advisor is None or not isinstance(use, AdvisedUse):
            return
        look = advisor.look((use.tenant, shape.model), parsed.canonical, shape.prompt_tokens)
        if look is not None:
            if len(self.under_way) >= MOST_UNDER_WAY:
                del self.under_way[next(iter(self.under_way))]
            self.under_way[shape] = look
        if use.asks:
            use.lines = _line(look)


class AdvisedAccounts(Accounts):
    """The accounts of one worker that advises."""

    __slots__ = ("_caching",)

    def __init__(
        self,
        caching: AdvisedCaching,
        fleet: Fleet,
        metrics: Metrics,
        access_log: AccessLog | None,
        admission: Admission | None,
        queueing: Queueing | None,
    ) -> None:
        super().__init__(fleet, metrics, access_log, admission, queueing)
        self._caching = caching

    def finished(
        self,
        outcome: Outcome,
        request: Request,
        api: Api,
        status: int,
        code: str | None,
        decision: Decision | None,
        usage: Usage | None,
        now_s: float,
    ) -> None:
        """As of any `Accounts`; the advisor is told what the engine had cached."""
        super().finished(outcome, request, api, status, code, decision, usage, now_s)
        shape, caching = outcome.shape, self._caching
        if shape is None:
            return
        look = caching.under_way.pop(shape, None)
        if look is None or caching.advisor is None or status != 200 or not outcome.begun:
            return
        if usage is not None and usage.prompt_tokens > 0:
            cached = usage.cached_tokens if shape.single else None
            caching.advisor.ended(look, usage.prompt_tokens, cached)
        else:
            caching.advisor.ended(look, shape.prompt_tokens, None)


def accounts_of(
    caching: Caching | None,
    fleet: Fleet,
    metrics: Metrics,
    access_log: AccessLog | None,
    admission: Admission | None,
    queueing: Queueing | None,
) -> Accounts:
    """The accounts of one worker."""
    if isinstance(caching, AdvisedCaching) and caching.advisor is not None:
        return AdvisedAccounts(caching, fleet, metrics, access_log, admission, queueing)
    return Accounts(fleet, metrics, access_log, admission, queueing)


def _line(look: Look | None) -> bytes:
    """What the answer's head tells: the cause and the tokens that it costs, by the router's estimate."""
    if look is None:
        return b"x-warmroute-advice: unknown; 0\r\n"
    finding = look.finding
    if finding is None:
        return b"x-warmroute-advice: none; 0\r\n"
    return b"x-warmroute-advice: %b; %d\r\n" % (finding.cause.encode(), finding.tokens)
