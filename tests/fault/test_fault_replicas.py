"""Replicas that are killed, hung and restarted under load: no client hears of it before its first byte."""

from __future__ import annotations

import json
import signal
import threading
from dataclasses import replace

from tests.support.router_thread import running, wait_until
from tests.support.sim_fleet import before, fleet
from tests.support.vllm_fleet import call
from warmroute.config.schema import HealthConfig, UpstreamConfig
from warmroute.core.health.health import ReplicaState

CONCURRENT = 50


def test_a_replica_killed_under_fifty_requests_costs_no_client_an_error_before_its_first_byte() -> None:
    # Slow enough that the kill meets requests in prefill and in the middle of their streams.
    with fleet(3, "--speed", "1", "--prefill-tokens-per-s", "4000") as sims:
        with running(before(sims), 3) as router:
            outcomes: list[tuple[int, str, bool]] = []
            lock = threading.Lock()

            def ask(number: int) -> None:
                stream = number % 2 == 0
                body = {
                    "model": "sim",
                    "messages": [{"role": "user", "content": f"{number} " + "word " * 300}],
                    "max_tokens": 40,
                    "stream": stream,
                }
                try:
                    answer = call(router.url, "/v1/chat/completions", body, timeout_s=60.0)
                except Exception as error:  # an answer that broke after its first byte, if it was no stream
                    outcome = (0, repr(error), stream)
                else:
                    broke = b'"replica_lost"' in answer.body
                    if answer.status == 200 and not broke:
                        assert answer.body.endswith(b"data: [DONE]\n\n") if stream else answer.json["choices"]
                    outcome = (answer.status, "broke" if broke else "", stream)
                with lock:
                    outcomes.append(outcome)

            threads = [threading.Thread(target=ask, args=(number,)) for number in range(CONCURRENT)]
            for thread in threads:
                thread.start()
            flying = router.worker.gateway.fleet.replicas

            def most() -> str:
                return max(flying.values(), key=lambda replica: replica.in_flight).id

            wait_until(lambda: router.call(lambda: max(r.in_flight for r in flying.values())) >= 10)
            busiest = router.call(most)
            victim = next(sim for sim in sims if sim.ids[0] == busiest)
            victim.kill()
            for thread in threads:
                thread.join(60)
            assert len(outcomes) == CONCURRENT, "nothing is lost"
            assert [outcome for outcome in outcomes if outcome[0] != 200] == []
            assert all(stream for _, broke, stream in outcomes if broke), "only a begun stream may break"
            assert router.call(lambda: flying[busiest].state) is ReplicaState.EJECTED
            router.assert_at_rest()
            victim.start()
            router.wait_ready(3)
            router.assert_at_rest()


def test_a_hung_replica_is_left_alone_until_it_answers_again() -> None:
    with fleet(2, "--speed", "50") as sims:
        config = replace(
            before(sims),
            health=HealthConfig(probe_interval_s=0.2, probe_timeout_s=1.5),
            upstream=UpstreamConfig(first_byte_timeout_s=5.0),
        )
        with running(config, 2) as router:
            sims[0].signal(signal.SIGSTOP)
            try:
                wait_until(lambda: router.call(router.worker.gateway.fleet.routable) == 1)
                for number in range(10):
                    body = {
                        "model": "sim",
                        "messages": [{"role": "user", "content": f"{number}"}],
                        "max_tokens": 2,
                    }
                    status, headers, answer = router.post("/v1/chat/completions", body)
                    assert status == 200
                    assert headers["x-warmroute-replica"] == sims[1].ids[0]
                    assert json.loads(answer)["choices"]
            finally:
                sims[0].signal(signal.SIGCONT)
            router.wait_ready(2)
            router.assert_at_rest()
