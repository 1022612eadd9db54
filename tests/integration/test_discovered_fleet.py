"""A whole router over a fleet that Kubernetes names: joins, drains, outages, reloads; streams see none of it."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_kubernetes import Call, KubernetesThread, endpoint, endpoint_slice, kubeconfig
from tests.support.router_thread import RouterThread, wait_until
from tests.support.scripted_upstream import SSE_HEAD, Connection, Received, ScriptedUpstream, chunk
from warmroute.config.load import load

BODY = {"model": "m", "prompt": "x", "stream": True}


def pod(
    name: str, upstream: ScriptedUpstream, *, terminating: bool = False, **of_slice: Any
) -> dict[str, Any]:
    """A slice with one pod."""
    row = endpoint(
        name, "127.0.0.1", ready=not terminating, serving=True, terminating=terminating, zone="eu-1a"
    )
    return endpoint_slice(name, [row], ports=[{"name": "http", "port": upstream.port}], **of_slice)


@pytest.fixture
def kubernetes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubernetesThread]:
    with KubernetesThread() as server:
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig(server.fake.url, tmp_path)))
        yield server


def settings(*urls: str) -> Any:
    flags = [("--listen", "listen", "127.0.0.1:0"), ("--admin", "admin", "127.0.0.1:0")]
    return load([*flags, ("--discover", "discovery", list(urls))], environ={})


def replicas(router: RouterThread) -> dict[str, Any]:
    with urllib.request.urlopen(f"{router.admin_url}/replicas", timeout=60) as answer:
        shown: dict[str, Any] = json.load(answer)
    return shown


def states(router: RouterThread) -> dict[str, str]:
    return {row["id"]: row["state"] for row in replicas(router)["replicas"]}


def test_a_pod_that_terminates_gets_nothing_new_and_finishes_its_stream(
    kubernetes: KubernetesThread,
) -> None:
    begun, over = threading.Event(), threading.Event()

    def slow(_upstream: ScriptedUpstream, connection: Connection, received: Received) -> bool:
        connection.send(SSE_HEAD + chunk(b'data: {"choices":[{"text":"1"}]}\n\n'))
        begun.set()
        assert over.wait(60)
        connection.send(chunk(b"data: [DONE]\n\n") + chunk(b""))
        return True

    with ScriptedUpstream(script=slow) as old, ScriptedUpstream() as new:
        kubernetes.do(lambda fake: fake.put(pod("old", old)))
        with RouterThread(settings("kubernetes://prod/vllm?port=http")) as router:
            router.wait_ready(1)
            (row,) = replicas(router)["replicas"]
            assert (row["id"], row["source"], row["zone"], row["draining"]) == (
                "old",
                "kubernetes://prod/vllm?port=http",
                "eu-1a",
                False,
            )
            answers: list[tuple[int, dict[str, str], bytes]] = []
            stream = threading.Thread(target=lambda: answers.append(router.post("/v1/completions", BODY)))
            stream.start()
            assert begun.wait(60)
            # As in a rolling update: the new one is ready, the old one terminates, and is gone.
            kubernetes.do(lambda fake: fake.put(pod("new", new)))
            wait_until(lambda: states(router).get("new") == "ready")
            kubernetes.do(lambda fake: fake.put(pod("old", old, terminating=True)))
            wait_until(lambda: states(router)["old"] == "draining")
            for _ in range(5):
                assert router.post("/v1/completions", BODY)[1]["x-warmroute-replica"] == "new"
            kubernetes.do(lambda fake: fake.delete("old"))
            wait_until(lambda: list(states(router)) == ["new"])
            over.set()
            stream.join(60)
            ((status, headers, body),) = answers
            assert (status, headers["x-warmroute-replica"]) == (200, "old")
            assert body.endswith(b"data: [DONE]\n\n")
            router.assert_at_rest()
    verbs = {Call(verb, "discovery.k8s.io", "endpointslices", "prod") for verb in ("list", "watch")}
    assert kubernetes.fake.calls == verbs


def test_an_outage_of_the_api_server_changes_nothing_and_is_shown(kubernetes: KubernetesThread) -> None:
    with ScriptedUpstream() as upstream:
        kubernetes.do(lambda fake: fake.put(pod("a", upstream)))
        url = "kubernetes://prod/vllm?port=http"
        with RouterThread(settings(url)) as router:
            router.wait_ready(1)

            def break_off(fake: Any) -> None:
                fake.rules = set()
                fake.cut()

            kubernetes.do(break_off)

            def source() -> dict[str, Any]:
                (row,) = replicas(router)["discovery"]
                return dict(row)

            wait_until(lambda: not source()["up"])
            assert "verbs" in source()["failing"]
            assert source()["errors_total"]["forbidden"] >= 1
            assert router.post("/v1/completions", BODY)[0] == 200
            with urllib.request.urlopen(f"{router.admin_url}/metrics", timeout=60) as answer:
                text = answer.read().decode()
            assert f'warmroute_discovery_up{{source="{url}"}} 0.0' in text
            assert f'warmroute_discovery_members{{source="{url}",state="ready"}} 1.0' in text


def test_other_sources_are_taken_over_without_a_restart_and_one_that_cannot_be_is_not(
    kubernetes: KubernetesThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ScriptedUpstream() as one, ScriptedUpstream() as other:
        kubernetes.do(lambda fake: fake.put(pod("a", one), pod("b", other, service="other")))
        with RouterThread(settings("kubernetes://prod/vllm")) as router:
            router.wait_ready(1)
            both = settings("kubernetes://prod/vllm", "kubernetes://prod/other?id_prefix=x-")
            router.call(lambda: router.worker.reload(both))
            wait_until(lambda: states(router) == {"a": "ready", "x-b": "ready"})
            monkeypatch.setenv("KUBECONFIG", "/nonexistent/kubeconfig")
            wrong = settings("kubernetes://prod/third")
            with pytest.raises(Exception, match=r"discovery\[0\].*no file '/nonexistent/kubeconfig'"):
                router.call(lambda: router.worker.reload(wrong))
            assert states(router) == {"a": "ready", "x-b": "ready"}
            last = settings("kubernetes://prod/other?id_prefix=x-")
            router.call(lambda: router.worker.reload(last))
            wait_until(lambda: states(router) == {"x-b": "ready"})
            assert [row["source"] for row in replicas(router)["discovery"]] == list(last.discovery)
