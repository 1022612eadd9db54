"""The outside world on one page: what the core and the services need, and adapters provide.

A port has one contract test suite (`tests/contract`) that every adapter passes. Ports decide nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from router.core.types import FingerprintHash, Incarnation, Record, ReplicaId

Records = list[Record | None]
"""One entry a rung, in the order asked; `None` where nobody is known. A record read twice in one answer is the same
object, so that a reader may skip it by identity."""


class Registry(Protocol):
    """Which replicas recently served which prompt prefix; shared by all routers that name the same backend.

    Only `start` and `stop` wait. Writes are batched and visible to this process at once, to every other router within
    50 ms. A backend that fails never raises into the request path: lookups answer from this process's own recent
    placements, and `healthy` turns false until it is back.
    """

    @property
    def healthy(self) -> bool:
        """False while the backend cannot be reached (always true for `memory`)."""

    async def start(self, on_secret: Callable[[bytes], None]) -> None:
        """Connect. Returns within a second whether or not the backend answers; keeps trying by itself.

        Calls `on_secret` with the deployment's 16-byte fingerprint secret as soon as it is known: made once and kept
        in the registry, so that routers agree. Until then the router works with a secret of its own.
        """

    async def stop(self) -> None:
        """Flush what is pending (at most one second) and disconnect."""

    def lookup(self, rungs: Sequence[FingerprintHash], done: Callable[[Records], None]) -> Records | None:
        """Holders of each rung.

        Returns the records at once when they are at hand (`memory`; or the backend is down), and then never calls
        `done`. Otherwise returns `None` and calls `done` exactly once, at the latest when the lookup deadline passes
        (then with this process's own placements only).
        """

    def touch(self, rungs: Sequence[FingerprintHash], incarnation: Incarnation, now_s: float) -> None:
        """Note that this replica was sent a prompt with these rungs. Called when a request is dispatched."""

    def forget(self, rungs: Sequence[FingerprintHash], incarnation: Incarnation) -> None:
        """Withdraw this replica from these rungs."""

    def remember_response(self, response_id: str, replica: ReplicaId) -> None:
        """Keep which replica made a stored response (`/v1/responses`), for the registry's idle time."""

    def find_response(self, response_id: str, done: Callable[[ReplicaId | None], None]) -> None:
        """Calls `done` exactly once, at the latest when the lookup deadline passes."""

    def statistics(self) -> dict[str, float]:
        """Figures for `/metrics`: at least `entries`, `bytes`, `lookups_total`, `lookup_timeouts_total`,
        `lookup_seconds_total`, `writes_total`, `errors_total`, `evictions_total`."""
