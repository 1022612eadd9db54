"""A stream whose engine is killed goes on at another one, and says what it would have said."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.vllm_fleet import WORDS, RouterProcess, call, raw_request, text
from warmroute_replica.vllm.launch import Fleet, Options

pytestmark = [pytest.mark.vllm, pytest.mark.vllm_long, pytest.mark.timeout(900)]

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
TOKENS = 160
STREAMS = 2
"""Of each API."""


@pytest.fixture
def exact_fleet() -> Iterator[Fleet]:
    """In 32 bits: in 16 the random model's tokens tie, and a tie is broken by what else is in a batch."""
    options = Options(shutdown_timeout_s=60, max_model_len=16384, extra=("--dtype", "float32"))
    with Fleet(2, print, preset="small", lora=["alpha"], options=options, start_timeout_s=500.0) as fleet:
        yield fleet


@pytest.fixture
def router(exact_fleet: Fleet) -> Iterator[RouterProcess]:
    with RouterProcess(exact_fleet.urls, "--set", "failover=true") as router:
        yield router


def words_of(url: str) -> list[int]:
    """Tokens that are each a word with the blank before it: text that can be cut anywhere between them, and is cut into
    the same tokens again. The random model's own choice of tokens seldom is."""
    ids = []
    for word in WORDS:
        body = {"model": "tiny", "prompt": f" {word}", "add_special_tokens": False}
        tokens = call(url, "/tokenize", body).json["tokens"]
        if len(tokens) == 1:
            ids += tokens
    assert len(ids) > 5
    return ids


def request(path: str, number: int, words: list[int]) -> dict[str, Any]:
    asked = text(120, f"{uuid.uuid4().hex} {number}")
    prompt: dict[str, Any] = {"prompt": asked}
    if path == CHAT:
        prompt = {"messages": [{"role": "user", "content": asked}]}
    return {
        "model": "tiny",
        **prompt,
        "max_tokens": TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        "allowed_token_ids": words,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def told(stream: bytes) -> tuple[str, list[str], Any]:
    """Text, finish reasons and token counts of one unbroken stream."""
    chunks = [json.loads(line[6:]) for line in stream.split(b"\n") if line.startswith(b"data: {")]
    assert b'{"error"' not in stream
    assert stream.count(b"data: [DONE]") == 1
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    choices = [chunk["choices"][0] for chunk in chunks if chunk["choices"]]
    said = [choice["delta"].get("content") if "delta" in choice else choice["text"] for choice in choices]
    assert sum("role" in choice.get("delta", {}) for choice in choices) <= 1
    usage = chunks[-1]["usage"]
    ends = [choice["finish_reason"] for choice in choices if choice["finish_reason"]]
    return "".join(part or "" for part in said), ends, (usage["total_tokens"], usage["completion_tokens"])


def cut_by_a_kill(
    router: RouterProcess, fleet: Fleet, asked: list[tuple[str, dict[str, Any]]]
) -> list[bytes]:
    """All streams at once, and one engine killed in the middle of those that it has."""

    def stream(path: str, body: dict[str, Any]) -> tuple[str, bytes]:
        with raw_request(router.url, path, body) as connection:
            read = b""
            while read.count(b"data: ") < 20:
                piece = connection.recv(65536)
                assert piece
                read += piece
            home = read.lower().partition(b"x-warmroute-replica: ")[2].partition(b"\r\n")[0].decode()
            homes.append(home)
            while not read.endswith(b"0\r\n\r\n"):
                piece = connection.recv(65536)
                assert piece
                read += piece
                if len(homes) == len(asked) and not killed:
                    killed.append(max(homes, key=homes.count))
                    next(one for one in fleet.replicas if one.url.endswith(killed[0])).kill()
        return home, read

    homes: list[str] = []
    killed: list[str] = []
    with ThreadPoolExecutor(len(asked)) as threads:
        ended = list(threads.map(lambda one: stream(*one), asked))
    assert killed
    assert any(home == killed[0] for home, _ in ended)
    return [dechunked(read) for _, read in ended]


def dechunked(answer: bytes) -> bytes:
    rest = answer.partition(b"\r\n\r\n")[2]
    body = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        count = int(size, 16)
        body += rest[:count]
        rest = rest[count + 2 :]
    return body


def test_the_joined_text_of_a_cut_stream_is_the_uncut_one(router: RouterProcess, exact_fleet: Fleet) -> None:
    words = words_of(exact_fleet.replicas[0].url)
    asked = [
        (path, request(path, number, words)) for path in (CHAT, COMPLETIONS) for number in range(STREAMS)
    ]
    cut = cut_by_a_kill(router, exact_fleet, asked)
    left = next(replica for replica in exact_fleet.replicas if replica.is_running())
    uncut = [call(left.url, path, body).body for path, body in asked]
    assert [told(stream) for stream in cut] == [told(stream) for stream in uncut]
    metrics = call(router.admin_url, "/metrics").body
    assert b'warmroute_failovers_total{outcome="completed"}' in metrics
