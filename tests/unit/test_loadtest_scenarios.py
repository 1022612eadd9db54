from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice

import pytest

from warmroute_loadtest.locust.arrivals import Arrival, Share, poisson, recorded
from warmroute_loadtest.locust.bodies import Dialogue, Form
from warmroute_loadtest.locust.hostile import PREFIX, judged
from warmroute_loadtest.locust.scenarios import MAX_CONTEXT_TOKENS, SCENARIOS, Generated
from warmroute_loadtest.locust.talks import Api, Ask, Manners, Piece, Talk, planned
from warmroute_loadtest.locust.tape import Tape

TAPE = Tape("salt")
FORM = Form("m")


@pytest.mark.parametrize("name", SCENARIOS)
def test_talks_are_the_same_whoever_makes_them_and_differ_by_seed_and_number(name: str) -> None:
    source = Generated(name)
    assert source.talk(7) == Generated(name).talk(7)
    assert source.talk(7) != source.talk(8)
    assert source.talk(7) != Generated(name, seed=2).talk(7)


@pytest.mark.parametrize("name", SCENARIOS)
def test_requests_are_planned_in_order_and_have_text(name: str) -> None:
    for number in range(30):
        talk = Generated(name).talk(number)
        times_s = [ask.at_s for ask in talk.asks]
        assert times_s == sorted(times_s)
        assert times_s[0] == 0.0
        assert all(ask.tokens > 0 for ask in talk.asks)


def test_agents_contexts_grow_to_a_hundred_thousand_tokens_and_no_further() -> None:
    talks = [Generated("agent-loops").talk(number) for number in range(60)]
    longest = [talk.asked_tokens(len(talk.asks) - 1) for talk in talks]
    assert max(longest) <= MAX_CONTEXT_TOKENS
    assert max(longest) > 0.9 * MAX_CONTEXT_TOKENS
    for talk in talks:
        grown = [talk.asked_tokens(turn) for turn in range(len(talk.asks))]
        assert grown == sorted(grown)


def test_lengths_make_all_of_it_shorter() -> None:
    whole, tenth = (
        sum(Generated("agent-loops", lengths=f).talk(n).asked_tokens(0) for n in range(9)) for f in (1, 0.1)
    )
    assert tenth == pytest.approx(whole / 10, rel=0.01)


def test_both_apis_take_turns_and_embeddings_stay_embeddings() -> None:
    assert [Generated("rag", api="both").talk(n).api for n in range(2)] == [Api.CHAT, Api.MESSAGES]
    assert Generated("embeddings", api="both").talk(1).api is Api.EMBEDDINGS


def test_the_hostile_mix_has_everybody_and_counts_only_the_others() -> None:
    talks = [Generated("hostile").talk(number) for number in range(200)]
    assert {talk.manners for talk in talks} == set(Manners)
    assert all(talk.name.startswith(PREFIX) == (talk.manners is not Manners.GOOD) for talk in talks)


@pytest.mark.parametrize(
    ("manners", "status", "is_right"),
    [
        (Manners.BROKEN_JSON, 400, True),
        (Manners.BROKEN_JSON, 500, False),
        (Manners.UNKNOWN_MODEL, 404, True),
        (Manners.UNKNOWN_MODEL, 200, False),
        (Manners.WRONG_TYPES, None, False),
        (Manners.HUGE_HEAD, None, True),
        (Manners.READS_SLOWLY, 200, True),
        (Manners.READS_SLOWLY, None, False),
        (Manners.LEAVES_EARLY, None, True),
        (Manners.NOT_HTTP, 400, True),
        (Manners.NOT_HTTP, None, True),
    ],
)
def test_what_a_hostile_client_should_get(manners: Manners, status: int | None, is_right: bool) -> None:
    assert (judged(manners, status) is None) is is_right


def test_texts_have_the_wished_length_and_differ_from_their_first_bytes_on() -> None:
    one, other = TAPE.text((Piece("a", 500),)), TAPE.text((Piece("b", 500),))
    assert len(one) == len(other) == 2000
    assert one[:12] != other[:12]
    assert one == Tape("salt").text((Piece("a", 500),))
    assert one[:12] != Tape("other").text((Piece("a", 500),))[:12]
    assert len(Tape("s", 1.0).text((Piece("a", 3_000_000),))) == 3_000_000
    assert TAPE.text((Piece("a", 5), Piece("b", 7))) == TAPE.text((Piece("a", 5),)) + TAPE.text(
        (Piece("b", 7),)
    )


@pytest.mark.parametrize("api", [Api.CHAT, Api.MESSAGES, Api.COMPLETIONS])
def test_each_request_of_a_dialogue_begins_with_all_of_the_one_before(api: Api) -> None:
    asks = tuple(Ask((Piece(f"t{n}", 20),), 5) for n in range(3))
    dialogue = Dialogue(Talk("t", asks, api=api, system=(Piece("s", 10),)), TAPE, FORM)
    before: dict[str, object] = {}
    for turn in range(3):
        body = json.loads(dialogue.ask(turn))
        assert body["model"] == "m"
        assert body["max_tokens"] == 5
        assert body["stream"] is True
        assert ("stream_options" in body) is (api is not Api.MESSAGES)
        said = body.get("prompt", body.get("messages"))
        if turn:
            assert said[: len(before["said"])] == before["said"]  # type: ignore[arg-type]
            assert len(said) > len(before["said"])  # type: ignore[arg-type]
        before = {"said": said}
        dialogue.answered('an "answer"\n')
    assert '"answer"' in json.dumps(before).replace('\\"', '"')


def test_a_talk_that_does_not_grow_asks_each_prompt_alone() -> None:
    asks = (Ask((Piece("a", 9),), 1), Ask((Piece("b", 9),), 1))
    dialogue = Dialogue(Talk("t", asks, grows=False), TAPE, FORM)
    for turn in range(2):
        messages = json.loads(dialogue.ask(turn))["messages"]
        assert [message["content"] for message in messages] == [TAPE.text(asks[turn].text)]
        dialogue.answered("ignored")


def test_embeddings_send_a_list_of_texts() -> None:
    talk = Generated("embeddings").talk(3)
    body = json.loads(Dialogue(talk, TAPE, FORM).ask(0))
    assert set(body) == {"model", "input"}
    assert len(body["input"]) == len(talk.asks[0].text)


def test_workers_shares_are_the_whole_at_the_same_times() -> None:
    source = Generated("multi-turn")
    whole = list(poisson(source, 20.0, 1, 30.0))
    shares = [arrival for index in range(3) for arrival in poisson(source, 20.0, 1, 30.0, Share(index, 3))]
    assert sorted(shares, key=lambda arrival: arrival.number) == whole
    assert [arrival.at_s for arrival in whole] == sorted(arrival.at_s for arrival in whole)
    assert list(islice(Share(1, 3).numbers(), 3)) == [1, 4, 7]


def test_the_rate_is_of_requests_and_nothing_is_planned_after_the_end() -> None:
    source = Generated("shared-prompts")
    arrivals = list(poisson(source, 50.0, 1, 20.0))
    assert len(arrivals) == pytest.approx(1000, rel=0.1)
    for arrival in poisson(Generated("multi-turn"), 20.0, 1, 30.0):
        assert arrival.at_s + arrival.talk.asks[-1].at_s <= 30.0


def test_pauses_follow_the_planned_end_of_the_answer_before() -> None:
    asks = planned([Ask((), 100), Ask((), 50, 3.0), Ask((), 1, 1.0)])
    assert [ask.at_s for ask in asks] == [0.0, pytest.approx(5.5), pytest.approx(8.0)]


def test_recorded_talks_are_shared_and_cut_alike() -> None:
    talk = Talk("trace", (Ask((), 1), replace(Ask((), 1), at_s=5.0)))
    arrivals = [Arrival(number, float(number), talk) for number in range(10)]
    played = list(recorded(arrivals, 6.0, Share(0, 2)))
    assert [arrival.number for arrival in played] == [0, 2, 4, 6]
    assert [len(arrival.talk.asks) for arrival in played] == [2, 1, 1, 1]
    assert len(list(recorded(arrivals, None))) == 10
