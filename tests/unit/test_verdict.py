"""What an error answer says."""

from __future__ import annotations

import pytest

from warmroute.core.health.health import FailureReason
from warmroute.dialects.engine_errors import judge, killed

DEAD = b'{"error":{"message":"EngineCore encountered an issue. See stack trace"}}'
DRAINS = b'{"error":{"message":"cannot schedule new futures after shutdown"}}'


@pytest.mark.parametrize(
    ("status", "lines", "body", "reason"),
    [
        (429, b"", b"", FailureReason.BUSY),
        (503, b"", b"The engine is currently busy and cannot", FailureReason.BUSY),
        (503, b"", b"Generation is paused. Please retry after it resumes.", FailureReason.PAUSED),
        (
            503,
            b"",
            b'{"error":"The model is currently scaling. Please try again later."}',
            FailureReason.SCALING,
        ),
        (503, b"content-type: a\r\nRetry-After: 1\r\n", b"", FailureReason.BUSY),
        (503, b"Retry-After: 1\r\n", b"", FailureReason.BUSY),
        (503, b"x-retry-after: 1\r\n", b"", FailureReason.STATUS),
        (503, b"", b"", FailureReason.STATUS),
        (502, b"", b"", FailureReason.STATUS),
        (504, b"", b"", FailureReason.STATUS),
        (500, b"", DEAD, FailureReason.STATUS),
        (200, b"", b"data: " + DEAD, FailureReason.STATUS),
        (500, b"", DRAINS, FailureReason.DRAINING),
        (500, b"", b"CUDA out of memory", FailureReason.ERROR),
        (200, b"", b'data: {"error":{}}', FailureReason.ERROR),
        (401, b"", b"", FailureReason.ERROR),
        (403, b"", b"", FailureReason.ERROR),
        (404, b"", b"", FailureReason.ERROR),
        (501, b"", b"", FailureReason.ERROR),
        (400, b"", b"", None),
        (413, b"", b"", None),
        (422, b"", b"", None),
    ],
)
def test_whom_an_answer_blames(status: int, lines: bytes, body: bytes, reason: FailureReason | None) -> None:
    assert judge(status, lines, body) is reason


def test_what_an_engine_may_have_died_of() -> None:
    assert killed(500, DEAD)
    assert killed(200, b"data: " + DEAD)
    assert killed(502, b"")
    assert killed(504, b"")
    assert not killed(503, b"")
    assert not killed(500, b"CUDA out of memory")
