from __future__ import annotations

from dataclasses import replace

import pytest

from warmroute_loadtest.demo.workload import (
    SIMULATED,
    TINY_VLLM,
    Workload,
    conversations,
    count_turns,
    duration_s,
)


@pytest.mark.parametrize("workload", [SIMULATED, TINY_VLLM])
def test_the_same_workload_is_made_every_time(workload: Workload) -> None:
    assert conversations(workload) == conversations(workload)
    assert conversations(workload) != conversations(replace(workload, seed=2))


def test_conversations_of_one_application_share_a_system_prompt_and_nothing_else() -> None:
    made = conversations(SIMULATED)
    assert len(made) == SIMULATED.conversations
    systems = {conversation.system for conversation in made}
    assert len(systems) == SIMULATED.applications
    firsts = [conversation.turns[0].text for conversation in made]
    assert len({text[:40] for text in firsts}) == len(firsts)


def test_turns_are_in_order_and_within_their_ranges() -> None:
    for conversation in conversations(SIMULATED):
        times_s = [turn.at_s for turn in conversation.turns]
        assert times_s == sorted(times_s)
        assert SIMULATED.turns[0] <= len(times_s) <= SIMULATED.turns[1]
        pauses_s = [after - before for before, after in zip(times_s, times_s[1:], strict=False)]
        assert all(SIMULATED.think_s[0] <= pause_s <= SIMULATED.think_s[1] for pause_s in pauses_s)


def test_speed_divides_times_and_changes_no_text() -> None:
    slow, fast = conversations(SIMULATED), conversations(replace(SIMULATED, speed=10.0))
    assert duration_s(fast) == pytest.approx(duration_s(slow) / 10)
    assert count_turns(fast) == count_turns(slow)
    assert [turn.text for turn in fast[5].turns] == [turn.text for turn in slow[5].turns]
