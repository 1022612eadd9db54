"""Generated loads are what their descriptions say: lengths, reuse, pauses, bursts."""

from __future__ import annotations

from collections import Counter
from statistics import fmean, median

import pytest

from warmroute_loadtest.simulate.bounds import infinite_ratio, working_set_tokens
from warmroute_loadtest.simulate.generators import (
    GENERATORS,
    agent_loops,
    generate,
    hot_keys,
    mixed,
    multi_turn,
    no_reuse,
    shared_prompts,
)
from warmroute_loadtest.simulate.workload import Turn, Workload


def turns(workload: Workload) -> list[Turn]:
    return [turn for session in workload.sessions for turn in session.turns]


def first_keys(workload: Workload) -> Counter[int]:
    return Counter(turn.keys[0] for turn in turns(workload))


def test_agents_have_contexts_of_50k_to_150k_tokens_and_tool_pauses() -> None:
    workload = agent_loops(400)
    lengths = [turn.prompt_tokens for turn in turns(workload)]
    assert min(lengths) >= 50_000
    assert max(lengths) <= 150_000 + 20_000, "the last tool result may pass the limit"
    assert sum(n <= 150_000 for n in lengths) > 0.97 * len(lengths)
    assert 85_000 < fmean(lengths) < 115_000
    pauses = [turn.pause_s for session in workload.sessions for turn in session.turns[1:]]
    assert min(pauses) >= 0.5
    assert 5.0 < median(pauses) < 12.0
    assert sum(pause > 60.0 for pause in pauses) > 0.01 * len(pauses), "people, now and then"
    assert 10 < fmean(len(session.turns) for session in workload.sessions) < 30
    assert len(first_keys(workload)) <= 4, "products"


def test_almost_all_of_an_agents_prompt_was_there_before() -> None:
    assert 0.90 < infinite_ratio(agent_loops(400)) < 0.98


def test_conversations_grow_by_question_and_answer() -> None:
    workload = multi_turn(2000)
    assert 4.5 < workload.requests / len(workload.sessions) < 7.5
    assert len(first_keys(workload)) <= 40
    assert 0.75 < infinite_ratio(workload) < 0.90
    for session in workload.sessions:
        for before, turn in zip(session.turns, session.turns[1:], strict=False):
            assert turn.prompt_tokens >= before.prompt_tokens + before.output_tokens + 20
            assert 1.0 <= turn.pause_s <= 300.0


def test_shared_prompts_are_a_head_of_6000_tokens_and_a_question() -> None:
    workload = shared_prompts(2000)
    assert len(first_keys(workload)) == 150
    assert 0.70 < infinite_ratio(workload) < 0.85
    head = 6000 // 128 * 128
    own = sum(turn.prompt_tokens + turn.output_tokens - head for turn in turns(workload))
    assert working_set_tokens(workload) == 150 * head + own


def test_a_hot_key_has_two_fifths_of_its_time_and_none_before() -> None:
    workload = hot_keys(4000)
    order = [turn.keys[0] for turn in turns(workload)]
    calm, hot = [], []
    for start in range(0, 4000, 400):
        _, most = Counter(order[start : start + 400]).most_common(1)[0]
        (hot if (start // 400) % 2 else calm).append(most / 400)
    assert max(calm) < 0.15
    assert all(0.33 < share < 0.55 for share in hot)
    heads = {Counter(order[start : start + 400]).most_common(1)[0][0] for start in range(400, 4000, 800)}
    assert len(heads) >= 4, "another one each time"


def test_nothing_is_reused_where_nothing_shall_be() -> None:
    workload = no_reuse(1000)
    assert infinite_ratio(workload) == 0.0
    assert max(Counter(key for turn in turns(workload) for key in turn.keys).values()) == 1
    total = sum(turn.prompt_tokens + turn.output_tokens for turn in turns(workload))
    assert working_set_tokens(workload) == total
    assert 3_200 < fmean(turn.prompt_tokens for turn in turns(workload)) < 4_800


def test_a_mix_has_a_fifth_of_each_over_its_whole_span() -> None:
    workload = mixed(1000)
    shares = Counter(turn.id[0] for turn in turns(workload))
    assert set(shares) == set("01234")
    assert all(200 <= count < 320 for count in shares.values())
    span_s = workload.sessions[-1].start_s
    for part in "01234":
        starts = [s.start_s for s in workload.sessions if s.turns[0].id[0] == part]
        assert max(starts) > 0.99 * span_s


@pytest.mark.parametrize("name", list(GENERATORS))
def test_a_variant_is_another_draw_and_the_same_one_every_time(name: str) -> None:
    one, again, other = generate(name, 50, 1), generate(name, 50, 1), generate(name, 50)
    assert [turn.prompt_tokens for turn in turns(one)] == [turn.prompt_tokens for turn in turns(again)]
    assert [turn.prompt_tokens for turn in turns(one)] != [turn.prompt_tokens for turn in turns(other)]


def test_starts_are_poisson() -> None:
    starts = [session.start_s for session in no_reuse(2000).sessions]
    gaps = [after - before for before, after in zip(starts, starts[1:], strict=False)]
    mean = fmean(gaps)
    spread = fmean((gap - mean) ** 2 for gap in gaps) ** 0.5 / mean
    assert mean == pytest.approx(1 / 8, rel=0.1)
    assert spread == pytest.approx(1.0, abs=0.1)
