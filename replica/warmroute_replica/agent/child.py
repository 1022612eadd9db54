"""A child is an engine that this process started: it is told to end, and killed with all it started if it does not.

It writes to our output, and leads a session of its own, so that Ctrl-C reaches the agent alone, which drains first.
Should the agent be killed, the engine is told to end by the kernel: an engine that nobody speaks for would keep its
GPU for nothing. Linux only.
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
        """Raises:
        OSError: It cannot be started.
        """
        prctl = ctypes.CDLL(None, use_errno=True).prctl
        parent = os.getpid()

        def before_it_runs() -> None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:  # died in between
                os.kill(os.getpid(), signal.SIGTERM)

        return cls(
            await asyncio.create_subprocess_exec(
                *command, env=os.environ, start_new_session=True, preexec_fn=before_it_runs
            )
        )

    def signal(self, number: signal.Signals) -> None:
        """Pass a signal on; nothing if it is gone."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def wait(self) -> int:
        """Its exit status, as a shell gives it."""
        code = await self._process.wait()
        return code if code >= 0 else 128 - code

    async def stop(self, patience_s: float) -> int:
        """Have it end, if it has not; what is left of it after this time is killed. Its exit status."""
        self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(patience_s):
                await self._process.wait()
        except TimeoutError:
            pass
        # Also after an end in order: an API server that crashed leaves engine processes that hold the GPU.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        return await self.wait()
