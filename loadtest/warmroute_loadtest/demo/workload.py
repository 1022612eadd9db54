"""The workload says who asks what, and when: conversations of several turns, some of which share a system prompt.

This module decides texts and times; it sends nothing. The rule it keeps: equal parameters give equal conversations, so
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
"""Whole tokens of the tiny model's tokenizer; the simulated engine counts every four bytes as a token."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Sizes and times of one workload. Ranges are inclusive."""

    conversations: int
    applications: int
    """Different system prompts; conversations take them by turns."""
    system_words: int
    first_words: tuple[int, int]
    """Length of a conversation's first question, its document included."""
    later_words: tuple[int, int]
    turns: tuple[int, int]
    answer_tokens: tuple[int, int]
    start_window_s: float
    """Conversations begin at random within this time."""
    think_s: tuple[float, float]
    """Time from one turn's question to the next turn's: the answer's time and the reader's."""
    speed: float = 1.0
    """All times are divided by it."""
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Turn:
    """One question."""

    at_s: float
    """When it is asked, from the start of the workload."""
    text: str
    answer_tokens: int


@dataclass(frozen=True, slots=True)
class Conversation:
    """Its turns are asked in order, each with everything before it."""

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
"""For replicas as fast as a small model's on one data-centre GPU."""

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
"""For a toy model on two CPU cores, which computes some 3,000 prompt tokens a second."""


def conversations(workload: Workload) -> list[Conversation]:
    """All conversations, in the order in which they begin."""
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
    """When the last question is asked."""
    return max(conversation.turns[-1].at_s for conversation in made)


def count_turns(made: Sequence[Conversation]) -> int:
    """Number of requests."""
    return sum(len(conversation.turns) for conversation in made)


def _text(rng: random.Random, title: str, words: int) -> str:
    return f"{title}: {' '.join(rng.choices(_WORDS, k=words))}"
