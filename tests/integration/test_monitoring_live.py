"""The dashboard and the alerts before a real Prometheus, which scrapes real routers whose replicas partly fail."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml

from tests.support.processes import RouterProcess, SimProcess
from tests.support.prometheus import Prometheus, ensure_programs, scraping
from tests.support.redis_server import RedisServer, free_port
from tests.support.router_thread import wait_until

ROOT = Path(__file__).parents[2]
RULES = ROOT / "helm/warmroute/files/rules.yaml"
DASHBOARD = json.loads((ROOT / "helm/warmroute/files/dashboard.json").read_text())
CONVERSATIONS = 24
PAUSE_S = 0.3
"""Between two rounds of questions."""
VARIABLES = {
    "$__rate_interval": "1m", "$__range": "5m", "$job": "router", "$namespace": "test", "$instance": ".*",
    "$model": "sim", "$replica": ".*", "$gpus": "2",
}  # fmt: skip


def panels() -> list[dict[str, Any]]:
    flat = []
    for panel in DASHBOARD["panels"]:
        flat += [panel, *panel.get("panels", [])]
    return [panel for panel in flat if panel["type"] != "row"]


def filled(expression: str) -> str:
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    return expression


WITHOUT_DATA = (
    "Cache lifetime by replica",
    "Late requests and broken streams",
    "Requests by tenant",
    "Tokens by tenant",
    "Saved by tenant",
    "Cost by tenant",
    "Refused",
    "Limits shared",
    "Share of cost saved by interface",
    "Compared by meaning",
)
"""The first is absent while nothing that was expected in a cache was missed, which takes more evictions than a short
test has; the second while no replica is silent; the last while nothing embeds; the others while no tenants
and no prices are set. `tests/meta/test_dashboard.py`
compares their metrics with the catalogue, and `tests/fault` has both."""
QUERIES = {
    f"{panel['title']}: {target['legendFormat']} {target['refId']}": filled(target["expr"])
    for panel in panels()
    for target in panel["targets"]
    if panel["title"] not in WITHOUT_DATA
}


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Two routers over one Redis; four replicas work, one fails its requests, one is not there. Of two more sources of
    replicas one names none, and the other cannot be read."""
    folder = ensure_programs()
    recording = tmp_path_factory.mktemp("router") / "config.yaml"
    recording.write_text("response_cache:\n  rules:\n    - model: sim\n")
    nobody = f"http://127.0.0.1:{free_port()}"
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(RedisServer())
        # Little room and slow, so that something is evicted, and requests wait.
        sim = stack.enter_context(
            SimProcess(
                5, "--cache-tokens", "6000", "--max-model-len", "4000", "--prefill-tokens-per-s", "4000"
            )
        )
        urls = [*sim.urls, nobody]
        sources = ("--discover", "redis", "--discover", f"redis://127.0.0.1:{free_port()}")
        changes = ("--set", "health.probe_interval_s=0.5", "--set", "cached_contents.enabled=true")
        changes += ("--set", "usage.enabled=true", "--set", "advice.sample=1")
        changes += ("--set", "prompt_schemas.enabled=true", "--config", str(recording))
        changes += ("--set", "caching.openai=true", "--set", "keep_warm.prompts_bytes=1000000")
        settings = ("--registry", redis.url, *changes, *sources)
        routers = [stack.enter_context(RouterProcess(urls, *settings, well=sim.urls)) for _ in range(2)]
        targets = [f"127.0.0.1:{router.admin_port}" for router in routers]
        server = stack.enter_context(scraping(folder, targets, RULES))
        arm(sim.urls[4], {"kind": "status", "status": 502, "count": -1})
        traffic(routers)
        arm(sim.urls[0], {"kind": "restart"})
        traffic(routers)
        arm(sim.urls[4], {"kind": "status", "status": 503, "path": "/health", "count": -1})
        leave(routers[0])
        routers[0].chat("")
        yield server


def arm(url: str, fault: dict[str, Any]) -> None:
    request = urllib.request.Request(
        f"{url}/sim/fault", json.dumps(fault).encode(), {"Content-Type": "application/json"}
    )
    urllib.request.urlopen(request, timeout=60).close()


def traffic(routers: list[RouterProcess]) -> None:
    """Conversations over a few system prompts, all at once, each turn to any router."""

    def converse(number: int) -> None:
        rng = Random(number)
        text = f"{number % 3} " + "word " * 300
        for _ in range(3):
            text += f" {rng.random()} " + "more " * 100
            stream(rng.choice(routers), text)

    with ThreadPoolExecutor(CONVERSATIONS) as pool:
        list(pool.map(converse, range(CONVERSATIONS)))


def stream(router: RouterProcess, text: str) -> None:
    body = {"model": "sim", "max_tokens": 4, "stream": True, "messages": [{"role": "user", "content": text}]}
    request = urllib.request.Request(
        f"http://127.0.0.1:{router.port}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        answer.read()


def leave(router: RouterProcess) -> None:
    """A client that closes before its answer is complete."""
    question = [{"role": "user", "content": "x"}]
    body = json.dumps({"model": "sim", "max_tokens": 2000, "stream": True, "messages": question})
    lines = "POST /v1/chat/completions HTTP/1.1", "Host: x", "Content-Type: application/json"
    head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""])
    with socket.create_connection(("127.0.0.1", router.port), timeout=60) as client:
        client.sendall((head + body).encode())
        assert client.recv(100).startswith(b"HTTP/1.1 200")


def test_every_query_of_the_dashboard_has_data(prometheus: Prometheus) -> None:
    missing = dict(QUERIES)

    def answered() -> bool:
        for name, expression in list(missing.items()):
            samples = prometheus.query(expression)
            if any(sample["value"][1] != "NaN" for sample in samples):
                del missing[name]
        return not missing

    with contextlib.suppress(AssertionError):
        wait_until(answered, 40)
    assert not missing, f"no data: {json.dumps(missing, indent=1)}"


def test_every_variable_of_the_dashboard_has_values(prometheus: Prometheus) -> None:
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            found = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
            assert found is not None
            assert any(found[2] in labels for labels in prometheus.series(filled(found[1]))), variable["name"]


def test_every_series_that_an_alert_asks_for_is_there_with_its_labels(prometheus: Prometheus) -> None:
    """But for values of labels, which are there when something is wrong."""
    names = re.compile(r"\b(?:warmroute|process|up)\w*\b(?:\{([^}]*)\})?")
    for rule in yaml.safe_load(RULES.read_text())["groups"][0]["rules"]:
        for found in names.finditer(rule["expr"]):
            labels = set(re.findall(r"(\w+)[!=]?[=~]~?\"", found[1] or ""))
            series = prometheus.series(found[0].partition("{")[0])
            assert series, (rule["alert"], found[0])
            assert labels <= set().union(*series), (rule["alert"], found[0])


def test_alerts_are_evaluated_without_an_error_and_the_broken_replicas_are_on_their_way(
    prometheus: Prometheus,
) -> None:
    def pending() -> set[str]:
        time.sleep(PAUSE_S)
        return {rule["name"] for rule in prometheus.alerts() if rule["state"] in ("pending", "firing")}

    wait_until(lambda: {"WarmrouteReplicaUnwell", "WarmrouteReplicaNeverSeen"} <= pending())
    assert all(rule["health"] == "ok" for rule in prometheus.alerts())
    well = {"NoRouterReady", "ModelWithoutReplica", "RegistryDown", "RoutersUnheard", "Absent", "Down"}
    assert not {f"Warmroute{name}" for name in well} & pending()
