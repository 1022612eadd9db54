"""Who says the same in other words: recorded requests of one group, by what they say and by their embeddings.

Decides the order, which is by cost: rules first (`caching.agreement`), which leave few or none and need no embedding;
then whether the request's tenant may have more work done for it now, which its limits say (`May`); then the cosine of
embeddings against the threshold; then, where there is one and the words differ, the judge. A judge is never asked about
what must agree. What is known of groups is kept in this process (`caching.neighbours`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from warmroute.caching import lexicon
from warmroute.caching.agreement import WORDS, Facts, differ, facts_of
from warmroute.caching.neighbours import Entry, Neighbours, cosine, vector_of
from warmroute.caching.response import Near, Question, encoded
from warmroute.ports import Embedder

MOST_COMPARED: Final = 64
"""Candidates whose embeddings are compared: the latest that agree."""
MOST_JUDGED: Final = 1
"""Candidates that the judge is asked about, the likest first: each costs a request."""
_REMEMBERED: Final = 256


May = Callable[[], Awaitable[bool]]
"""Whether texts may be embedded and judged for a request: what that takes, others have to wait for."""


class Judge(Protocol):
    """Says whether two questions ask the same."""

    async def same(self, one: str, other: str, sharing: str) -> bool:
        """Whether one answer would do for both; False if nobody says so in time. Raises nothing."""


class Likeness:
    """What compares requests by their meaning, at one worker.

    Args:
        threshold: Least cosine.
        judge: Asked where words differ; None: then they do not mean the same.
    """

    def __init__(self, embedder: Embedder, *, threshold: float, judge: Judge | None = None) -> None:
        self.embedder = embedder
        self._threshold = threshold
        self._judge = judge
        self._neighbours = Neighbours()
        self._vectors: OrderedDict[str, bytes] = OrderedDict()
        """Of texts that were looked for, until they are recorded."""
        self.compared = {"hit": 0, "far": 0, "unlike": 0, "judged": 0, "failed": 0, "alone": 0, "limited": 0}
        """Requests by what came of it."""

    @property
    def space(self) -> str:
        """Names what can be compared with each other."""
        return f"{self.embedder.space} {lexicon.VERSION}"

    def after(self, group: str) -> int:
        """Up to which number a group is known."""
        return self._neighbours.after(group)

    def learn(self, group: str, number: int, key: str, near: Near | None) -> None:
        """What the store has of a group."""
        entry = None if near is None else Entry(key, near.facts, near.text, vector_of(near.vector))
        self._neighbours.add(group, number, entry)

    def forget(self, group: str, key: str) -> None:
        """A record is gone."""
        self._neighbours.forget(group, key)

    async def nearest(self, question: Question, may: May) -> list[tuple[str, float]]:
        """Keys of records that answer this question too, the likest first, with their cosines. `may` is asked once, if
        at all."""
        found = await self._compare(question, may)
        if isinstance(found, str):
            self.compared[found] += 1
            return []
        self.compared["hit"] += 1
        return found

    async def _compare(self, question: Question, may: May) -> list[tuple[str, float]] | str:
        entries = self._neighbours.of(question.group)
        if not entries:
            return "alone"
        agreeing = self._agreeing(facts_of(question.text), entries)
        if not agreeing:
            return "unlike"
        if not await may():
            return "limited"
        vector = vector_of(await self._embedded(question.text))
        if not vector:
            return "failed"
        scored = [(cosine(vector, entry.vector), entry, surely) for entry, surely in agreeing]
        scored = [one for one in scored if one[0] >= self._threshold]
        if not scored:
            return "far"
        scored.sort(key=lambda one: -one[0])
        found = [(entry.key, score) for score, entry, surely in scored if surely]
        if found or self._judge is None:
            return found or "unlike"
        for score, entry, _ in scored[:MOST_JUDGED]:
            if await self._judge.same(entry.text, question.text, question.sharing):
                return [(entry.key, score)]
        return "judged"

    def _agreeing(self, facts: Facts, entries: list[Entry]) -> list[tuple[Entry, bool]]:
        """Those of which the rules say that they ask the same, or, for a judge, that they may; and whether they say so
        for sure."""
        found = []
        for entry in entries:
            what = differ(facts, entry.facts)
            if not what or (what == WORDS and self._judge is not None):
                found.append((entry, not what))
                if len(found) == MOST_COMPARED:
                    break
        return found

    async def _embedded(self, text: str) -> bytes:
        known = self._vectors.pop(text, None)
        vector = known or await self.embedder.embed(text)
        if vector:
            self._vectors[text] = vector
            if len(self._vectors) > _REMEMBERED:
                self._vectors.popitem(last=False)
        return vector

    async def noted(self, question: Question) -> bytes:
        """What is kept beside the record of this question; empty where it has no embedding."""
        vector = await self._embedded(question.text)
        if not vector:
            return b""
        return encoded(Near(text=question.text, vector=vector, facts=facts_of(question.text)))
