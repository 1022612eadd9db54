"""Programs that tests need and a fresh machine may lack: installed with apt-get, or said what to do."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path


def ensure_program(program: str, package: str, purpose: str) -> str:
    """Path of a program of a Debian package, installed first if need be.

    Args:
        purpose: What needs it, for the message.

    Raises:
        RuntimeError: It is absent and cannot be installed here.
    """
    path = shutil.which(program)
    if path is not None:
        return path
    # Test processes side by side find it missing at the same moment, and apt-get refuses to run twice.
    with (Path(tempfile.gettempdir()) / f"warmroute-apt-{os.geteuid()}.lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        return shutil.which(program) or _install(program, package, purpose)


def _install(program: str, package: str, purpose: str) -> str:
    prefix = [] if os.geteuid() == 0 else ["sudo", "-n"]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    try:
        subprocess.run([*prefix, "apt-get", "update", "-q"], check=False, env=environment, timeout=120)
        install = [*prefix, "apt-get", "-o", "DPkg::Lock::Timeout=120", "install", "-y", "-q"]
        install += ["--no-install-recommends", package]
        subprocess.run(install, check=True, env=environment, timeout=300)
    except (OSError, subprocess.SubprocessError) as error:
        raise RuntimeError(
            f"{purpose} need {program}, and apt-get could not install it ({error}): "
            f"install the package {package}, and put its programs on PATH"
        ) from error
    path = shutil.which(program)
    if path is None:
        raise RuntimeError(f"apt-get installed {package}, but {program} is not on PATH")
    return path
