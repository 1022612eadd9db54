"""Whether a Redis server is still worth waiting for: opens when its answers keep coming late, closes when they do not.

Decides by counts and the times it is told, and sends nothing: `redis.batch` asks it, and makes the trials. Late answers
weigh as much as those in time: a server opens its breaker when clearly more than half of what it is asked comes late,
and no single slow command does. While it is open nobody waits for that server.
"""

from __future__ import annotations

OPENS_AT = 5
"""So many more late answers than answers in time …"""

OPENS_AFTER_S = 0.05
"""… the first of them this long ago: many lookups may be on their way during one slow command."""

CLOSES_AFTER = 3
"""Trials in a row that were answered in time."""

TRIAL_S = 0.1
"""Between two trials: back within a second, and ten small reads a second at most."""


class Breaker:
    """Of one server."""

    __slots__ = ("_first_s", "_in_time", "late", "open")

    def __init__(self) -> None:
        self.open = False
        """True: answer without this server."""
        self.late = 0
        """How many more were late than in time; never negative."""
        self._first_s = 0.0
        self._in_time = 0

    def answered(self) -> None:
        """An answer came in time."""
        if self.late:
            self.late -= 1

    def missed(self, now_s: float) -> bool:
        """An answer is late, or was a refusal. Returns whether this opened the breaker."""
        if self.open:
            return False
        if not self.late:
            self._first_s = now_s
        self.late += 1
        self.open = self.late >= OPENS_AT and now_s - self._first_s >= OPENS_AFTER_S
        return self.open

    def tried(self, *, in_time: bool) -> bool:
        """A trial has ended. Returns whether this closed the breaker."""
        self._in_time = self._in_time + 1 if in_time else 0
        if self._in_time < CLOSES_AFTER:
            return False
        self.open = False
        self.late = self._in_time = 0
        return True
