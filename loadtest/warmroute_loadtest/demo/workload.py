"""The workload says who asks what, and when: conversations of several turns, some of which share a system prompt.

This module decides texts and times; it sends nothing. It keeps one rule: equal parameters give equal conversations, so
both sides of a comparison are asked the same at the same times.

A conversation is what an assistant with documents sees: an application's system prompt, a first question with a
document in it, then shorter turns, each of which sends the whole conversation so far. Times are those of the modelled
machine; the client divides them by the speed at which the replicas run.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

_WORDS = (
    "import return class self value index string error module object function default result table python "
    "file name type list number"
).split()
"""Each word is one token of the tiny model's tokenizer; the simulated engine counts every four bytes as a token."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Sizes and times of one workload. Ranges are inclusive."""

    conversations: int
    applications: int
    """Number of different system prompts; conversations take them by turns."""
    system_words: int
    first_words: tuple[int, int]
    """Number of words in a conversation's first question, its document included."""
    later_words: tuple[int, int]
    turns: tuple[int, int]
    answer_tokens: tuple[int, int]
    start_window_s: float
    """Conversations begin at random within this time, in seconds."""
    think_s: tuple[float, float]
    """Time from one question to the next, in seconds: that of the answer and that of the reader."""
    speed: float = 1.0
    """All times are divided by this."""
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Turn:
    """One question of a conversation."""

    at_s: float
    """Time of the question from the start of the workload, in seconds."""
    text: str
    answer_tokens: int


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation. Its questions are asked in order, each with everything said before it."""

    number: int
    application: int
    system: str
    turns: tuple[Turn, ...]


SIMULATED = Workload(
    conversations=96,
    applications=8,
    system_words=250,
    first_words=(1000, 3000),
    later_words=(100, 300),
    turns=(7, 9),
    answer_tokens=(32, 96),
    start_window_s=50.0,
    think_s=(5.0, 30.0),
)
"""A workload for replicas as fast as a small model's on one data-centre GPU."""

TINY_VLLM = Workload(
    conversations=12,
    applications=2,
    system_words=100,
    first_words=(400, 1000),
    later_words=(30, 80),
    turns=(5, 6),
    answer_tokens=(8, 12),
    start_window_s=15.0,
    think_s=(4.0, 12.0),
)
"""A workload for a toy model on two CPU cores, which computes some 3,000 prompt tokens a second."""


def conversations(workload: Workload) -> list[Conversation]:
    """Make all conversations, in the order in which they begin."""
    rng = random.Random(workload.seed)
    systems = [_text(rng, f"application {n}", workload.system_words) for n in range(workload.applications)]
    starts_s = sorted(rng.uniform(0, workload.start_window_s) for _ in range(workload.conversations))
    made = []
    for number, start_s in enumerate(starts_s):
        application = number % workload.applications
        turns = []
        at_s = start_s
        for turn in range(rng.randint(*workload.turns)):
            words = rng.randint(*(workload.later_words if turn else workload.first_words))
            text = _text(rng, f"conversation {number} turn {turn}", words)
            turns.append(Turn(at_s / workload.speed, text, rng.randint(*workload.answer_tokens)))
            at_s += rng.uniform(*workload.think_s)
        made.append(Conversation(number, application, systems[application], tuple(turns)))
    return made


def duration_s(made: Sequence[Conversation]) -> float:
    """Return the time of the last question, in seconds."""
    return max(conversation.turns[-1].at_s for conversation in made)


def count_turns(made: Sequence[Conversation]) -> int:
    """Return the number of requests."""
    return sum(len(conversation.turns) for conversation in made)


def _text(rng: random.Random, title: str, words: int) -> str:
    return f"{title}: {' '.join(rng.choices(_WORDS, k=words))}"
