"""The unit in deploy/: locked down as far as systemd's own judge says, and the router runs under what it forbids."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.debian import ensure_program
from tests.support.processes import SimProcess, python_command
from tests.support.redis_server import free_port
from tests.support.router_thread import wait_until

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "deploy/systemd/warmroute.service"
SOCKET = ROOT / "deploy/systemd/warmroute.socket"
PR_SET_MDWE = 65


def test_systemd_finds_little_exposed() -> None:
    analyze = ensure_program("systemd-analyze", "systemd", "the tests of the unit")
    done = subprocess.run(
        [analyze, "security", "--offline=yes", "--no-pager", str(UNIT)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    found = re.search(r"Overall exposure level for warmroute.service: ([\d.]+)", done.stdout)
    assert found is not None, done.stdout + done.stderr
    assert float(found[1]) < 3.0, done.stdout


def test_the_unit_names_nothing_that_systemd_does_not_know(tmp_path: Path) -> None:
    analyze = ensure_program("systemd-analyze", "systemd", "the tests of the unit")
    unit = tmp_path / UNIT.name
    # The program is not installed where tests run.
    unit.write_text(UNIT.read_text().replace("/opt/warmroute/bin/warmroute", "/bin/true"))
    done = subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True, timeout=60)
    assert UNIT.name not in done.stderr, done.stderr
    assert done.returncode == 0, done.stderr
    beside = tmp_path / SOCKET.name
    beside.write_text(SOCKET.read_text())
    done = subprocess.run([analyze, "verify", str(beside)], capture_output=True, text=True, timeout=60)
    assert SOCKET.name not in done.stderr, done.stderr


# Sets what MemoryDenyWriteExecute=yes means for this process and all that come of it, then becomes the program.
FORBIDDING = """
import ctypes, os, sys
assert ctypes.CDLL(None).prctl({option}, 1, 0, 0, 0) == 0
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_the_router_serves_without_memory_that_is_written_and_executed(tmp_path: Path) -> None:
    probe = [sys.executable, "-c", FORBIDDING.format(option=PR_SET_MDWE), "/bin/true"]
    if subprocess.run(probe, capture_output=True, timeout=60).returncode != 0:
        pytest.skip("this kernel (before 6.3) cannot forbid it to a process")
    admin = free_port()
    with SimProcess(1) as sims, (tmp_path / "log").open("wb") as log:
        command = [*probe[:-1], *python_command("warmroute.cli.main", "serve", "--replica", sims.urls[0])]
        command += ["--listen", "127.0.0.1:0", "--admin", f"127.0.0.1:{admin}"]
        with subprocess.Popen(command, stdout=log, stderr=log) as process:
            try:
                wait_until(lambda: b" replica_well " in (tmp_path / "log").read_bytes())
                maps = Path(f"/proc/{process.pid}/maps").read_text()
                assert re.search(r" rwx[ps] ", maps) is None
            finally:
                process.terminate()
            assert process.wait(60) == 0, (tmp_path / "log").read_text()
