"""Replicas drained, added and removed by hand while a router runs, with one worker and with several."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import urllib.error
import urllib.request
from typing import Any

import pytest

from tests.support.processes import RouterProcess, SimProcess
from tests.support.redis_server import RedisServer, free_port
from tests.support.router_thread import RouterThread, running, wait_until
from tests.support.sim_fleet import SimProcess as LoneSim
from tests.support.sim_fleet import before, fleet
from warmroute.cli.main import main
from warmroute.config.schema import ReplicaConfig

BODY = {"model": "sim", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}


def call(
    url: str, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data=data, method=method, headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            told = json.load(error)
            return error.code, told.get("error", told)


def states(url: str) -> dict[str, str]:
    return {row["id"]: row["state"] for row in call(url, "GET", "/replicas")[1]["replicas"]}


def replicas_used(router: RouterThread, requests: int = 8) -> set[str]:
    used = set()
    for number in range(requests):
        body = {**BODY, "messages": [{"role": "user", "content": f"{number} " * 50}]}
        status, headers, _ = router.post("/v1/chat/completions", body)
        assert status == 200
        used.add(headers["x-warmroute-replica"])
    return used


def test_a_drain_outlasts_rediscovery_and_ends_when_it_is_taken_back(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with fleet(2, "--speed", "1000") as sims, running(before(sims), 2) as router:
        (drained,), (other,) = sims[0].ids, sims[1].ids
        admin = ["--admin", router.admin_url.removeprefix("http://")]
        assert main(["drain", drained, "--wait", "30", *admin]) == 0
        assert "nothing in flight" in capsys.readouterr().out
        assert replicas_used(router) == {other}
        assert main(["drain", drained, *admin]) == 0, "again is harmless"

        config = router.worker.config
        for named in (config.replicas[1:], config.replicas):
            router.call(lambda n=named: router.worker.reload(dataclasses.replace(config, replicas=n)))
            wait_until(lambda n=named: len(states(router.admin_url)) == len(n))
        wait_until(lambda: states(router.admin_url)[other] == "ready")
        assert states(router.admin_url)[drained] == "draining"
        assert replicas_used(router) == {other}
        capsys.readouterr()
        assert main(["replicas", *admin]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line for line in lines if line.startswith(drained) and "draining (by hand)" in line]

        assert main(["undrain", drained, *admin]) == 0
        router.wait_ready(2)
        assert main(["drain", "10.9.9.9:1", *admin]) == 2
        said = capsys.readouterr().err
        assert "there is no replica '10.9.9.9:1'" in said
        assert drained in said, "it says which there are"
        assert main(["undrain", "10.9.9.9:1", *admin]) == 2


def test_one_rank_cannot_be_drained_alone() -> None:
    with LoneSim("--ranks", "2") as sim, running(before([sim]), 2) as router:
        status, error = call(router.admin_url, "POST", f"/replicas/{sim.ids[0]}%231/drain")
        assert status == 404
        assert f"name {sim.ids[0]}" in error["message"]
        assert call(router.admin_url, "POST", f"/replicas/{sim.ids[0]}/drain")[0] == 200
        assert set(states(router.admin_url).values()) == {"draining"}


def test_replicas_come_and_go_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    with fleet(3, "--speed", "1000") as sims, running(before(sims[:2]), 2) as router:
        url = router.admin_url
        added = {"url": sims[2].urls[0], "id": "third"}
        assert call(url, "POST", "/replicas", added) == (201, {"id": "third", "url": sims[2].urls[0]})
        router.wait_ready(3)
        wait_until(lambda: "third" in replicas_used(router))
        assert call(url, "POST", "/replicas", added)[1]["message"].startswith(
            "there is a replica 'third' already"
        )
        assert call(url, "POST", "/replicas", {"url": sims[2].urls[0]})[1]["param"] == "url"
        assert call(url, "POST", "/replicas", {"url": "ftp://x"})[0] == 400
        assert call(url, "POST", "/replicas", {"uri": "http://x:1"})[0] == 400
        assert call(url, "POST", "/replicas", {"url": "http://x:1", "ranks": 0})[0] == 400
        assert call(url, "DELETE", "/replicas/third")[0] == 200
        # At once, though it is still followed: nobody names it any more.
        status, error = call(url, "DELETE", "/replicas/third")
        assert (status, error["code"]) == (404, "replica_not_found")
        assert error["message"] == f"there is no replica 'third'; there are: {', '.join(sorted(states(url)))}"
        wait_until(lambda: "third" not in states(url))
        assert call(url, "DELETE", "/replicas/third")[0] == 404

        # One of the settings' own stays away until they have left it out, or it is added again.
        first = sims[0].ids[0]
        assert call(url, "DELETE", f"/replicas/{first}")[0] == 200
        wait_until(lambda: first not in states(url))
        router.call(lambda: router.worker.reload(router.worker.config))
        assert first not in states(url)
        assert call(url, "POST", "/replicas", {"url": sims[0].urls[0]})[0] == 201
        router.wait_ready(2)


def test_a_replica_that_cannot_be_reached_is_told_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    with LoneSim() as sim, running(before([sim]), 1) as router:
        url = router.admin_url
        gone = f"http://127.0.0.1:{free_port()}"
        assert call(url, "POST", "/replicas", {"url": gone, "id": "gone"})[0] == 201
        wait_until(lambda: "gone" in states(url))
        status, told = call(url, "POST", "/reset_prefix_cache?replica=gone", {})
        assert (status, told["replicas"][0]["error"]) == (502, "connection refused")
        # A command that was given the data port says so.
        data = router.url.removeprefix("http://")
        assert main(["replicas", "--admin", data]) == 2
        assert "no endpoint '/replicas' here: is this its admin port?" in capsys.readouterr().err


def test_a_reload_says_which_replicas_came_and_went(caplog: pytest.LogCaptureFixture) -> None:
    with fleet(2) as sims, running(before(sims[:1]), 1) as router, caplog.at_level("INFO"):
        new = dataclasses.replace(
            router.worker.config, replicas=(ReplicaConfig(url=sims[1].urls[0], id=sims[1].ids[0]),)
        )
        router.call(lambda: router.worker.reload(new))
        (record,) = [record for record in caplog.records if record.message == "reloaded"]
        told = record.fields  # type: ignore[attr-defined]
        assert (told["replicas_added"], told["replicas_removed"]) == (sims[1].ids[0], sims[0].ids[0])


def test_a_web_page_may_change_nothing() -> None:
    with LoneSim() as sim, running(before([sim]), 1) as router:
        for headers in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
            for method, path in (
                ("POST", f"/replicas/{sim.ids[0]}/drain"),
                ("POST", "/keys"),
                ("DELETE", "/keys/any"),
                ("POST", "/reset_prefix_cache"),
                ("POST", "/sleep"),
                ("POST", "/v1/load_lora_adapter"),
            ):
                status, error = call(router.admin_url, method, path, headers=headers)
                assert (status, error["code"]) == (403, "origin_not_allowed"), path
        assert states(router.admin_url) == {sim.ids[0]: "ready"}


def test_all_workers_of_a_router_follow_and_so_does_one_that_starts_later() -> None:
    with RedisServer() as redis, SimProcess(3) as sim:
        first, second, third = (url.removeprefix("http://") for url in sim.urls)
        with RouterProcess(sim.urls[:2], "--registry", redis.url, workers=2) as router:
            url = f"http://127.0.0.1:{router.admin_port}"

            def seen_by_both(wanted: dict[str, str]) -> None:
                # Workers answer the admin port in turn.
                wait_until(lambda: all(states(url) == wanted for _ in range(2)))

            seen_by_both({first: "ready", second: "ready"})
            assert call(url, "POST", f"/replicas/{first}/drain")[0] == 200
            assert call(url, "POST", "/replicas", {"url": sim.urls[2]})[0] == 201
            assert call(url, "DELETE", f"/replicas/{second}")[0] == 200
            assert call(url, "POST", "/replicas/nobody/drain")[0] == 404
            seen_by_both({first: "draining", third: "ready"})
            os.kill(router.worker_pids()[0], signal.SIGKILL)
            wait_until(lambda: router.output.count(" listening ") == 3)
            seen_by_both({first: "draining", third: "ready"})
            assert call(url, "POST", f"/replicas/{first}/undrain")[0] == 200
            seen_by_both({first: "ready", third: "ready"})
            assert router.chat("x")[0] == 200
