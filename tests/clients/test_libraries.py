"""The official SDKs in Python and Node, what is made on them, and LiteLLM as a proxy in front of the router."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.request
from pathlib import Path

import pytest

from tests.clients.conftest import MODEL, Through, needs, run
from tests.clients.install import clean_environment
from tests.support.langchain_caching import LANGCHAIN_CACHES, told
from tests.support.processes import RouterProcess, SimProcess
from tests.support.redis_server import free_port
from tests.support.router_thread import wait_until

pytestmark = [pytest.mark.clients, pytest.mark.timeout(300)]

LITELLM_KEY = "sk-" + "0123456789abcdef" * 4
"""LiteLLM does not start without a key that clients have to know."""

PYTHON_SDKS = """
import sys, anthropic, openai
url = sys.argv[1]
said = [{"role": "user", "content": "Say something short."}]
client = openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0)
assert client.models.retrieve("sim").id == "sim"
assert client.chat.completions.create(model="sim", messages=said, max_tokens=8).choices[0].message.content
assert list(client.chat.completions.create(model="sim", messages=said, max_tokens=8, stream=True))
assert client.completions.create(model="sim", prompt="Hello", max_tokens=8).choices
assert client.responses.create(model="sim", input="Hello", max_output_tokens=8).output_text
events = [event.type for event in client.responses.create(model="sim", input="Hello", stream=True)]
assert events[-1] == "response.completed", events
try:
    client.files.list()
except openai.APIStatusError as error:
    assert error.status_code == 501, error
try:
    client.chat.completions.create(model="nobody", messages=said)
except openai.NotFoundError as error:
    assert "nobody" in str(error)
claude = anthropic.Anthropic(base_url=url, api_key="none", max_retries=0)
assert [model.id for model in claude.models.list()] == ["sim"]
assert claude.messages.create(model="sim", messages=said, max_tokens=8).content
with claude.messages.stream(model="sim", messages=said, max_tokens=8) as stream:
    assert "".join(stream.text_stream)
assert claude.messages.count_tokens(model="sim", messages=said).input_tokens
print("all well")
"""

NODE_SDKS = """
import OpenAI from "openai";
import Anthropic from "@anthropic-ai/sdk";
const url = process.argv[2];
const said = [{role: "user", content: "Say something short."}];
const must = (value, what) => { if (!value) throw new Error(what); };
const client = new OpenAI({baseURL: url + "/v1", apiKey: "none", maxRetries: 0});
must((await client.models.retrieve("sim")).id === "sim", "model");
const asked = {model: "sim", messages: said, max_tokens: 8};
must((await client.chat.completions.create(asked)).choices[0].message.content, "chat");
let chunks = 0;
for await (const chunk of await client.chat.completions.create({...asked, stream: true})) chunks++;
must(chunks, "chat stream");
let last;
const events = await client.responses.create({model: "sim", input: "Hello", stream: true});
for await (const event of events) last = event.type;
must(last === "response.completed", "responses stream");
const claude = new Anthropic({baseURL: url, apiKey: "none", maxRetries: 0});
must((await claude.models.list()).data[0].id === "sim", "Anthropic models");
must((await claude.messages.create(asked)).content.length, "messages");
must(await claude.messages.stream(asked).finalText(), "messages stream");
console.log("all well");
"""

LANGCHAIN = """
import sys
from langchain_anthropic import ChatAnthropic
from langchain_openai import ChatOpenAI
url = sys.argv[1]
for model in (
    ChatOpenAI(model="sim", base_url=url + "/v1", api_key="none", max_tokens=8),
    ChatAnthropic(model="sim", base_url=url, api_key="none", max_tokens=8),
):
    assert model.invoke("Say something short.").content
    assert list(model.stream("Say something short."))
    assert len(model.batch(["One.", "Two."])) == 2
print("all well")
"""

LLAMA_INDEX = """
import sys
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike
llm = OpenAILike(
    model="sim", api_base=sys.argv[1] + "/v1", api_key="none", is_chat_model=True, max_tokens=8, context_window=32000
)
said = [ChatMessage(role="user", content="Say something short.")]
assert llm.chat(said).message.content
assert list(llm.stream_chat(said))[-1].message.content
assert llm.complete("Hello").text
print("all well")
"""

PYDANTIC_AI = """
import asyncio, sys
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
provider = OpenAIProvider(base_url=sys.argv[1] + "/v1", api_key="none")
async def ask():
    for model in (OpenAIChatModel("sim", provider=provider), OpenAIResponsesModel("sim", provider=provider)):
        agent = Agent(model)
        assert (await agent.run("Say something short.")).output
        async with agent.run_stream("Say something short.") as answer:
            assert [text async for text in answer.stream_text()]
asyncio.run(ask())
print("all well")
"""

DSPY = """
import sys, dspy
lm = dspy.LM("openai/sim", api_base=sys.argv[1] + "/v1", api_key="none", max_tokens=16, cache=False)
assert lm("Say something short.")[0]
assert lm(messages=[{"role": "user", "content": "Say something short."}])[0]
print("all well")
"""


def test_official_sdks_in_python(through: Through, tmp_path: Path) -> None:
    folder = needs("sdks")
    assert "all well" in run([folder / "bin/python", "-c", PYTHON_SDKS, through.url], tmp_path)


def test_official_sdks_in_node(through: Through, tmp_path: Path) -> None:
    folder = needs("node-sdks")
    script = folder / "sdks.mjs"
    script.write_text(NODE_SDKS)
    assert "all well" in run(["node", script, through.url], tmp_path)
    through.answered("/v1/messages", least=2)


def test_langchain(through: Through, tmp_path: Path) -> None:
    folder = needs("langchain")
    assert "all well" in run([folder / "bin/python", "-c", LANGCHAIN, through.url], tmp_path)


def test_langchains_openai_is_told_what_the_engines_count(tmp_path: Path) -> None:
    """Each of OpenAI's caching features, and usage equal to the engines' own metrics, to the token."""
    folder = needs("langchain")
    settings = tmp_path / "router.yaml"
    settings.write_text(json.dumps({"caching": {"openai": True}}))
    with (
        SimProcess(2, "--speed", "50") as sims,
        RouterProcess(sims.urls, "--config", str(settings)) as router,
    ):
        url = f"http://127.0.0.1:{router.port}"
        said = run([folder / "bin/python", "-c", LANGCHAIN_CACHES, url, MODEL, "word " * 2000], tmp_path)
        prompts, found = told(said)
        counted = [0, 0]
        for sim in sims.urls:
            with urllib.request.urlopen(f"{sim}/metrics", timeout=30) as answer:
                page = answer.read().decode()
            for place, name in enumerate(("queries", "hits")):
                values = re.findall(rf"^vllm:prefix_cache_{name}_total\{{.*\}} (\S+)", page, re.MULTILINE)
                counted[place] += int(sum(map(float, values)))
        assert counted == [prompts, found]


@pytest.mark.parametrize(
    ("kind", "script"), [("llama-index", LLAMA_INDEX), ("pydantic-ai", PYDANTIC_AI), ("dspy", DSPY)]
)
def test_a_library(kind: str, script: str, through: Through, tmp_path: Path) -> None:
    folder = needs(kind)
    said = run(
        [folder / "bin/python", "-c", script, through.url], tmp_path, LITELLM_LOCAL_MODEL_COST_MAP="True"
    )
    assert "all well" in said
    through.answered("/v1/chat/completions", least=2)


def test_litellm_in_front(through: Through, tmp_path: Path) -> None:
    folder = needs("litellm")
    settings = tmp_path / "config.yaml"
    settings.write_text(
        json.dumps(
            {
                "model_list": [
                    {
                        "model_name": MODEL,
                        "litellm_params": {
                            "model": f"hosted_vllm/{MODEL}",
                            "api_base": f"{through.url}/v1",
                            "api_key": "none",
                        },
                    }
                ]
            }
        )
    )
    port = free_port()
    command = [
        str(folder / "bin/litellm"),
        "--config",
        str(settings),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    environ = {
        **clean_environment(),
        "HOME": str(tmp_path),
        "NO_PROXY": "*",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_MASTER_KEY": LITELLM_KEY,
    }
    with (tmp_path / "log").open("wb") as log:
        proxy = subprocess.Popen(command, env=environ, cwd=tmp_path, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: proxy.poll() is not None or status(f"{url}/health/liveliness") == 200, 240)
        assert proxy.poll() is None, (tmp_path / "log").read_text()[-2000:]
        body = {"model": MODEL, "messages": [{"role": "user", "content": "Say something."}], "max_tokens": 8}
        for more in ({}, {"stream": True}):
            data = json.dumps({**body, **more}).encode()
            headers = {"Content-Type": "application/json", "Authorization": f"Bearer {LITELLM_KEY}"}
            request = urllib.request.Request(f"{url}/v1/chat/completions", data, headers)
            with urllib.request.urlopen(request, timeout=120) as answer:
                text = answer.read()
            assert b"choices" in text
            assert ("stream" in more) == text.endswith(b"data: [DONE]\n\n")
        through.answered("/v1/chat/completions", least=2)
    finally:
        proxy.terminate()
        try:
            proxy.wait(30)
        except subprocess.TimeoutExpired:
            proxy.kill()
            proxy.wait()


def status(url: str) -> int | None:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return int(answer.status)
    except OSError:
        return None
