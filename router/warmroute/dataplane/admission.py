"""Who may come in: whose key a request shows, what that tenant may use, and what it has used when it is over.

Decides between letting in and refusing, and says why. Does not keep keys, sums or accounts (`ports`), and chooses
nothing. An exchange asks three times: `identify` when it starts, `admit` once its prompt is known, and `finished` from
the accounts. Whose a key is stays with the head that showed it, which equal requests share (`head_cache`), for as long
as no key and no tenant changes (`epoch`): then a request costs one comparison.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import sha256
from math import ceil, inf
from typing import TYPE_CHECKING, Final

from warmroute.core.errors import ClientError, OverloadError, RouterError
from warmroute.dataplane.outcome import Outcome
from warmroute.dataplane.request import Request, RequestHead
from warmroute.dialects.routes import RouteKind
from warmroute.tenants.caller import Caller, Standing
from warmroute.tenants.keys import Keyring
from warmroute.tenants.limits import (
    COST_DAY,
    COST_MONTH,
    NAMES,
    SPANS_S,
    TOKENS_DAY,
    TOKENS_MINUTE,
    Grant,
    LocalLimits,
    Scope,
    scopes_of,
)
from warmroute.tenants.prices import GOOGLE, INTERFACES, OPENAI
from warmroute.tenants.salts import Salts, salted
from warmroute.tenants.tenant import ANONYMOUS, Tenant, Tenants
from warmroute.tenants.usage import Ledger, Row

if TYPE_CHECKING:
    from warmroute.core.fleet.fleet import Fleet
    from warmroute.core.fleet.replica import Replica
    from warmroute.dialects.parsed import Parsed
    from warmroute.dialects.usage import Usage
    from warmroute.ports import Limiter, TokenVerifier

OPEN: Final = frozenset((RouteKind.HEALTH, RouteKind.READY, RouteKind.METHOD))
"""What needs no key: probes, and what only says that something is not there, browsers' preflights among it."""

MOST_TOKENS: Final = 10_000
"""Verified tokens that are remembered."""

BUDGET: Final = "budget_exceeded"
"""The code of what is refused for money."""

_JWT: Final = b"eyJ"
"""How every JSON Web Token begins: `{"` in base64."""

REQUESTS: Final = (
    b"x-ratelimit-limit-requests: %d\r\nx-ratelimit-remaining-requests: %d\r\nx-ratelimit-reset-requests: %ds\r\n",
    b"anthropic-ratelimit-requests-limit: %d\r\nanthropic-ratelimit-requests-remaining: %d\r\n"
    b"anthropic-ratelimit-requests-reset: %b\r\n",
)
TOKENS: Final = (
    b"x-ratelimit-limit-tokens: %d\r\nx-ratelimit-remaining-tokens: %d\r\nx-ratelimit-reset-tokens: %ds\r\n",
    b"anthropic-ratelimit-tokens-limit: %d\r\nanthropic-ratelimit-tokens-remaining: %d\r\n"
    b"anthropic-ratelimit-tokens-reset: %b\r\n",
)
"""What OpenAI's clients read, and what Anthropic's."""

Identified = Callable[["Caller | RouterError"], None]


class Admission:
    """The door of one worker."""

    __slots__ = (
        "_anonymous",
        "_clock",
        "_fleet",
        "_keys",
        "_limiter",
        "_local",
        "_tenants",
        "_tokens",
        "_verified",
        "epoch",
        "keyring",
        "keys_known",
        "ledger",
        "open_metrics",
        "refused",
        "salts",
        "upstream",
    )

    def __init__(
        self,
        *,
        keys: bool,
        tokens: TokenVerifier | None,
        limiter: Limiter | None,
        ledger: Ledger | None,
        fleet: Fleet,
        upstream: bytes | None,
        clock: Callable[[], float],
        open_metrics: bool,
    ) -> None:
        """Args:
        keys: Whether API keys are asked for.
        upstream: What replicas are sent as `Authorization` in place of clients' keys; None: they are sent those.
        """
        self._keys = keys
        self._tokens = tokens
        self._limiter: Limiter | None = None
        self._local: LocalLimits | None = None
        """Where limits are counted in this process alone."""
        self.use_limiter(limiter)
        self.ledger = ledger
        self._fleet = fleet
        self.upstream = upstream
        self._clock = clock
        self.open_metrics = open_metrics
        self.keyring = Keyring()
        self.keys_known = False
        """Whether the keys were ever read."""
        self.epoch = 1
        """Grows whenever somebody who was let in may have to be refused, or the other way round."""
        self._tenants = Tenants({})
        self._anonymous = Caller(Tenant(ANONYMOUS), "")
        self._verified: dict[bytes, Caller] = {}
        self.salts: Salts | None = None
        """Set where tenants are kept apart in engines' caches, once the secret is known."""
        self.refused: dict[str, int] = {}
        """Requests refused here, by code."""

    # -- who ------------------------------------------------------------------------------------------------------

    def use_tenants(self, tenants: Tenants) -> None:
        """Tenants are these from now on."""
        self._tenants = tenants
        self._anonymous = Caller(tenants.find(ANONYMOUS), "")
        self.keyring.retell(tenants)
        self.forget()

    def use_limiter(self, limiter: Limiter | None) -> None:
        """Limits are counted there from now on."""
        self._limiter = limiter
        self._local = None if limiter is None else limiter.own

    def forget(self) -> None:
        """Everybody has to show a key again."""
        self._verified.clear()
        self.epoch += 1

    @property
    def asks(self) -> bool:
        """Whether anybody has to show anything."""
        return self._keys or self._tokens is not None

    def identify(self, head: RequestHead, done: Identified) -> Caller | None:
        """Whose request this is. None: it is asked, and `done` is called once.

        Raises:
            RouterError: Nobody's who may come in.
        """
        caller = head.caller
        if caller is None or head.caller_epoch != self.epoch:
            caller = self._find(head, done)
            if caller is None:
                return None
            head.caller = caller
            head.caller_epoch = self.epoch
        if caller.expires_s != inf and caller.expires_s <= self._clock():
            raise self._refusal("the key has expired: ask for a new one", "expired_api_key")
        return caller

    def open(self, kind: RouteKind) -> bool:
        """Whether this needs no key."""
        return kind in OPEN or (kind is RouteKind.METRICS and self.open_metrics)

    def _find(self, head: RequestHead, done: Identified) -> Caller | None:
        if not self._keys and self._tokens is None:
            return self._anonymous
        credential = head.credential
        if not credential:
            raise self._refusal("a key is needed: send it as Authorization: Bearer KEY", "missing_api_key")
        tokens = self._tokens
        if tokens is not None and credential.startswith(_JWT) and credential.count(b".") == 2:
            return self._find_token(tokens, credential, done)
        if not self._keys:
            raise self._refusal("this is no token of the identity provider's", "invalid_api_key")
        caller = self.keyring.find(credential)
        if caller is None:
            if not self.keys_known:
                self._count("keys_unknown")
                raise OverloadError("the router has not read its keys yet: retry later", code="keys_unknown")
            raise self._refusal("this key is not known, or was revoked", "invalid_api_key")
        return caller

    def _find_token(self, tokens: TokenVerifier, token: bytes, done: Identified) -> Caller | None:
        name = sha256(token).digest()
        known = self._verified.get(name)
        if known is not None:
            return known

        def verified(claims: object) -> None:
            try:
                done(self._caller_of(name, claims))
            except RouterError as error:
                done(error)

        claims = tokens.verify(token, verified)
        return None if claims is None else self._caller_of(name, claims)

    def _caller_of(self, name: bytes, claims: object) -> Caller:
        from warmroute.ports import Claims

        if not isinstance(claims, Claims):
            raise self._refusal(f"the token is not accepted: {claims}", "invalid_token")
        caller = Caller(
            self._tenants.find(claims.tenant), "oidc", expires_s=claims.expires_s, priority=claims.priority
        )
        if len(self._verified) >= MOST_TOKENS:
            self._verified.clear()
        self._verified[name] = caller
        return caller

    def _count(self, code: str) -> None:
        self.refused[code] = self.refused.get(code, 0) + 1

    def _refusal(self, message: str, code: str) -> ClientError:
        self._count(code)
        return ClientError(message, status=401, code=code)

    # -- what -----------------------------------------------------------------------------------------------------

    def set_apart(self, caller: Caller, request: Request, parsed: Parsed) -> None:
        """Give the request its tenant's salt, where tenants are kept apart.

        Raises:
            ClientError: Its body cannot be given one.
        """
        salts = self.salts
        if salts is None:
            return
        if request.head.coding:
            raise ClientError(
                "send the body without Content-Encoding: this router writes each tenant's cache_salt into it",
                status=415,
                code="unsupported_coding",
            )
        salt = salts.salt(caller.tenant.sharing, parsed.scope_salt)
        parsed.scope_salt = salt
        request.body = salted(request.body, salt)
        request.body_bytes = len(request.body)

    def may_use(self, caller: Caller, model: str) -> None:
        """Refuse a model that is not the caller's.

        Raises:
            ClientError: 403.
        """
        if not caller.may_use(model):
            self._count("model_not_allowed")
            raise ClientError(
                f"this key may not use the model {model!r}",
                status=403,
                code="model_not_allowed",
                param="model",
            )

    def standing(self, caller: Caller, model: str, interface: int = OPENAI) -> Standing:
        """How a caller stands with a model, asked for by one of `prices.INTERFACES`."""
        found = caller.standings[interface].get(model)
        if found is not None:
            return found
        known = model in self._fleet.models() or self._priced(model, interface)
        tenant = caller.tenant
        if known:
            row = Row((tenant.id, caller.key_id, model, INTERFACES[interface], ""))
        else:  # counted together: of other names there is no end
            unknown = caller.unknown.get(interface)
            if unknown is None:
                unknown = Row((tenant.id, caller.key_id, "", INTERFACES[interface], ""))
                caller.unknown[interface] = unknown
            row = unknown
        scopes = [] if self._limiter is None or not tenant.bounded else scopes_of(tenant, model)
        found = Standing(caller, model, row, scopes)
        if known:
            caller.standings[interface][model] = found
        return found

    def admit(self, standing: Standing, prompt_tokens: int) -> Grant | None:
        """Let a request in, or not. None: nothing limits it. A grant that is `pending` has to be `ask`ed for; any other
        is decided.

        Raises:
            RouterError: It may not come in.
        """
        ledger = self.ledger
        if ledger is not None:
            ledger.begin(standing.row)
        if not standing.allowed:
            self.may_use(standing.caller, standing.model)
        if 0 < standing.most_prompt_tokens < prompt_tokens:
            self._count("prompt_too_large")
            raise ClientError(
                f"the prompt has about {prompt_tokens} tokens; this tenant's may have {standing.most_prompt_tokens}",
                status=413,
                code="prompt_too_large",
            )
        scopes = standing.scopes
        if not scopes:
            return None
        grant = Grant(scopes, prompt_tokens)
        if standing.costed:
            grant.cost_nano = standing.row.least_cost_nano(prompt_tokens)
            if grant.unaffordable:
                self._count(BUDGET)
                raise ClientError(
                    f"the prompt has about {prompt_tokens} tokens, which cost more than this tenant may ever spend at"
                    " once",
                    status=413,
                    code=BUDGET,
                )
        if grant.hopeless:
            self._count("prompt_too_large")
            raise ClientError(
                f"the prompt has about {prompt_tokens} tokens, more than this tenant may ever use at once",
                status=413,
                code="prompt_too_large",
            )
        local = self._local
        if local is not None:
            local.take(grant, self._clock())
        else:
            grant.pending = True
        return grant

    def recalled(self, caller: Caller, model: str, interface: int) -> Standing:
        """A request needs no replica, since its answer was recorded: it is counted, and takes nothing of any limit.

        Raises:
            ClientError: The model is not the caller's.
        """
        standing = self.standing(caller, model, interface)
        if not standing.allowed:
            self.may_use(caller, model)
        if self.ledger is not None:
            self.ledger.begin(standing.row)
        return standing

    def _priced(self, model: str, interface: int) -> bool:
        """Whether the settings name a price for this very model, whoever lists it."""
        ledger = self.ledger
        if ledger is None:
            return False
        return (model, "") in ledger.prices or (model, INTERFACES[interface]) in ledger.prices

    async def may_compare(self, caller: Caller, model: str, interface: int) -> Grant | None:
        """What a request takes that is compared with recorded ones by the fleet's models: as much as one with a
        single token, until `compared`. None: it may not come in, or not now."""
        standing = self.standing(caller, model, interface)
        if not standing.allowed:
            return None
        grant = Grant(standing.scopes, 1)
        if standing.costed and self.ledger is not None:
            self.ledger.price(standing.row)
            grant.cost_nano = standing.row.least_cost_nano(1)
        local, limiter = self._local, self._limiter
        if limiter is None or not standing.scopes:
            grant.granted = True
        elif local is not None:
            local.take(grant, self._clock())
        else:
            decided = asyncio.Event()
            if not limiter.take(grant, decided.set):
                await decided.wait()
        return grant if grant.granted else None

    def compared(self, grant: Grant, hit: bool) -> None:
        """The models were asked: a request that they found an answer for stays counted as one; any other comes in now
        as if nothing had been."""
        self._settle(grant, 0 if hit else -1, -grant.tokens, -grant.cost_nano, self._clock())

    def ask(self, grant: Grant, done: Callable[[Grant], None]) -> bool:
        """Have a pending grant decided. False: later, by a call of `done`."""
        limiter = self._limiter
        assert limiter is not None
        grant.pending = not limiter.take(grant, lambda: done(grant))
        return not grant.pending

    def refusal_of(self, grant: Grant, anthropic: bool) -> RouterError | None:
        """What a refused grant is answered; None if it was granted."""
        if grant.granted:
            return None
        scope = grant.whose
        assert scope is not None
        which = grant.which
        limit = scope.limits[which]
        of_what = f"model {scope.model!r}" if scope.model else "all models"
        retry_s = max(1, ceil(grant.wait_s))
        if which == COST_DAY or which == COST_MONTH:
            code, kind = BUDGET, "insufficient_quota"
            span = "24 hours" if which == COST_DAY else "30 days"
            over = f"over the budget of {limit / 1e9:g} in {span}"
        else:
            code, kind = (
                "rate_limit_exceeded",
                "tokens" if TOKENS_MINUTE <= which <= TOKENS_DAY else "requests",
            )
            over = f"over the limit of {limit} {NAMES[which].replace('_', ' ')}"
        self._count(code)
        error = OverloadError(f"{over} for {of_what}: retry in {retry_s} s", status=429, code=code)
        error.type = kind
        error.lines = b"retry-after: %d\r\n%b" % (retry_s, self.limit_lines(grant, anthropic))
        return error

    def give_back(self, grant: Grant) -> None:
        """Nobody waits for it any more: nothing of it was used."""
        self._settle(grant, -1, -grant.tokens, -grant.cost_nano, self._clock())

    def _settle(self, grant: Grant, requests: int, tokens: int, cost_nano: int, now_s: float) -> None:
        local = self._local
        if local is not None:
            if not grant.settled:
                local.settle(grant, requests, tokens, now_s, grant.at_s, cost_nano)
        elif self._limiter is not None:
            self._limiter.settle(grant, requests, tokens, cost_nano)

    def limit_lines(self, grant: Grant, anthropic: bool) -> bytes:
        """Header lines that tell what is left, as the called API names them."""
        if not grant.granted:
            return self._refused_lines(grant, anthropic)
        requests_left = grant.left_requests
        tokens_left = grant.left_tokens
        scope = grant.scopes[0]
        if anthropic:
            lines = b""
            limits = scope.limits
            which = scope.requests_told
            if requests_left >= 0:
                lines = self._lines(anthropic, REQUESTS, limits[which], requests_left, SPANS_S[which])
            which = scope.tokens_told
            if tokens_left >= 0:
                lines += self._lines(anthropic, TOKENS, limits[which], tokens_left, SPANS_S[which])
            return lines
        told = scope.told
        if told is None:
            told = scope.told = _told(scope)
        if requests_left >= 0:
            if tokens_left >= 0:
                return b"%b%d%b%d%b" % (told[0], requests_left, told[1], tokens_left, told[2])
            return b"%b%d%b" % (told[0], requests_left, told[3])
        return b"%b%d%b" % (told[4], tokens_left, told[2]) if tokens_left >= 0 else b""

    def _refused_lines(self, grant: Grant, anthropic: bool) -> bytes:
        scope = grant.whose
        assert scope is not None
        retry_s = max(1, ceil(grant.wait_s))
        which = grant.which
        if which == scope.requests_told:
            return self._lines(anthropic, REQUESTS, scope.limits[which], 0, retry_s)
        if which == scope.tokens_told:
            return self._lines(anthropic, TOKENS, scope.limits[which], 0, retry_s)
        return b""

    def _lines(
        self, anthropic: bool, names: tuple[bytes, bytes], limit: int, left: int, reset_s: int
    ) -> bytes:
        if not anthropic:
            return names[0] % (limit, left, reset_s)
        at = datetime.fromtimestamp(self._clock() + reset_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return names[1] % (limit, left, at.encode())

    # -- when it is over ------------------------------------------------------------------------------------------

    def finished(
        self,
        outcome: Outcome,
        status: int,
        usage: Usage | None,
        replica: Replica | None,
        now_s: float,
        ttft_s: float | None,
    ) -> None:
        """A request that `admit` was asked about is over.

        Args:
            status: What the client was answered; 0 where nothing was.
            ttft_s: Until its first byte; None where there was none.
        """
        standing, shape, attempts = outcome.standing, outcome.shape, outcome.attempts
        outcome.standing = None
        if standing is None or shape is None:
            return
        failed = status >= 400 or status == 0
        reported = False
        prompt_tokens = cached_tokens = output_tokens = 0
        if usage is not None and usage.prompt_tokens > 0:
            reported = True
            prompt_tokens = usage.prompt_tokens
            cached_tokens = min(usage.cached_tokens or 0, prompt_tokens)
            output_tokens = usage.completion_tokens
        elif attempts and (not failed or status == 499):
            # Whoever leaves before the usage comes has been answered all the same.
            prompt_tokens, output_tokens = shape.prompt_tokens, outcome.said_tokens()
        written, hour = outcome.written(prompt_tokens, cached_tokens) if reported else (0, 0)
        grant = outcome.grant
        if grant is not None and grant.granted:
            cost_nano = 0
            if grant.cost_nano:
                row = standing.row
                cost_nano = row.cost_nano(prompt_tokens, cached_tokens, output_tokens, written, hour)
                cost_nano -= grant.cost_nano
            tokens = prompt_tokens + output_tokens - grant.tokens
            self._settle(grant, 0 if attempts else -1, tokens, cost_nano, now_s)
        ledger = self.ledger
        if ledger is not None:
            saved_s = 0.0
            if reported and ttft_s is not None and shape.streams:
                assert usage is not None
                if usage.cached_tokens is not None:
                    ledger.time(standing.row, prompt_tokens, cached_tokens, ttft_s)
            if cached_tokens and replica is not None:
                saved_s = replica.prefill_s(prompt_tokens, 0) - replica.prefill_s(
                    prompt_tokens, cached_tokens
                )
            ledger.end(
                standing.row,
                failed,
                reported or failed or not attempts,  # where no replica was asked there is nothing to report
                prompt_tokens,
                cached_tokens,
                output_tokens,
                saved_s,
                outcome.held_s,
                written,
                hour,
            )

    def stored(self, caller: Caller, model: str, token_s: float, at_s: float) -> None:
        """A cached content of this model is kept for so many token seconds more; below 0: fewer than was said at
        `at_s`. Money is spent on it whatever the limits say: they refuse what comes next."""
        ledger = self.ledger
        if ledger is None or not int(token_s):
            return
        standing = self.standing(caller, model, GOOGLE)
        ledger.store(standing.row, int(token_s))
        if standing.costed and self._limiter is not None:
            cost_nano = standing.row.stored_nano(int(token_s))
            if cost_nano:
                self._limiter.charge(standing.scopes, cost_nano, at_s)


def _told(scope: Scope) -> tuple[bytes, bytes, bytes, bytes, bytes]:
    """What OpenAI's clients are told around what is left: before that of requests, between both, behind that of tokens;
    behind requests alone, and before tokens alone."""
    requests = _around(REQUESTS[0], scope, scope.requests_told)
    tokens = _around(TOKENS[0], scope, scope.tokens_told)
    return requests[0], requests[1] + tokens[0], tokens[1], requests[1], tokens[0]


def _around(names: bytes, scope: Scope, which: int) -> tuple[bytes, bytes]:
    if which < 0:
        return b"", b""
    mark = b"remaining-"
    before, _, behind = (names % (scope.limits[which], 0, SPANS_S[which])).partition(mark)
    name, _, rest = behind.partition(b": 0")
    return before + mark + name + b": ", rest
