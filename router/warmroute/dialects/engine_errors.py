"""An error answer tells of the replica, of its engine, of the request, or only that the engine is busy.

This module decides nothing about what follows: `retries` does. It reads status, head and body as vLLM and what stands
before engines write them.
"""

from __future__ import annotations

from typing import Final

from warmroute.core.health.health import FailureReason

KEPT_BACK_BYTES: Final = 64 * 1024
"""Error answers are read up to here before anything is passed on; longer ones are the client's."""

REFUSALS: Final = frozenset((400, 422))
"""How an engine answers that does not know `stream_options`."""

REFUSAL_MARKS: Final = (b"stream_options", b"include_usage")

DRAINING_MARK: Final = b"cannot schedule new futures after shutdown"
"""vLLM while it drains: a 500 on every new request, /health still 200. Source: vLLM 0.32.0, SIGTERM with a timeout."""

DEAD_MARK: Final = b"EngineCore encountered an issue"
"""vLLM whose engine process died: a 500, or a stream of one error event. Source: vLLM 0.32.0, worker killed."""

BUSY_MARK: Final = b"currently busy"
"""vLLM over --max-num-queued-reqs: a 503 that says nothing against the replica's health."""

PAUSED_MARK: Final = b"Please retry after it resumes"
"""vLLM while it is paused: a 503. Source: vLLM 0.33, modes `abort` and `wait`; older ones let requests wait."""

SCALING_MARK: Final = b"model is currently scaling"
"""vLLM while it changes its number of engines: a 503 on nearly every path. Source: vLLM 0.32, `ScalingMiddleware`."""

RETRY_AFTER: Final = b"\r\nretry-after:"
"""A 503 with this field is load that is shed, whoever sheds it."""

EVENT_ERRORS: Final = (b'data: {"error"', b"event: error")
"""How a stream starts whose very first event is an error: nothing of an answer has been made yet."""

GATEWAYS: Final = frozenset((502, 504))
"""Answers of something that stands before the engine, after the engine had the request."""


CLIENTS: Final = frozenset((400, 405, 406, 408, 409, 411, 412, 413, 414, 415, 416, 417, 422, 431))
"""Answers about the request: any replica would say the same."""

NO_VERDICT: Final = frozenset((429, 502, 503, 504))
"""Answers that say nothing of a request which another replica answered with an error."""


def judge(status: int, lines: bytes, body: bytes) -> FailureReason | None:
    """What is wrong with the replica, by an answer of 400 or more, or a stream (status 200) whose first event is an
    error. None if it is the request.

    Args:
        lines: The fields of the head.
    """
    if status == 429:
        return FailureReason.BUSY
    if status == 503:
        if BUSY_MARK in body:
            return FailureReason.BUSY
        if PAUSED_MARK in body:
            return FailureReason.PAUSED
        if SCALING_MARK in body:
            return FailureReason.SCALING
        if RETRY_AFTER in b"\r\n" + lines.lower():
            return FailureReason.BUSY
    if DRAINING_MARK in body:
        return FailureReason.DRAINING
    if DEAD_MARK in body or status in (502, 503, 504):
        return FailureReason.STATUS
    return None if status in CLIENTS else FailureReason.ERROR


def killed(status: int, body: bytes) -> bool:
    """Whether the engine may have died of the request, which it had in full."""
    return status in GATEWAYS or DEAD_MARK in body
