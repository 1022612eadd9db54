"""The official Python clients work through the router as they do with a replica: all APIs, streams, tools, errors."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator

import anthropic
import openai
import pytest

from tests.support.router_thread import RouterThread, running
from tests.support.sim_fleet import SimProcess
from warmroute.config.schema import Address, Config, ReplicaConfig

ANY = Address("127.0.0.1:0")
SAID = [{"role": "user", "content": "Say something about the weather."}]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
}
CALL = [{"role": "user", "content": "Please call the tool."}]
CHAT_TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}]


@pytest.fixture(scope="module")
def router() -> Iterator[RouterThread]:
    with SimProcess("--speed", "50", ports=2) as sims:
        replicas = tuple(
            ReplicaConfig(url=url, id=name) for url, name in zip(sims.urls, sims.ids, strict=True)
        )
        with running(Config(listen=ANY, admin=ANY, replicas=replicas), 2) as started:
            yield started
            started.assert_at_rest()


@pytest.fixture
def client(router: RouterThread) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{router.url}/v1", api_key="none", max_retries=0, timeout=60.0) as client:
        yield client


@pytest.fixture
def claude(router: RouterThread) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=router.url, api_key="none", max_retries=0, timeout=60.0) as client:
        yield client


def test_chat_and_its_stream(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="sim", messages=SAID, max_tokens=12, temperature=0)
    text = answer.choices[0].message.content
    assert text
    with client.chat.completions.create(
        model="sim",
        messages=SAID,
        max_tokens=12,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    ) as stream:
        chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == text
    assert chunks[-1].usage is not None
    assert answer.usage is not None
    assert chunks[-1].usage.completion_tokens == answer.usage.completion_tokens


def test_the_second_turn_is_warm(client: openai.OpenAI) -> None:
    messages = [{"role": "system", "content": "word " * 800}, *SAID]
    first = client.chat.completions.with_raw_response.create(model="sim", messages=messages, max_tokens=8)
    said = first.parse().choices[0].message.content
    turn = [*messages, {"role": "assistant", "content": said}, {"role": "user", "content": "And?"}]
    second = client.chat.completions.with_raw_response.create(model="sim", messages=turn, max_tokens=8)
    assert second.headers["x-warmroute-decision"] == "warm"
    assert second.headers["x-warmroute-replica"] == first.headers["x-warmroute-replica"]
    usage = second.parse().usage
    assert usage is not None
    assert usage.prompt_tokens_details is not None
    assert (usage.prompt_tokens_details.cached_tokens or 0) > 0.9 * (first.parse().usage.prompt_tokens)


def test_tools_are_called_whole_and_streamed(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="sim", messages=CALL, tools=CHAT_TOOLS)
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.function.name == "weather"
    assert set(json.loads(call.function.arguments)) >= {"city", "days"}
    with client.chat.completions.create(model="sim", messages=CALL, tools=CHAT_TOOLS, stream=True) as stream:
        deltas = [chunk.choices[0].delta for chunk in stream if chunk.choices]
    parts = [part for delta in deltas for part in delta.tool_calls or []]
    assert "".join(part.function.arguments or "" for part in parts) == call.function.arguments


def test_completions_and_their_stream(client: openai.OpenAI) -> None:
    fields = {"model": "sim", "prompt": "Once upon a time", "max_tokens": 8, "temperature": 0.0}
    whole = client.completions.create(**fields)
    with client.completions.create(**fields, stream=True) as stream:
        assert "".join(chunk.choices[0].text for chunk in stream if chunk.choices) == whole.choices[0].text
    ids = client.completions.create(model="sim", prompt=[1, 2, 3], max_tokens=4)
    assert ids.usage is not None
    assert ids.usage.prompt_tokens == 3


def test_responses_their_stream_their_retrieval_and_the_next_turn(client: openai.OpenAI) -> None:
    raw = client.responses.with_raw_response.create(model="sim", input="Say something", max_output_tokens=8)
    whole = raw.parse()
    assert client.responses.retrieve(whole.id).id == whole.id
    following = client.responses.with_raw_response.create(
        model="sim", input="And?", max_output_tokens=8, previous_response_id=whole.id
    )
    assert following.headers["x-warmroute-decision"] == "pinned"
    assert following.headers["x-warmroute-replica"] == raw.headers["x-warmroute-replica"]
    with client.responses.create(
        model="sim", input="Say something", max_output_tokens=8, stream=True
    ) as stream:
        events = list(stream)
    assert events[0].type == "response.created"
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == whole.output_text
    assert client.responses.retrieve(events[0].response.id).id == events[0].response.id
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve("resp_nobody")


def test_embeddings_models_and_errors(client: openai.OpenAI) -> None:
    vectors = client.embeddings.create(model="sim", input=["a", "b"], encoding_format="float")
    assert len(vectors.data) == 2
    assert [model.id for model in client.models.list()] == ["sim"]
    assert client.models.retrieve("sim").id == "sim"
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="nobody", messages=SAID)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="sim", messages=[])


def test_messages_their_stream_and_their_count(claude: anthropic.Anthropic) -> None:
    answer = claude.messages.create(model="sim", messages=SAID, max_tokens=8, system="Be brief.")
    with claude.messages.stream(model="sim", messages=SAID, max_tokens=8, system="Be brief.") as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert answer.content[0].type == "text"
    assert text
    assert final.usage.output_tokens == answer.usage.output_tokens
    assert claude.messages.count_tokens(model="sim", messages=SAID, system="Be brief.").input_tokens > 5


def test_messages_call_tools_whole_and_streamed(claude: anthropic.Anthropic) -> None:
    tools = [{"name": "weather", "input_schema": SCHEMA}]
    answer = claude.messages.create(model="sim", messages=CALL, max_tokens=1024, tools=tools)
    assert answer.stop_reason == "tool_use"
    with claude.messages.stream(model="sim", messages=CALL, max_tokens=1024, tools=tools) as stream:
        final = stream.get_final_message()
    assert final.content[0].type == "tool_use"
    assert answer.content[0].type == "tool_use"
    assert final.content[0].input == answer.content[0].input


def test_errors_arrive_as_the_anthropic_client_knows_them(claude: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as missing:
        claude.messages.create(model="nobody", messages=SAID, max_tokens=8)
    assert missing.value.body["type"] == "error"
    assert missing.value.request_id
    with pytest.raises(anthropic.NotFoundError) as unknown:
        claude.models.retrieve("nobody")
    assert unknown.value.body["type"] == "error"
    assert unknown.value.request_id
    assert claude.messages.create(model="sim", messages=SAID, max_tokens=2)._request_id
    with pytest.raises(anthropic.BadRequestError):
        claude.messages.create(model="sim", messages="no list", max_tokens=8)


def test_a_stream_that_breaks_raises_what_each_client_raises(
    router: RouterThread, client: openai.OpenAI, claude: anthropic.Anthropic
) -> None:
    replicas = router.call(lambda: [r.url for r in router.worker.gateway.fleet.replicas.values()])

    def arm() -> None:
        for url in replicas:
            fault = json.dumps({"kind": "cut", "after_chunks": 3}).encode()
            headers = {"Content-Type": "application/json"}
            urllib.request.urlopen(urllib.request.Request(f"{url}/sim/fault", fault, headers)).close()

    def clear() -> None:
        for url in replicas:
            urllib.request.urlopen(urllib.request.Request(f"{url}/sim/fault", method="DELETE")).close()

    arm()
    with (
        pytest.raises(openai.APIError, match="replica"),
        client.chat.completions.create(model="sim", messages=SAID, max_tokens=50, stream=True) as stream,
    ):
        list(stream)
    clear()
    arm()
    with (
        pytest.raises(anthropic.APIError, match="replica"),
        claude.messages.stream(model="sim", messages=SAID, max_tokens=50) as messages,
    ):
        list(messages)
    clear()
    assert client.chat.completions.create(model="sim", messages=SAID, max_tokens=2).choices
