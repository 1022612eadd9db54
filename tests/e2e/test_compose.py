"""deploy/compose, run: up, a warm second request, a router and a replica that leave, everything scraped.

`make e2e-compose`. Needs docker compose with its daemon running and the image; images of others are pulled, or made
beforehand by stand_ins.sh.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from email.message import Message
from typing import Any

import pytest

from tests.e2e.cluster import ROOT, VERSION

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

CLIENTS, PROMETHEUS, GRAFANA = (f"http://127.0.0.1:{port}" for port in (8000, 9090, 3000))


def compose_command() -> list[str]:
    """docker compose, as a plugin or alone; skips where there is none that works, or no image."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if (
            shutil.which(command[0])
            and subprocess.run([*command, "version"], capture_output=True).returncode == 0
        ):
            break
    else:
        pytest.skip("needs docker compose", allow_module_level=True)
    image = ["docker", "image", "inspect", f"warmroute/warmroute:{VERSION}"]
    if subprocess.run(image, capture_output=True).returncode != 0:
        pytest.skip(
            f"needs a docker daemon that has warmroute/warmroute:{VERSION}: make image",
            allow_module_level=True,
        )
    return command


COMMAND = compose_command()


class Fleet:
    """The project, up."""

    def __init__(self, command: list[str]) -> None:
        self._command = [*command, "-f", str(ROOT / "deploy/compose/compose.yaml"), "-p", "warmroute-test"]

    def compose(self, *words: str) -> str:
        done = subprocess.run(
            [*self._command, *words], capture_output=True, text=True, timeout=400, check=False
        )
        assert done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}"
        return done.stdout

    def ask(self, text: str) -> tuple[int, Message]:
        """Cached tokens of one request's prompt, and the answer's headers."""
        body = {"model": "sim", "max_tokens": 2, "messages": [{"role": "user", "content": text * 400}]}
        request = urllib.request.Request(
            f"{CLIENTS}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            usage = json.load(answer)["usage"]
            return usage["prompt_tokens_details"]["cached_tokens"], answer.headers

    def metric(self, query: str) -> list[Any]:
        """What Prometheus answers."""
        url = f"{PROMETHEUS}/api/v1/query?query={urllib.request.quote(query)}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            found: list[Any] = json.load(answer)["data"]["result"]
            return found


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    fleet = Fleet(COMMAND)
    began = time.monotonic()
    pull = os.environ.get("COMPOSE_PULL", "missing")
    fleet.compose("up", "--wait", "--pull", pull, "-d")
    print(f"\nall healthy after {time.monotonic() - began:.1f} s")
    try:
        yield fleet
    finally:
        if not os.environ.get("E2E_KEEP"):
            fleet.compose("down", "--volumes", "--timeout", "20")


def patiently(holds: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until this holds."""
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, f"not so after {seconds} s"
        time.sleep(0.3)


def test_the_second_request_is_warm(fleet: Fleet) -> None:
    cached, headers = fleet.ask("the first question ")
    assert cached == 0
    assert headers["X-Warmroute-Replica"] in {"replica-1", "replica-2", "replica-3"}
    for _ in range(6):  # both routers
        again, after = fleet.ask("the first question ")
        assert again > 1000
        assert after["X-Warmroute-Replica"] == headers["X-Warmroute-Replica"]
    print(f"\n{cached} cached tokens, then {again}; decision {after['X-Warmroute-Decision']}")


def test_everything_is_scraped_and_the_alerts_are_loaded(fleet: Fleet) -> None:
    patiently(lambda: len(fleet.metric("warmroute_ready == 1")) == 2)
    patiently(lambda: len(fleet.metric('up{job=~"agent|engine"} == 1')) == 6)
    with urllib.request.urlopen(f"{PROMETHEUS}/api/v1/rules", timeout=30) as answer:
        rules = [rule for group in json.load(answer)["data"]["groups"] for rule in group["rules"]]
    assert any(rule["name"] == "WarmrouteNoRouterReady" for rule in rules)
    assert {rule["health"] for rule in rules} <= {"ok", "unknown"}
    with urllib.request.urlopen(f"{GRAFANA}/api/health", timeout=30) as answer:
        assert answer.status == 200


def test_a_router_leaves_and_no_request_fails(fleet: Fleet) -> None:
    (first, *_) = fleet.compose("ps", "-q", "router").split()
    stopping = subprocess.Popen(["docker", "stop", "-t", "60", first], stdout=subprocess.DEVNULL)
    for number in range(60):
        fleet.ask(f"question {number} ")
    assert stopping.wait(90) == 0
    state = subprocess.check_output(["docker", "inspect", "-f", "{{.State.ExitCode}}", first], text=True)
    assert state.strip() == "0"
    subprocess.run(["docker", "start", first], check=True, stdout=subprocess.DEVNULL)


def test_a_replica_drains_and_no_request_fails(fleet: Fleet) -> None:
    _, headers = fleet.ask("whose is it? ")
    home = headers["X-Warmroute-Replica"]
    (container,) = fleet.compose("ps", "-q", home).split()
    stopping = subprocess.Popen(["docker", "stop", "-t", "80", container], stdout=subprocess.DEVNULL)
    for number in range(60):
        fleet.ask(f"another question {number} ")
    assert stopping.wait(120) == 0
    _, headers = fleet.ask("whose is it? ")
    assert headers["X-Warmroute-Replica"] != home
    subprocess.run(["docker", "start", container], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("name", ["router", "replica-1", "balancer", "redis", "prometheus"])
def test_nothing_can_be_written_and_nobody_is_root(fleet: Fleet, name: str) -> None:
    (container, *_) = fleet.compose("ps", "-q", name).split()
    (found,) = json.loads(subprocess.check_output(["docker", "inspect", container]))
    assert found["HostConfig"]["ReadonlyRootfs"] is True
    assert found["HostConfig"]["CapDrop"] == ["ALL"]
    assert found["Config"]["User"].split(":")[0] not in ("", "0", "root")
