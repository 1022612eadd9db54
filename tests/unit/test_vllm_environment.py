"""Another interpreter sees its own packages: nothing of ours reaches the engine's pip, however it is started."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

import pytest

from warmroute_replica.vllm.environment import clean_environment, is_foreign
from warmroute_replica.vllm.install import InstallError, ensure_installed
from warmroute_replica.vllm.model import Model, ensure_model
from warmroute_replica.vllm.server import Options, Replica

ROOT = Path(__file__).parents[2]

FOREIGN = {
    "PYTHONPATH": "/somebody/else",
    "PYTHONHOME": "/somebody/else",
    "PYTHONUSERBASE": "/somebody/else",
    "PYTHONWARNINGS": "error",
    "PYTHONSTARTUP": "/somebody/else.py",
    "VIRTUAL_ENV": "/somebody/else",
    "PIP_TARGET": "/somebody/else",
    "PIP_USER": "1",
}
OWN = {
    "PIP_INDEX_URL": "https://packages.example/simple",
    "HTTPS_PROXY": "http://proxy",
    "PYTHONHASHSEED": "7",
}

RECORDER = """#!{python}
# Stands for the environment's python: notes the variables it was started with, and knows no package.
import json, os, pathlib, sys
with (pathlib.Path(__file__).parent.parent / "environments").open("a") as log:
    print(json.dumps(dict(os.environ)), file=log)
sys.exit("pip" in sys.argv)
"""


@pytest.fixture
def recorder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A virtual environment whose python notes its variables; ours are full of what is foreign to it."""
    for name, value in {**FOREIGN, **OWN}.items():
        monkeypatch.setenv(name, value)
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "pip").touch()
    python = venv / "bin" / "python"
    # -I, so that the stand-in itself is not led astray by what it is there to see.
    python.write_text(RECORDER.format(python=f"{sys.executable} -I"))
    python.chmod(0o755)
    return venv


def noted(venv: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (venv / "environments").read_text().splitlines()]


def test_the_installer_and_its_pip_are_told_of_no_foreign_packages(recorder: Path) -> None:
    with pytest.raises(InstallError, match="no CPU build of torch"):
        ensure_installed(lambda line: None, venv=recorder)
    environments = noted(recorder)
    assert len(environments) >= 3, "a version asked for, two plans of pip"
    for environment in environments:
        assert [name for name in environment if is_foreign(name)] == []
        assert environment.items() >= OWN.items()


def test_the_maker_of_models_is_told_of_no_foreign_packages(recorder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):  # the stand-in made nothing
        ensure_model(recorder, lambda line: None, out=tmp_path / "model", preset="nano")
    (environment,) = noted(recorder)
    assert [name for name in environment if is_foreign(name)] == []


def test_the_engine_is_told_of_no_foreign_packages(recorder: Path, tmp_path: Path) -> None:
    environment = Replica(recorder, Model(tmp_path), Options())._environment()
    assert [name for name in environment if is_foreign(name)] == []
    assert environment["PYTHONHASHSEED"] == "7"


def test_what_is_added_is_there_whatever_it_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/somebody/else")
    assert clean_environment({"PYTHONPATH": "/wanted"})["PYTHONPATH"] == "/wanted"


def test_nothing_outside_the_router_starts_a_process_in_our_own_environment() -> None:
    starters = {
        "run",
        "Popen",
        "check_call",
        "check_output",
        "create_subprocess_exec",
        "create_subprocess_shell",
    }
    seen = 0
    for path in [*ROOT.glob("replica/**/*.py"), *ROOT.glob("loadtest/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in starters
                and ast.unparse(node.func.value) in ("subprocess", "asyncio")
                and ast.unparse(node.func) != "asyncio.run"
            ):
                seen += 1
                assert "env" in [keyword.arg for keyword in node.keywords], f"{path}:{node.lineno}"
    assert seen >= 5
