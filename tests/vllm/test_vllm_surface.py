"""Models, adapters, stored responses, errors and plain bytes of real engines, through the router."""

from __future__ import annotations

import re
import time
import uuid

import pytest

from tests.support.vllm_fleet import RouterProcess, call, text, told, wait_until
from warmroute_replica.vllm.install import default_venv
from warmroute_replica.vllm.launch import Fleet
from warmroute_replica.vllm.model import ensure_model

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

SAID = [{"role": "user", "content": "Say something"}]


def models(router: RouterProcess) -> list[str]:
    return sorted(row["id"] for row in call(router.url, "/v1/models").json["data"])


def test_unknown_model_is_404_in_the_shape_of_the_called_api(router: RouterProcess) -> None:
    body = {"model": "nobody", "messages": SAID, "max_tokens": 4}
    chat = call(router.url, "/v1/chat/completions", body)
    assert chat.status == 404
    assert "nobody" in chat.json["error"]["message"]
    messages = call(router.url, "/v1/messages", body)
    assert messages.status == 404
    assert messages.json["type"] == "error"
    assert "nobody" in messages.json["error"]["message"]


def test_adapter_is_routed_like_a_model_and_shares_no_prefix_with_its_base(router: RouterProcess) -> None:
    said = [{"role": "user", "content": text(400, uuid.uuid4().hex)}]
    for model in ("tiny", "alpha"):
        cold, warm = (
            call(router.url, "/v1/chat/completions", {"model": model, "messages": said, "max_tokens": 4})
            for _ in range(2)
        )
        assert cold.headers["x-warmroute-decision"] in ("ring", "spill")
        assert cold.json["model"] == model
        assert cold.json["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
        assert warm.headers["x-warmroute-decision"] == "warm"
        assert warm.replica == cold.replica
        assert warm.json["usage"]["prompt_tokens_details"]["cached_tokens"] > 300


def test_adapter_that_one_replica_has_is_sent_to_that_one(router: RouterProcess, whole_fleet: Fleet) -> None:
    model = ensure_model(default_venv(), print, preset="small", lora=["beta"])
    holder = whole_fleet.urls[1]
    lora = {"lora_name": "beta", "lora_path": str(model.lora[0][1])}
    assert call(holder, "/v1/load_lora_adapter", lora).status == 200
    try:
        wait_until(lambda: models(router) == ["alpha", "beta", "tiny"], "the router has learned of it")
        for _ in range(6):
            body = {"model": "beta", "prompt": uuid.uuid4().hex * 4, "max_tokens": 2}
            answer = call(router.url, "/v1/completions", body)
            assert answer.status == 200
            assert answer.replica == holder.removeprefix("http://")
    finally:
        assert call(holder, "/v1/unload_lora_adapter", {"lora_name": "beta"}).status == 200


def test_responses_are_found_where_they_are_kept(router: RouterProcess, whole_fleet: Fleet) -> None:
    homes = {}
    for _ in range(6):
        body = {
            "model": "tiny",
            "input": text(200, uuid.uuid4().hex),
            "max_output_tokens": 4,
            "temperature": 0,
        }
        answer = call(router.url, "/v1/responses", body)
        assert answer.status == 200
        homes[answer.json["id"]] = answer.replica
    for response_id, home in homes.items():
        got = call(router.url, f"/v1/responses/{response_id}")
        assert got.status == 200
        assert got.json["id"] == response_id
        assert got.replica == home
        directly = {
            url.removeprefix("http://"): call(url, f"/v1/responses/{response_id}").status
            for url in whole_fleet.urls
        }
        assert directly.pop(home) == 200
        assert set(directly.values()) == {404}
        follow_up = {
            "model": "tiny",
            "input": "And then?",
            "previous_response_id": response_id,
            "max_output_tokens": 4,
        }
        followed = call(router.url, "/v1/responses", follow_up)
        assert followed.status == 200
        assert followed.replica == home
        assert followed.json["usage"]["input_tokens_details"]["cached_tokens"] > 100


def test_streamed_response_is_found_again(router: RouterProcess) -> None:
    for _ in range(4):
        body = {"model": "tiny", "input": uuid.uuid4().hex * 10, "max_output_tokens": 4, "stream": True}
        answer = call(router.url, "/v1/responses", body)
        response_id = answer.events[0]["response"]["id"]
        got = call(router.url, f"/v1/responses/{response_id}")
        assert got.status == 200
        assert got.replica == answer.replica


def test_what_an_engine_answers_passes_through_unchanged(router: RouterProcess, whole_fleet: Fleet) -> None:
    requests = [
        ("/v1/embeddings", {"model": "tiny", "input": "hello"}),
        ("/v1/chat/completions", {"model": "tiny", "messages": SAID, "cache_salt": ""}),
        ("/v1/chat/completions", {"model": "tiny", "messages": SAID, "max_tokens": 99999}),
        ("/tokenize", {"model": "tiny", "prompt": "Zürich 漢字"}),
        ("/v1/messages/count_tokens", {"model": "tiny", "messages": SAID}),
        ("/v1/chat/completions", {"model": "tiny", "messages": SAID, "max_tokens": 6, "temperature": 0}),
        (
            "/v1/chat/completions",
            {"model": "tiny", "messages": SAID, "max_tokens": 6, "temperature": 0, "stream": True},
        ),
    ]
    for path, body in requests:
        headers = {"X-Request-Id": f"same-{uuid.uuid4().hex}"}
        routed = call(router.url, path, body, headers=headers)
        direct = call(f"http://{routed.replica}", path, body, headers=headers)
        assert routed.status == direct.status
        # Times of creation differ, and nothing else may.
        if body.get("stream"):
            assert told(routed.body) == told(direct.body)
        else:
            bodies = [re.sub(rb'"created":\d+', b'"created":0', answer.body) for answer in (routed, direct)]
            assert bodies[0] == bodies[1]
        assert routed.headers["content-type"] == direct.headers["content-type"]
        assert routed.headers["x-request-id"] == headers["X-Request-Id"]


def test_stream_reaches_the_client_while_the_engine_still_writes(router: RouterProcess) -> None:
    body = {"model": "tiny", "messages": SAID, "max_tokens": 400, "stream": True, "ignore_eos": True}
    started_s = time.monotonic()
    answer = call(router.url, "/v1/chat/completions", body)
    first_s, last_s = answer.read_s[0], answer.read_s[-1]
    assert len(answer.read_s) > 10
    assert last_s - first_s > 0.5 * (last_s - started_s)


def test_records_in_redis_outlive_a_killed_router(whole_fleet: Fleet, redis_url: str) -> None:
    said = [{"role": "user", "content": text(700, uuid.uuid4().hex)}]
    body = {"model": "tiny", "messages": said, "max_tokens": 4}
    # On a busy machine Redis may take longer than the usual deadline.
    registry = ["--registry", redis_url, "--set", "registry.lookup_deadline_s=10"]
    with RouterProcess(whole_fleet.urls, *registry) as first:
        cold = call(first.url, "/v1/chat/completions", body)
        # Written while the engine worked on the answer.
        first.kill()
    with RouterProcess(whole_fleet.urls, *registry) as second:
        warm = call(second.url, "/v1/chat/completions", body)
    assert warm.headers["x-warmroute-decision"] == "warm"
    assert warm.replica == cold.replica
    assert warm.json["usage"]["prompt_tokens_details"]["cached_tokens"] > 600
