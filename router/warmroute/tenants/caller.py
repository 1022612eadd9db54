"""Whoever asks on behalf of a tenant, and what their requests for one model are judged and counted by.

Data only: found once for each caller and model, so that a request finds all of it in one place. Callers are made anew
when keys or tenants change, and with them what they stand for.
"""

from __future__ import annotations

from math import inf

from warmroute.core.holding.line import CLASSES
from warmroute.core.holding.shares import Flow
from warmroute.tenants.limits import Scope
from warmroute.tenants.prices import INTERFACES
from warmroute.tenants.tenant import Priority, Tenant
from warmroute.tenants.usage import Row


class Standing:
    """How a caller stands with one model."""

    __slots__ = ("allowed", "caller", "costed", "model", "most_prompt_tokens", "row", "scopes")

    def __init__(self, caller: Caller, model: str, row: Row, scopes: list[Scope]) -> None:
        self.caller = caller
        self.model = model
        self.row = row
        """Where its requests are counted."""
        self.scopes = scopes
        """What limits them; empty: nothing that has to be counted."""
        self.costed = any(scope.costed for scope in scopes)
        """Money is among what limits them."""
        self.allowed = caller.may_use(model)
        self.most_prompt_tokens = caller.tenant.most_prompt_tokens(model)
        """0: any."""


class Caller:
    """Whose a request is: what a key or a token stands for. Made once for each, shared by all of its requests."""

    __slots__ = (
        "barred",
        "expires_s",
        "flow",
        "key_id",
        "level",
        "models",
        "priority",
        "standings",
        "tenant",
        "unknown",
    )

    def __init__(
        self,
        tenant: Tenant,
        key_id: str,
        models: frozenset[str] = frozenset(),
        expires_s: float = inf,
        priority: Priority | None = None,
    ) -> None:
        self.tenant = tenant
        self.key_id = key_id
        """Names the key in accounts; says nothing of the key itself. `oidc` for tokens."""
        self.models = models & tenant.models if models and tenant.models else models or tenant.models
        """Models that it may use; empty: all, unless `barred`."""
        self.barred = bool(models and tenant.models and not self.models)
        """Its tenant may use none of the key's models."""
        self.expires_s = expires_s
        """Unix time from which it is refused."""
        self.priority = tenant.priority if priority is None else priority
        self.level = CLASSES.index(self.priority)
        """Its class in the fleet's queue, by number."""
        self.flow: Flow | None = None
        """What its tenant was served, once the queue has asked."""
        self.standings: list[dict[str, Standing]] = [{} for _ in INTERFACES]
        """By interface and model, for those that the fleet has."""
        self.unknown: dict[int, Row] = {}
        """Where its requests for others are counted, by interface."""

    def may_use(self, model: str) -> bool:
        """Whether it may use a model."""
        return model in self.models if self.models else not self.barred
