"""A router with an access log before two simulated replicas, for clients that nobody here wrote."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.clients.install import clean_environment, missing, place
from tests.support.processes import RouterProcess, SimProcess
from tests.support.router_thread import wait_until

MODEL = "sim"
"""What the simulated replicas serve."""


class Through:
    """The router, and what it has logged."""

    def __init__(self, router: RouterProcess, log: Path) -> None:
        self.url = f"http://127.0.0.1:{router.port}"
        self._log = log
        self._seen = 0

    def lines(self) -> list[dict[str, Any]]:
        """Access log since the last call: of each request, how it was read and answered, and its session's hash."""
        rows = [json.loads(line) for line in self._log.read_text().splitlines()]
        fresh, self._seen = rows[self._seen :], len(rows)
        return fresh

    def answered(self, path: str, least: int = 1) -> list[dict[str, Any]]:
        """The lines of requests to this path, once there are so many; fails if any was not a success."""
        found: list[dict[str, Any]] = []

        def there() -> bool:
            found.extend(line for line in self.lines() if line["path"] == path)
            return len(found) >= least

        wait_until(there)
        assert {line["status"] for line in found} == {200}, found
        return found


@pytest.fixture(scope="session")
def _router(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RouterProcess, Path]]:
    log = tmp_path_factory.mktemp("router") / "access.log"
    with SimProcess(2, "--speed", "50") as sims:
        flags = ("--access-log", str(log), "--set", "access_log.fingerprints=true")
        with RouterProcess(sims.urls, *flags) as router:
            yield router, log


@pytest.fixture
def through(_router: tuple[RouterProcess, Path]) -> Through:
    router, log = _router
    started = Through(router, log)
    if log.exists():
        started.lines()
    return started


def needs(name: str) -> Path:
    """Where this kind of clients is; skips the test where it could not be installed."""
    problem = missing(name)
    if problem is not None:
        pytest.skip(problem)
    return place(name)


def run(command: Sequence[str | Path], home: Path, stdin: str = "", **variables: str) -> str:
    """Run a client in a home of its own, and return what it printed; fails with all of it if the client fails."""
    environ = {
        **clean_environment(),
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / ".config"),
        **variables,
    }
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        environ.pop(name, None)
    environ["NO_PROXY"] = "127.0.0.1"
    environ["PWD"] = str(home)  # some believe it rather than ask where they are
    done = subprocess.run(
        [os.fspath(word) for word in command],
        cwd=home,
        env=environ,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, f"{done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout
