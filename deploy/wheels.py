"""Builds the wheels into `dist/`: a compiled one for each supported Python found here, and one that runs anywhere.

    deploy/wheels.py [--out DIR] [PYTHON …]

Without arguments it looks for `python3.N` on PATH and among pyenv's versions. Each wheel is built with the tools of
`requirements-build.lock`, by hash, with the commit's time in it, so that a commit gives the same file again; then it is
installed, beside the packages of `requirements.lock`, into an empty environment, and asked what it is. A compiled wheel
is tagged for the Linux that it was built on (`linux_x86_64`): build it on the oldest that you have.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROBE = "import sys; print('%d.%d' % sys.version_info[:2], sys.implementation.name, sep='|')"


def supported(project: dict[str, object]) -> list[str]:
    """Versions of Python that the package's classifiers name, such as `3.11`."""
    classifiers = project["classifiers"]
    assert isinstance(classifiers, list)
    found = [re.fullmatch(r"Programming Language :: Python :: (\d+\.\d+)", line) for line in classifiers]
    return [match[1] for match in found if match is not None]


def version_of(python: str | Path) -> str | None:
    """`3.N` of an interpreter; None if it does not run, as the stand-ins of version managers do, or is not CPython."""
    try:
        shown = subprocess.run([python, "-c", PROBE], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    version, _, implementation = shown.stdout.strip().partition("|")
    return version if implementation == "cpython" else None


def interpreters(versions: Iterable[str]) -> dict[str, str]:
    """Version -> the first interpreter of it that runs."""
    found: dict[str, str] = {}
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    for version in versions:
        named = shutil.which(f"python{version}")
        managed = sorted(pyenv.glob(f"versions/{version}.*/bin/python{version}"), reverse=True)
        for candidate in [named, *map(str, managed), sys.executable]:
            if candidate is not None and version_of(candidate) == version:
                found[version] = candidate
                break
    return found


def environment(python: str, place: Path, lock: str) -> Path:
    """A new environment with what the lock file names; returns its interpreter."""
    subprocess.run([python, "-m", "venv", place], check=True)
    inside = place / "bin/python"
    install = [inside, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--only-binary", ":all:"]
    subprocess.run([*install, "--require-hashes", "-r", ROOT / lock], check=True)
    return inside


def build(python: Path, compiled: bool, out: Path, scratch: Path) -> Path:
    """One wheel, from a copy of the sources, so that nothing is left in the checkout.

    Raises:
        SystemExit: it could not be built, or not compiled though it should.
    """
    source = scratch / ("compiled" if compiled else "pure")
    source.mkdir()
    for name in ("router", "replica", "loadtest"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    commit_time = ["git", "-C", ROOT, "log", "-1", "--format=%ct"]
    epoch = os.environ.get("SOURCE_DATE_EPOCH") or subprocess.check_output(commit_time, text=True).strip()
    variables = {"WARMROUTE_COMPILE": str(int(compiled)), "SOURCE_DATE_EPOCH": epoch, "PYTHONHASHSEED": "0"}
    words = [python, "-m", "pip", "wheel", "-q", "--disable-pip-version-check", "--no-index", "--no-deps"]
    made = scratch / f"wheel-{source.name}"
    done = subprocess.run(
        [*words, "--no-build-isolation", "--wheel-dir", made, "."],
        cwd=source,
        env={**os.environ, **variables},
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"wheels: {python} could not build the {source.name} wheel; pip says why above")
    (wheel,) = made.glob("*.whl")
    if wheel.name.endswith("-none-any.whl") is compiled:
        raise SystemExit(
            f"wheels: {wheel.name} is not compiled; a C compiler is needed (Debian: gcc python3-dev)"
        )
    return Path(shutil.move(wheel, out / wheel.name))


def says(python: str, wheel: Path, scratch: Path) -> str:
    """What `warmroute --version` says where this wheel is installed."""
    inside = environment(python, scratch / f"try-{wheel.stem}", "requirements.lock")
    install = [inside, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-index", "--no-deps"]
    subprocess.run([*install, wheel], check=True)
    for command in ("warmroute", "warmroute-replica"):
        subprocess.run([inside.parent / command, "--help"], check=True, stdout=subprocess.DEVNULL)
    return subprocess.check_output([inside.parent / "warmroute", "--version"], text=True, cwd=scratch).strip()


def main() -> int:
    """Build, try and list them."""
    parser = argparse.ArgumentParser(description="Build and try the wheels.")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="where they go (default: dist)")
    parser.add_argument(
        "python", nargs="*", help="interpreters to build for (default: all supported ones found)"
    )
    arguments = parser.parse_args()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    versions = supported(project)
    found = interpreters(versions)
    if arguments.python:
        found = {version_of(python) or "": python for python in arguments.python}
        if strange := [python for version, python in found.items() if version not in versions]:
            raise SystemExit(f"wheels: {', '.join(strange)}: not a CPython of {', '.join(versions)}")
    if not found:
        raise SystemExit(f"wheels: found no CPython of {', '.join(versions)}; name interpreters as arguments")
    arguments.out.mkdir(parents=True, exist_ok=True)
    for version, python in found.items():
        with tempfile.TemporaryDirectory() as folder:
            scratch = Path(folder)
            tools = environment(python, scratch / "tools", "requirements-build.lock")
            last = version == list(found)[-1]
            for compiled in (True, False) if last else (True,):
                wheel = build(tools, compiled, arguments.out, scratch)
                print(f"{wheel}: {says(python, wheel, scratch)}, on Python {version}", flush=True)
    missing = [version for version in versions if version not in found]
    if missing:
        print(f"no compiled wheel for Python {', '.join(missing)}: not found here")
    return 0


if __name__ == "__main__":
    sys.exit(main())
