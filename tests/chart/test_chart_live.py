"""The rendered containers, run as processes: they start, every probe's path is answered, and `helm test` finds it warm.

Commands, arguments, variables and files are those of the manifests; only ports and places are others. The API server is
a fake, which allows what the rendered Role does.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from tests.support.chart import CHART, Manifest, container, manifests, named, pod_of
from tests.support.fake_kubernetes import (
    Call,
    FakeKubernetes,
    KubernetesThread,
    endpoint,
    endpoint_slice,
    kubeconfig,
)
from tests.support.processes import Program
from tests.support.redis_server import ensure_redis, free_port
from tests.support.router_thread import wait_until
from warmroute_replica.cli import main

MODULES = {"warmroute": "warmroute.cli.main", "warmroute-replica": "warmroute_replica.cli"}
# With a key that the engine asks for, so that it is seen to reach everybody.
RENDERED = manifests(
    "simulated",
    settings=(
        "pools.sim.apiKey.existingSecret=engine-key",
        "router.upstreamApiKey.existingSecret=engine-key",
    ),
)
PASSWORD = "made-once-and-kept-in-a-Secret"


@dataclass
class Fleet:
    """One container of each kind, and where its ports are here."""

    place: Path
    kubernetes: FakeKubernetes
    ports: dict[int, int] = field(default_factory=lambda: {p: free_port() for p in (6379, 8000, 8001, 8011)})
    engine_port: int = field(default_factory=free_port)

    def moved(self, text: str, http: int) -> str:
        """A text of a manifest with this machine's addresses; `http` stands for port 8000."""
        text = text.replace("warmroute-redis:6379", f"127.0.0.1:{self.ports[6379]}").replace(
            "0.0.0.0", "127.0.0.1"
        )
        text = re.sub(r"\b8000\b", str(http), text)
        return re.sub(r"\b(8001|8011)\b", lambda match: str(self.ports[int(match[0])]), text)

    def start(self, each: Manifest, http: int, opened: ExitStack) -> Program:
        """Run a container's command."""
        known = {"POD_IP": "127.0.0.1"}
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("KUBECONFIG", str(kubeconfig(self.kubernetes.url, self.place)))
            for variable in each.get("env", ()):
                value = variable.get("value") or known.get(variable["name"])
                value = value or ("warmroute-sim-0" if "fieldRef" in str(variable) else PASSWORD)
                value = re.sub(r"\$\((\w+)\)", lambda match: known[match[1]], value)
                known[variable["name"]] = value
                patch.setenv(variable["name"], self.moved(value, http))
            words = [
                self.moved(word, http).replace("/etc/warmroute", str(self.place)) for word in each["args"]
            ]
            words = [re.sub(r"\$\((\w+)\)", lambda match: known[match[1]], word) for word in words]
            return opened.enter_context(Program(MODULES[each["command"][0]], *words))

    def url(self, each: Manifest, port: str | int) -> str:
        """Base URL of a container's port."""
        number = next((p["containerPort"] for p in each.get("ports", ()) if p["name"] == port), port)
        number = self.engine_port if each["name"] == "engine" and number == 8000 else self.ports[int(number)]
        return f"http://127.0.0.1:{number}"


def _engine_pod() -> Manifest:
    return pod_of(named(RENDERED, "StatefulSet", "warmroute-sim"))


CONTAINERS = {
    "engine": container(_engine_pod(), "engine"),
    "agent": container(_engine_pod(), "agent"),
    "router": container(pod_of(named(RENDERED, "Deployment", "warmroute-router")), "router"),
}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    place = tmp_path_factory.mktemp("chart")
    role = named(RENDERED, "Role", "warmroute")
    (rule,) = role["rules"]
    kubernetes = FakeKubernetes()
    kubernetes.rules = {
        Call(verb, group, resource, role["metadata"]["namespace"])
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    here = Fleet(place, kubernetes)
    conf = named(RENDERED, "ConfigMap", "warmroute-redis")["data"]["redis.conf"]
    conf = conf.replace("port 6379", f"port {here.ports[6379]}").replace("dir /data", f"dir {place}")
    (place / "redis.conf").write_text(conf)
    config = named(RENDERED, "ConfigMap", "warmroute-router")["data"]["config.yaml"]
    (place / "config.yaml").write_text(here.moved(config, here.ports[8000]))
    server = subprocess.Popen(
        [ensure_redis(), str(place / "redis.conf"), "--requirepass", PASSWORD], stdout=subprocess.DEVNULL
    )
    try:
        with ExitStack() as opened:
            thread = opened.enter_context(KubernetesThread(kubernetes))
            thread.do(lambda fake: fake.put(_slice(here.engine_port)))
            for name, each in CONTAINERS.items():
                http = here.ports[8000] if name == "router" else here.engine_port
                program = here.start(each, http, opened)
                try:
                    get = each["readinessProbe"]["httpGet"]
                    wait_until(partial(_answers, here.url(each, get["port"]) + get["path"]))
                except AssertionError as error:
                    error.add_note(f"{name}: {program.output}")
                    raise
            yield here
    finally:
        server.terminate()
        server.wait()


def _slice(port: int) -> Manifest:
    """What Kubernetes would make of the pool's Service."""
    service = named(RENDERED, "Service", "warmroute-sim")
    return endpoint_slice(
        "warmroute-sim-x7k2p",
        [endpoint("warmroute-sim-0", "127.0.0.1")],
        service=service["metadata"]["name"],
        namespace=service["metadata"]["namespace"],
        ports=[{"name": each["name"], "port": port, "protocol": "TCP"} for each in service["spec"]["ports"]],
        labels=service["metadata"]["labels"],
    )


def _answers(url: str) -> bool:
    return _status(url) == 200


def _status(url: str) -> int | None:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def _run_test(url: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(CHART / "files" / "test.py"), url, "60", "sim"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "API_KEY": PASSWORD},
    )


def test_the_second_request_is_warm(fleet: Fleet) -> None:
    done = _run_test(f"http://127.0.0.1:{fleet.ports[8000]}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("warm\n")


def test_the_test_fails_where_nobody_routes(fleet: Fleet) -> None:
    done = _run_test(f"http://127.0.0.1:{fleet.engine_port}")
    assert done.returncode == 1
    assert "no X-Warmroute- headers" in done.stderr


def test_the_router_may_do_exactly_what_it_does(fleet: Fleet) -> None:
    assert fleet.kubernetes.calls == fleet.kubernetes.rules


def test_every_probe_and_hook_asks_for_what_is_answered(fleet: Fleet) -> None:
    asked = 0
    hooks = []
    for each in CONTAINERS.values():
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            if probe in each:
                asked += 1
                get = each[probe]["httpGet"]
                assert _status(fleet.url(each, get["port"]) + get["path"]) == 200, (each["name"], probe)
        if "httpGet" in each.get("lifecycle", {}).get("preStop", {}):
            hooks.append(each)
    assert asked == 8
    (engine,) = hooks
    get = engine["lifecycle"]["preStop"]["httpGet"]
    assert _status(fleet.url(engine, get["port"]) + get["path"]) == 200
    # It has withdrawn the replica, so the pod is not ready any more, and it lives.
    agent = CONTAINERS["agent"]
    statuses = [
        _status(fleet.url(agent, "agent") + agent[probe]["httpGet"]["path"])
        for probe in ("readinessProbe", "livenessProbe")
    ]
    assert statuses == [503, 200]


def test_the_agent_knows_every_variable_that_it_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["agent", "--help"])
    known = capsys.readouterr().out
    given = [v["name"] for v in CONTAINERS["agent"]["env"] if v["name"].startswith("WARMROUTE_AGENT_")]
    assert len(given) >= 7
    for name in given:
        flag = "--" + name.removeprefix("WARMROUTE_AGENT_").lower().replace("_", "-")
        assert re.search(rf"{flag}\b", known), name


def test_vllm_is_asked_as_the_simulated_replica_is() -> None:
    engines = [
        container(pod_of(named(manifests(scenario), "StatefulSet", name)), "engine")
        for scenario, name in (("minimal", "warmroute-vllm"), ("simulated", "warmroute-sim"))
    ]
    paths = [
        {engine[probe]["httpGet"]["path"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")}
        for engine in engines
    ]
    assert paths == [{"/health"}, {"/health"}]
