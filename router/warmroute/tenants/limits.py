"""Whether one more request is within what its tenant may use, and what of that it takes: windows, requests under way.

A request is judged in one step over all of its limits, of the tenant and of the model: it takes of all or of none. What
it takes is an estimate of its prompt, in tokens and in money; `settle` puts right what its answer has told. Keeps one
process's sums; what routers share is kept by an adapter of the port `Limiter` by the same rules.

Time is an argument: seconds of one clock, never below a day.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Final

from warmroute.tenants.tenant import Allowance, Tenant
from warmroute.tenants.window import DAY_S, MINUTE_S, MONTH_S, Window

REQUESTS_MINUTE: Final = 0
REQUESTS_DAY: Final = 1
TOKENS_MINUTE: Final = 2
TOKENS_DAY: Final = 3
COST_DAY: Final = 4
COST_MONTH: Final = 5
CONCURRENT: Final = 6

NAMES: Final = (
    "requests_per_minute",
    "requests_per_day",
    "tokens_per_minute",
    "tokens_per_day",
    "cost_per_day",
    "cost_per_month",
    "concurrent_requests",
)
"""Of the settings, by number."""

WINDOWS: Final = 6
"""Limits of time: those before `CONCURRENT`."""

SPANS_S: Final = (MINUTE_S, DAY_S, MINUTE_S, DAY_S, DAY_S, MONTH_S)

BUSY_S: Final = 1.0
"""When to come back if too many requests are under way: nobody knows when one ends."""

Limits = tuple[int, int, int, int, int, int, int]
"""By number; money in billionths of the price table's currency; 0: none."""


def limits_of(allowance: Allowance) -> Limits:
    """The counted limits of an allowance by number."""
    return (
        allowance.requests_per_minute,
        allowance.requests_per_day,
        allowance.tokens_per_minute,
        allowance.tokens_per_day,
        allowance.cost_per_day,
        allowance.cost_per_month,
        allowance.concurrent_requests,
    )


class Scope:
    """What is counted together: all of a tenant's requests, or those for one model."""

    __slots__ = (
        "concurrent",
        "costed",
        "kept",
        "kept_by",
        "limits",
        "meters",
        "model",
        "most_cost",
        "most_tokens",
        "requests_told",
        "tenant",
        "told",
        "tokens_told",
        "under_way",
        "windows",
    )

    def __init__(self, tenant: str, model: str, limits: Limits) -> None:
        self.tenant = tenant
        self.model = model
        """Empty: all."""
        self.limits = limits
        self.concurrent = limits[CONCURRENT] > 0
        self.windows = [which for which in range(WINDOWS) if limits[which]]
        """Numbers of its limits of time."""
        self.under_way = limits[CONCURRENT]
        """Most requests under way; 0: any number."""
        tokens = [limits[which] for which in (TOKENS_MINUTE, TOKENS_DAY) if limits[which]]
        self.most_tokens = min(tokens) if tokens else 0
        """More than so many are never let through at once; 0: any number."""
        costs = [limits[which] for which in (COST_DAY, COST_MONTH) if limits[which]]
        self.most_cost = min(costs) if costs else 0
        """The same of money."""
        self.costed = bool(costs)
        self.requests_told = _first(limits, REQUESTS_MINUTE, REQUESTS_DAY)
        """Number of the limit of requests that clients are told of; -1: none."""
        self.tokens_told = _first(limits, TOKENS_MINUTE, TOKENS_DAY)
        """The same of tokens."""
        self.kept: Sums | None = None
        """Its sums, as of `kept_by`: found once, not at every request."""
        self.kept_by = 0
        self.meters: list[Meter] = []
        """The windows of those that have a limit."""
        self.told: tuple[bytes, bytes, bytes, bytes, bytes] | None = None
        """How OpenAI's clients are told of its limits, once that was needed (`admission`)."""

    @property
    def key(self) -> tuple[str, str]:
        """Tells scopes apart."""
        return self.tenant, self.model


def _first(limits: Limits, one: int, other: int) -> int:
    return one if limits[one] else other if limits[other] else -1


def scopes_of(tenant: Tenant, model: str) -> list[Scope]:
    """What a request for this model counts in: the model's first, whose figures are told."""
    scopes = []
    own = tenant.model_allowances.get(model)
    if own is not None and own.counted:
        scopes.append(Scope(tenant.id, model, limits_of(own)))
    if tenant.allowance.counted:
        scopes.append(Scope(tenant.id, "", limits_of(tenant.allowance)))
    return scopes


class Grant:
    """One request's share of what may be used: asked for, then taken or refused, then settled once."""

    __slots__ = (
        "at_s",
        "cost_nano",
        "granted",
        "left_requests",
        "left_tokens",
        "local",
        "pending",
        "scopes",
        "settled",
        "tokens",
        "wait_s",
        "which",
        "whose",
    )

    def __init__(self, scopes: list[Scope], tokens: int) -> None:
        self.scopes = scopes
        self.tokens = tokens
        """Estimate that was taken."""
        self.cost_nano = 0
        """The same in billionths of money; 0: it costs nothing, and no limit on money concerns it."""
        self.granted = False
        self.which = 0
        """Number of the limit that refused it."""
        self.whose: Scope | None = None
        """Scope of that limit."""
        self.wait_s = 0.0
        """When that limit may have room."""
        self.left_requests = -1
        """What was left of `Scope.requests_told` of the first scope once this was taken; -1: not known."""
        self.left_tokens = -1
        """What was left of `Scope.tokens_told`."""
        self.at_s = 0.0
        """When it was taken, by the clock of whoever counts it."""
        self.local = False
        """Taken by this process's own sums because those that are shared could not be asked."""
        self.pending = False
        """Not decided yet."""
        self.settled = False

    def refuse(self, which: int, whose: Scope, wait_s: float) -> None:
        """This limit has no room."""
        self.granted = False
        self.which = which
        self.whose = whose
        self.wait_s = wait_s

    def amount(self, which: int) -> int:
        """What it takes of the limit of this number."""
        if which < TOKENS_MINUTE or which == CONCURRENT:
            return 1
        return self.tokens if which < COST_DAY else self.cost_nano

    @property
    def unaffordable(self) -> bool:
        """It costs more than some limit ever lets through at once."""
        for scope in self.scopes:
            if 0 < scope.most_cost < self.cost_nano:
                return True
        return False

    @property
    def hopeless(self) -> bool:
        """It is more than some limit ever lets through at once."""
        for scope in self.scopes:
            if 0 < scope.most_tokens < self.tokens:
                return True
        return False

    def note_left(self, used: Sequence[int]) -> None:
        """What of the first scope's limits is used by now, by number."""
        scope = self.scopes[0]
        limits = scope.limits
        which = scope.requests_told
        if which >= 0:
            self.left_requests = max(0, limits[which] - used[which])
        which = scope.tokens_told
        if which >= 0:
            self.left_tokens = max(0, limits[which] - used[which])


class Meter:
    """A window and the limit that it is held against."""

    __slots__ = ("by_cost", "by_tokens", "limit", "which", "window")

    def __init__(self, window: Window, which: int, limit: int) -> None:
        self.window = window
        self.which = which
        self.limit = limit
        self.by_tokens = TOKENS_MINUTE <= which <= TOKENS_DAY
        self.by_cost = which > TOKENS_DAY


class Sums:
    """What one scope has used."""

    __slots__ = ("told_s", "told_used", "under_way", "windows")

    def __init__(self) -> None:
        self.under_way = 0
        self.told_used: list[int] = []
        """By number, what all routers together have used, as whoever counts for all told it last; and what was taken
        here without it since. Empty where nobody has told."""
        self.told_s = 0.0
        """When that was told."""
        self.windows: list[Window | None] = [None] * WINDOWS
        """By number; those that were ever held against a limit."""

    def window(self, which: int) -> Window:
        """That of a limit."""
        window = self.windows[which]
        if window is None:
            window = self.windows[which] = Window(SPANS_S[which])
        return window

    def used(self, now_s: float) -> list[int]:
        """By number."""
        second = int(now_s)
        return [*[0 if one is None else one.roll(second) for one in self.windows], self.under_way]


_versions = count(1)


def _next_version() -> int:
    return next(_versions)


class LocalLimits:
    """All sums of one process."""

    __slots__ = ("_sums", "_swept_s", "_version", "share")

    MOST: Final = 20_000
    """Scopes kept; those that have used nothing in their windows go first."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str], Sums] = {}
        self._swept_s = 0.0
        self._version = _next_version()
        """Tells what scopes keep for this one, and as of its latest sweep."""
        self.share = 1
        """The limits are divided among so many."""

    def __len__(self) -> int:
        return len(self._sums)

    def sums(self, scope: Scope, now_s: float) -> Sums:
        """Of one scope."""
        kept = scope.kept
        if kept is not None and scope.kept_by == self._version:
            return kept
        found = self._sums.get((scope.tenant, scope.model))
        if found is None:
            if len(self._sums) >= self.MOST and now_s - self._swept_s > MINUTE_S:
                self._sweep(now_s)
            found = self._sums[scope.tenant, scope.model] = Sums()
        scope.kept, scope.kept_by = found, self._version
        scope.meters = [Meter(found.window(which), which, scope.limits[which]) for which in scope.windows]
        return found

    def take(self, grant: Grant, now_s: float) -> None:
        """Take of all limits, or refuse by the first that has no room."""
        second = int(now_s)
        share = self.share
        tokens = grant.tokens
        cost = grant.cost_nano
        scopes = grant.scopes
        for scope in scopes:
            sums = self.sums(scope, now_s)
            for meter in scope.meters:
                limit = meter.limit
                if share > 1:
                    limit = max(1, limit // share)
                amount = tokens if meter.by_tokens else cost if meter.by_cost else 1
                window = meter.window
                if window.roll(second) + amount > limit and not (meter.by_cost and not cost):
                    grant.refuse(meter.which, scope, window.wait_s(amount, limit, now_s))
                    return
            limit = scope.under_way
            if limit and sums.under_way >= (limit if share == 1 else max(1, limit // share)):
                grant.refuse(CONCURRENT, scope, BUSY_S)
                return
        for scope in scopes:
            sums = self.sums(scope, now_s)
            sums.under_way += 1
            for meter in scope.meters:
                meter.window.count(tokens if meter.by_tokens else cost if meter.by_cost else 1)
        grant.granted = True
        grant.at_s = now_s
        scope = scopes[0]
        for meter in scope.meters:
            if meter.which == scope.requests_told:
                grant.left_requests = max(0, meter.limit - meter.window.total)
            elif meter.which == scope.tokens_told:
                grant.left_tokens = max(0, meter.limit - meter.window.total)

    def note(self, grant: Grant, now_s: float) -> None:
        """Count what was taken, whoever let it through."""
        second = int(now_s)
        for scope in grant.scopes:
            sums = self.sums(scope, now_s)
            sums.under_way += 1
            for meter in scope.meters:
                meter.window.add(grant.amount(meter.which), second)

    def settle(
        self, grant: Grant, requests: int, tokens: int, now_s: float, at_s: float, cost_nano: int = 0
    ) -> None:
        """It is over: count so much more, or, below 0, less of what was taken at `at_s`."""
        grant.settled = True
        second = int(now_s)
        for scope in grant.scopes:
            sums = self.sums(scope, now_s)
            if sums.under_way > 0:
                sums.under_way -= 1
            for meter in scope.meters:
                amount = tokens if meter.by_tokens else cost_nano if meter.by_cost else requests
                if amount:
                    meter.window.add(amount, second, int(at_s) if amount < 0 else 0)

    def charge(self, scopes: Sequence[Scope], cost_nano: int, now_s: float, at_s: float) -> None:
        """So much money was spent by no request; below 0: less was than was charged at `at_s`."""
        second = int(now_s)
        for scope in scopes:
            self.sums(scope, now_s)
            for meter in scope.meters:
                if meter.by_cost:
                    meter.window.add(cost_nano, second, int(at_s) if cost_nano < 0 else 0)

    def _sweep(self, now_s: float) -> None:
        self._swept_s = now_s
        self._version = _next_version()
        for key, sums in list(self._sums.items()):
            if not any(sums.used(now_s)):
                del self._sums[key]
