"""Recorded responses as requests meet them: found by exactly what was asked, or, where that is wanted, by what was
meant; and kept where they are whole and good.

Decides whom the rules serve, whether what a store found may be given, and whether an answer may be kept. Which part of
a body counts is for `dialects.repeatable` to say, who says the same in other words for `service.likeness`. Nothing here
raises because a store is away: then there is nothing recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from warmroute.caching.response import Question, Response, encoded, name_of, near_of, response_of
from warmroute.core.types import Api
from warmroute.dialects.complete import is_complete
from warmroute.dialects.repeatable import Repeatable
from warmroute.ports import ResponseStore
from warmroute.service.likeness import Likeness, May

EXACT: Final = "exact"
SEMANTIC: Final = "semantic"
MISS: Final = "miss"
BYPASS: Final = "bypass"
MOST_TRIED: Final = 2
"""Records of like requests that are looked for: the likest may be gone."""
_MOST_RULES: Final = 10_000
_LONGEST_NAME: Final = 256
"""Letters of a model's name up to which it is remembered which rule fits: clients make names up, of any length."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Whose requests for which model are served; `*`: any."""

    tenant: str
    model: str
    ttl_s: float
    sampled: bool
    semantic: bool


@dataclass(frozen=True, slots=True)
class Hit:
    """A response that answers a request."""

    response: Response
    age_s: float
    score: float | None
    """How like its request was; None: it was the same."""


class ResponseCache:
    """The recorded responses, at one worker.

    Args:
        version: Part of every name.
        likeness: What compares requests by their meaning; None: nothing does.
    """

    def __init__(
        self,
        store: ResponseStore,
        rules: tuple[Rule, ...],
        *,
        response_bytes: int,
        version: str,
        clock: Callable[[], float],
        likeness: Likeness | None = None,
    ) -> None:
        self.store = store
        self.response_bytes = response_bytes
        self.likeness = likeness
        self._rules = rules
        self._version = version
        self._clock = clock
        self._known: dict[tuple[str, str], Rule | None] = {}
        self.requests = {EXACT: 0, SEMANTIC: 0, MISS: 0, BYPASS: 0}
        """By what became of them."""
        self.kept = 0
        self.refused = {"incomplete": 0, "long": 0, "store": 0}
        """Answers that were not kept, by why."""

    def rule(self, tenant: str, model: str) -> Rule | None:
        """The first that fits."""
        key = (tenant, model)
        if key in self._known:
            return self._known[key]
        found = next(
            (rule for rule in self._rules if rule.tenant in ("*", tenant) and rule.model in ("*", model)),
            None,
        )
        if len(model) <= _LONGEST_NAME:
            if len(self._known) >= _MOST_RULES:
                self._known.clear()
            self._known[key] = found
        return found

    def question(
        self, api: Api, asked: Repeatable, model: str, rule: Rule, scope: str, form: bytes, sharing: str
    ) -> Question:
        """What a request is known by.

        Args:
            form: What besides the body decides how the answer looks.
        """
        parts = (self._version, scope, api.value, model, "stream" if asked.stream else "whole", form)
        group = ""
        if rule.semantic and asked.around and self.likeness is not None:
            group = name_of("like", self.likeness.space, *parts, asked.around)
        return Question(
            api,
            model,
            name_of("same", *parts, asked.meaning),
            group,
            asked.text,
            asked.stream,
            rule.ttl_s,
            sharing,
        )

    async def find(self, question: Question, max_age_s: float, may_compare: May) -> Hit | None:
        """A response that may be given, and is not older than that.

        Args:
            may_compare: Asked before any model is, where nothing was recorded of the very request.
        """
        likeness = self.likeness if question.group else None
        now_s = self._clock()
        after = 0 if likeness is None else likeness.after(question.group)
        found = await self.store.find(question.key, now_s, group=question.group, after=after)
        if found.record is not None:
            return self._hit(found.record, question.key, max_age_s, None)
        if likeness is None:
            return None
        for number, key, near in found.near:
            likeness.learn(question.group, number, key, near_of(near))
        for key, score in (await likeness.nearest(question, may_compare))[:MOST_TRIED]:
            record = (await self.store.find(key, self._clock())).record
            if record is None:
                likeness.forget(question.group, key)
                continue
            hit = self._hit(record, key, max_age_s, score)
            if hit is not None:
                return hit
        return None

    def _hit(self, record: bytes, key: str, max_age_s: float, score: float | None) -> Hit | None:
        response = response_of(record)
        now_s = self._clock()
        if response is None or response.key != key or response.expires_s <= now_s:
            return None
        age_s = max(0.0, now_s - response.created_s)
        return Hit(response, age_s, score) if age_s <= max_age_s else None

    async def keep(self, question: Question, content_type: str, body: bytes) -> bool:
        """Keep an answer, if it is one to be given again."""
        if len(body) > self.response_bytes:
            self.refused["long"] += 1
            return False
        if not is_complete(question.api, body, stream=question.stream):
            self.refused["incomplete"] += 1
            return False
        now_s = self._clock()
        response = Response(
            key=question.key,
            created_s=now_s,
            expires_s=now_s + question.ttl_s,
            content_type=content_type,
            stream=question.stream,
            body=body,
        )
        near = b""
        if question.group and self.likeness is not None:
            near = await self.likeness.noted(question)
        group = question.group if near else ""
        kept = await self.store.add(
            question.key, encoded(response), now_s, response.expires_s, group=group, near=near
        )
        if kept:
            self.kept += 1
        else:
            self.refused["store"] += 1
        return kept

    def figures(self) -> Mapping[str, Mapping[str, float]]:
        """Counters by label, for metrics."""
        return {"requests": self.requests, "refused": self.refused}
