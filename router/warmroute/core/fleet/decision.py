"""One request's stay on one replica: where it goes, what was expected of that, and how far it has come.

This module holds data; `Fleet` makes a decision, moves its phase and settles it once. What was believed to be cached is
kept until the answer tells what was (`learning.feedback`).
"""

from __future__ import annotations

from typing import Final

from warmroute.core.fleet.prompt import Prefill
from warmroute.core.fleet.replica import Replica
from warmroute.core.types import DecisionKind

RESERVED: Final = 0
STARTED: Final = 1
SETTLED: Final = 2


class Decision(Prefill):
    """Where one attempt of a request goes, and the reservation that it holds there until it is settled."""

    __slots__ = (
        "begun",
        "believed_s",
        "believed_tokens",
        "chunk_uses",
        "computed",
        "computes",
        "counted",
        "doubtful",
        "expected_tokens",
        "fresh_s",
        "fresh_tokens",
        "gap_tokens",
        "incarnation",
        "kind",
        "known_tokens",
        "lasted_s",
        "phase",
        "remembered_s",
        "remembered_tokens",
        "replica",
        "started_s",
        "tells",
        "trial",
    )

    def __init__(
        self,
        replica: Replica,
        kind: DecisionKind,
        predicted_tokens: int,
        uncached_tokens: int,
        trial: bool,
        streams: bool = True,
        computes: bool = True,
    ) -> None:
        super().__init__(predicted_tokens, uncached_tokens, streams)
        self.replica = replica
        self.kind = kind
        self.expected_tokens = predicted_tokens
        """Tokens that it is told to find there: those, and what is found beyond them in the mean."""
        self.phase = RESERVED
        """`RESERVED`, then `STARTED` at the first byte, then `SETTLED`; only `Fleet` moves it."""
        self.trial = trial
        """Whether it counts in the replica's `trials`."""
        self.tells = streams
        """Whether its end shows if the replica streams: of a refusal it does not."""
        self.started_s = 0.0
        """When the first byte was there."""
        self.lasted_s = -1.0
        """How long after its first byte the answer ended; below 0 until it has, and where there was none."""
        self.known_tokens = predicted_tokens
        """Tokens that some replica that could have been chosen is expected to hold."""
        self.believed_tokens = 0
        """Leading tokens that the records say it holds; more than `predicted_tokens` where not all is counted on."""
        self.chunk_uses: list[tuple[float, int]] | None = None
        """When the replica last used the prompt's chunks, latest first, and how many tokens of each time it need not
        compute if they are all there. None for a prompt without chunks, whose answer tells of prefixes."""
        self.counted: tuple[int, int, int] = (0, 0, 0)
        """What the replica's `residency` counts for it."""
        self.computed = True
        """False if its first byte came without a prefill."""
        self.begun = False
        """Whether its client left before its first byte, but not before the engine had begun to compute it."""
        self.computes = computes
        """Whether an engine has to do something for it."""
        self.gap_tokens = 0
        """Tokens from there to the next rung, which may be there in part; 0 if more is remembered."""
        self.doubtful = False
        """Whether part of what is believed to be there was evicted, by what the replica was sent since."""
        self.incarnation = replica.incarnation
        """The life of the replica that has it."""
        self.believed_s = 0.0
        """When the deepest of what is believed to be there was last used there."""
        self.fresh_tokens = 0
        """Leading tokens that were used there clearly later than the rest; 0 if none were."""
        self.fresh_s = 0.0
        self.remembered_tokens = 0
        """Leading tokens that it once held and is believed to have evicted in part; 0 if not deeper than predicted."""
        self.remembered_s = 0.0
        """When the deepest of those was last used there."""

    @property
    def took_s(self) -> float:
        """How long it lasted from when it was sent, once it is over; what comes whole ends with its first byte."""
        return self.started_s - self.reserved_s + (self.lasted_s if self.lasted_s > 0.0 else 0.0)

    @property
    def is_computed(self) -> bool:
        """Whether its prompt was computed there, as far as is known."""
        return self.computed and (self.phase == STARTED or self.begun)

    def reported(self) -> None:
        """Its end has said, or not, what was cached of what was timed: that is done once."""
        self.sample = None
