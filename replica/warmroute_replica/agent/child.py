"""A child is an engine that this process started; it is told to end, and killed with all its processes if it does not.

The child writes to this process's output. It leads a session of its own, so that Ctrl-C reaches the agent alone, which
drains first. If the agent is killed, the kernel tells the engine to end: an engine for which no agent speaks would keep
its GPU for nothing. This module works on Linux only.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1


class Child:
    """A running engine."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, command: list[str]) -> Child:
        """Start an engine by its command.

        Raises:
            OSError: The command cannot be started.
        """
        prctl = ctypes.CDLL(None, use_errno=True).prctl
        parent = os.getpid()

        def before_it_runs() -> None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:  # the parent died before prctl took effect
                os.kill(os.getpid(), signal.SIGTERM)

        return cls(
            await asyncio.create_subprocess_exec(
                *command, env=os.environ, start_new_session=True, preexec_fn=before_it_runs
            )
        )

    def signal(self, number: signal.Signals) -> None:
        """Pass a signal on to the engine; do nothing if the engine has ended."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def wait(self) -> int:
        """Wait until the engine ends, and return its exit status as a shell gives it (128 and the signal's number if
        killed)."""
        code = await self._process.wait()
        return code if code >= 0 else 128 - code

    async def stop(self, patience_s: float) -> int:
        """Tell the engine to end, kill what is left of it after `patience_s` seconds, and return its exit status."""
        self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(patience_s):
                await self._process.wait()
        except TimeoutError:
            pass
        # Killed also where the leader ended by itself: an API server that crashed leaves engine processes that hold
        # the GPU.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        return await self.wait()
