"""Google's own client, unchanged but for its address: questions, streams, functions, and cached contents."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.conftest import needs, run
from tests.support.processes import RouterProcess, SimProcess

pytestmark = [pytest.mark.clients, pytest.mark.timeout(300)]

GOOGLE = """
import sys
from google import genai
from google.genai import errors, types

client = genai.Client(api_key="any", http_options=types.HttpOptions(base_url=sys.argv[1]))
short = types.GenerateContentConfig(max_output_tokens=8)
answer = client.models.generate_content(model="sim", contents="Say something short.", config=short)
assert answer.text, answer
assert answer.candidates[0].finish_reason == types.FinishReason.MAX_TOKENS
assert answer.usage_metadata.prompt_token_count > 0
pieces = list(client.models.generate_content_stream(model="sim", contents="Say something.", config=short))
assert "".join(piece.text or "" for piece in pieces)
assert pieces[-1].usage_metadata.candidates_token_count == 8
assert client.models.count_tokens(model="sim", contents="how many?").total_tokens > 0

def weather(city: str) -> str:
    "What the weather is in a city."
    return "sunny"

call = types.FunctionCallingConfig(mode="ANY")
tools = types.GenerateContentConfig(
    tools=[weather],
    tool_config=types.ToolConfig(function_calling_config=call),
    automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
)
asked = client.models.generate_content(model="sim", contents="Weather in Rome?", config=tools)
assert asked.function_calls[0].name == "weather"
said = [
    types.Content(role="user", parts=[types.Part(text="Weather in Rome?")]),
    asked.candidates[0].content,
    types.Content(
        role="user", parts=[types.Part.from_function_response(name="weather", response={"result": "sunny"})]
    ),
]
assert client.models.generate_content(model="sim", contents=said, config=short).text

config = types.CreateCachedContentConfig(
    display_name="handbook", system_instruction="You know it.", contents=["word " * 8000], ttl="600s"
)
cache = client.caches.create(model="sim", config=config)
assert cache.usage_metadata.total_token_count > 8000
using = types.GenerateContentConfig(cached_content=cache.name, max_output_tokens=4)
for number in range(3):
    usage = client.models.generate_content(model="sim", contents=f"Question {number}?", config=using).usage_metadata
    assert usage.cached_content_token_count >= 0.95 * usage.prompt_token_count, usage
last = list(client.models.generate_content_stream(model="sim", contents="Again?", config=using))[-1].usage_metadata
assert last.cached_content_token_count >= 0.95 * last.prompt_token_count, last
chat = client.chats.create(model="sim", config=using)
for text in ("Hello", "And then?"):
    usage = chat.send_message(text).usage_metadata
    assert usage.cached_content_token_count >= 0.9 * cache.usage_metadata.total_token_count, usage
assert client.caches.get(name=cache.name).display_name == "handbook"
longer = client.caches.update(name=cache.name, config=types.UpdateCachedContentConfig(ttl="900s"))
assert longer.expire_time > cache.expire_time
client.caches.create(model="sim", config=types.CreateCachedContentConfig(contents=["other " * 100], ttl="60s"))
assert len(list(client.caches.list(config=types.ListCachedContentsConfig(page_size=1)))) == 2
client.caches.delete(name=cache.name)
for wrong in (
    lambda: client.models.generate_content(model="sim", contents="x", config=using),
    lambda: client.caches.get(name=cache.name),
    lambda: client.models.generate_content(model="nobody", contents="x"),
):
    try:
        wrong()
    except errors.ClientError as error:
        assert (error.code, error.status) == (404, "NOT_FOUND"), error
    else:
        raise AssertionError("it was answered")
print("all well")
"""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with SimProcess(2, "--speed", "50") as sims:
        with RouterProcess(sims.urls, "--set", "cached_contents=true") as router:
            yield f"http://127.0.0.1:{router.port}"


def test_google_genai(url: str, tmp_path: Path) -> None:
    folder = needs("google")
    assert "all well" in run([folder / "bin/python", "-c", GOOGLE, url], tmp_path)
