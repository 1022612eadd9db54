"""What can be said about the images without building one."""

from __future__ import annotations

import importlib.util
import re
import socket
import tomllib
from pathlib import Path

import pytest

from warmroute.config.load import load

ROOT = Path(__file__).parents[2]
DOCKERFILES = sorted((ROOT / "deploy/docker").glob("*Dockerfile"))
IMAGE = (ROOT / "deploy/docker/Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def pins(lock: str) -> dict[str, str]:
    """Package -> version of a lock file."""
    return dict(re.findall(r"^([\w.-]+)==([^ \n]+)", (ROOT / lock).read_text(), re.MULTILINE))


def instructions(text: str) -> list[tuple[str, str]]:
    """Keyword and arguments of each, comments left out and continued lines joined."""
    bare = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    return [(word, rest.strip()) for word, rest in re.findall(r"^([A-Z]+)\s+(.*)$", bare, re.MULTILINE)]


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_no_base_floats(dockerfile: Path) -> None:
    found = instructions(dockerfile.read_text())
    defaults = dict(rest.partition("=")[::2] for word, rest in found if word == "ARG" and "=" in rest)
    stages = set()
    for word, rest in found:
        if word != "FROM":
            continue
        base, _, stage = rest.partition(" AS ")
        stages.add(stage)
        base = re.sub(r"\$\{(\w+)\}", lambda match: defaults[match[1]], base)
        registry, _, tag = base.partition(":")
        assert registry.startswith("docker.io/"), base
        assert re.match(r"v?\d+\.\d+\.\d+", tag), f"{base}: its tag moves"
    for word, rest in found:
        copied = re.match(r"--from=(\S+)", rest)
        if word == "COPY" and copied is not None:
            assert copied[1] in stages, rest


def test_packages_come_from_the_lock_files_alone() -> None:
    installs = [
        command.split(" install ")[1]
        for word, rest in instructions(IMAGE)
        if word == "RUN"
        for command in rest.split("&&")
        if " install " in command
    ]
    assert len(installs) == 3
    for arguments in installs:
        assert "--require-hashes" in arguments or "--no-index --no-deps" in arguments, arguments
    assert "apt-get" not in IMAGE


def test_the_tools_that_build_it_are_locked_at_the_versions_that_are_tested() -> None:
    locked = pins("requirements-build.lock")
    for requirement in PROJECT["build-system"]["requires"]:
        assert re.split(r"[>=<]", requirement)[0] in locked, requirement
    tested = pins("requirements-dev.lock")
    assert {name: tested.get(name) for name in locked} == locked
    runtime = pins("requirements.lock")
    assert {name: tested.get(name) for name in runtime} == runtime


def test_the_last_stage_is_run_by_a_number_and_labelled() -> None:
    last = IMAGE.rpartition("\nFROM ")[2]
    found = dict(instructions("FROM " + last))
    assert found["USER"] == "10001:10001"
    assert found["ENTRYPOINT"] == '["warmroute"]'
    assert "RUN" not in found, "what is made in the last stage bears the time at which it was made"
    for label in ("title", "description", "version", "revision", "created", "licenses"):
        assert f"org.opencontainers.image.{label}=" in found["LABEL"]
    version = re.search(r"PYTHON_VERSION=(\d+\.\d+)", IMAGE)
    assert version is not None
    assert f"Programming Language :: Python :: {version[1]}" in PROJECT["project"]["classifiers"]


def test_all_that_is_copied_reaches_the_build() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    wanted = set()
    for dockerfile in DOCKERFILES:
        for word, rest in instructions(dockerfile.read_text()):
            if word == "COPY" and not rest.startswith("--from"):
                wanted |= set(rest.split()[:-1])
    assert wanted == kept
    assert all((ROOT / name).exists() for name in wanted)


def test_its_settings_reach_both_ports_from_outside_and_suit_the_health_check() -> None:
    config = load(path=str(ROOT / "deploy/docker/config.yaml"), environ={"WARMROUTE_REPLICAS": "http://a:1"})
    assert (config.listen, config.admin) == ("0.0.0.0:8000", "0.0.0.0:8001")
    assert "EXPOSE 8000 8001" in IMAGE
    assert '"http://127.0.0.1:8001/health"' in IMAGE


@pytest.mark.parametrize(
    ("answer", "status"), [(b"HTTP/1.1 200 OK\r\n\r\n", 0), (b"HTTP/1.1 503 No\r\n\r\n", 1), (b"", 1)]
)
def test_the_health_check_tells_well_from_ill(
    answer: bytes, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = importlib.util.spec_from_file_location("healthcheck", ROOT / "deploy/docker/healthcheck.py")
    assert spec is not None
    assert spec.loader is not None
    healthcheck = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(healthcheck)
    asked, answering = socket.socketpair()
    answering.sendall(answer)
    answering.shutdown(socket.SHUT_WR)

    class Sockets:
        @staticmethod
        def create_connection(address: tuple[str, int], timeout_s: float) -> socket.socket:
            assert address == ("::1", 8001)
            return asked

    healthcheck.socket = Sockets
    with answering:
        assert healthcheck.main("http://[::1]:8001/health") == status
        assert answering.recv(100).startswith(b"GET /health HTTP/1.1\r\nHost: [::1]:8001\r\n")
    assert bool(capsys.readouterr().err) == bool(status)
