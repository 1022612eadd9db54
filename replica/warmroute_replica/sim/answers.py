"""This module decides what one sequence will generate before it starts: it stands in for the whole model.

It decides whether the sequence is text or a tool call, how long it is, and why it ends. All of this depends on the
prompt and the seed only, so that every replica gives the same answer and a conversation goes the same way wherever its
turns are served.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import xxhash

from warmroute_replica.sim.template import Tool, ToolCall, encode
from warmroute_replica.sim.text import PIECE_BYTES, answer_pieces, natural_tokens, tool_arguments
from warmroute_replica.sim.tokens import count_tokens

MOST_SAID_TOKENS = 4096
"""At most this many tokens at the end of a completion's prompt are searched for the beginning of the answer that the
completion then continues."""
ARGUMENT_CHARS = 4
"""Characters of a tool call's arguments in one token."""


class Finish(StrEnum):
    """vLLM's finish reasons."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    ABORT = "abort"


@dataclass(slots=True)
class Answer:
    """The answer that one sequence generates."""

    pieces: list[str]
    """The text that each token adds to the answer, or to the tool call's arguments; a token may add none."""
    finish: Finish
    stream: bytes
    """The bytes of the tokens as the engine sees them."""
    tool: ToolCall | None = None
    stop: str | None = None
    """The stop string that ended the answer; None where none did."""
    text: str = field(init=False)

    def __post_init__(self) -> None:
        self.text = "".join(self.pieces)

    def cut_off(self, tokens: int) -> None:
        """End the answer after this many tokens and one more without text, which carries the finish reason."""
        self.pieces = [*self.pieces[:tokens], ""]
        self.text = "".join(self.pieces)
        self.finish = Finish.ABORT
        self.stop = None

    @property
    def tokens(self) -> int:
        """Number of tokens generated."""
        return len(self.pieces)


@dataclass(frozen=True, slots=True)
class AnswerLimits:
    """The limits that a request sets to the length of its answers."""

    room: int
    """Number of tokens that the context leaves for the answer, at least 1."""
    max_tokens: int | None = None
    """Exact length of a text in tokens; with None the seed chooses 20 to 200."""
    is_ceiling: bool = False
    """True where `max_tokens` only bounds the length that the seed chooses."""
    stop: Sequence[str] = ()
    """Strings that end the text before they appear in it."""


def make_answer(seed: int, limits: AnswerLimits, tool: Tool | None) -> Answer:
    """Generate one sequence; where `tool` is given, the sequence calls that function instead of answering by text."""
    room = limits.room if limits.max_tokens is None else max(1, min(limits.room, limits.max_tokens))
    return _text_answer(seed, limits, room) if tool is None else _tool_answer(seed, room, tool)


def rest_of_answer(seed: int, said: str, limits: AnswerLimits) -> Answer | None:
    """Return what follows `said` in the answer to the prompt of this seed, as a model goes on from its own words; None
    if that answer does not begin with `said`.

    Args:
        limits: Limits of the rest alone, without `said`.
    """
    room = limits.room if limits.max_tokens is None else max(1, min(limits.room, limits.max_tokens))
    pieces = answer_pieces(seed, count_tokens(encode(said)) + room)
    index = 0
    left = said
    while left and index < len(pieces):
        piece = pieces[index]
        if left.startswith(piece):
            left = left[len(piece) :]
            index += 1
        elif piece.startswith(left):
            pieces[index] = piece[len(left) :]
            left = ""
        else:
            return None
    if left:
        return None
    rest = pieces[index : index + room]
    finish = Finish.LENGTH
    if limits.max_tokens is None or limits.is_ceiling:
        natural = max(0, natural_tokens(seed) - index)
        if natural < room:
            # An answer that has no further text still generates the token that ends it.
            rest, finish = rest[:natural] or [""], Finish.STOP
    return _stopped(rest, finish, limits.stop)


def said_tokens(prompt: bytes, seed: int) -> int:
    """Return how many tokens at the end of a prompt are the beginning of the answer to the part of the prompt before
    them."""
    run = 0
    end = len(prompt)
    while run < MOST_SAID_TOKENS and prompt[end - 4 * run - 4 : end - 4 * run] in PIECE_BYTES:
        run += 1
    for tokens in range(run, 0, -1):
        start = end - 4 * tokens
        asked = xxhash.xxh3_64_intdigest(prompt[:start], seed)
        if answer_pieces(asked, 1)[0].encode() == prompt[start : start + 4] and (
            encode("".join(answer_pieces(asked, tokens))) == prompt[start:]
        ):
            return tokens
    return 0


def _text_answer(seed: int, limits: AnswerLimits, room: int) -> Answer:
    tokens = room
    finish = Finish.LENGTH
    if limits.max_tokens is None or limits.is_ceiling:
        natural = natural_tokens(seed)
        if natural < room:
            tokens, finish = natural, Finish.STOP
    return _stopped(answer_pieces(seed, tokens), finish, limits.stop)


def _stopped(pieces: list[str], finish: Finish, stops: Sequence[str]) -> Answer:
    stop = None
    if stops:
        text = "".join(pieces)
        found = min(((text.find(s), s) for s in stops if s in text), default=None)
        if found is not None:
            pieces, stop, finish = _cut(pieces, found[0]), found[1], Finish.STOP
    return Answer(pieces, finish, encode("".join(pieces)), stop=stop)


def _tool_answer(seed: int, room: int, tool: Tool) -> Answer:
    call = ToolCall(f"chatcmpl-tool-{seed:016x}", tool.name, tool_arguments(tool.schema, seed))
    stream = encode(call.rendered())
    wanted = count_tokens(stream)
    arguments = call.arguments
    cut = [arguments[start : start + ARGUMENT_CHARS] for start in range(0, len(arguments), ARGUMENT_CHARS)]
    # The first token stands for the call's opening and name; those left at the end for its closing tag.
    pieces = ["", *cut]
    pieces += [""] * (wanted - len(pieces))
    if room < wanted:
        return Answer(pieces[:room], Finish.LENGTH, stream[: room * 4], call)
    return Answer(pieces, Finish.TOOL_CALLS, stream, call)


def _cut(pieces: list[str], chars: int) -> list[str]:
    """Return the tokens up to a character; at least one token, since an engine generates the stop string's tokens,
    too."""
    kept: list[str] = []
    for piece in pieces:
        if chars <= 0 and kept:
            break
        kept.append(piece[: max(chars, 0)])
        chars -= len(piece)
    return kept
