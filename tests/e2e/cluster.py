"""A real cluster of one node for the length of a test run (node.sh), and the few things that tests do with it.

What it needs and the machine lacks is said in one line. Programs are found on PATH or, Kubernetes's own, in the folder
that KUBE_BIN names.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
IMAGE = "docker.io/warmroute/warmroute"
NEXT = f"{VERSION}-next"
"""The same image under another tag, to upgrade to."""
KUBERNETES = ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy"]
OTHERS = [
    "kubectl",
    "etcd",
    "containerd",
    "ctr",
    "runc",
    "podman",
    "openssl",
    "ip",
    "iptables",
    "unshare",
    "nsenter",
]
PATH = os.pathsep.join(filter(None, [os.environ.get("KUBE_BIN"), os.environ["PATH"], "/usr/sbin", "/sbin"]))
ENVIRONMENT = {
    "CONTAINERS_CONF": str(HERE / "containers.conf"),
    **os.environ,
    "PATH": PATH,
    "PYTHON": sys.executable,
    "XDG_CACHE_HOME": tempfile.gettempdir(),
}


def lacking() -> str | None:
    """Why no cluster can be made here; None where it can."""
    missing = [name for name in KUBERNETES + OTHERS if shutil.which(name, path=PATH) is None]
    if missing:
        return f"needs {', '.join(missing)}: put them on PATH, or Kubernetes's own in a folder that KUBE_BIN names"
    if os.geteuid() != 0:
        return "needs root, for namespaces and containers"
    image = f"{IMAGE}:{VERSION}"
    if subprocess.run(["podman", "image", "exists", image], env=ENVIRONMENT, check=False).returncode != 0:
        return f"no image {image}: IMAGE={image} make image"
    return None


class Cluster:
    """Started when entered; everything in it ends with the block."""

    def __init__(self) -> None:
        self.place = Path(tempfile.mkdtemp(prefix="warmroute-e2e-"))
        self._started: subprocess.Popen[bytes] | None = None
        self._inside: list[str] = []

    def __enter__(self) -> Self:
        archive = self.place / "images.tar"
        redis = re.search(
            r"image: (docker.io/valkey/\S+)", (ROOT / "deploy/compose/compose.yaml").read_text()
        )
        assert redis is not None
        podman("tag", f"{IMAGE}:{VERSION}", f"{IMAGE}:{NEXT}")
        names = [f"{IMAGE}:{VERSION}", f"{IMAGE}:{NEXT}", redis[1], "docker.io/warmroute/pause:test"]
        podman("save", "-q", "-m", "-o", str(archive), *names)
        alone = [
            "unshare",
            "-n",
            "-m",
            "-p",
            "--propagation",
            "private",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ]
        command = [*alone, str(HERE / "node.sh"), str(self.place), str(archive)]
        with (self.place / "node.log").open("wb") as log:
            self._started = subprocess.Popen(
                command, env=ENVIRONMENT, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        try:
            self._await_node(self._started)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _await_node(self, started: subprocess.Popen[bytes]) -> None:
        children = Path(f"/proc/{started.pid}/task/{started.pid}/children")
        until = time.monotonic() + 300
        while not (self.place / "ready").exists():
            assert started.poll() is None, (self.place / "node.log").read_text()
            assert time.monotonic() < until, (
                f"the node is not ready after 5 minutes; its logs are in {self.place}"
            )
            time.sleep(0.2)
        self._inside = ["nsenter", "-t", children.read_text().split()[0], "-n", "-m", "-p"]

    def __exit__(self, *_: object) -> None:
        assert self._started is not None
        for pid in Path(f"/proc/{self._started.pid}/task/{self._started.pid}/children").read_text().split():
            os.kill(
                int(pid), signal.SIGKILL
            )  # the first process of its namespace: everything inside ends with it
        self._started.wait(60)
        if not os.environ.get("E2E_KEEP"):
            shutil.rmtree(self.place, ignore_errors=True)

    def run(self, *words: str, timeout_s: float = 300.0, check: bool = True) -> str:
        """A command in the cluster's network, as its administrator; its standard output."""
        environment = {**ENVIRONMENT, "KUBECONFIG": str(self.place / "kubeconfig")}
        done = subprocess.run(
            [*self._inside, *words],
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert not check or done.returncode == 0, f"{' '.join(words)}\n{done.stdout}{done.stderr}"
        return done.stdout

    def kubectl(self, *words: str, **options: Any) -> str:
        """kubectl in the release's namespace."""
        return self.run("kubectl", "-n", "prod", *words, **options)

    def get(self, *words: str) -> Any:
        """kubectl get, as data."""
        return json.loads(self.kubectl("get", *words, "-o", "json"))

    def python(self, program: str, *words: str) -> str:
        """Run Python's library alone, in the cluster's network."""
        return self.run(sys.executable, "-c", program, *words)

    def load(self, *words: str) -> subprocess.Popen[str]:
        """Start load.py; SIGTERM to its group and `report` end it."""
        command = [*self._inside, sys.executable, str(HERE / "load.py"), *words]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)


def podman(*words: str) -> str:
    """Run podman and return its output."""
    return subprocess.run(
        ["podman", *words], env=ENVIRONMENT, check=True, capture_output=True, text=True
    ).stdout


def report(load: subprocess.Popen[str]) -> dict[str, Any]:
    """End a load and return what became of its requests."""
    os.killpg(load.pid, signal.SIGTERM)
    output, _ = load.communicate(timeout=180)
    found: dict[str, Any] = json.loads(output)
    return found
