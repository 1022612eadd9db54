"""The built image: small, compiled, quick to start, and run by nobody, from a file system that nobody can write to.

`make test-image` builds it first. WARMROUTE_REBUILD=1 builds it a second time, from nothing, and compares (minutes).
"""

from __future__ import annotations

import datetime
import json
import os
import re
import shutil
import subprocess
import time
import tomllib
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.router_thread import wait_until

ROOT = Path(__file__).parents[2]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
IMAGE = os.environ.get("IMAGE", f"warmroute/warmroute:{VERSION}")
HARDENED = ["--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
"""What a restricted Kubernetes namespace asks for."""
LARGEST_BYTES = 200_000_000
READY_WITHIN_S = 2.0

pytestmark = pytest.mark.image


def engine() -> str:
    """podman, or docker where its daemon runs; skips where there is neither, or no image."""
    for name in ("podman", "docker"):
        if (
            shutil.which(name)
            and subprocess.run([name, "info"], capture_output=True, check=False).returncode == 0
        ):
            break
    else:
        pytest.skip("needs podman, or docker with its daemon running")
    if subprocess.run([name, "image", "inspect", IMAGE], capture_output=True, check=False).returncode != 0:
        pytest.skip(f"no image {IMAGE}: make image")
    return name


@pytest.fixture(scope="module")
def container() -> str:
    return engine()


def call(*words: str, status: int = 0) -> str:
    """Run a command, check how it ends and return its standard output."""
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=110)
    assert done.returncode == status, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def _succeeds(*words: str) -> bool:
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


def inside(container: str, *words: str, status: int = 0) -> str:
    """Run something else in the image than its entry point."""
    return call(
        container, "run", "--rm", *HARDENED, "--entrypoint", words[0], IMAGE, *words[1:], status=status
    )


def inspected(container: str) -> dict[str, Any]:
    (found,) = json.loads(call(container, "image", "inspect", IMAGE))
    return found


def get(url: str) -> tuple[int, str]:
    """Status and body; status 0 where nothing listens yet."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


class Pair:
    """A simulated replica in one container and a router in another, in one network namespace, as in a pod."""

    def __init__(self, container: str) -> None:
        self.container = container
        name = f"warmroute-test-{uuid.uuid4().hex[:8]}"
        self.replica, self.router = f"{name}-replica", f"{name}-router"

    def __enter__(self) -> Pair:
        run = [self.container, "run", "-d", *HARDENED]
        ports = ["-p", "127.0.0.1::8000", "-p", "127.0.0.1::8001"]
        entry = ["--no-healthcheck", "--entrypoint", "warmroute-replica"]
        call(*run, *ports, *entry, "--name", self.replica, IMAGE, "sim", "--port", "8100")
        self.data, self.admin = (
            "http://" + call(self.container, "port", self.replica, str(port)).split()[0]
            for port in (8000, 8001)
        )
        check = ["python", "-SI", "/opt/warmroute/healthcheck.py", "http://127.0.0.1:8100/health"]
        wait_until(lambda: _succeeds(self.container, "exec", self.replica, *check))
        network = ["--network", f"container:{self.replica}", "--name", self.router]
        call(*run, *network, IMAGE, "serve", "--replica", "http://127.0.0.1:8100")
        return self

    def started(self) -> float:
        """When the router's process began, by the clock."""
        (state,) = json.loads(call(self.container, "container", "inspect", self.router))
        text = re.sub(r"(\.\d{6})\d*", r"\1", state["State"]["StartedAt"])
        return datetime.datetime.fromisoformat(text).timestamp()

    def cpu_s(self) -> float:
        """CPU seconds that the router's process has used."""
        (state,) = json.loads(call(self.container, "container", "inspect", self.router))
        fields = Path(f"/proc/{state['State']['Pid']}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def ready(self) -> bool:
        return get(f"{self.admin}/ready")[0] == 200

    def __exit__(self, *_: object) -> None:
        for name in (self.router, self.replica):
            subprocess.run([self.container, "rm", "-f", name], capture_output=True, check=False)


@pytest.fixture(scope="module")
def pair(container: str) -> Iterator[Pair]:
    with Pair(container) as running:
        wait_until(running.ready)
        yield running


def test_it_is_small(container: str) -> None:
    size = inspected(container)["Size"]
    print(f"{size / 1e6:.1f} MB")
    assert size < LARGEST_BYTES


def test_it_says_where_it_comes_from(container: str) -> None:
    labels = inspected(container)["Config"]["Labels"]
    assert labels["org.opencontainers.image.version"] == VERSION
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", labels["org.opencontainers.image.revision"])
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"


def test_nobody_runs_it_and_nothing_can_be_written(container: str) -> None:
    assert inspected(container)["Config"]["User"] == "10001:10001"
    assert inside(container, "id", "-u").strip() == "10001"
    inside(container, "sh", "-c", "touch /opt/warmroute/x", status=1)
    own = (
        "find / -xdev -user 10001 -not -path '/proc/*' -not -path '/dev/*' -not -path /tmp 2>/dev/null | head"
    )
    assert inside(container, "sh", "-c", own) == ""


@pytest.mark.parametrize("tool", ["gcc", "cc", "g++", "ld", "as", "make", "curl", "wget", "git"])
def test_nothing_builds_or_fetches_inside(container: str, tool: str) -> None:
    inside(container, "sh", "-c", f"! command -v {tool}")


def test_the_request_path_is_compiled(container: str) -> None:
    shown = call(container, "run", "--rm", *HARDENED, IMAGE, "--version")
    assert shown.strip() == f"warmroute {VERSION} (compiled)"


def test_its_packages_are_those_of_the_lock_file(container: str) -> None:
    code = (
        "from importlib.metadata import distributions as d; print(*(f'{x.name}=={x.version}' for x in d()))"
    )
    found = set(inside(container, "/opt/warmroute/bin/python", "-c", code).lower().replace("_", "-").split())
    locked = set(
        re.findall(
            r"^([\w.-]+==[^ ]+) (?!.*python_full_version <)", (ROOT / "requirements.lock").read_text(), re.M
        )
    )
    assert found == locked | {f"warmroute=={VERSION}"}


def test_bytecode_is_there_and_bears_no_times(container: str) -> None:
    code = (
        "import pathlib, sys; root = pathlib.Path('/opt/warmroute/lib');"
        "flags = {p.read_bytes()[4] for p in root.rglob('*.pyc')};"
        "bare = [p for p in root.rglob('router/*.py') if not list(p.parent.glob(f'__pycache__/{p.stem}.*.pyc'))];"
        "print(flags, len(bare))"
    )
    assert inside(container, "python", "-c", code).strip() == "{1} 0"


def test_it_routes_and_the_second_request_is_warm(pair: Pair) -> None:
    body = json.dumps(
        {"model": "sim", "max_tokens": 2, "messages": [{"role": "user", "content": "warm " * 3000}]}
    )
    overlaps = []
    for _ in range(2):
        request = urllib.request.Request(
            f"{pair.data}/v1/chat/completions", body.encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            overlaps.append(json.load(answer)["usage"]["prompt_tokens_details"]["cached_tokens"])
    assert overlaps[0] == 0
    assert overlaps[1] > 1000


def test_the_health_check_tells_well_from_ill(pair: Pair) -> None:
    image = inspected(pair.container)
    check = (image.get("Healthcheck") or image["Config"]["Healthcheck"])[
        "Test"
    ]  # podman's place, and docker's
    assert check[0] == "CMD"
    call(pair.container, "exec", pair.router, *check[1:])
    for wrong in ("http://127.0.0.1:9/health", "http://127.0.0.1:8001/no-such-path", "nonsense"):
        call(pair.container, "exec", pair.router, *check[1:-1], wrong, status=1)


def test_it_is_ready_at_once_and_ends_when_told(container: str) -> None:
    """The best of three starts. On a machine that is busy otherwise, the CPU time that a start took is judged."""
    took_s, cpu_s = [], []
    for _ in range(3):
        with Pair(container) as running:
            while not running.ready():
                time.sleep(0.02)
            took_s.append(time.time() - running.started())
            cpu_s.append(running.cpu_s())
            call(container, "stop", "-t", "20", running.router)
            (state,) = json.loads(call(container, "container", "inspect", running.router))
            assert state["State"]["ExitCode"] == 0
    print(
        "ready after", *(f"{wall:.2f} s ({cpu:.2f} of CPU)" for wall, cpu in zip(took_s, cpu_s, strict=True))
    )
    busy = os.getloadavg()[0] > (os.cpu_count() or 1)
    assert min(cpu_s if busy else took_s) < READY_WITHIN_S


@pytest.mark.timeout(1500)
@pytest.mark.skipif(not os.environ.get("WARMROUTE_REBUILD"), reason="WARMROUTE_REBUILD=1 builds it again")
def test_the_same_commit_gives_the_same_layers(container: str) -> None:
    flags = os.environ.get("IMAGE_FLAGS", "") + " --no-cache"
    again = {**os.environ, "IMAGE": "warmroute/rebuilt:test", "IMAGE_FLAGS": flags}
    subprocess.run([ROOT / "deploy/docker/build.sh"], env=again, check=True, timeout=1400)
    (rebuilt,) = json.loads(call(container, "image", "inspect", "warmroute/rebuilt:test"))
    # The image's own id is another where a step was taken from the cache of an earlier commit, and its history says so.
    assert rebuilt["RootFS"]["Layers"] == inspected(container)["RootFS"]["Layers"]
