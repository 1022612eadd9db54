"""Child processes cannot outlive the demo: they are ended in reverse order of their start, also when it is killed.

This module decides how a process is started, watched and ended, not what the process is for.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

STOP_S = 15.0
"""Time from SIGTERM to SIGKILL, in seconds. It is longer than a router's own grace for the requests that the demo has
under way."""
LOG_TAIL_LINES = 15

_PR_SET_PDEATHSIG = 1
"""prctl(2)'s option for the signal that a process gets when its parent dies."""


class DemoError(Exception):
    """The demo cannot go on; the message tells the user why."""


@dataclass(slots=True)
class Child:
    """One process, and where its output goes."""

    name: str
    process: asyncio.subprocess.Process
    log_path: Path

    @property
    def has_ended(self) -> bool:
        """Whether the process has ended."""
        return self.process.returncode is not None

    def log_tail(self) -> str:
        """Return the last lines of the process's output."""
        lines = self.log_path.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        return "\n".join(f"    {line}" for line in lines) or "    (it wrote nothing)"

    def check(self) -> None:
        """Check that the process still runs.

        Raises:
            DemoError: The process has ended.
        """
        if self.has_ended:
            status = self.process.returncode
            raise DemoError(f"{self.name} ended with status {status}; its last lines:\n{self.log_tail()}")


class Children:
    """All processes of the demo. Used as an async context manager, it leaves none of them behind."""

    def __init__(self, log_dir: Path) -> None:
        self._log_dir = log_dir
        self._running: list[Child] = []
        self._libc = ctypes.CDLL(None, use_errno=True)

    async def __aenter__(self) -> Children:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop(*self._running)

    async def start(
        self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> Child:
        """Start a process whose output goes to a file of its own.

        Args:
            name: The process's name in messages and in the log file's name.
            command: Program and arguments.
            environment: The process's variables; `own_environment()` if absent.
        Raises:
            DemoError: The program was not found.
        """
        log_path = self._log_dir / f"{name.replace(' ', '-').replace(':', '-')}.log"
        with log_path.open("wb") as log:
            try:
                process = await asyncio.create_subprocess_exec(
                    *command,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=own_environment() if environment is None else environment,
                    # The process leaves the terminal's group, since the demo passes Ctrl-C on itself, in order.
                    start_new_session=True,
                    preexec_fn=self._die_with_parent,
                )
            except OSError as error:
                raise DemoError(f"{name} cannot be started: {command[0]}: {error.strerror}") from error
        child = Child(name, process, log_path)
        self._running.append(child)
        return child

    async def stop(self, *children: Child) -> None:
        """End these processes, the last started first. Each has `STOP_S` seconds, then it is killed."""
        stopping = [child for child in reversed(self._running) if child in children]
        for child in stopping:
            await asyncio.shield(_end(child))
        self._running = [child for child in self._running if child not in children]

    def check(self) -> None:
        """Check that all processes still run.

        Raises:
            DemoError: A process has ended.
        """
        for child in self._running:
            child.check()

    def _die_with_parent(self) -> None:
        # This runs in the child process, before its program.
        self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


async def _end(child: Child) -> None:
    process = child.process
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(STOP_S):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


def program(name: str) -> str:
    """Return the path of one of the project's commands; the one installed beside this Python goes first.

    Raises:
        DemoError: The command is not installed.
    """
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise DemoError(f"the command {name} is not installed: run `make setup`")
    return found


def own_environment() -> dict[str, str]:
    """Return the demo's variables, less those that tell Python where packages are. A process that the demo starts
    brings its own packages, and may start yet another Python (the engine's installer) that would take the demo's
    packages for its own."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
