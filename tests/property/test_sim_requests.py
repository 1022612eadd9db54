"""Whatever JSON arrives, the simulated APIs plan it or refuse it with an error of their own; none breaks."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warmroute_replica.sim import api_pooling
from warmroute_replica.sim.api_chat import plan_chat
from warmroute_replica.sim.api_completions import plan_completion
from warmroute_replica.sim.api_messages import plan_message
from warmroute_replica.sim.api_responses import plan_response
from warmroute_replica.sim.engine_config import EngineConfig
from warmroute_replica.sim.errors import ApiError
from warmroute_replica.sim.generation import Generation
from warmroute_replica.sim.simulated_replica import ReplicaConfig, SimulatedReplica

SCALARS = st.none() | st.booleans() | st.integers(-3, 300) | st.floats(allow_nan=False) | st.text(max_size=12)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
)
ODD_VALUES = [None, True, False, 0, 5, -1, 10**12, 1.5, "", "x", [], [1], [None], [[]], [{}], {}, {"type": 5}]
SCHEMA = {"type": "object", "properties": {"a": {"type": "string", "enum": ["x"]}, "b": {"type": "integer"}}}
COMMON = {
    "model": "sim",
    "n": 2,
    "stop": ["zz"],
    "cache_salt": "s",
    "priority": -3,
    "stream_options": {"include_usage": True},
}

# Rich valid bodies: what hypothesis breaks, it breaks in one place, so that everything else is looked at.
CHAT = {
    **COMMON,
    "messages": [
        {"role": "system", "content": "be brief"},
        {
            "role": "user",
            "name": "bob",
            "content": [{"type": "text", "text": "hi"}, {"type": "image_url", "url": "u"}],
        },
        {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "1", "content": "sunny"},
    ],
    "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": SCHEMA}}],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "max_tokens": 9,
    "max_completion_tokens": 9,
    "chat_template_kwargs": {"enable_thinking": False},
    "logprobs": True,
    "top_logprobs": 2,
    "prompt_logprobs": 1,
    "echo": True,
    "add_generation_prompt": True,
}
COMPLETION = {
    **COMMON,
    "prompt": [[1, 2, 3], [4]],
    "max_tokens": 5,
    "logprobs": 2,
    "echo": True,
    "prompt_logprobs": -1,
}
MESSAGE = {
    **COMMON,
    "system": [
        {"type": "text", "text": "x-anthropic-billing-header: 1"},
        {"type": "text", "text": "be brief"},
    ],
    "messages": [
        {"role": "user", "content": "hi"},
        {"role": "system", "content": [{"type": "text", "text": "and kind"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm"},
                {"type": "text", "text": "well"},
                {"type": "tool_use", "id": "1", "name": "f", "input": {"a": "x"}},
            ],
        },
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "1", "content": [{"text": "ok"}]}],
        },
    ],
    "tools": [{"name": "f", "input_schema": SCHEMA}],
    "tool_choice": {"type": "tool", "name": "f"},
    "max_tokens": 9,
    "stop_sequences": ["zz"],
    "ignore_eos": False,
}
RESPONSE = {
    **COMMON,
    "instructions": "be brief",
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {"type": "reasoning", "summary": []},
        {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "1", "output": "sunny"},
    ],
    "tools": [{"type": "function", "name": "f", "parameters": SCHEMA}, {"type": "web_search"}],
    "tool_choice": {"type": "function", "name": "f"},
    "max_output_tokens": 9,
    "previous_response_id": None,
    "background": False,
    "store": True,
}
EMBEDDINGS = {**COMMON, "input": ["a", "b"], "dimensions": 4, "encoding_format": "base64"}
RERANK = {**COMMON, "query": "q", "documents": ["a", {"text": "b"}], "top_n": 1}
SCORE = {**COMMON, "text_1": ["q"], "text_2": ["a", "b"]}

CASES = [
    (plan_chat, CHAT),
    (plan_completion, COMPLETION),
    (plan_message, MESSAGE),
    (plan_response, RESPONSE),
    (api_pooling.plan_embeddings, EMBEDDINGS),
    (api_pooling.plan_rerank, RERANK),
    (api_pooling.plan_score, SCORE),
]

Planner = Callable[..., Any]


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) in a JSON value."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from places(value[key])


def serve(planner: Planner, body: dict[str, Any]) -> int:
    """Plan, generate and render a body in every way; 200, or the status of the refusal."""

    async def main() -> int:
        replica = SimulatedReplica(
            ReplicaConfig(engine=EngineConfig(cache_tokens=4096)), asyncio.get_running_loop()
        )
        try:
            plan, fmt = planner(replica, body, "id")
            generation = Generation(replica, plan)
        except ApiError as error:
            return error.status
        generation.start()
        while not replica.engine.idle:
            for state in replica.engine.step(0.0).tokens:
                next(choice for choice in generation.choices if choice.state is state).on_tokens(state)
        assert generation.done.done()
        fmt.begin(generation)
        for choice in generation.choices:
            assert choice.generated == choice.answer.tokens
            for index in range(choice.answer.tokens):
                fmt.token(generation, choice, index)
        fmt.end(generation)
        fmt.body(generation)
        generation.close()
        assert replica.in_flight == 0
        assert replica.metrics.aborted_total == 0
        replica.stop()
        return 200

    return asyncio.run(main())


@pytest.mark.parametrize(("planner", "valid"), CASES)
def test_the_rich_bodies_are_valid(planner: Planner, valid: dict[str, Any]):
    assert serve(planner, copy.deepcopy(valid)) == 200


@pytest.mark.parametrize(("planner", "valid"), CASES)
def test_every_field_may_be_any_odd_value(planner: Planner, valid: dict[str, Any]):
    for number in range(len(list(places(copy.deepcopy(valid))))):
        for odd in ODD_VALUES:
            body = copy.deepcopy(valid)
            container, key = list(places(body))[number]
            container[key] = odd
            assert serve(planner, body) in (200, 400, 404), (key, odd)


@pytest.mark.parametrize(("planner", "valid"), CASES)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_body_with_anything_anywhere_is_answered_in_full_or_refused(
    planner: Planner, valid: Any, data: Any
):
    body = copy.deepcopy(valid)
    for _ in range(data.draw(st.integers(1, 2))):
        container, key = data.draw(st.sampled_from(list(places(body))))
        container[key] = data.draw(JSON)
    assert serve(planner, body) in (200, 400, 404)
