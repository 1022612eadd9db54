"""Hostile clients mean ill or are broken: this module says what they do, and which answer to it is right.

The rule is that whatever such a client does costs only that client. A status of 4xx is the right answer to a bad
request. A status of 5xx is a failure of the router, and so is a connection that it cuts without an answer where the
request was whole.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random

from warmroute_loadtest.locust.talks import Manners, Talk

PREFIX = "hostile: "
"""Rows whose names begin so are listed, but count in no total."""
LEFT_AFTER_S = 0.05
"""Time after which a client that leaves early closes its connection, in seconds."""
LEFT_AFTER_EVENTS = 5
SLOW_READ_BYTES, SLOW_READ_PAUSE_S, SLOW_READS = 512, 0.2, 25
"""A slow reader reads this many bytes, then pauses, this many times, and then reads the rest at once: 5 s in all."""
HUGE_HEAD_BYTES = 200_000
HALF_BODY_WAIT_S = 2.0

_BAD = tuple(manners for manners in Manners if manners is not Manners.GOOD)
_WHOLE = frozenset((Manners.READS_SLOWLY,))
_LEAVERS = frozenset((Manners.LEAVES_EARLY, Manners.LEAVES_MIDWAY, Manners.HALF_BODY))


def hostile_talk(talk: Talk, rng: Random) -> Talk:
    """Return the same question from an ill-mannered client."""
    manners = rng.choice(_BAD)
    return replace(talk, name=f"{PREFIX}{manners.value}", manners=manners)


def judged(manners: Manners, status: int | None) -> str | None:
    """Return what was wrong with the answer; None where it was right.

    Args:
        manners: The client's manners.
        status: The answer's status; None where no answer came.
    """
    if manners in _LEAVERS or (manners is Manners.NOT_HTTP and status is None):
        return None
    if manners in _WHOLE:
        return None if status == 200 else f"status {status}"
    if status is None:
        # A router may refuse a head that is too large by closing the connection while the head is still sent.
        return None if manners is Manners.HUGE_HEAD else "cut off without an answer"
    return None if 400 <= status < 500 else f"status {status} to a bad request"
