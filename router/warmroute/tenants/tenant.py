"""Tenants: what requests are judged, counted and kept apart by. `caller` has whoever asks on behalf of one.

Data only. A queue that orders requests by class and weight finds both here (`Tenant.priority`, `Tenant.weight`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

ANYBODY: Final = "*"
"""Id of the tenant that stands for those that the settings do not name."""

ANONYMOUS: Final = "anonymous"
"""Whose requests are where no key is asked for."""


class Priority(StrEnum):
    """Class of a request."""

    INTERACTIVE = "interactive"
    DEFAULT = "default"
    BATCH = "batch"


@dataclass(frozen=True, slots=True)
class Allowance:
    """What may be used, of all models or of one. 0: no limit. Money is in billionths of the price table's currency."""

    requests_per_minute: int = 0
    requests_per_day: int = 0
    tokens_per_minute: int = 0
    tokens_per_day: int = 0
    cost_per_day: int = 0
    cost_per_month: int = 0
    concurrent_requests: int = 0
    prompt_tokens: int = 0

    @property
    def counted(self) -> bool:
        """Whether anything has to be counted for it; the length of a prompt has not."""
        return bool(
            self.requests_per_minute
            or self.requests_per_day
            or self.tokens_per_minute
            or self.tokens_per_day
            or self.cost_per_day
            or self.cost_per_month
            or self.concurrent_requests
        )


UNLIMITED: Final = Allowance()


class Tenant:
    """One tenant as the settings have it. Never changed."""

    __slots__ = (
        "allowance",
        "bounded",
        "group",
        "id",
        "model_allowances",
        "models",
        "priority",
        "sharing",
        "weight",
    )

    def __init__(
        self,
        id: str,
        group: str = "",
        priority: Priority = Priority.DEFAULT,
        weight: float = 1.0,
        models: frozenset[str] = frozenset(),
        allowance: Allowance = UNLIMITED,
        model_allowances: Mapping[str, Allowance] | None = None,
    ) -> None:
        self.id = id
        self.group = group
        """Who shares cached prefixes with it; empty: nobody."""
        self.priority = priority
        self.weight = weight
        """Its share beside others of its class."""
        self.models = models
        """Models that it may use; empty: all."""
        self.allowance = allowance
        self.model_allowances = {} if model_allowances is None else dict(model_allowances)
        self.sharing = f"g:{group}" if group else f"t:{id}"
        """Name of those who share its cached prefixes; no group's name is a tenant's."""
        self.bounded = allowance != UNLIMITED or any(
            one != UNLIMITED for one in self.model_allowances.values()
        )
        """Whether anything limits it."""

    def most_prompt_tokens(self, model: str) -> int:
        """Longest prompt for this model; 0: any."""
        of_all = self.allowance.prompt_tokens
        one = self.model_allowances.get(model)
        of_model = 0 if one is None else one.prompt_tokens
        return min(of_all, of_model) if of_all and of_model else of_all or of_model


class Tenants:
    """All tenants of the settings, and one for each other name that a key or token has."""

    __slots__ = ("_anybody", "_named", "_others")

    MOST_OTHERS: Final = 100_000

    def __init__(self, named: Mapping[str, Tenant]) -> None:
        self._named = dict(named)
        self._anybody = self._named.pop(ANYBODY, Tenant(ANYBODY))
        self._others: dict[str, Tenant] = {}

    def find(self, name: str) -> Tenant:
        """The tenant of this name."""
        found = self._named.get(name) or self._others.get(name)
        if found is None:
            like = self._anybody
            if len(self._others) >= self.MOST_OTHERS:
                self._others.clear()
            found = self._others[name] = Tenant(
                name,
                like.group,
                like.priority,
                like.weight,
                like.models,
                like.allowance,
                like.model_allowances,
            )
        return found
