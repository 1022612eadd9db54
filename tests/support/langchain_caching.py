"""What LangChain's OpenAI integration does with OpenAI's caching features, run by its own interpreter.

`LANGCHAIN_CACHES` takes a router's URL, a model and a long text that no cache has, and prints what it was told of its
usage:
a key and a day's retention (twice whole, once streamed), a breakpoint with two questions, and the responses API.
"""

from __future__ import annotations

import json

LANGCHAIN_CACHES = """
import json, sys
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI
url, name, text = sys.argv[1] + "/v1", sys.argv[2], sys.argv[3]
told = []
def note(usage):
    told.append([usage["input_tokens"], usage.get("input_token_details", {}).get("cache_read", 0)])
def system(subject, **mark):
    return SystemMessage([{"type": "text", "text": subject + " " + text, **mark}])
chat = ChatOpenAI(model=name, base_url=url, api_key="none", max_tokens=8, stream_usage=True, max_retries=0)
# A key, and the whole prompt for a day.
kept = {"prompt_cache_key": "app", "extra_body": {"prompt_cache_retention": "24h"}}
said = [system("a day"), HumanMessage("Say something.")]
for _ in range(2):
    note(chat.invoke(said, **kept).usage_metadata)
note([chunk for chunk in chat.stream(said, **kept) if chunk.usage_metadata][-1].usage_metadata)
# A breakpoint behind the system prompt, and another question each time.
only = {"extra_body": {"prompt_cache_options": {"mode": "explicit", "ttl": "12h"}}}
for question in ("One?", "Two?"):
    mark = {"prompt_cache_breakpoint": {"mode": "explicit"}}
    note(chat.invoke([system("marked", **mark), HumanMessage(question)], **only).usage_metadata)
# The same by OpenAI's newer API.
responses = ChatOpenAI(
    model=name, base_url=url, api_key="none", max_tokens=16, use_responses_api=True, max_retries=0
)
for _ in range(2):
    said = [system("responses"), HumanMessage("Say something.")]
    note(responses.invoke(said, extra_body={"prompt_cache_retention": "24h"}).usage_metadata)
# What OpenAI refuses is refused in its words.
try:
    chat.invoke("Hi", extra_body={"prompt_cache_retention": "1h"})
except Exception as error:
    assert "prompt_cache_retention" in str(error) or "in_memory" in str(error), error
else:
    raise AssertionError("it was not refused")
print("usage", json.dumps(told))
"""


def told(printed: str) -> tuple[int, int]:
    """Prompt tokens and cached tokens of all its requests; fails unless what was sent before was found each time."""
    usage = json.loads(printed.partition("usage ")[2])
    assert len(usage) == 7
    first = (0, 3, 5)
    for at, (prompt, cached) in enumerate(usage):
        assert cached == 0 if at in first else cached > 0.85 * prompt, usage
    return sum(row[0] for row in usage), sum(row[1] for row in usage)
