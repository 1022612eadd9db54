"""A cached content before real engines: what an answer reports as cached is what the engines' own counters say."""

from __future__ import annotations

import re
import urllib.request
import uuid
from collections.abc import Iterator

import pytest

from tests.support.vllm_fleet import RouterProcess, call, text
from warmroute_replica.vllm.launch import Fleet

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

_COUNTERS = re.compile(r"^vllm:prefix_cache_(queries|hits)_total\{[^}]*\} ([0-9.e+]+)$", re.M)


@pytest.fixture
def google(whole_fleet: Fleet) -> Iterator[RouterProcess]:
    with RouterProcess(whole_fleet.urls, "--set", "cached_contents=true") as router:
        yield router


def counted(fleet: Fleet) -> tuple[int, int]:
    """Prompt tokens that all engines looked up in their caches, and those that they found."""
    sums = {"queries": 0.0, "hits": 0.0}
    for url in fleet.urls:
        with urllib.request.urlopen(f"{url}/metrics", timeout=30) as answer:
            for name, value in _COUNTERS.findall(answer.read().decode()):
                sums[name] += float(value)
    return int(sums["queries"]), int(sums["hits"])


def test_what_is_reported_as_cached_is_what_the_engines_count(
    google: RouterProcess, whole_fleet: Fleet
) -> None:
    model = whole_fleet.model_name
    handbook = text(1_000, f"handbook-{uuid.uuid4().hex}")
    content = {
        "model": f"models/{model}",
        "systemInstruction": {"parts": [{"text": "You know the handbook."}]},
        "contents": [{"role": "user", "parts": [{"text": handbook}]}],
        "ttl": "600s",
    }
    made = call(google.url, "/v1beta/cachedContents", content)
    assert made.status == 200, made.body
    before = counted(whole_fleet)
    reported = [0, 0]
    for number in range(3):
        asked = {
            "contents": [{"role": "user", "parts": [{"text": f"Question {number}?"}]}],
            "cachedContent": made.json["name"],
            "generationConfig": {"maxOutputTokens": 2, "temperature": 0},
        }
        answer = call(google.url, f"/v1beta/models/{model}:generateContent", asked)
        assert answer.status == 200, answer.body
        usage = answer.json["usageMetadata"]
        assert usage["cachedContentTokenCount"] >= 0.95 * usage["promptTokenCount"], usage
        reported[0] += usage["promptTokenCount"]
        reported[1] += usage["cachedContentTokenCount"]
    after = counted(whole_fleet)
    assert [late - early for late, early in zip(after, before, strict=True)] == reported
    counting = {"contents": content["contents"], "systemInstruction": content["systemInstruction"]}
    told = call(google.url, f"/v1beta/models/{model}:countTokens", counting)
    assert abs(told.json["totalTokens"] - made.json["usageMetadata"]["totalTokenCount"]) <= 1
