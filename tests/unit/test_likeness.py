"""Requests that say the same in other words: rules, threshold and judge in their order, over scripted models."""

from __future__ import annotations

import asyncio
import json
import time
from array import array
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.support.tenants import KEYS, SlowLimiter, bearer, key_record, tenant
from tests.unit.test_response_cache import ASKED, Asker, plain, told
from warmroute.adapters.tenants.limits_memory import MemoryLimiter
from warmroute.caching.agreement import facts_of
from warmroute.caching.neighbours import Entry, Neighbours, cosine, vector_of
from warmroute.caching.response import vector_bytes
from warmroute.config.schema import (
    KeysConfig,
    PriceConfig,
    ResponseCacheConfig,
    ResponseRuleConfig,
    UsageConfig,
)
from warmroute.service.fleet_models import INSTRUCTION, FleetEmbedder, FleetJudge
from warmroute.service.likeness import Likeness
from warmroute.tenancy import tenants_of

RULES = (ResponseRuleConfig(semantic=True),)
FIRST = "How do I reset my password?"
SAME = "What is the best way to reset a password?"
FAR = "How can I reset the password?"
NEAR = "How do I reset my passphrase?"


class ScriptedEmbedder:
    """All texts are one direction, but for those that are named; and it counts."""

    space = "scripted"

    def __init__(self, **others: list[float]) -> None:
        self.asked: list[str] = []
        self.others = {FAR: [0.0, 1.0]}
        self.away = False

    async def start(self) -> None:
        return

    async def stop(self) -> None:
        return

    async def embed(self, text: str) -> bytes:
        self.asked.append(text)
        return b"" if self.away else vector_bytes(self.others.get(text, [2.0, 0.1]))


class ScriptedJudge:
    def __init__(self, verdict: bool) -> None:
        self.verdict = verdict
        self.asked: list[tuple[str, str, str]] = []

    async def same(self, one: str, other: str, sharing: str) -> bool:
        self.asked.append((one, other, sharing))
        return self.verdict


def asker(judge: ScriptedJudge | None = None, **cache: Any) -> tuple[Asker, ScriptedEmbedder]:
    """An asker whose embeddings are scripted; the fleet's model is named so that nothing is loaded."""
    made = Asker(rules=RULES, cache={"embedding_model": "e", **cache})
    embedder = ScriptedEmbedder()
    assert made.responses is not None
    made.responses.likeness = Likeness(embedder, threshold=0.9, judge=judge)
    return made, embedder


def saying(text: str, **more: Any) -> dict[str, Any]:
    return {
        **ASKED,
        "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": text}],
        **more,
    }


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(test())  # type: ignore[arg-type]


def test_the_same_in_other_words_is_answered_and_the_score_told() -> None:
    async def test() -> None:
        one, _ = asker()
        first, _ = await one.ask(saying(FIRST))
        again, asked = await one.ask(saying(SAME))
        assert (asked, told(again)) == (False, b"hit; score=1.000")
        assert again[2] == first[2]
        assert one.responses is not None
        assert one.responses.requests == {"exact": 0, "semantic": 1, "miss": 1, "bypass": 0}
        assert one.responses.likeness is not None
        assert one.responses.likeness.compared["hit"] == 1

    run(test)


@pytest.mark.parametrize(
    ("other", "outcome"),
    [
        (saying(FAR), "far"),
        (saying("How do I reset my 2 passwords?"), "unlike"),
        (saying("How do I not reset my password?"), "unlike"),
        (saying(NEAR), "unlike"),
        (saying(SAME, max_tokens=3), "alone"),
        (saying(SAME, model="tiny"), "alone"),
        (saying(SAME, stream=True), "alone"),
        ({**ASKED, "messages": [{"role": "user", "content": SAME}]}, "alone"),
    ],
)
def test_whatever_else_differs_is_asked_of_a_replica(other: dict[str, Any], outcome: str) -> None:
    async def test() -> None:
        one, _ = asker()
        await one.ask(saying(FIRST))
        assert one.responses is not None
        assert one.responses.likeness is not None
        compared = one.responses.likeness.compared
        before = compared[outcome]
        answer, asked = await one.ask(other)
        assert (asked, told(answer)) == (True, b"miss")
        assert compared[outcome] == before + 1

    run(test)


def test_what_the_rules_refuse_needs_no_embedding_to_be_refused() -> None:
    async def test() -> None:
        one, embedder = asker()
        await one.ask(saying(FIRST))
        embedder.asked.clear()
        await one.ask(saying("How do I reset my 2 passwords?"), reply=plain({"choices": []}))
        assert embedder.asked == []

    run(test)


def test_without_an_embedding_nothing_is_found_and_the_answer_is_kept_all_the_same() -> None:
    async def test() -> None:
        one, embedder = asker()
        embedder.away = True
        await one.ask(saying(FIRST))
        assert told((await one.ask(saying(SAME)))[0]) == b"miss"
        assert told((await one.ask(saying(FIRST)))[0]) == b"hit"

    run(test)


@pytest.mark.parametrize("verdict", [True, False])
def test_a_judge_decides_where_words_differ_and_nowhere_else(verdict: bool) -> None:
    async def test() -> None:
        judge = ScriptedJudge(verdict)
        one, _ = asker(judge)
        await one.ask(saying(FIRST))
        answer, asked = await one.ask(saying(NEAR))
        assert asked is not verdict
        assert told(answer) == (b"hit; score=1.000" if verdict else b"miss")
        assert judge.asked == [(FIRST, NEAR, "")]
        assert told((await one.ask(saying("How do I reset my 2 passwords?")))[0]) == b"miss"
        assert told((await one.ask(saying(SAME)))[0]) == b"hit; score=1.000"
        assert len(judge.asked) == 1, "what must agree is not for it to say, and what agrees needs no judge"

    run(test)


def limited(
    limiter: SlowLimiter | None = None, models: tuple[str, ...] = (), **limits: int
) -> tuple[Asker, ScriptedEmbedder, ScriptedJudge]:
    """The same for a tenant with limits, whose key is asked for."""
    one = Asker(
        rules=RULES,
        cache={"embedding_model": "e"},
        keys=KeysConfig(url="/nowhere/keys"),
        tenants=(tenant(**limits),),
        usage=UsageConfig(enabled=True, prices=(PriceConfig(model="*", prompt=1.0),)),
    )
    embedder, judge = ScriptedEmbedder(), ScriptedJudge(True)
    assert one.responses is not None
    one.responses.likeness = Likeness(embedder, threshold=0.9, judge=judge)
    admission = one.wire.gateway.admission
    assert admission is not None
    admission.keyring.use([key_record("a", models=models)], tenants_of(one.wire.worker.config))
    admission.keys_known = True
    admission.forget()
    if limiter is not None:
        admission.use_limiter(limiter)
    return one, embedder, judge


KEY = bearer("a").decode().strip()


@pytest.mark.parametrize(
    "limits",
    [{"requests_per_minute": 1}, {"tokens_per_minute": 40}, {"cost_per_day": 1}, {"concurrent_requests": 1}],
)
def test_no_model_is_asked_for_whoever_is_over_a_limit(limits: dict[str, int]) -> None:
    async def test() -> None:
        one, embedder, judge = limited(**limits)
        await one.ask(saying(FIRST), KEY)
        admission = one.wire.gateway.admission
        assert admission is not None
        caller = admission.keyring.find(KEYS["a"])
        assert caller is not None
        (scope,) = admission.standing(caller, "m").scopes
        limiter = admission._limiter
        assert isinstance(limiter, MemoryLimiter)
        sums = limiter.own.sums(scope, time.time())
        sums.under_way += 1
        for meter in scope.meters:
            meter.window.add(meter.limit - meter.window.total, int(time.time()))
        embedder.asked.clear()
        for text in (SAME, NEAR):
            answer, asked = await one.ask(saying(text), KEY)
            assert (answer[0], asked) == (429, False)
        assert embedder.asked == []
        assert judge.asked == []
        assert told((await one.ask(saying(FIRST), KEY))[0]) == b"hit", "the very same costs nothing"
        assert one.responses is not None
        assert one.responses.likeness is not None
        assert one.responses.likeness.compared["limited"] == 2

    run(test)


def test_a_hit_by_meaning_takes_one_request_and_nothing_else_does_twice() -> None:
    async def test() -> None:
        one, embedder, _ = limited(requests_per_minute=4, tokens_per_minute=1000, concurrent_requests=1)
        await one.ask(saying(FIRST), KEY)
        assert told((await one.ask(saying(SAME), KEY))[0]).startswith(b"hit; score")
        embedder.others[NEAR] = [0.0, 1.0]
        assert told((await one.ask(saying(NEAR), KEY))[0]) == b"miss"
        answer, _ = await one.ask(saying("Where is it?", max_tokens=3), KEY)
        assert (answer[0], answer[1][b"x-ratelimit-remaining-requests"]) == (200, b"0")
        assert one.wire.at_rest()

    run(test)


def test_whoever_may_not_use_the_model_has_it_asked_nothing() -> None:
    async def test() -> None:
        one, embedder, _ = limited(requests_per_minute=9)
        await one.ask(saying(FIRST), KEY)
        embedder.asked.clear()
        admission = one.wire.gateway.admission
        assert admission is not None
        admission.keyring.use([key_record("a", models=("tiny",))], tenants_of(one.wire.worker.config))
        admission.forget()
        assert (await one.ask(saying(SAME), KEY))[0][0] == 403
        assert embedder.asked == []

    run(test)


def test_a_limiter_that_takes_its_time_is_waited_for_and_settled_once() -> None:
    async def test() -> None:
        limiter = SlowLimiter()
        one, _, _ = limited(limiter, requests_per_minute=4)
        for wanted in (True, False):
            admission = one.wire.gateway.admission
            assert admission is not None
            caller = admission.keyring.find(KEYS["a"])
            assert caller is not None
            asking = asyncio.ensure_future(admission.may_compare(caller, "m", 0))
            await asyncio.sleep(0)
            limiter.decide(wanted)
            grant = await asking
            assert (grant is not None) is wanted
            if grant is not None:
                admission.compared(grant, False)
        assert limiter.settled == [(-1, -1)]

    run(test)


def test_a_record_that_is_gone_is_forgotten() -> None:
    async def test() -> None:
        one, _ = asker()
        await one.ask(saying(FIRST))
        assert told((await one.ask(saying(SAME)))[0]).startswith(b"hit")
        responses = one.responses
        assert responses is not None
        rule = responses.rule("anonymous", "m")
        assert rule is not None
        store = responses.store
        for key in list(store._kept):  # type: ignore[attr-defined]
            await store.remove(key)
        assert told((await one.ask(saying(SAME)))[0]) == b"miss"
        assert told((await one.ask(saying(FIRST)))[0]).startswith(b"hit"), "by the one recorded since"

    run(test)


def test_age_and_no_cache_hold_for_what_is_alike_too() -> None:
    async def test() -> None:
        one, _ = asker()
        await one.ask(saying(FIRST))
        assert told((await one.ask(saying(SAME), "Cache-Control: max-age=0"))[0]) == b"miss"
        assert told((await one.ask(saying(FAR), "Cache-Control: no-cache"))[0]) == b"bypass"

    run(test)


def test_neighbours_are_bounded_group_by_group() -> None:
    known = Neighbours(3)

    def entry(key: str) -> Entry:
        return Entry(key, facts_of(key), key, array("f", [1.0]))

    for number, key in enumerate("ab", 1):
        known.add("old", number, entry(key))
    known.add("old", 3, None)
    assert (known.after("old"), [one.key for one in known.of("old")]) == (3, ["b", "a"])
    for number, key in enumerate("cd", 1):
        known.add("new", number, entry(key))
    assert (known.after("old"), known.of("old")) == (0, []), "learned anew from the store when it is needed"
    for number, key in enumerate("efg", 3):
        known.add("new", number, entry(key))
    assert [one.key for one in known.of("new")] == ["g", "f", "e"]
    known.forget("new", "f")
    known.forget("new", "nobody")
    assert len(known) == 2


def test_vectors_are_brought_to_length_one_and_of_two_lengths_are_not_compared() -> None:
    one, other = vector_of(vector_bytes([3.0, 4.0])), vector_of(vector_bytes([30.0, 40.0]))
    assert cosine(one, other) == pytest.approx(1.0)
    assert vector_bytes([0.0, 0.0]) == vector_bytes([float("nan")]) == b""
    assert cosine(one, vector_of(b"")) == 0.0
    assert not vector_of(b"odd")


def test_the_fleets_models_are_asked_as_their_endpoints_want_it() -> None:
    async def test() -> None:
        sent: list[tuple[str, Any, float, str]] = []
        answers = [
            {"data": [{"embedding": [3, 4]}]},
            {"data": []},
            {"choices": [{"message": {"content": " Yes"}}]},
            {"choices": [{"message": {"content": "no"}}]},
            {"error": {}},
        ]

        async def ask(target: str, body: bytes, deadline_s: float, sharing: str) -> bytes:
            sent.append((target, json.loads(body), deadline_s, sharing))
            return json.dumps(answers[len(sent) - 1]).encode() if len(sent) <= len(answers) else b""

        embedder = FleetEmbedder(ask, "e", deadline_s=0.5)
        judge = FleetJudge(ask, "j", deadline_s=2.0)
        assert list(vector_of(await embedder.embed("text"))) == pytest.approx([0.6, 0.8])
        assert await embedder.embed("text") == b""
        assert [await judge.same("a", "b", "t") for _ in range(4)] == [True, False, False, False]
        assert sent[0] == (
            "/v1/embeddings",
            {"model": "e", "input": "text", "encoding_format": "float"},
            0.5,
            "",
        )
        target, body, deadline_s, sharing = sent[2]
        assert (target, deadline_s, sharing) == ("/v1/chat/completions", 2.0, "t")
        assert (body["model"], body["max_tokens"], body["temperature"]) == ("j", 1, 0)
        assert body["messages"][0] == {"role": "system", "content": INSTRUCTION}
        assert await embedder.embed("text") == b""

    run(test)


def test_a_semantic_rule_needs_something_that_embeds(monkeypatch: pytest.MonkeyPatch) -> None:
    from warmroute.adapters.caching import local_embedder

    monkeypatch.setattr(local_embedder, "find_spec", lambda _: None)
    with pytest.raises(Exception, match=r"response_cache\.rules: .* install the extra"):
        Asker(rules=RULES)
    assert ResponseCacheConfig(rules=RULES).embedding_model == ""
