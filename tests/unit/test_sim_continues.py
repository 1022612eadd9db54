"""The simulated model goes on with its own words, as a real one would at temperature 0."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from warmroute_replica.sim.api_chat import plan_chat
from warmroute_replica.sim.api_completions import plan_completion
from warmroute_replica.sim.errors import ApiError
from warmroute_replica.sim.generation import Generation
from warmroute_replica.sim.simulated_replica import ReplicaConfig, SimulatedReplica

QUESTION = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "héllo"}]


def answered(chat: bool, body: dict[str, Any]) -> tuple[str, str, int]:
    """Text, finish reason, and tokens, of a replica that knows nothing of what any other was asked."""

    async def ask() -> tuple[str, str, int]:
        replica = SimulatedReplica(ReplicaConfig(), asyncio.get_running_loop())
        plan, _ = (plan_chat if chat else plan_completion)(replica, body, "id")
        answer = Generation(replica, plan).choices[0].answer
        return answer.text, answer.finish.value, answer.tokens

    return asyncio.run(ask())


@pytest.mark.parametrize("limit", [40, None])
@pytest.mark.parametrize("chars", [1, 2, 7, 30, 55])
def test_a_chat_answer_is_gone_on_with_wherever_it_is_cut(limit: int | None, chars: int) -> None:
    body: dict[str, Any] = {"messages": QUESTION, "max_tokens": limit}
    whole, finish, tokens = answered(True, body)
    said = whole[:chars]
    left = None if limit is None else limit - (len(said.encode()) // 4)
    continued = {
        "messages": [*QUESTION, {"role": "assistant", "content": said}],
        "max_tokens": left,
        "add_generation_prompt": False,
        "continue_final_message": True,
    }
    rest, ended, _ = answered(True, continued)
    assert said + rest == whole
    assert ended == finish
    assert tokens == limit or limit is None


@pytest.mark.parametrize("pieces", [1, 5, 11])
def test_a_completion_is_gone_on_with_from_prompt_and_text(pieces: int) -> None:
    body: dict[str, Any] = {"prompt": "Once upon a time", "max_tokens": 12}
    whole, _, _ = answered(False, body)
    said = whole.encode()[: 4 * pieces].decode()
    rest, finish, tokens = answered(False, {"prompt": body["prompt"] + said, "max_tokens": 12 - pieces})
    assert said + rest == whole
    assert (finish, tokens) == ("length", 12 - pieces)


def test_words_of_somebody_else_are_answered_anew() -> None:
    said = {"role": "assistant", "content": "no such words"}
    continued = {
        "messages": [*QUESTION, said],
        "add_generation_prompt": False,
        "continue_final_message": True,
    }
    assert answered(True, continued)[0]


def test_the_answer_of_an_earlier_turn_is_not_gone_on_with() -> None:
    whole, _, _ = answered(True, {"messages": QUESTION, "max_tokens": 8})
    turns = [*QUESTION, {"role": "assistant", "content": whole}, {"role": "user", "content": "and?"}]
    assert answered(True, {"messages": turns, "max_tokens": 8})[0] != whole


@pytest.mark.parametrize("generate", [True, None])
def test_a_new_message_and_the_old_one_exclude_each_other(generate: bool | None) -> None:
    body: dict[str, Any] = {
        "messages": [*QUESTION, {"role": "assistant", "content": "a"}],
        "continue_final_message": True,
        "add_generation_prompt": generate,
    }
    with pytest.raises(ApiError, match="add_generation_prompt"):
        answered(True, body)
