"""A real Prometheus and its promtool: Debian's programs, fetched into the cache where the machine has none.

Only the programs are taken out of Debian's package: installing it with what it recommends and starts takes a minute or
more, fetching and unpacking it some seconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.redis_server import free_port
from tests.support.router_thread import wait_until

PROGRAMS = ("prometheus", "promtool")


def ensure_programs() -> Path:
    """The folder of both programs. Skips the test where they are neither installed nor to be had from Debian."""
    found = [shutil.which(name) for name in PROGRAMS]
    if all(found):
        return Path(str(found[0])).parent
    cache = Path(os.environ.get("WARMROUTE_CACHE") or ".cache/warmroute").absolute() / "prometheus"
    folder = cache / "usr" / "bin"
    if not all((folder / name).exists() for name in PROGRAMS):
        cache.mkdir(parents=True, exist_ok=True)
        try:
            _fetch(cache)
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"needs prometheus and promtool, and Debian's package cannot be fetched: {error}")
    return folder


def _fetch(cache: Path) -> None:
    def run(*command: str) -> None:
        subprocess.run(command, cwd=cache, check=True, capture_output=True, timeout=120)

    download = ("apt-get", "download", "-q", "prometheus")
    try:
        run(*download)
    except subprocess.CalledProcessError:  # no package lists yet
        run("apt-get", "update", "-q")
        run(*download)
    package = next(cache.glob("prometheus_*.deb"))
    run("dpkg-deb", "--extract", package.name, ".")
    package.unlink()


def promtool(folder: Path, *arguments: str) -> str:
    """Run promtool; its output. Fails the test where it does."""
    done = subprocess.run(
        [folder / "promtool", *arguments], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, f"promtool {' '.join(arguments)}:\n{done.stdout}{done.stderr}"
    return done.stdout


class Prometheus:
    """A running server."""

    def __init__(self, url: str) -> None:
        self.url = url

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples of an expression now."""
        found: list[dict[str, Any]] = self._data("query", query=expression)["result"]
        return found

    def series(self, selector: str) -> list[dict[str, str]]:
        """The labels of all series."""
        found: list[dict[str, str]] = self._data("series", **{"match[]": selector})
        return found

    def alerts(self) -> list[dict[str, Any]]:
        """Rules of kind alert with their state, as its own page shows them."""
        groups = self._data("rules", type="alert")["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def healthy_targets(self) -> int:
        """Targets that are scraped."""
        return sum(target["health"] == "up" for target in self._data("targets")["activeTargets"])

    def _data(self, what: str, **parameters: str) -> Any:
        with urllib.request.urlopen(
            f"{self.url}/api/v1/{what}?{urllib.parse.urlencode(parameters)}", timeout=60
        ) as answer:
            return json.load(answer)["data"]


@contextlib.contextmanager
def scraping(folder: Path, targets: Sequence[str], rules: Path, interval: str = "1s") -> Iterator[Prometheus]:
    """A Prometheus that scrapes these routers' admin ports and evaluates these rules."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="warmroute-prometheus-") as directory:
        settings = {
            "global": {
                "scrape_interval": interval,
                "scrape_timeout": interval,
                "evaluation_interval": interval,
            },
            "rule_files": [str(rules)],
            "scrape_configs": [
                {
                    "job_name": "router",
                    "static_configs": [{"targets": list(targets), "labels": {"namespace": "test"}}],
                }
            ],
        }
        path = Path(directory) / "prometheus.yml"
        path.write_text(json.dumps(settings))
        with (Path(directory) / "log").open("wb") as log:
            process = subprocess.Popen(
                [
                    folder / "prometheus",
                    f"--config.file={path}",
                    f"--storage.tsdb.path={directory}/data",
                    f"--web.listen-address=127.0.0.1:{port}",
                ],
                stdout=log,
                stderr=log,
            )
        server = Prometheus(f"http://127.0.0.1:{port}")

        def scrapes() -> bool:
            assert process.poll() is None, (Path(directory) / "log").read_text()
            with contextlib.suppress(OSError):
                return server.healthy_targets() == len(targets)
            return False

        try:
            wait_until(scrapes)
            yield server
        finally:
            process.terminate()
            process.wait(60)
