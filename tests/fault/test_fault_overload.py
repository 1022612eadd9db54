"""More than the fleet can begin, through the queue: who is not served is told so, and nothing is left behind."""

from __future__ import annotations

import threading
from dataclasses import replace

from tests.support.router_thread import running
from tests.support.sim_fleet import before, fleet
from tests.support.vllm_fleet import Answer, call
from warmroute.config.schema import QueueConfig

OFFERED = 48
TOKENS = 48
"""Of an answer: nobody waits for replicas whose answers come at once (`test_fault_hold`)."""


def test_who_is_not_served_is_refused_and_told_when_to_come_back() -> None:
    with fleet(2, "--prefill-tokens-per-s", "8000") as sims:
        config = replace(before(sims), queue=QueueConfig(enabled=True, timeout_s=2.0, batch_timeout_s=2.0))
        with running(config, 2) as router:
            answers: list[Answer] = []
            lock = threading.Lock()

            def ask(number: int) -> None:
                content = f"{number} " + f"word{number} " * 1200
                chat = {"model": "sim", "messages": [{"role": "user", "content": content}]}
                body = {**chat, "max_tokens": TOKENS, "stream": True}
                headers = {"X-Warmroute-Priority": ("interactive", "default", "batch")[number % 3]}
                answer = call(router.url, "/v1/chat/completions", body, headers=headers, timeout_s=120.0)
                with lock:
                    answers.append(answer)

            threads = [threading.Thread(target=ask, args=(number,)) for number in range(OFFERED)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(120)
            assert len(answers) == OFFERED
            refused = [answer for answer in answers if answer.status != 200]
            assert 0 < len(refused) < OFFERED
            for answer in refused:
                assert answer.status in (503, 504), answer.body
                assert int(answer.headers["retry-after"]) >= 1
            hold = router.worker.gateway.hold
            assert hold is not None
            assert hold.waiting == 0
            router.assert_at_rest()
