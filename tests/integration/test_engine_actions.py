"""What operators and trainers do to engines, seen through a router: pause, scaling, resets, weights, adapters."""

from __future__ import annotations

import json
import signal
import threading
import urllib.error
import urllib.request
from typing import Any

import pytest

from tests.support.router_thread import RouterThread, running, wait_until
from tests.support.sim_fleet import SimProcess, before, fleet
from warmroute.core.types import ReplicaId

ARGUMENTS = ("--model", "sim-model", "--speed", "1000", "--lora", "sql")
PROMPT = "which one? " * 200


def call(url: str, path: str, body: Any = None, method: str = "POST") -> tuple[int, Any]:
    data = None if method == "GET" else json.dumps(body or {}).encode()
    request = urllib.request.Request(url + path, data=data, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def row(router: RouterThread, replica: str) -> dict[str, Any]:
    rows = call(router.admin_url, "/replicas", method="GET")[1]["replicas"]
    found: dict[str, Any] = next(row for row in rows if row["id"] == replica)
    return found


def ask(router: RouterThread, model: str = "sim-model") -> tuple[str, str, int]:
    """Who answered, why, and how much was cached there."""
    body = {"model": model, "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 2}
    status, headers, answer = router.post("/v1/chat/completions", body)
    assert status == 200, answer
    cached = json.loads(answer)["usage"]["prompt_tokens_details"]["cached_tokens"]
    return headers["x-warmroute-replica"], headers["x-warmroute-decision"], cached


def url_of(sims: list[SimProcess], replica: str) -> str:
    return next(sim.urls[0] for sim in sims if sim.ids[0] == replica)


def others(sims: list[SimProcess], replica: str) -> set[str]:
    return {sim.ids[0] for sim in sims} - {replica}


@pytest.mark.parametrize("refuses", [True, False])
def test_nobody_is_refused_by_an_engine_that_is_paused_and_it_is_back_when_it_goes_on(refuses: bool) -> None:
    more = ("--pause-refuses",) if refuses else ()
    with fleet(2, *ARGUMENTS, *more) as sims, running(before(sims), 2) as router:
        home = ask(router)[0]
        # Behind the router's back: traffic finds out where new requests are refused; else a look at /is_paused must.
        assert call(url_of(sims, home), "/pause")[0] == 200
        if refuses:
            assert ask(router)[0] != home
        else:
            router.call(lambda: router.worker._probe_soon(ReplicaId(home), thoroughly=True))
        wait_until(lambda: row(router, home)["state"] == "ejected")
        assert {ask(router)[0] for _ in range(6)} == others(sims, home)
        assert "paused" in row(router, home)["last_failure"]
        assert row(router, home)["failures"] == 0, "a pause is no failure"
        assert call(url_of(sims, home), "/resume")[0] == 200
        wait_until(lambda: row(router, home)["state"] == "ready")
        router.assert_at_rest()


def test_a_server_that_scales_is_left_alone_until_it_has_done_so() -> None:
    with fleet(2, *ARGUMENTS) as sims, running(before(sims), 2) as router:
        home = ask(router)[0]
        scaling = threading.Thread(
            target=call, args=(url_of(sims, home), "/scale_elastic_ep", {"new_data_parallel_size": 1})
        )
        scaling.start()
        wait_until(lambda: call(url_of(sims, home), "/is_scaling_elastic_ep")[1]["is_scaling_elastic_ep"])
        assert {ask(router)[0] for _ in range(4)} == others(sims, home)
        assert row(router, home)["failures"] == 0
        scaling.join()
        wait_until(lambda: row(router, home)["state"] in ("ready", "probing"))
        router.assert_at_rest()


@pytest.mark.parametrize("path", ["/reset_prefix_cache", "/pause"])
def test_what_was_noted_of_a_cache_that_is_emptied_through_the_router_is_void(path: str) -> None:
    with fleet(2, *ARGUMENTS) as sims, running(before(sims), 2) as router:
        home = ask(router)[0]
        assert ask(router)[:2] == (home, "warm")
        life = row(router, home)["incarnation"]
        assert call(router.admin_url, path)[0] == 200
        assert row(router, home)["incarnation"] != life
        if path == "/pause":
            assert call(router.admin_url, "/resume")[0] == 200
            router.wait_ready(2)
        _, decision, cached = ask(router)
        assert (decision, cached) == ("ring", 0)
        assert row(router, home)["restarts_total"] == 0
        assert ask(router)[1] == "warm", "and what is noted since is found"


def test_new_weights_void_what_was_noted_when_a_probe_reads_their_version() -> None:
    with fleet(2, *ARGUMENTS) as sims, running(before(sims), 2) as router:
        home = ask(router)[0]
        life = row(router, home)["incarnation"]
        told = call(router.admin_url, f"/update_weight_version?replica={home}", {"new_version": "step-2"})
        if told[0] != 200:  # not one of the engines' endpoints that are passed on: as a trainer does it
            assert call(url_of(sims, home), "/update_weight_version", {"new_version": "step-2"})[0] == 200
            router.call(lambda: router.worker._probe_soon(ReplicaId(home), thoroughly=True))
        wait_until(lambda: row(router, home)["incarnation"] != life)
        assert row(router, home)["restarts_total"] == 0
        assert row(router, home)["state"] == "ready"


def test_an_adapter_loaded_in_place_from_its_own_path_has_the_cache_reset() -> None:
    with fleet(2, *ARGUMENTS) as sims, running(before(sims), 2) as router:
        home = ask(router, "sql")[0]
        assert ask(router, "sql")[2] > 0
        life = row(router, home)["incarnation"]
        same = {"lora_name": "sql", "lora_path": "/adapters/sql", "load_inplace": True}
        # The simulated engine answers in text, as vLLM does.
        _, told = call(router.admin_url, "/v1/load_lora_adapter", same)
        assert [answer["cache_reset"] for answer in told["replicas"]] == [True, True]
        assert row(router, home)["incarnation"] != life
        assert ask(router, "sql")[2] == 0, "nothing is answered from what the old weights computed"

        life = row(router, home)["incarnation"]
        wait_until(
            lambda: router.call(lambda: all("sql" in r.cards for r in router.worker.fleet.replicas.values()))
        )
        other = {"lora_name": "sql", "lora_path": "/adapters/sql-2", "load_inplace": True}
        _, told = call(router.admin_url, "/v1/load_lora_adapter", other)
        assert all("cache_reset" not in answer for answer in told["replicas"]), "other weights, other hashes"
        assert row(router, home)["incarnation"] == life


def test_an_engine_that_drains_finishes_what_it_has_and_what_is_new_goes_elsewhere() -> None:
    arguments = ("--model", "sim-model", "--speed", "20", "--shutdown-timeout", "60")
    with fleet(2, *arguments) as sims, running(before(sims), 2) as router:
        home = ask(router)[0]
        sim = next(sim for sim in sims if sim.ids[0] == home)
        long = {
            "model": "sim-model",
            "prompt": "go on",
            "max_tokens": 400,
            "ignore_eos": True,
            "stream": True,
        }
        done: list[bytes] = []
        stream = threading.Thread(target=lambda: done.append(router.post("/v1/completions", long)[2]))
        stream.start()
        wait_until(lambda: sum(row(router, s.ids[0])["in_flight"] for s in sims) == 1)
        sim.signal(signal.SIGTERM)
        for _ in range(4):
            ask(router)
        stream.join()
        assert done[0].rstrip().endswith(b"[DONE]")
        assert b"error" not in done[0]
        router.assert_at_rest()
