"""The installer with a real pip in a real virtual environment, started by somebody who has packages on `PYTHONPATH`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from warmroute_replica.vllm.install import _Installation


def test_the_installers_pip_takes_no_foreign_package_for_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = tmp_path / "foreign"
    package = foreign / "typing_stand_in-4.2.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: typing-stand-in\nVersion: 4.2\n")
    (package / "INSTALLER").write_text("pip\n")
    (package / "RECORD").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(foreign))
    lines: list[str] = []
    installation = _Installation(tmp_path / "venv", lines.append, None)
    installation._run([sys.executable, "-m", "venv", str(installation.venv)], "virtual environment")
    wanted = ["--no-index", "typing-stand-in==4.2"]
    # To a pip that sees it, there would be nothing to do: a plan without a package.
    assert installation._plan(wanted) is None, "pip takes the package of whoever started it for its own"
    assert "No matching distribution found for typing-stand-in==4.2" in installation.plan_error
    listed = installation._run(installation._pip_command(["list"]), "pip")
    assert "pip" in listed
    assert "typing-stand-in" not in listed
