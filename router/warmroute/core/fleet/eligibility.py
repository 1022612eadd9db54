"""Views of the replicas that may be chosen for a model are made when first asked for, and kept until something changes.

This module decides from health and models who is eligible; it knows nothing of load. The rule it keeps: views exist for
models that replicas serve, never for names that only clients know, so that nothing here grows with what clients send.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from warmroute.core.choice.ring import Ring
from warmroute.core.choice.view import View
from warmroute.core.errors import NotFoundError, OverloadError
from warmroute.core.fleet.replica import Replica
from warmroute.core.health.health import ReplicaState
from warmroute.core.types import ReplicaId

if TYPE_CHECKING:
    from random import Random

FEW_OF: Final = 16
"""A pool that is less of the fleet than one in so many has a ring of its own: passing the others over costs a request
30 ns each; making a ring, which every change of the fleet makes necessary, the next request 0.1 ms a member."""
MOST_OVERDUE_OF: Final = 4
"""One server in so many may be passed over for being overdue, and one in any case."""
_OUT: Final = frozenset({ReplicaState.EJECTED, ReplicaState.PROBING})


class Eligibility:
    """Derived wholly from the fleet's replicas; the fleet says when they have changed."""

    def __init__(self, replicas: Mapping[ReplicaId, Replica], rng: Random) -> None:
        """Args:
        replicas: The fleet's own, seen as they change.
        """
        self._replicas = replicas
        self._rng = rng
        self._views: dict[str | None, View] = {}
        """By model; under "" of all replicas, under None of those that serve any model."""
        self._turns: dict[str | None, int] = {}
        """Turns of views that were dropped."""
        self._rings: dict[tuple[Replica, ...], Ring[Replica]] = {}
        self._models: frozenset[str] | None = None
        self._whole: Ring[Replica] = Ring({})
        """Of all replicas: changed as they come and go, so that no request has to do it for many."""
        self.overdue: frozenset[Replica] = frozenset()
        """Replicas that are passed over while there are others; `pass_over` changes it."""

    @property
    def models(self) -> frozenset[str]:
        """All models that a known replica serves."""
        models = self._models
        if models is None:  # put together when asked for: many replicas may change before
            models = self._models = frozenset().union(*[r.models for r in self._replicas.values()])
            self._turns = {key: turn for key, turn in self._turns.items() if not key or key in models}
        return models

    def joined(self, replica: Replica) -> None:
        """A replica came, or took the place of another of its id."""
        self._whole.put(replica.id, replica)
        self.membership_changed()

    def left(self, replica: Replica) -> None:
        """A replica left."""
        self._whole.drop(replica.id)
        self.membership_changed()

    def health_changed(self) -> None:
        """A replica's state, trials or incarnation changed."""
        for key, view in self._views.items():
            self._turns[key] = view.turn
        self._views.clear()

    def pass_over(self, overdue: frozenset[Replica]) -> None:
        """From now on nobody is given to these while there are others that are not among them."""
        if overdue != self.overdue:
            self.overdue = overdue
            self.health_changed()

    def membership_changed(self) -> None:
        """The set of replicas, or of the models one serves, changed."""
        self.health_changed()
        self._models = None
        self._rings.clear()

    def view(self, model: str) -> View:
        """The eligible replicas of a model ("" means any).

        Raises:
            NotFoundError: No known replica serves it.
            OverloadError: None that does may be sent a request.
        """
        view = self._views.get(model)
        return view if view is not None else self._make(model)

    def view_without(self, model: str, tried: Sequence[Replica]) -> View:
        """The same less the servers of those tried; once all routable ones were, the least recently ejected."""
        serving = self._serving(model)
        servers = [r.server for r in tried]
        members = self._routable([r for r in serving if r.server not in servers])
        if not members:
            raise self._refusal(model, serving)
        return View(members, lambda: self._ring(serving), self._rng, self._turns.get(self._key(model), 0))

    def has_other(self, model: str, tried: Sequence[Replica]) -> bool:
        """Whether a routable replica of the model is left, on another server than those tried."""
        servers = [r.server for r in tried]
        return any(r.routable and r.server not in servers for r in self._serving(model))

    def _key(self, model: str) -> str | None:
        return model if model == "" or model in self.models else None

    def _make(self, model: str) -> View:
        key = self._key(model)
        view = self._views.get(key)
        if view is None:
            serving = self._serving(model)
            members = self._routable(serving)
            if not members:
                raise self._refusal(model, serving)
            view = View(members, lambda: self._ring(serving), self._rng, self._turns.get(key, 0))
            self._views[key] = view
        return view

    def _serving(self, model: str) -> list[Replica]:
        """All replicas that serve the model, whatever their health. One that works and never tells serves any."""
        replicas = self._replicas.values()
        if model == "":
            return list(replicas)
        starting = ReplicaState.STARTING
        return [r for r in replicas if model in r.models or not (r.models_known or r.state is starting)]

    def _routable(self, serving: Sequence[Replica]) -> list[Replica]:
        """Who may be sent requests; the least recently ejected where nobody may.

        Where many are overdue at once, it is the predictions that are wrong: then none is passed over.
        """
        members = [r for r in serving if r.routable]
        overdue = self.overdue
        if overdue:
            steady = [r for r in members if r not in overdue]
            late = len({r.server for r in members if r in overdue})
            if steady and late <= max(1, len({r.server for r in members}) // MOST_OVERDUE_OF):
                return steady
        return members or self._fail_open(serving)

    @staticmethod
    def _fail_open(serving: Sequence[Replica]) -> list[Replica]:
        """The least recently ejected, for when nobody is routable: better one likely failure than a certain one."""
        out = [r for r in serving if r.state in _OUT]
        return [min(out, key=lambda r: (r.health.ejected_s, r.index))] if out else []

    def _refusal(self, model: str, serving: Sequence[Replica]) -> NotFoundError | OverloadError:
        if not serving and model != "" and any(r.models_known for r in self._replicas.values()):
            return NotFoundError(
                f"No replica of this fleet serves the model {model[:200]!r}; GET /v1/models lists those it serves.",
                code="model_not_found",
                param="model",
            )
        replicas = self._replicas.values()
        if not replicas:
            return OverloadError(
                "No replica is known: the settings name none, and discovery finds none now. GET /replicas on the admin"
                " port shows how each source fares."
            )
        if all(r.state is ReplicaState.STARTING for r in replicas):
            return OverloadError(
                f"No replica of this fleet ({len(replicas)} known) has been reachable since the router started: they"
                " are still starting, or are not where the configuration says. GET /replicas on the admin port tells."
            )
        return OverloadError(
            f"None of the fleet's {len(replicas)} replicas can take this request now; try again shortly."
        )

    def _ring(self, serving: Sequence[Replica]) -> Ring[Replica]:
        """A ring that holds these replicas; health does not enter.

        Unless they are few of many, it is the whole fleet's, in which the others are passed over: who comes before whom
        does not depend on who else is there. Otherwise it is of these, and shared by all models that they serve.
        """
        if len(serving) * FEW_OF >= len(self._replicas):
            return self._whole
        key = tuple(serving)
        ring = self._rings.get(key)
        if ring is None:
            ring = self._rings[key] = Ring({r.id: r for r in serving})
        return ring

    def validate(self) -> None:
        """Raises AssertionError where a kept view is not what would be made now."""
        assert self.models == {m for r in self._replicas.values() for m in r.models}
        assert len(self._turns) <= len(self.models) + 2
        assert sorted(self._whole.members, key=id) == sorted(self._replicas.values(), key=id)
        for key, view in self._views.items():
            assert not key or key in self.models, key
            if key is not None:
                serving = self._serving(key)
                members = self._routable(serving)
                assert list(view.members) == members, key
                assert view.eligible == frozenset(members), key
                assert set(view.by_incarnation.values()) <= view.eligible, key
                assert all(r.incarnation == i for i, r in view.by_incarnation.items()), key
