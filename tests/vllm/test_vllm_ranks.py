"""A real server of two data-parallel ranks: each found and addressed as a replica, and what is done to it noticed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.vllm_fleet import Answer, RouterProcess, call, text, wait_until
from warmroute_replica.vllm.launch import Fleet, Options

pytestmark = [pytest.mark.vllm, pytest.mark.vllm_long, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def server() -> Iterator[Fleet]:
    options = Options(kv_bytes="64M", max_model_len=8192, dev_mode=True, extra=("--data-parallel-size", "2"))
    with Fleet(1, print, preset="small", options=options, start_timeout_s=800.0) as fleet:
        yield fleet


@pytest.fixture
def router(server: Fleet) -> Iterator[RouterProcess]:
    with RouterProcess(server.urls, "--set", "health.probe_interval_s=0.5", replicas=2) as router:
        yield router


def ask(url: str, seed: str, headers: dict[str, str] | None = None) -> Answer:
    body = {"model": "tiny", "messages": [{"role": "user", "content": text(300, seed)}], "max_tokens": 2}
    return call(url, "/v1/chat/completions", body, headers=headers)


def cached(answer: Answer) -> int:
    assert answer.status == 200, answer.body
    return int(answer.json["usage"]["prompt_tokens_details"]["cached_tokens"])


def rows(router: RouterProcess) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = call(router.admin_url, "/replicas").json["replicas"]
    return found


def test_each_rank_keeps_a_cache_of_its_own(server: Fleet) -> None:
    url = server.urls[0]
    for rank in ("0", "1"):
        assert cached(ask(url, "own cache", {"X-data-parallel-rank": rank})) == 0
        assert cached(ask(url, "own cache", {"X-data-parallel-rank": rank})) > 200
    assert ask(url, "own cache", {"X-data-parallel-rank": "2"}).status == 400


def test_conversations_find_the_rank_that_has_them(router: RouterProcess) -> None:
    assert [(row["rank"], row["state"]) for row in rows(router)] == [(0, "ready"), (1, "ready")]
    assert all(row["cache_tokens"] for row in rows(router))
    homes = {seed: ask(router.url, seed).replica for seed in (f"talk {number}" for number in range(8))}
    assert len(set(homes.values())) == 2
    for seed, home in homes.items():
        again = ask(router.url, seed)
        assert again.replica == home
        assert cached(again) > 200


def test_a_reset_cache_is_not_counted_on(router: RouterProcess) -> None:
    ask(router.url, "before the reset")
    assert ask(router.url, "before the reset").headers["x-warmroute-decision"] == "warm"
    assert call(router.admin_url, "/reset_prefix_cache", {}).status == 200
    after = ask(router.url, "before the reset")
    assert (after.headers["x-warmroute-decision"], cached(after)) != ("warm", 0)
    assert cached(after) == 0


def test_a_paused_server_is_out_of_use_until_it_goes_on(router: RouterProcess) -> None:
    assert call(router.admin_url, "/pause", {}).status == 200
    wait_until(lambda: {row["state"] for row in rows(router)} == {"ejected"}, "both ranks are out of use")
    assert "/is_paused" in rows(router)[0]["last_failure"]
    assert call(router.admin_url, "/resume", {}).status == 200
    wait_until(lambda: {row["state"] for row in rows(router)} == {"ready"}, "both are back")
    assert cached(ask(router.url, "after the pause")) == 0


def test_new_weights_are_noticed(router: RouterProcess) -> None:
    before = [row["incarnation"] for row in rows(router)]
    assert call(router.admin_url, "/update_weight_version", {"new_version": "two"}).status == 200
    wait_until(
        lambda: not {row["incarnation"] for row in rows(router)} & set(before),
        "both have another incarnation",
    )
    assert {row["restarts_total"] for row in rows(router)} == {0}
