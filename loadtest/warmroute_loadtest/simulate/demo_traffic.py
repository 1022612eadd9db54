"""The demo's conversations are a workload of the simulation too: the same questions at the same times.

This module decides only how they are laid out: a token is four bytes, as the simulated engine counts, and each turn
comes when the demo sends it, whether the turn before has been answered or not.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil

from warmroute_loadtest.demo.workload import SIMULATED, Conversation, conversations
from warmroute_loadtest.simulate.workload import (
    BYTES_PER_TOKEN,
    KeyMaker,
    Session,
    Turn,
    Workload,
    interleave,
)

BLOCK_TOKENS = 16
_MEAN_TURNS = sum(SIMULATED.turns) // 2


def demo(requests: int, seed: int = SIMULATED.seed) -> Workload:
    """Return the demo's conversations as a workload. For `requests` beyond the demo's own number, there are more
    conversations over a time that is longer in proportion."""
    count = max(SIMULATED.conversations, ceil(requests / _MEAN_TURNS))
    window_s = SIMULATED.start_window_s * count / SIMULATED.conversations
    made = conversations(replace(SIMULATED, conversations=count, start_window_s=window_s, seed=seed))
    keys = KeyMaker()
    heads: dict[int, tuple[int, ...]] = {}
    sessions: list[Session] = []
    for conversation in made:
        head = heads.get(conversation.application)
        if head is None:
            head = heads[conversation.application] = keys.fresh(_tokens(conversation.system) // BLOCK_TOKENS)
        sessions += _sessions(conversation, head, keys)
    return Workload("demo", BLOCK_TOKENS, interleave(sessions), source=f"the demo's, seed {seed}")


def _sessions(conversation: Conversation, head: tuple[int, ...], keys: KeyMaker) -> list[Session]:
    sessions = []
    tokens = _tokens(conversation.system)
    chain = head
    for number, turn in enumerate(conversation.turns):
        tokens += _tokens(turn.text)
        whole_tokens = tokens + turn.answer_tokens
        chain += keys.fresh(whole_tokens // BLOCK_TOKENS - len(chain))
        name = f"d{conversation.number}.{number}"
        one = Turn(
            name, tokens, turn.answer_tokens, chain, 0.0, -conversation.number - 1, conversation.number
        )
        sessions.append(Session(turn.at_s, [one]))
        tokens = whole_tokens
    return sessions


def _tokens(text: str) -> int:
    return len(text) // BYTES_PER_TOKEN
