"""Replicas that die under a burst which is mostly held in the router: every client gets an answer."""

from __future__ import annotations

import threading

from tests.support.router_thread import running, wait_until
from tests.support.sim_fleet import before, fleet
from tests.support.vllm_fleet import call

CONCURRENT = 80
TOKENS = 48
"""Of an answer: so many that it is seen to stream even by a router that gets to run but a few times a second. Nobody
waits for replicas whose answers come at once."""


def test_nothing_held_is_lost_when_a_replica_dies_and_comes_back() -> None:
    with fleet(2, "--prefill-tokens-per-s", "8000") as sims:
        with running(before(sims), 2) as router:
            gateway = router.worker.gateway
            assert gateway.hold is not None
            hold = gateway.hold
            outcomes: list[tuple[int, bool]] = []
            lock = threading.Lock()

            def ask(number: int) -> None:
                content = f"{number} " + f"word{number} " * 1200
                body = {"model": "sim", "messages": [{"role": "user", "content": content}]}
                answer = call(
                    router.url,
                    "/v1/chat/completions",
                    {**body, "max_tokens": TOKENS, "stream": True},
                    timeout_s=120.0,
                )
                whole = answer.body.endswith(b"data: [DONE]\n\n") or b'"replica_lost"' in answer.body
                with lock:
                    outcomes.append((answer.status, whole))

            threads = [threading.Thread(target=ask, args=(number,)) for number in range(CONCURRENT)]
            for thread in threads:
                thread.start()
            wait_until(lambda: hold.waiting > 20)
            sims[0].kill()
            wait_until(lambda: router.call(gateway.fleet.routable) == 1)
            sims[0].start()
            for thread in threads:
                thread.join(120)
            assert outcomes == [(200, True)] * CONCURRENT
            assert hold.waiting == 0
            router.assert_at_rest()
