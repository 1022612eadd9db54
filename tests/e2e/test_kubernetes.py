"""The chart on a real cluster of one node: installed, found warm, rolled, broken, upgraded, rolled back, removed.

`make e2e-k8s`. The tests are steps of one story, in order, over one release. 20 requests a second go on through every
step that must not be noticed.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import yaml

from tests.e2e.cluster import NEXT, ROOT, Cluster, lacking, report
from tests.support.helm import helm

if (missing := lacking()) is not None:
    pytest.skip(missing, allow_module_level=True)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

CHART = ROOT / "helm/warmroute"
RATE = 20
WARM_WITHIN_S = 60.0
LONG_STREAM_S = 30.0
STEP_MS = 200
"""A step of decoding, so slow that an answer of 150 tokens takes 30 s without using the machine up."""

ASK = """
import json, sys, urllib.request
body = {"model": "sim", "max_tokens": 2, "messages": [{"role": "user", "content": sys.argv[2] * 400}]}
request = urllib.request.Request(sys.argv[1] + "/v1/chat/completions", json.dumps(body).encode(),
                                 {"Content-Type": "application/json"})
with urllib.request.urlopen(request, timeout=20) as answer:
    print(json.load(answer)["usage"]["prompt_tokens_details"]["cached_tokens"])
"""
GET = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode())"


class Release:
    """The chart, and what helm and tests need to know of it."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.chart = cluster.place / "chart"
        shutil.copytree(CHART, self.chart)
        self.values: dict[str, Any] = yaml.safe_load((CHART / "ci/simulated-values.yaml").read_text())
        self.values["pools"]["sim"]["args"] = ["--decode-step-ms", str(STEP_MS)]
        minor = int(
            re.sub(r"\D", "", json.loads(cluster.run("kubectl", "get", "--raw", "/version"))["minor"])
        )
        if minor < 28:
            # What such a server lacks is left out: policy/v1, and with it the budgets. Its kubelet puts a slash before
            # the path of a hook, whatever it begins with (mended in 1.26), and would ask for //prestop.
            replica = self.chart / "templates/_replica.tpl"
            replica.write_text(replica.read_text().replace("path: /prestop", "path: prestop"))
            text = (self.chart / "Chart.yaml").read_text()
            (self.chart / "Chart.yaml").write_text(
                re.sub(r"kubeVersion: .*", 'kubeVersion: ">=1.20.0-0"', text)
            )
            self.values["router"]["podDisruptionBudget"] = {"enabled": False}
            self.values["pools"]["sim"]["podDisruptionBudget"] = {"enabled": False}
        self.file = cluster.place / "values.yaml"
        self.file.write_text(yaml.safe_dump(self.values))

    def helm(self, *words: str) -> str:
        return self.cluster.run(helm(), *words, "-n", "prod")

    def install(self) -> None:
        self.helm("install", "warmroute", str(self.chart), "--create-namespace", "-f", str(self.file))

    @property
    def url(self) -> str:
        spec = self.cluster.get("service", "warmroute")["spec"]
        return f"http://{spec['clusterIP']}:{spec['ports'][0]['port']}"

    def pods(self, component: str) -> list[str]:
        """Names of its pods that are not about to go."""
        found = self.cluster.get("pods", "-l", f"app.kubernetes.io/component={component}")["items"]
        return [pod["metadata"]["name"] for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def known(self) -> set[str]:
        """Replicas that a router would send requests to, as it says itself."""
        (router, *_) = self.cluster.get("pods", "-l", "app.kubernetes.io/component=router")["items"]
        rows = json.loads(self.cluster.python(GET, f"http://{router['status']['podIP']}:8001/replicas"))[
            "replicas"
        ]
        return {row["id"] for row in rows if row["state"] == "ready"}

    def rolled(self, *workloads: str) -> None:
        """Restart these and wait until they are new."""
        self.cluster.kubectl("rollout", "restart", *workloads)
        for workload in workloads:
            self.cluster.kubectl("rollout", "status", workload, "--timeout=400s", timeout_s=420)

    @contextmanager
    def under_load(self, what: str) -> Iterator[None]:
        """20 requests a second while the block runs, none of which may fail."""
        load = self.cluster.load(self.url, str(RATE), "600", "2")
        try:
            time.sleep(3)
            yield
            time.sleep(3)
        finally:
            found = report(load)
            print(f"\n{what}: {json.dumps(found)}")
        assert found["sent"] > RATE
        assert found["failed"] == 0, found


@pytest.fixture(scope="module")
def release() -> Iterator[Release]:
    with Cluster() as cluster:
        yield Release(cluster)


def patiently(holds: Callable[[], bool], seconds: float) -> float:
    """How long it took until this held; fails after so many seconds."""
    began = time.monotonic()
    while True:
        try:
            if holds():
                return time.monotonic() - began
        except AssertionError:
            pass  # not even an answer yet
        assert time.monotonic() - began < seconds, f"not so after {seconds} s"
        time.sleep(0.2)


def test_the_second_request_after_the_install_is_warm(release: Release) -> None:
    began = time.monotonic()
    release.install()

    def warm() -> bool:
        return int(release.cluster.python(ASK, release.url, f"question of {began} ")) > 0

    patiently(warm, 300)
    took_s = time.monotonic() - began
    print(f"\nhelm install to the first warm answer: {took_s:.1f} s")
    release.cluster.kubectl("rollout", "status", "deployment/warmroute-router", "--timeout=200s")
    release.cluster.kubectl("rollout", "status", "statefulset/warmroute-sim", "--timeout=200s")
    assert took_s < WARM_WITHIN_S


def test_helm_test_finds_it_warm(release: Release) -> None:
    assert "Succeeded" in release.helm("test", "warmroute", "--timeout", "120s")


def test_routers_know_the_pods_of_real_endpoint_slices(release: Release) -> None:
    cluster = release.cluster
    patiently(lambda: release.known() == {f"warmroute-sim-{n}" for n in range(3)}, 30)
    cluster.kubectl("scale", "statefulset/warmroute-sim", "--replicas=4")
    cluster.kubectl("rollout", "status", "statefulset/warmroute-sim", "--timeout=120s")
    print(
        f"\na fourth replica took part {patiently(lambda: len(release.known()) == 4, 30):.1f} s after it was ready"
    )
    cluster.kubectl("scale", "statefulset/warmroute-sim", "--replicas=3")
    print(
        f"none was sent to it {patiently(lambda: len(release.known()) == 3, 60):.1f} s after it was told to go"
    )


def test_routers_are_restarted_and_no_request_fails(release: Release) -> None:
    before = set(release.pods("router"))
    with release.under_load("rolling restart of the routers"):
        release.rolled("deployment/warmroute-router")
    assert before.isdisjoint(release.pods("router"))


def test_replicas_are_restarted_and_no_request_fails(release: Release) -> None:
    with release.under_load("rolling restart of the replicas"):
        release.rolled("statefulset/warmroute-sim")


@pytest.mark.parametrize("component", ["router", "pool-sim"])
def test_a_pod_is_deleted_and_no_request_fails(release: Release, component: str) -> None:
    victim = release.pods(component)[0]
    with release.under_load(f"deletion of {victim}"):
        release.cluster.kubectl("delete", "pod", victim, "--wait=true", timeout_s=200)
        time.sleep(5)


def test_a_replica_is_killed_and_no_request_fails(release: Release) -> None:
    with release.under_load("a replica without a chance to drain"):
        release.cluster.kubectl("delete", "pod", release.pods("pool-sim")[-1], "--grace-period=0", "--force")
        time.sleep(10)


def test_streams_of_30_s_are_not_cut_by_restarts(release: Release) -> None:
    tokens = int(LONG_STREAM_S * 1000 / STEP_MS)
    streams = release.cluster.load(release.url, "1", "90", str(tokens), "--stream")
    time.sleep(5)
    try:
        release.rolled("deployment/warmroute-router", "statefulset/warmroute-sim")
    finally:
        found = report(streams)
        print(f"\nstreams of 30 s: {json.dumps(found)}")
    assert found["longest_s"] >= LONG_STREAM_S
    assert found["failed"] == 0, found


def test_upgrade_and_rollback_go_unnoticed(release: Release) -> None:
    def tags() -> set[str]:
        pods = release.cluster.get("pods", "-l", "app.kubernetes.io/component=router")["items"]
        return {c["image"].rpartition(":")[2] for pod in pods for c in pod["spec"]["containers"]}

    words = ["--wait", "--timeout", "400s"]
    with release.under_load("helm upgrade to another image"):
        release.helm(
            "upgrade",
            "warmroute",
            str(release.chart),
            "-f",
            str(release.file),
            "--set",
            f"image.tag={NEXT}",
            *words,
        )
    patiently(lambda: tags() == {NEXT}, 120)
    with release.under_load("helm rollback"):
        release.helm("rollback", "warmroute", "1", *words)
    patiently(lambda: NEXT not in tags(), 120)


def test_nothing_is_left_of_it(release: Release) -> None:
    release.helm("uninstall", "warmroute", "--wait", "--timeout", "200s")
    kinds = "deployments,statefulsets,services,configmaps,serviceaccounts,roles,rolebindings,networkpolicies"
    found = release.cluster.get(kinds, "-l", "app.kubernetes.io/instance=warmroute")["items"]
    assert [f"{each['kind']}/{each['metadata']['name']}" for each in found] == []
