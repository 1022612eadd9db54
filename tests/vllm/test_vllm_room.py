"""Real engines whose KV cache is full of long answers: what the router believes of it, and where it sends the next."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.vllm_fleet import Answer, RouterProcess, call, text, used_tokens, wait_until
from warmroute_replica.vllm.launch import Fleet, Options

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

BLOCK_TOKENS = 32
POOL_TOKENS = 256 * BLOCK_TOKENS
LONG_TOKENS = 1200
"""Of an answer."""
AT_ONCE = 4
"""Long answers on one engine: as many as fill most of its cache."""


@pytest.fixture(scope="module")
def small_fleet() -> Iterator[Fleet]:
    options = Options(kv_bytes="16M", max_model_len=4096, shutdown_timeout_s=0)
    with Fleet(2, print, preset="small", options=options, start_timeout_s=500.0) as fleet:
        yield fleet


def ask(router: RouterProcess, prompt: str, tokens: int) -> Answer:
    body = {"model": "tiny", "prompt": prompt, "max_tokens": tokens, "ignore_eos": True, "temperature": 0}
    answer = call(router.url, "/v1/completions", {**body, "stream": True})
    assert answer.status == 200, answer.body
    return answer


def row(router: RouterProcess, replica: str) -> dict[str, Any]:
    rows = call(router.admin_url, "/replicas").json["replicas"]
    (found,) = [one for one in rows if one["id"] == replica]
    return dict(found)


def begun(replica: dict[str, Any]) -> int:
    """Requests under way of which the first byte was heard."""
    return int(replica["in_flight"] - replica["waiting"])


def test_an_engine_full_of_long_answers_is_known_to_be_and_spared_what_it_could_not_begin(
    small_fleet: Fleet,
) -> None:
    with RouterProcess(small_fleet.urls) as router, ThreadPoolExecutor(2 * AT_ONCE) as pool:
        # Teach how long the tokens of this text are, and how long a long answer lasts among as many as below.
        prompts = [text(100, uuid.uuid4().hex) for _ in range(2 * AT_ONCE)]
        taught = list(pool.map(lambda prompt: ask(router, prompt, LONG_TOKENS), prompts))
        assert {answer.replica for answer in taught} == {
            url.removeprefix("http://") for url in small_fleet.urls
        }
        shared = text(800, uuid.uuid4().hex)
        home = ask(router, shared, 8).replica
        long: list[Future[Answer]] = []
        for number in range(AT_ONCE):
            long.append(
                pool.submit(ask, router, f"{shared} {text(400, f'{number} {uuid.uuid4().hex}')}", LONG_TOKENS)
            )
            # After the first byte of the one before: past a prompt that is still computed it could go elsewhere.
            wait_until(lambda: begun(row(router, home)) == len(long), "it began at home", timeout_s=60.0)
        wait_until(
            lambda: used_tokens(f"http://{home}") > 0.6 * POOL_TOKENS, "the cache is in use", timeout_s=120.0
        )
        # An answer's pace was learned from others, and a busy machine's changes by as much as two between them.
        used, believed = used_tokens(f"http://{home}"), row(router, home)["in_use_tokens"]
        assert 0.5 * used < believed < 2.0 * used
        wait_until(lambda: row(router, home)["room_in_s"] > 0.0, "there is no room", timeout_s=120.0)
        answer = ask(router, f"{shared} {text(1800, uuid.uuid4().hex)}", 8)
        assert answer.replica != home, row(router, home)
        for future in long:
            assert future.result().replica == home
