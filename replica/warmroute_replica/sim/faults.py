"""Faults are failures on demand: they say which request fails next, and how.

This module decides only which fault strikes which request, and counts them; `generation` and `server` carry a fault
out. At most `MAX_FAULTS` faults are armed at once.
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
"""A hung request looks once in this time whether it may go on, in seconds."""

HANG_FOREVER_S = 24 * 3600.0
"""A hung request is kept for this long at most, in seconds."""


class FaultKind(StrEnum):
    """The ways in which a request can fail."""

    DELAY = "delay"
    """The request waits for `delay_s` before the server looks at it."""
    ERROR_500 = "500"
    """The engine is dead: the answer is a 500 or, in a stream after `after_chunks` chunks, an error event and
    `[DONE]`."""
    ERROR_503 = "503"
    """The queue is full: the answer is vLLM's 503."""
    STATUS = "status"
    """The answer is given by `status`, `body` and `headers`; where `body` is absent, it is vLLM's error of that
    status."""
    EMPTY = "empty"
    """The stream has status 200 and ends before its first event."""
    CUT = "cut"
    """The server closes the connection: before any byte (`at` "head"), after `after_chunks` chunks or `after_s` seconds
    of a stream, or after half of a plain body."""
    DIE = "die"
    """The request kills its engine: when it comes, all connections are cut, as by `restart`."""
    HANG = "hang"
    """The server falls silent, before any byte or after `after_chunks` chunks, until the fault is cleared."""
    DRAINING = "draining"
    """The answer is vLLM's 500 while it shuts down; `/health` still answers 200."""
    REFUSE = "refuse"
    """Takes effect at once: the port refuses connections for `down_s` seconds, while streams go on. A negative time
    lasts until the fault is cleared, which can be done on a sibling port of the same process (`"port"`)."""
    RESTART = "restart"
    """Takes effect at once: all connections are cut, cache and memory are emptied, the start time is new, and the port
    refuses connections for `down_s` seconds."""


@dataclass(slots=True)
class Fault:
    """A fault that is armed."""

    kind: FaultKind
    count: int = 1
    """Number of requests still to fail; a negative one fails all requests until the fault is cleared."""
    after_chunks: int | None = None
    """Number of stream chunks sent before the fault strikes. With None, `cut` strikes after 1 and the others before any
    byte."""
    delay_s: float = 1.0
    down_s: float = 0.0
    at: str | None = None
    path: str = "/v1/"
    """The fault applies to paths that begin with this text. Any path outside `/sim` can be made to fail."""
    after_s: float | None = None
    """Seconds from a stream's head to the `cut`, whether or not tokens have come."""
    every: int = 1
    """Of the requests that the fault applies to, it strikes each so-many-th one: every one with 1, every second with
    2."""
    marker: str | None = None
    """The fault applies only to requests whose body holds this text; None sets no condition."""
    while_busy: bool = False
    """The fault applies only while other requests are under way; a hung request goes on when none is."""
    status: int = 500
    body: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    seen: int = 0
    """Number of requests that the fault applied to, whether or not it struck them."""

    @property
    def in_answer(self) -> bool:
        """Whether it strikes after an answer has begun. Such a fault applies to POST requests only, since no other is
        answered with a stream; a router's probe does not use it up."""
        return self.after_chunks is not None or (
            self.kind is FaultKind.CUT and (self.at != "head" or self.after_s is not None)
        )


def parse_fault(body: Any) -> Fault:
    """Read the body of `POST /sim/fault`.

    Raises:
        ApiError: 400, the body describes no fault.
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
    """The armed faults of a replica; for each request the first that applies strikes."""

    def __init__(self) -> None:
        self._armed: list[Fault] = []
        self.cleared = asyncio.Event()
        """This event is set, and replaced by a new one, when faults are cleared; hung requests then go on."""

    def arm(self, fault: Fault) -> None:
        """Arm a fault.

        Raises:
            ApiError: 400, too many faults are armed.
        """
        if len(self._armed) >= MAX_FAULTS:
            raise invalid(f"{MAX_FAULTS} faults are armed already; DELETE /sim/fault first")
        if fault.count:
            self._armed.append(fault)

    def clear(self) -> None:
        """Disarm all faults, and let hung requests go on."""
        self._armed.clear()
        self.cleared.set()
        self.cleared = asyncio.Event()

    def reads_body(self, path: str) -> bool:
        """Return whether some fault of this path depends on the request's body."""
        return any(fault.marker is not None and path.startswith(fault.path) for fault in self._armed)

    def take(self, method: str, path: str, body: bytes = b"", *, busy: bool = False) -> Fault | None:
        """Return the fault that strikes this request, and count the strike; None where no fault does."""
        for index, fault in enumerate(self._armed):
            if not path.startswith(fault.path) or (fault.while_busy and not busy):
                continue
            if fault.in_answer and method != "POST":
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
        """Wait for the next `clear`, or until `over` returns true; at most for `HANG_FOREVER_S`."""
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
        """Return the armed faults as `/sim/stats` shows them."""
        return [{"kind": fault.kind.value, "count": fault.count, "path": fault.path} for fault in self._armed]
