"""Why prompts miss is found out, on labelled prompts of each cause and of none; examples have no word of theirs."""

from __future__ import annotations

import json
import random
from collections import Counter
from typing import Any

import pytest

from tests.support.prompt_corpus import CAUSES, NAMES, NONE, Labelled, chat, corpus, words
from warmroute.advice import advisor as advisor_module
from warmroute.advice import cause, sketch
from warmroute.advice.advisor import BUCKET_S, KEPT_BUCKETS, Advisor, Look
from warmroute.advice.cause import REMEDIES, Cause, kind_of
from warmroute.advice.departure import Finding, find
from warmroute.advice.memory import MOST_EACH, MOST_OWNERS, Recent
from warmroute.core.prompt.prompt import PROMPT_TOKENS, pack_tokens
from warmroute.core.types import Api
from warmroute.dialects.reading import parse

MINIMUM = 128
SEEDS = 4


def canonical(body: object, api: Api = Api.CHAT) -> bytes:
    return parse(api, json.dumps(body).encode()).canonical


def found(row: Labelled, *, show_shared: bool = False) -> Finding | None:
    """What is found of the last prompt of a row."""
    known = []
    finding = None
    for body in row.bodies:
        reading = sketch.read(canonical(body, row.api))
        assert reading is not None
        tokens = reading.prompt_bytes // 4
        finding = find(reading, known, tokens, minimum_tokens=MINIMUM, show_shared=show_shared)
        known.append(reading.sketch)
    return finding


def test_causes_are_told_from_each_other_and_from_none() -> None:
    rows = corpus(SEEDS)
    told = Counter((row.cause, None if (one := found(row)) is None else one.cause) for row in rows)
    wrong = {pair: count for pair, count in told.items() if pair[0] is not pair[1]}
    for label in Cause:
        right = told[label, label]
        claimed = sum(count for (_, said), count in told.items() if said is label)
        there = sum(count for (meant, _), count in told.items() if meant is label)
        assert there >= SEEDS, f"the corpus has nothing of {label}"
        assert right / there >= 0.95, f"recall of {label}: {right} of {there}; {wrong}"
        assert right / max(claimed, 1) >= 0.95, f"precision of {label}: {right} of {claimed}; {wrong}"
    assert not [pair for pair in wrong if pair[0] is None], f"false alarms: {wrong}"


@pytest.mark.parametrize("name", NONE)
def test_what_cannot_go_better_is_let_alone(name: str) -> None:
    row = Labelled(name, None, NONE[name](random.Random(name)))
    assert found(row) is None


@pytest.mark.parametrize("name", CAUSES)
def test_examples_show_kinds_and_no_word(name: str) -> None:
    label, make = CAUSES[name]
    row = Labelled(name, label, make(random.Random(name)))
    finding = found(row)
    assert finding is not None
    assert finding.cause is label
    told = set(
        finding.example.replace("(", " ").replace(")", " ").replace(":", " ").replace(",", " ").split()
    )
    own = {
        "message",
        "tools",
        "word",
        "words",
        "system",
        "user",
        "before",
        "the",
        "messages",
        "…",
        "assistant",
    }
    assert all(one in own or one.isdigit() or one[0] == "«" for one in told), finding.example


def test_examples_may_show_the_words_that_prompts_share_and_never_those_that_differ() -> None:
    bodies = [chat(f"You speak with {name} now. {words(random.Random(1), 300)}", "Hi") for name in NAMES[:2]]
    finding = found(Labelled("", None, bodies), show_shared=True)
    assert finding is not None
    assert "speak with «word» now." in finding.example
    assert not [name for name in NAMES if name in finding.example]


def test_the_cost_is_what_both_share_behind_the_departure() -> None:
    rng = random.Random(3)
    shared, documents = words(rng, 400), [words(rng, 300) for _ in range(2)]
    bodies = [
        chat(f"It is {hour}:30. {shared}", document)
        for hour, document in zip((10, 11), documents, strict=True)
    ]
    finding = found(Labelled("", None, bodies))
    assert finding is not None
    assert finding.tokens == pytest.approx(len(shared) // 4, rel=0.02)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_of_long_prompts_the_tail_is_estimated(share: float) -> None:
    rng = random.Random(12)
    shared = words(rng, 3000)
    lines = [words(rng, 12).replace("\n", " ") for _ in range(6000)]
    bodies = []
    for hour in (10, 11):
        tail = [line if hour == 10 or rng.random() < share else line.swapcase()[::-1] for line in lines]
        bodies.append(chat(f"It is {hour}:30. {shared}", "\n".join(tail)))
    finding = found(Labelled("", None, bodies))
    assert finding is not None
    assert finding.cause is Cause.TIMESTAMP
    whole = len(shared) + share * (len("\n".join(lines)))
    assert finding.tokens == pytest.approx(whole / 4, rel=0.15)


def test_what_another_prompt_covers_costs_nothing() -> None:
    """A conversation that has its own beginning in memory departs from nothing, however many others are like it."""
    rng = random.Random(4)
    shared, turns = words(rng, 400), [words(rng, 50) for _ in range(3)]
    others = [chat(f"It is {hour}:30. {shared}", words(rng, 50)) for hour in range(10, 20)]
    own = [chat(f"It is 21:17. {shared}", *turns[:count]) for count in (1, 3)]
    assert found(Labelled("", None, [*others, own[0]])) is not None
    assert found(Labelled("", None, [*others, *own])) is None


def test_messages_and_completions_are_looked_at_too() -> None:
    rng = random.Random(5)
    shared = words(rng, 400)
    messages = [
        {"model": "m", "max_tokens": 1, "system": f"Today is 2026-11-{day}. {shared}",
         "messages": [{"role": "user", "content": words(rng, 30)}]}
        for day in (21, 22)
    ]  # fmt: skip
    texts = [{"model": "m", "prompt": f"User {name}: {shared} {words(rng, 20)}"} for name in NAMES[:2]]
    for bodies, api, label in (
        (messages, Api.MESSAGES, Cause.TIMESTAMP),
        (texts, Api.COMPLETIONS, Cause.WORDS),
    ):
        finding = found(Labelled("", label, bodies, api))
        assert finding is not None
        assert finding.cause is label


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        (b"2026-11-29T02:37:51Z", cause.DATE), (b"29.11.2026,", cause.DATE), (b"11/29/26", cause.DATE),
        (b"02:37:51.123", cause.TIME), (b"1790000000", cause.TIME), (b"Monday,", cause.DATE),
        (b"3f2504e0-4f89-41d3-9a0c-0305e82c3301", cause.UUID), (b"req_7f3a9c01b2d4e5f6", cause.HASH),
        (b"9fceb02d0ae598e95dc970b74767f19372d61af8", cause.HASH), (b"42", cause.NUMBER), (b"$1,200.50", cause.NUMBER),
        (b"#4711:", cause.NUMBER), (b"ada@example.com", cause.EMAIL), (b"hello", cause.WORD), (b"GPT-5.6", cause.WORD),
        (b"x" * 200, cause.LONG), (b"internationalisation", cause.WORD), (b"deadbeef", cause.WORD),
    ],
)  # fmt: skip
def test_words_have_kinds(word: bytes, kind: str) -> None:
    assert kind_of(word) == kind


def test_every_cause_has_a_remedy() -> None:
    assert set(REMEDIES) == set(Cause)


def test_token_ids_and_nothing_are_no_text() -> None:
    assert sketch.read(b"") is None
    assert sketch.read(PROMPT_TOKENS + pack_tokens([255, 65535, 1])) is None


def test_memory_is_bounded_by_bytes_prompts_and_owners() -> None:
    recent = Recent(300_000)
    rng = random.Random(6)
    for number in range(MOST_OWNERS + 50):
        for _ in range(2):
            reading = sketch.read(canonical(chat(words(rng, 40), "Hi")))
            assert reading is not None
            recent.add((f"t{number}", "m"), reading.sketch)
        assert recent.bytes <= 300_000
    assert recent.of((f"t{MOST_OWNERS + 49}", "m"))
    assert not recent.of(("t0", "m"))
    assert recent.bytes == sum(
        one.bytes for owner in range(MOST_OWNERS + 50) for one in recent.of((f"t{owner}", "m"))
    )
    many = Recent(1 << 30)
    for _ in range(MOST_EACH + 5):
        reading = sketch.read(canonical(chat(words(rng, 40), "Hi")))
        assert reading is not None
        many.add(("t", "m"), reading.sketch)
    assert len(many.of(("t", "m"))) == MOST_EACH
    huge = sketch.read(canonical(chat(words(rng, 4000), "Hi")))
    assert huge is not None
    small = Recent(1000)
    small.add(("t", "m"), huge.sketch)
    assert (small.bytes, len(small.of(("t", "m")))) == (0, 0)


def test_a_conversation_takes_one_place_in_memory() -> None:
    recent = Recent(1 << 30)
    for body in NONE["a growing conversation"](random.Random(7)):
        reading = sketch.read(canonical(body))
        assert reading is not None
        recent.add(("t", "m"), reading.sketch)
    assert len(recent.of(("t", "m"))) == 1


class Clocks:
    """Time as the test says; each look takes `took_s`."""

    def __init__(self, took_s: float = 0.001) -> None:
        self.now_s = 1_800_000_000.0
        self.watch_s = 0.0
        self.took_s = took_s

    def stopwatch(self) -> float:
        self.watch_s += self.took_s
        return self.watch_s

    def clock(self) -> float:
        return self.now_s


def advisor(clocks: Clocks, *, sample: float = 1.0, budget_ratio: float = 1.0) -> Advisor:
    return Advisor(
        sample=sample,
        budget_ratio=budget_ratio,
        memory_bytes=1 << 24,
        minimum_tokens=MINIMUM,
        show_shared=False,
        dice=random.Random(8).random,
        stopwatch=clocks.stopwatch,
        clock=clocks.clock,
    )


def dated(clocks: Clocks, advice: Advisor, cached: int | None, tenant: str = "t") -> None:
    """Two prompts that differ by a date; the engine had so much of the second."""
    shared = words(random.Random(9), 400)
    for day in (10, 11):
        prompt = canonical(chat(f"Day 2026-11-{day}: {shared}", "Hi"))
        advice.wants()
        look = advice.look((tenant, "m"), prompt, len(prompt) // 4)
        assert look is not None
        advice.ended(look, len(prompt) // 4, 0 if day == 10 else cached)


def test_costs_are_what_the_engine_had_to_compute() -> None:
    clocks = Clocks()
    advice = advisor(clocks)
    dated(clocks, advice, 0)
    (row,) = advice.report(0.0)["advice"]
    (told,) = row["causes"]
    assert (told["cause"], told["requests"]) == ("timestamp", 1)
    assert told["tokens"] == told["tokens_expected"] == advice.tokens[Cause.TIMESTAMP] > 500
    assert row["prompt_tokens"] == row["missed_tokens"]
    warm = advisor(clocks)
    dated(clocks, warm, told["tokens"])
    (row,) = warm.report(0.0)["advice"]
    assert row["causes"] == [], "the engine had it from another prompt"


def test_a_sample_stands_for_all() -> None:
    clocks = Clocks()
    advice = advisor(clocks, sample=0.25)
    wanted = sum(advice.wants() for _ in range(4000))
    assert 850 < wanted < 1150
    dated(clocks, advice, 0)
    report = advice.report(0.0)
    (told,) = report["advice"][0]["causes"]
    assert (report["requests_seen"], report["requests_looked_at"]) == (4002, 2)
    assert told["tokens_expected"] == told["tokens"] * 4002 // 2


def test_no_more_time_is_taken_than_the_budget_has() -> None:
    clocks = Clocks(took_s=0.002)
    advice = advisor(clocks, budget_ratio=0.01)
    prompt = canonical(chat(words(random.Random(1), 50), "Hi"))
    begun_s = clocks.watch_s
    for _ in range(2000):
        clocks.watch_s += 0.005
        advice.look(("t", "m"), prompt, 100)
    assert advice.spent_s <= 0.01 * (clocks.watch_s - begun_s) + 0.012
    assert advice.looked > 20
    assert advice.skipped == 2000 - advice.looked


def test_reports_are_of_a_time_a_tenant_and_a_model_and_forget_after_a_day() -> None:
    clocks = Clocks()
    advice = advisor(clocks)
    dated(clocks, advice, 0, "old")
    clocks.now_s += 2 * BUCKET_S
    dated(clocks, advice, 0, "new")
    assert {row["tenant"] for row in advice.report(0.0)["advice"]} == {"old", "new"}
    assert [row["tenant"] for row in advice.report(clocks.now_s)["advice"]] == ["new"]
    assert [row["tenant"] for row in advice.report(0.0, tenant="old")["advice"]] == ["old"]
    assert advice.report(0.0, model="n")["advice"] == []
    clocks.now_s += KEPT_BUCKETS * BUCKET_S
    advice.wants()
    assert advice.report(0.0)["advice"] == []


def test_a_long_list_of_tools_is_not_read_as_json() -> None:
    """10 MB of it took seconds, in which the router answered nobody."""
    for size, listed in ((1000, True), (sketch.MOST_TOOLS_BYTES, False)):
        tools = [{"type": "function", "function": {"name": "f", "description": "d" * size}}]
        reading = sketch.read(
            canonical({"model": "m", "tools": tools, "messages": [{"role": "user", "content": "hi"}]})
        )
        assert reading is not None
        assert (reading.sketch.tools is not None) is listed


def test_an_example_never_shows_words_of_a_long_setting_that_differs() -> None:
    shared = words(random.Random(3), 400)

    def body(secret: str) -> dict[str, Any]:
        arguments = {"about": " ".join(f"{secret}{number}" for number in range(40))}
        return {**chat(shared, "Hi"), "chat_template_kwargs": arguments}

    finding = found(Labelled("", None, [body("left"), body("right")]), show_shared=True)
    assert finding is not None
    assert finding.cause is Cause.SETTINGS
    assert "right" not in finding.example
    assert "left" not in finding.example


def test_tenants_without_end_fill_no_memory_within_ten_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without keys whoever sends another key is another tenant."""
    monkeypatch.setattr(advisor_module, "MOST_ROWS", 5)
    clocks = Clocks()
    advice = advisor(clocks)
    for number in range(20):
        advice.wants()
        advice.ended(Look((f"t{number}", "m"), None, 100), 100, 0)
    rows = advice.report(0.0)["advice"]
    assert len(rows) == 6
    assert {row["tenant"]: row["looked_at"] for row in rows}["(other)"] == 15


def test_what_ends_ten_minutes_later_is_expected_to_cost_no_less_than_it_did() -> None:
    clocks = Clocks()
    advice = advisor(clocks)
    shared = words(random.Random(9), 400)
    for day in (10, 11):
        prompt = canonical(chat(f"Day 2026-11-{day}: {shared}", "Hi"))
        advice.wants()
        look = advice.look(("t", "m"), prompt, len(prompt) // 4)
    clocks.now_s += BUCKET_S
    assert look is not None
    advice.ended(look, look.prompt_tokens, 0)
    (told,) = advice.report(0.0)["advice"][0]["causes"]
    assert told["tokens_expected"] == told["tokens"] > 0
