"""A replica's error answers (a plain 500, 401, 404) are weighed against it by comparison with its fellows.

This module decides when a replica is suspect, not whether it is ejected. An error may be the request's own fault, and
one client's bad requests may all go to one replica, since they share a prefix. So a suspect's error is put before a
fellow, by trying the same request there: the fellow's answer convicts the suspect, and another error acquits it.
Convictions are failures like others (`health`), and eject after as many in a row.

A replica is suspect if it erred several times running, or much more often than its fellows, and for a while after it
was convicted. Source of the comparison: Envoy's outlier detection (consecutive errors; success rate against the other
hosts').
"""

from __future__ import annotations

from typing import Final

WINDOW: Final = 64.0
"""Answers that count, about: older ones fade."""
LEAST_ERRORS: Final = 2.5
"""Fewer make nobody suspect."""
IN_ROW: Final = 3
"""Errors in a row that make suspect where fellows answer well."""
WELL_RATIO: Final = 0.3
"""Fellows that err less often than this answer well: three errors in a row are rare among them."""
MOST_TIMES: Final = 2.0
MOST_ABOVE: Final = 0.1
"""An error rate above so many times the fellows' and this much more is theirs alone."""
PROBATION: Final = 64
"""Good answers after a conviction until the next error is the client's again."""


class ErrorRate:
    """Recent answers of one replica."""

    __slots__ = ("answers", "errors", "in_row", "probation")

    def __init__(self) -> None:
        self.answers = 0.0
        """Those of the window, the errors among them."""
        self.errors = 0.0
        self.in_row = 0
        """Errors since the last good answer."""
        self.probation = 0
        """Good answers that it still owes after a conviction."""

    @property
    def ratio(self) -> float:
        """Errors among the recent answers."""
        return self.errors / self.answers if self.answers > 0.0 else 0.0

    def good(self) -> None:
        """A prompt was computed."""
        self.answers += 1.0 - self.answers / WINDOW
        self.errors -= self.errors / WINDOW
        self.in_row = 0
        if self.probation:
            self.probation -= 1

    def bad(self) -> None:
        """An error was answered."""
        self.answers += 1.0 - self.answers / WINDOW
        self.errors += 1.0 - self.errors / WINDOW
        self.in_row += 1

    def suspect(self, fellows_ratio: float) -> bool:
        """Whether its last error is to be put before a fellow.

        Args:
            fellows_ratio: Share of errors among the recent answers of the others.
        """
        if self.probation:
            return True
        if self.in_row >= IN_ROW and fellows_ratio <= WELL_RATIO:
            return True
        return (
            self.errors >= LEAST_ERRORS
            and self.errors > (MOST_TIMES * fellows_ratio + MOST_ABOVE) * self.answers
        )

    def acquit(self, fellows_ratio: float) -> None:
        """A fellow answered the same request with an error too: what it erred says nothing of it."""
        self.in_row = 0
        self.errors = min(self.errors, fellows_ratio * self.answers)

    def convict(self) -> None:
        """A fellow answered the same request."""
        self.probation = PROBATION

    def clear(self) -> None:
        """Another engine."""
        self.answers = self.errors = 0.0
        self.in_row = self.probation = 0
