"""What a client sees when a real engine dies, drains, or is no longer wanted."""

from __future__ import annotations

import re
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.vllm_fleet import Answer, RouterProcess, call, raw_request, server_load, text, wait_until
from warmroute_replica.vllm.launch import Fleet, Replica

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

CHAT = "/v1/chat/completions"
ERROR_EVENT = b'{"error"'
"""The brace belongs to it: the model's own words include "error"."""


def chat(system: str, user: str, **fields: Any) -> dict[str, Any]:
    said = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    return {
        "model": "tiny",
        "messages": said,
        "max_tokens": 8,
        "temperature": 0,
        "ignore_eos": True,
        **fields,
    }


def replica_of(fleet: Fleet, answer: Answer) -> Replica:
    return next(replica for replica in fleet.replicas if replica.url.endswith(answer.replica))


def id_of(replica: Replica) -> str:
    return replica.url.removeprefix("http://")


def in_flight(router: RouterProcess) -> int:
    replicas = call(router.admin_url, "/replicas").json["replicas"]
    return sum(int(replica["in_flight"]) for replica in replicas)


@pytest.mark.parametrize("stream", [False, True])
def test_killed_replica_costs_no_error_before_the_first_byte(
    router: RouterProcess, whole_fleet: Fleet, stream: bool
) -> None:
    system = text(700, uuid.uuid4().hex)
    assert call(router.url, CHAT, chat(system, "hello")).status == 200
    # At least one of these is being prefilled when its engine dies; the others wait, here or there, as the router
    # sends them ahead. vLLM has sent the heads of the streams by then, and no event. An answer of one token has no
    # time between its first byte and its last, in which a kill would rightly cost it an error.
    bodies = [chat(system, text(1500, uuid.uuid4().hex), max_tokens=1, stream=stream) for _ in range(6)]
    with ThreadPoolExecutor(len(bodies)) as threads:
        pending = [threads.submit(call, router.url, CHAT, body) for body in bodies]
        wait_until(lambda: any(map(server_load, whole_fleet.urls)), "work for some engine", every_s=0.01)
        victim = max(whole_fleet.replicas, key=lambda replica: server_load(replica.url))
        victim.kill()
        answers = [future.result() for future in pending]
    assert [answer.status for answer in answers] == [200] * len(bodies), [answer.body for answer in answers]
    assert "retry" in {answer.headers["x-warmroute-decision"] for answer in answers}
    for answer in answers:
        assert ERROR_EVENT not in answer.body
        assert answer.body.endswith(b"data: [DONE]\n\n") == stream
    later = call(router.url, CHAT, chat(system, "are you there?"))
    assert later.status == 200
    assert later.replica != id_of(victim)
    wait_until(lambda: in_flight(router) == 0, "every counter is back")


def test_killed_replica_ends_its_streams_with_an_error_and_others_go_on(
    router: RouterProcess, whole_fleet: Fleet
) -> None:
    systems = [text(300, uuid.uuid4().hex) for _ in range(8)]
    homes = {
        system: replica_of(whole_fleet, call(router.url, CHAT, chat(system, "hello"))) for system in systems
    }
    victim = homes[systems[0]]
    got_first = threading.Barrier(len(systems) + 1, timeout=300.0)

    def stream(system: str) -> bytes:
        body = chat(system, "go on", stream=True, max_tokens=1200)
        with raw_request(router.url, CHAT, body) as connection:
            read = b""
            while read.count(b"data: ") < 3:
                read += connection.recv(65536)
            got_first.wait()
            while True:
                try:
                    piece = connection.recv(65536)
                except ConnectionResetError:
                    return read
                read += piece
                if not piece or read.endswith(b"0\r\n\r\n"):
                    return read

    with ThreadPoolExecutor(len(systems)) as threads:
        pending = {system: threads.submit(stream, system) for system in systems}
        got_first.wait()
        victim.kill()
        ended = {system: future.result() for system, future in pending.items()}
    assert [read for read in ended.values() if ERROR_EVENT in read], "no stream was on the victim"
    for system, read in ended.items():
        assert read.startswith(b"HTTP/1.1 200 ")
        if homes[system] is victim:
            assert ERROR_EVENT in read or b"[DONE]" not in read
        elif f"x-warmroute-replica: {victim.url.removeprefix('http://')}".encode() not in read.lower():
            assert ERROR_EVENT not in read
            assert read.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    wait_until(lambda: in_flight(router) == 0, "every counter is back")


def test_restarted_replica_returns_and_is_known_to_be_empty(
    router: RouterProcess, whole_fleet: Fleet
) -> None:
    system = text(700, uuid.uuid4().hex)
    victim = replica_of(whole_fleet, call(router.url, CHAT, chat(system, "hello")))
    victim.kill()
    victim.start()
    victim.wait_healthy(500.0)

    def state() -> str:
        replicas = call(router.admin_url, "/replicas").json["replicas"]
        return str(next(row["state"] for row in replicas if victim.url.endswith(row["id"])))

    wait_until(lambda: state() == "ready", "the router sees it", timeout_s=120.0)
    answer = call(router.url, CHAT, chat(system, "hello again"))
    assert answer.headers["x-warmroute-decision"] != "warm", "the restarted replica's cache is empty"
    assert answer.json["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    # It gets work again, if it was not the one just given some.
    for _ in range(60):
        if answer.replica == id_of(victim):
            break
        answer = call(router.url, CHAT, chat(uuid.uuid4().hex * 8, "hello"))
    assert answer.replica == id_of(victim)


def test_draining_replica_costs_no_client_an_error(router: RouterProcess, whole_fleet: Fleet) -> None:
    system = text(700, uuid.uuid4().hex)
    victim = replica_of(whole_fleet, call(router.url, CHAT, chat(system, "hello")))
    with ThreadPoolExecutor(1) as thread:
        slow = chat(system, "tell a long story", stream=True, max_tokens=500)
        story = thread.submit(call, router.url, CHAT, slow)
        wait_until(lambda: server_load(victim.url) > 0, "the story has begun")
        victim.begin_stop()
        # While it drains, /health answers 200 and every new request gets a 500.
        wait_until(lambda: call(victim.url, CHAT, chat("short", "hello")).status == 500, "it drains")
        assert call(victim.url, "/health").status == 200
        answers = []
        while victim.is_running() and len(answers) < 200:
            answers.append(call(router.url, CHAT, chat(system, f"question {len(answers)}", max_tokens=2)))
            time.sleep(0.05)
        assert story.result().body.endswith(b"data: [DONE]\n\n")
    victim.stop()
    assert len(answers) > 3
    assert {answer.status for answer in answers} == {200}, [a.body for a in answers if a.status != 200][:2]
    assert answers[-1].replica != id_of(victim)


@pytest.mark.parametrize("stream", [False, True])
def test_client_that_leaves_during_the_prefill_frees_the_engine_at_once(
    router: RouterProcess, whole_fleet: Fleet, stream: bool
) -> None:
    def load() -> int:
        return sum(server_load(url) for url in whole_fleet.urls)

    def generated() -> float:
        found = [
            re.findall(
                rb"^vllm:generation_tokens_total\{.*\} (.+)$", call(url, "/metrics").body, re.MULTILINE
            )
            for url in whole_fleet.urls
        ]
        assert all(found)
        return sum(float(value) for values in found for value in values)

    wait_until(lambda: load() == 0, "the engines are idle")
    before = generated()
    body = chat(text(8000, uuid.uuid4().hex), "hello", stream=stream, max_tokens=400)
    with raw_request(router.url, CHAT, body):
        wait_until(lambda: load() == 1, "the prefill has begun")
        assert in_flight(router) == 1
    wait_until(lambda: load() == 0, "the engines are idle")
    wait_until(lambda: in_flight(router) == 0, "the router's counter is back")
    assert generated() < before + 400, "the answer was written to nobody"
    assert call(router.url, CHAT, chat("short", "hello")).status == 200
