"""Faults are failures on demand: which request fails next, and how.

This module decides only the matching and counting; `generation` and `server` carry a fault out. At most `MAX_FAULTS`
wait at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

from warmroute_replica.sim.errors import invalid

MAX_FAULTS = 64

POLL_S = 0.02
"""Between two looks whether what hangs may go on."""

HANG_FOREVER_S = 24 * 3600.0
"""Longest a hung request is kept."""


class FaultKind(StrEnum):
    """Ways to fail."""

    DELAY = "delay"
    """Wait `delay_s` before the request is looked at."""
    ERROR_500 = "500"
    """Dead engine: status 500, or, in a stream after `after_chunks` chunks, an error event and `[DONE]`."""
    ERROR_503 = "503"
    """Full queue."""
    STATUS = "status"
    """Any answer: `status`, `body` (vLLM's error of that status where absent), `headers`."""
    EMPTY = "empty"
    """A stream that ends before its first event, status 200."""
    CUT = "cut"
    """Close the connection: before any byte (`at` "head"), else after `after_chunks` chunks or `after_s` seconds, or
    half a plain body."""
    DIE = "die"
    """A request that kills its engine: all connections are cut, as by `restart`, when it comes."""
    HANG = "hang"
    """Fall silent: before any byte, or after `after_chunks` chunks; until the fault is cleared."""
    DRAINING = "draining"
    """vLLM's 500 while it shuts down, with `/health` still 200."""
    REFUSE = "refuse"
    """At once: the port refuses connections for `down_s` seconds; streams go on. Negative: until cleared, which a
    sibling port of the same process can do (`"port"`)."""
    RESTART = "restart"
    """At once: all connections are cut, cache and memory are empty, the start time is new; the port refuses connections
    for `down_s` seconds."""


@dataclass(slots=True)
class Fault:
    """One armed failure."""

    kind: FaultKind
    count: int = 1
    """Requests still to fail; negative: all until cleared."""
    after_chunks: int | None = None
    """Stream chunks sent before it strikes; `None`: 1 for `cut`, and before any byte for the others."""
    delay_s: float = 1.0
    down_s: float = 0.0
    at: str | None = None
    path: str = "/v1/"
    """Start of the paths it applies to; anything not under `/sim` can be made to fail."""
    after_s: float | None = None
    """Seconds from a stream's head to `cut`, whether or not tokens have come."""
    every: int = 1
    """It strikes each so-many-th request that it applies to."""
    marker: str | None = None
    """It applies to requests whose body holds this text."""
    while_busy: bool = False
    """It applies while requests are under way; what hangs goes on when none is."""
    status: int = 500
    body: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    seen: int = 0
    """Requests that it applied to, struck or not."""


def parse_fault(body: Any) -> Fault:
    """Read the body of `POST /sim/fault`.

    Raises:
        ApiError: 400, it is not a fault.
    """
    if not isinstance(body, dict):
        raise invalid("a fault is an object")
    unknown = set(body) - {entry.name for entry in fields(Fault)} - {"port"} | ({"seen"} & set(body))
    if unknown:
        raise invalid(f"unknown fault fields: {', '.join(sorted(unknown))}")
    try:
        kind = FaultKind(str(body.get("kind")))
        after = body.get("after_chunks")
        return Fault(
            kind,
            count=int(body.get("count", 1)),
            after_chunks=None if after is None else int(after),
            delay_s=float(body.get("delay_s", 1.0)),
            down_s=float(body.get("down_s", 1.0 if kind is FaultKind.REFUSE else 0.0)),
            at=None if body.get("at") is None else str(body["at"]),
            path=str(body.get("path", "/v1/")),
            after_s=None if body.get("after_s") is None else float(body["after_s"]),
            every=max(1, int(body.get("every", 1))),
            marker=None if body.get("marker") is None else str(body["marker"]),
            while_busy=bool(body.get("while_busy", False)),
            status=_status(body.get("status", 500)),
            body=None if body.get("body") is None else str(body["body"]),
            headers={str(name): str(value) for name, value in dict(body.get("headers", {})).items()},
        )
    except (TypeError, ValueError) as error:
        raise invalid(f"no such fault: {error}; kinds are {', '.join(FaultKind)}") from error


def _status(value: Any) -> int:
    status = int(value)
    if not 200 <= status <= 599:
        raise ValueError(f"status {status}")
    return status


class Faults:
    """Armed failures, in the order in which they strike."""

    def __init__(self) -> None:
        self._armed: list[Fault] = []
        self.cleared = asyncio.Event()
        """Set, and replaced, when faults are cleared: what hangs goes on."""

    def arm(self, fault: Fault) -> None:
        """Add a fault.

        Raises:
            ApiError: 400, too many are armed.
        """
        if len(self._armed) >= MAX_FAULTS:
            raise invalid(f"{MAX_FAULTS} faults are armed already; DELETE /sim/fault first")
        if fault.count:
            self._armed.append(fault)

    def clear(self) -> None:
        """Disarm everything and let go of what hangs."""
        self._armed.clear()
        self.cleared.set()
        self.cleared = asyncio.Event()

    def reads_body(self, path: str) -> bool:
        """Whether a fault of this path depends on the body."""
        return any(fault.marker is not None and path.startswith(fault.path) for fault in self._armed)

    def take(self, path: str, body: bytes = b"", *, busy: bool = False) -> Fault | None:
        """The fault that strikes this request, counted, or `None`."""
        for index, fault in enumerate(self._armed):
            if not path.startswith(fault.path) or (fault.while_busy and not busy):
                continue
            if fault.marker is not None and fault.marker.encode("utf-8", "replace") not in body:
                continue
            fault.seen += 1
            if fault.seen % fault.every:
                continue
            if fault.count > 0:
                fault.count -= 1
                if not fault.count:
                    del self._armed[index]
            return fault
        return None

    async def wait_cleared(self, over: Callable[[], bool] = lambda: False) -> None:
        """Wait for the next `clear`, or until it is `over`; at most `HANG_FOREVER_S`."""
        event = self.cleared
        try:
            async with asyncio.timeout(HANG_FOREVER_S):
                while not event.is_set() and not over():
                    try:
                        async with asyncio.timeout(POLL_S):
                            await event.wait()
                    except TimeoutError:
                        continue
        except TimeoutError:
            return

    def armed(self) -> list[dict[str, Any]]:
        """For `/sim/stats`."""
        return [{"kind": fault.kind.value, "count": fault.count, "path": fault.path} for fault in self._armed]
