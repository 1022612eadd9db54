"""Programs that tests need and a fresh machine may lack: installed with apt-get, or said what to do."""

from __future__ import annotations

import os
import shutil
import subprocess


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
    prefix = [] if os.geteuid() == 0 else ["sudo", "-n"]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    try:
        subprocess.run([*prefix, "apt-get", "update", "-q"], check=False, env=environment, timeout=120)
        install = [*prefix, "apt-get", "install", "-y", "-q", "--no-install-recommends", package]
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
