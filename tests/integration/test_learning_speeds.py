"""The router finds out which of its replicas is the fast one, from first-byte times alone."""

from __future__ import annotations

import json
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest

from tests.support.processes import RouterProcess, SimProcess
from tests.support.router_thread import wait_until

SLOW, FAST = "0.5", "4"
"""Times the modelled engine's speed: far enough apart for a machine that is busy with other things."""


def ask(router: RouterProcess, rng: Random) -> None:
    words = " ".join(f"{rng.getrandbits(24):06x}" for _ in range(rng.choice((150, 300, 600))))
    body = {"model": "sim", "max_tokens": 4, "stream": True, "messages": [{"role": "user", "content": words}]}
    body["stream_options"] = {"include_usage": True}
    request = urllib.request.Request(
        f"http://127.0.0.1:{router.port}/v1/chat/completions",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        answer.read()


def rows(router: RouterProcess) -> dict[str, dict[str, float]]:
    found = json.loads(router.admin("/replicas")[1])
    return {row["id"]: row for row in found["replicas"]}


@pytest.mark.timeout(180)
def test_estimates_of_a_fast_and_a_slow_replica_come_out_in_order() -> None:
    with SimProcess(1, "--speed", SLOW) as slow, SimProcess(1, "--speed", FAST) as fast:
        slow_id, fast_id = f"127.0.0.1:{slow.ports[0]}", f"127.0.0.1:{fast.ports[0]}"
        with RouterProcess([*slow.urls, *fast.urls]) as router, ThreadPoolExecutor(3) as pool:
            rng = Random(1)

            def told_apart() -> bool:
                list(pool.map(lambda _: ask(router, rng), range(12)))
                seen = rows(router)
                one, other = seen[slow_id], seen[fast_id]
                return (
                    min(one["speed_confidence"], other["speed_confidence"]) > 0.2
                    and other["prefill_tokens_per_s"] > 2.5 * one["prefill_tokens_per_s"]
                )

            wait_until(told_apart, 120)
            found = json.loads(router.admin("/replicas")[1])
            (model,) = found["models"]
            assert model["model"] == "sim"
            assert model["answers"] > 10
            assert model["answer_tokens_confidence"] > 0.1
            metrics = router.metrics()
            rate = 'warmroute_replica_prefill_tokens_per_second{replica="%s"}'
            assert metrics[rate % fast_id] > metrics[rate % slow_id]
            assert metrics['warmroute_model_bytes_per_token{model="sim"}'] > 0
