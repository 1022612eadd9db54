"""Many questions about one document come at once, live: all replicas answer them, and nobody is refused for the others.

The router learns of the document's home with the first question, and holds the others for that. They must not all
wait there beside idle replicas.
"""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from tests.support.processes import RouterProcess, SimProcess
from tests.support.replay import Texts, replay
from warmroute_loadtest.simulate.workload import KeyMaker, Session, Turn, Workload

REPLICAS = 8
QUESTIONS = 200
BLOCK_TOKENS = 64
DOCUMENT_TOKENS = 8192
OUTPUT_TOKENS = 8


def questions() -> Workload:
    """Each has 300 tokens of its own."""
    keys = KeyMaker()
    document = keys.fresh(DOCUMENT_TOKENS // BLOCK_TOKENS)
    sessions = []
    for number in range(QUESTIONS):
        chain = (*document, *keys.fresh(300 // BLOCK_TOKENS))
        turn = Turn(str(number), DOCUMENT_TOKENS + 300, OUTPUT_TOKENS, chain, 0.0)
        sessions.append(Session(0.0, [turn]))
    return Workload("questions", BLOCK_TOKENS, sessions)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("queue", ["false", "true"])
def test_questions_about_one_document_are_answered_by_all_replicas(queue: str) -> None:
    with (
        SimProcess(REPLICAS, "--block-tokens", str(BLOCK_TOKENS)) as sims,
        RouterProcess(sims.urls, "--set", f"queue.enabled={queue}") as router,
    ):
        played = asyncio.run(replay(f"http://127.0.0.1:{router.port}", questions(), Texts(BLOCK_TOKENS)))
    assert played.failures == []
    assert len(played.samples) == QUESTIONS
    counts = Counter(sample.replica for sample in played.samples)
    assert len(counts) == REPLICAS
    assert max(counts.values()) < 3 * QUESTIONS / REPLICAS, sorted(counts.values())
