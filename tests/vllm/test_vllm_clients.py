"""The official Python clients talk to real engines through the router, and need no more than its address."""

from __future__ import annotations

from collections.abc import Iterator

import anthropic
import openai
import pytest

from tests.support.vllm_fleet import RouterProcess

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

SAID = [{"role": "user", "content": "Say something"}]


@pytest.fixture
def openai_client(router: RouterProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{router.url}/v1", api_key="none", max_retries=0, timeout=400.0) as client:
        yield client


@pytest.fixture
def anthropic_client(router: RouterProcess) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=router.url, api_key="none", max_retries=0, timeout=400.0) as client:
        yield client


def test_openai_chat(openai_client: openai.OpenAI) -> None:
    answer = openai_client.chat.completions.create(model="tiny", messages=SAID, max_tokens=8)
    assert answer.object == "chat.completion"
    assert answer.usage is not None
    assert 0 < answer.usage.completion_tokens <= 8


def test_openai_chat_stream(openai_client: openai.OpenAI) -> None:
    with openai_client.chat.completions.create(
        model="tiny",
        messages=SAID,
        max_tokens=8,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
    ) as stream:
        chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 8


def test_openai_completion_and_its_stream(openai_client: openai.OpenAI) -> None:
    fields = {"model": "tiny", "prompt": "Once upon a time", "max_tokens": 8, "temperature": 0.0}
    whole = openai_client.completions.create(**fields)
    with openai_client.completions.create(**fields, stream=True) as stream:
        assert "".join(chunk.choices[0].text for chunk in stream) == whole.choices[0].text


def test_openai_response_its_stream_and_its_retrieval(openai_client: openai.OpenAI) -> None:
    whole = openai_client.responses.create(
        model="tiny", input="Say something", max_output_tokens=8, temperature=0
    )
    assert openai_client.responses.retrieve(whole.id).id == whole.id
    with openai_client.responses.create(
        model="tiny", input="Say something", max_output_tokens=8, temperature=0, stream=True
    ) as stream:
        events = list(stream)
    assert events[0].type == "response.created"
    assert events[-1].type in ("response.completed", "response.incomplete")
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == whole.output_text


def test_openai_lists_every_model_once(openai_client: openai.OpenAI) -> None:
    assert sorted(model.id for model in openai_client.models.list()) == ["alpha", "tiny"]


def test_openai_errors_arrive_as_the_client_knows_them(openai_client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        openai_client.chat.completions.create(model="nobody", messages=SAID)
    with pytest.raises(openai.BadRequestError, match="maximum context length"):
        openai_client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "word " * 20000}]
        )


def test_anthropic_message_and_token_count(anthropic_client: anthropic.Anthropic) -> None:
    answer = anthropic_client.messages.create(model="tiny", messages=SAID, max_tokens=8, system="Be brief.")
    assert answer.type == "message"
    assert 0 < answer.usage.output_tokens <= 8
    counted = anthropic_client.messages.count_tokens(model="tiny", messages=SAID, system="Be brief.")
    assert counted.input_tokens > 10


def test_anthropic_stream(anthropic_client: anthropic.Anthropic) -> None:
    with anthropic_client.messages.stream(model="tiny", messages=SAID, max_tokens=8) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text
    assert final.content[0].type == "text"
    assert final.content[0].text == text
    assert final.usage.output_tokens == 8 or final.stop_reason == "end_turn"


def test_anthropic_unknown_model(anthropic_client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as raised:
        anthropic_client.messages.create(model="nobody", messages=SAID, max_tokens=8)
    assert raised.value.body["type"] == "error"
