"""A talk is what is asked: a conversation of one or more requests, with their lengths in tokens and their pauses.

This module decides how planned times follow from pauses and from answers of usual speed. `tape` makes the texts, and
`bodies` the bodies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

PLANNED_TTFT_S, PLANNED_TOKEN_S = 0.5, 0.02
"""How long an answer is taken to last when times are planned ahead, in seconds to its first token and for each further
one: those of an 8-billion-parameter model, lightly loaded."""


class Api(StrEnum):
    """The endpoints that can be asked."""

    CHAT = "chat"
    MESSAGES = "messages"
    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"


class Manners(StrEnum):
    """The ways in which a client behaves."""

    GOOD = "good"
    LEAVES_EARLY = "leaves-early"
    """The client closes the connection while the prompt is computed."""
    LEAVES_MIDWAY = "leaves-midway"
    """The client closes the connection after some tokens."""
    READS_SLOWLY = "reads-slowly"
    """The client pauses between reads, with a small receive buffer."""
    BROKEN_JSON = "broken-json"
    UNKNOWN_MODEL = "unknown-model"
    WRONG_TYPES = "wrong-types"
    HUGE_HEAD = "huge-head"
    NOT_HTTP = "not-http"
    HALF_BODY = "half-body"
    """The client announces a body, sends half of it, waits, and closes."""


class Piece(NamedTuple):
    """A stretch of text; pieces with equal keys have equal text."""

    key: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Ask:
    """One request of a talk."""

    text: tuple[Piece, ...]
    """The next user message; where the talk does not grow, the whole prompt."""
    answer_tokens: int
    """Number of tokens asked for; 0 for an embedding."""
    pause_s: float = 0.0
    """Seconds from the answer before to this request, where clients wait for answers."""
    at_s: float = 0.0
    """Seconds from the talk's start to this request, where requests come by the clock."""

    @property
    def tokens(self) -> int:
        """Number of tokens in the text."""
        return sum(piece.tokens for piece in self.text)


@dataclass(frozen=True, slots=True)
class Talk:
    """Requests that follow one another."""

    name: str
    """The row of the statistics in which the talk counts."""
    asks: tuple[Ask, ...]
    api: Api = Api.CHAT
    system: tuple[Piece, ...] = ()
    grows: bool = True
    """Whether each request carries all that was asked and answered before."""
    manners: Manners = Manners.GOOD

    def asked_tokens(self, number: int) -> int:
        """Return the number of prompt tokens that request `number` is meant to have, without those of the template."""
        system = sum(piece.tokens for piece in self.system)
        if not self.grows:
            return system + self.asks[number].tokens
        before = sum(ask.tokens + ask.answer_tokens for ask in self.asks[:number])
        return system + before + self.asks[number].tokens


def planned(asks: Sequence[Ask]) -> tuple[Ask, ...]:
    """Return the same requests with times by the clock: each comes a pause after the planned end of the answer
    before."""
    made: list[Ask] = []
    now_s = 0.0
    for ask in asks:
        if made:
            now_s += PLANNED_TTFT_S + PLANNED_TOKEN_S * made[-1].answer_tokens + ask.pause_s
        made.append(replace(ask, at_s=now_s))
    return tuple(made)


def hurried(talk: Talk, speed: float) -> Talk:
    """Return the same talk with all times divided by `speed`."""
    if speed == 1.0:
        return talk
    asks = tuple(replace(ask, pause_s=ask.pause_s / speed, at_s=ask.at_s / speed) for ask in talk.asks)
    return replace(talk, asks=asks)


def until(talk: Talk, left_s: float) -> Talk:
    """Return the part of a talk that is planned to be asked within this time of its start."""
    kept = tuple(ask for ask in talk.asks if ask.at_s <= left_s)
    return talk if len(kept) == len(talk.asks) else replace(talk, asks=kept)
