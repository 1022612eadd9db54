"""Replicas that accept and say nothing, or are stopped in the middle: their requests are answered elsewhere."""

from __future__ import annotations

import http.client
import json
import signal
import threading
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from tests.support.router_thread import RouterThread, running, wait_until
from tests.support.sim_fleet import SimProcess, before, fleet
from tests.support.vllm_fleet import Answer, call
from warmroute.config.schema import HealthConfig, UpstreamConfig
from warmroute.core.health.health import ReplicaState

CHAT = "/v1/chat/completions"
SOON = UpstreamConfig(late_min_s=0.5)
HEALTH = HealthConfig(probe_interval_s=0.2, probe_timeout_s=0.5)


def chat(number: int, *, stream: bool, tokens: int = 8, **more: Any) -> dict[str, Any]:
    content = f"{number} " + "word " * 50
    messages = [{"role": "user", "content": content}]
    return {"model": "sim", "messages": messages, "max_tokens": tokens, "stream": stream, **more}


def whole(answer: Answer, stream: bool) -> bool:
    if answer.status != 200:
        return False
    if stream:
        return answer.body.endswith(b"data: [DONE]\n\n") and b'"error"' not in answer.body
    return bool(answer.json["choices"])


def ask_all(router: RouterThread, count: int, **more: Any) -> list[bool]:
    """So many requests at once, every second one a stream. Whether each was answered whole."""
    outcomes: list[bool] = [False] * count

    def ask(number: int) -> None:
        stream = number % 2 == 0
        body = chat(number, stream=stream, **more)
        outcomes[number] = whole(call(router.url, CHAT, body, timeout_s=60.0), stream)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return outcomes


def arm(sim: SimProcess, **fault: Any) -> None:
    data = json.dumps(fault).encode()
    request = urllib.request.Request(f"{sim.urls[0]}/sim/fault", data, {"Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=60).close()


def test_an_engine_that_hangs_behind_a_healthy_server_is_found_out_and_costs_no_error() -> None:
    with fleet(3) as sims, running(replace(before(sims), upstream=SOON), 3) as router:
        assert all(ask_all(router, 20)), "what is usual is learned"
        arm(sims[0], kind="hang", count=-1)
        assert all(ask_all(router, 30))
        replicas = router.worker.gateway.fleet.replicas
        silent = replicas[sims[0].ids[0]]  # type: ignore[index]
        wait_until(lambda: router.call(lambda: silent.health.failures) >= 1)
        metrics = router.worker.gateway.metrics
        assert metrics.second_wins["silence"] >= 1
        assert "replica_timeout" not in metrics.errors
        router.assert_at_rest()


def test_a_replica_that_is_stopped_is_ejected_at_once_and_its_requests_go_elsewhere() -> None:
    with fleet(3) as sims:
        config = replace(before(sims), upstream=SOON, health=HEALTH)
        with running(config, 3) as router:
            assert all(ask_all(router, 20))
            sims[0].signal(signal.SIGSTOP)
            try:
                assert all(ask_all(router, 30))
                replicas = router.worker.gateway.fleet.replicas
                stopped = replicas[sims[0].ids[0]]  # type: ignore[index]
                wait_until(lambda: router.call(lambda: stopped.state) is ReplicaState.EJECTED)
            finally:
                sims[0].signal(signal.SIGCONT)
            router.wait_ready(3)
            router.assert_at_rest()


def cut_streams(
    strike: Callable[[SimProcess], None], *, failover: bool = True
) -> tuple[list[bytes], list[bytes]]:
    """Streams over three replicas, of which one is struck in the middle of them, and the same ones left alone."""
    with fleet(3, "--speed", "4") as sims:
        config = replace(before(sims), upstream=SOON, health=HEALTH, failover=failover)
        with running(config, 3) as router:
            bodies = [chat(number, stream=True, tokens=100) for number in range(12)]
            for body in bodies[::2]:
                body["stream_options"] = {"include_usage": True}
            read: list[bytes] = [b""] * len(bodies)
            under_way = threading.Barrier(len(bodies) + 1, timeout=60.0)

            def ask(number: int) -> None:
                connection = http.client.HTTPConnection("127.0.0.1", router.port, timeout=60.0)
                connection.request("POST", CHAT, json.dumps(bodies[number]))
                answer = connection.getresponse()
                while read[number].count(b"data: ") < 4:
                    read[number] += answer.read1(65536)
                under_way.wait()
                read[number] += answer.read()
                connection.close()

            threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(bodies))]
            for thread in threads:
                thread.start()
            under_way.wait()
            flying = router.worker.gateway.fleet.replicas
            busiest = router.call(lambda: max(flying.values(), key=lambda replica: replica.in_flight).id)
            victim = next(sim for sim in sims if sim.ids[0] == busiest)
            strike(victim)
            for thread in threads:
                thread.join(60)
            if victim.running:
                victim.signal(signal.SIGCONT)
            router.assert_at_rest()
            left = next(sim for sim in sims if sim is not victim)
            with ThreadPoolExecutor(len(bodies)) as pool:
                uncut = list(pool.map(lambda body: call(left.urls[0], CHAT, body).body, bodies))
    return read, uncut


def told(stream: bytes) -> tuple[str, int, list[str], Any]:
    """Text, role deltas, finish reasons and usage of a stream of one id."""
    chunks = [json.loads(line[6:]) for line in stream.split(b"\n\n") if line.startswith(b"data: {")]
    choices = [chunk["choices"][0] for chunk in chunks if chunk["choices"]]
    assert len({(chunk["id"], chunk["created"]) for chunk in chunks}) == 1
    usage = chunks[-1].get("usage")
    if usage is not None:
        del usage["prompt_tokens_details"]
    return (
        "".join(choice["delta"].get("content") or "" for choice in choices),
        sum("role" in choice["delta"] for choice in choices),
        [choice["finish_reason"] for choice in choices if choice["finish_reason"]],
        usage,
    )


def test_streams_of_a_killed_replica_go_on_elsewhere_as_if_nothing_had_happened() -> None:
    read, uncut = cut_streams(SimProcess.kill)
    assert all(stream.endswith(b"data: [DONE]\n\n") and b'"error"' not in stream for stream in read)
    assert [told(stream) for stream in read] == [told(stream) for stream in uncut]


def test_streams_of_a_stopped_replica_go_on_elsewhere_too() -> None:
    read, uncut = cut_streams(lambda sim: sim.signal(signal.SIGSTOP))
    assert [told(stream) for stream in read] == [told(stream) for stream in uncut]


def test_without_failover_a_killed_replicas_streams_end_with_an_error_at_once() -> None:
    read, _ = cut_streams(SimProcess.kill, failover=False)
    broke = [stream for stream in read if b'"replica_lost"' in stream]
    assert broke
    assert all(stream.endswith(b"data: [DONE]\n\n") for stream in read)
