"""Workers' processes as their supervisor has them: started, told to serve, watched for signs of life, and ended.

A place is one of the router's N workers, whichever process fills it; while that is replaced there are two. Decides
neither when a process is started nor when it is ended.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from warmroute.config.schema import Config
from warmroute.service.growth import Growth
from warmroute.service.listeners import Left
from warmroute.telemetry.logs import fields

log = logging.getLogger(__name__)

SERVING = ".serving"
"""Ends the name of the file that a worker makes when it takes connections."""

HUNG_BEATS = 10
"""Looks, `BEAT_S` apart, at which a worker has given no sign of life since the look before: then it
is taken for hung, killed and replaced. Counted in looks, so that a supervisor that was itself suspended kills nobody.
"""

FIRST_BEATS = 60
"""Looks until the first sign of life, which comes when it serves."""

BOOT = """
import signal
signal.signal(signal.SIGHUP, signal.SIG_IGN)
import pickle, sys
sys.path[:] = pickle.load(sys.stdin.buffer)
from warmroute.supervisor import work
sys.exit(work())
"""

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Process:
    """A Python process that has loaded the router, or is about to, and waits for settings.

    Args:
        data: Descriptors of the data port's sockets.

    Raises:
        OSError: The system has no room for it.
    """

    def __init__(self, data: Sequence[int]) -> None:
        self._beats, beating = os.pipe()
        os.set_blocking(self._beats, False)
        os.set_blocking(beating, False)
        self._beating = beating
        try:
            self._popen = subprocess.Popen(
                [sys.executable, "-P", "-c", BOOT], stdin=subprocess.PIPE, pass_fds=[beating, *data]
            )
        except OSError:
            os.close(self._beats)
            raise
        finally:
            os.close(beating)
        self.pid = self._popen.pid
        self.growth = Growth()
        self._missed = HUNG_BEATS - FIRST_BEATS
        """Looks in a row without a sign of life; negative, the more there may be, before the first."""
        self._tell(sys.path)

    def serve(self, config: Config, socket_path: str, data: Sequence[int]) -> None:
        """Let it begin, and accept from these sockets."""
        self._tell((config, socket_path, self._beating, list(data)))

    @property
    def stdin(self) -> int:
        """Descriptor whose end would tell it that its supervisor has died."""
        return self._popen.stdin.fileno() if self._popen.stdin is not None else -1

    def resident_bytes(self) -> int:
        """Memory that it takes; 0 where the system does not tell."""
        try:
            return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * _PAGE_BYTES
        except (OSError, ValueError, IndexError):
            return 0

    def hung(self) -> bool:
        """Look for signs of life; whether there were none for too long."""
        try:
            seen = len(os.read(self._beats, 4096)) > 0
        except BlockingIOError:
            seen = False
        self._missed = 0 if seen else self._missed + 1
        return self._missed >= HUNG_BEATS

    def poll(self) -> int | None:
        """Exit status if it has ended."""
        return self._popen.poll()

    def hang_up(self) -> None:
        """Have it read the settings again; one that does not serve yet reads them when it does."""
        self._popen.send_signal(signal.SIGHUP)

    def end(self) -> None:
        """Ask it to drain and end."""
        self._popen.terminate()

    def kill(self) -> None:
        """End it at once."""
        self._popen.kill()
        self._popen.wait()

    def close(self) -> None:
        """Let go of one that has ended. Once."""
        os.close(self._beats)
        if self._popen.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._popen.stdin.close()

    def _tell(self, value: object) -> None:
        pipe = self._popen.stdin
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):  # it died already, and is found dead
                pipe.write(pickle.dumps(value))
                pipe.flush()


class Inherited:
    """A worker that this process started when it was another supervisor."""

    def __init__(self, left: Left) -> None:
        self.pid = left.pid
        self.stdin = left.stdin
        self._status: int | None = None

    def poll(self) -> int | None:
        """Exit status if it has ended."""
        if self._status is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            if ended:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status

    def end(self) -> None:
        """Ask it to drain and end."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
            self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def close(self) -> None:
        """Let go of one that has ended. Once."""
        os.close(self.stdin)


def new_process(data: Sequence[int], pause_s: float) -> Process | None:
    """A process, if the system has room for one; otherwise the next attempt is `pause_s` away."""
    try:
        return Process(data)
    except OSError as error:
        log.error("no_process", extra=fields(error=error, again_in_s=pause_s))
        return None


class Place:
    """One place among the workers, the process that fills it, and the one that it replaces."""

    def __init__(self, number: int, directory: str) -> None:
        self.number = number
        self.name = str(number)
        self.data: list[int] = []
        """Descriptors of the sockets that it accepts from."""
        self.socket_path = ""
        self.process: Process | None = None
        self.outgoing: Process | Inherited | None = None
        """Serves until `process` does, then drains."""
        self.outgoing_path = ""
        self.outgoing_until_s = math.inf
        """When it is killed, once it drains."""
        self.started_s = 0.0
        self.deaths = 0
        """In a row, each soon after its start."""
        self.due_s = 0.0
        """When to start it; of no meaning while it lives."""
        self._directory = directory
        self._starts = 0
        self._serves = False
        self._has_served = False

    @property
    def draining_name(self) -> str:
        """Under which the metrics of `outgoing` are read."""
        return f"{self.name}.draining"

    @property
    def serves(self) -> bool:
        """Whether its process has got as far as taking connections."""
        # Asked for once: who cleans directories of what is temporary may take the file.
        if not self._serves and self.socket_path:
            self._serves = os.path.exists(self.socket_path + SERVING)
        return self._serves

    @property
    def has_served(self) -> bool:
        """Whether any process in this place has."""
        self._has_served = self._has_served or self.outgoing is not None or self.serves
        return self._has_served

    @property
    def changing(self) -> bool:
        """Whether its old process waits for the new one to serve."""
        return self.outgoing is not None and self.outgoing_until_s == math.inf

    def note_serving(self) -> None:
        """See whether its process serves by now: the sign of that may be gone later."""
        self._has_served = self.has_served

    def start(self, process: Process, config: Config) -> None:
        """Fill the place."""
        self.note_serving()
        self._serves = False
        self._starts += 1
        self.socket_path = os.path.join(self._directory, f"{self.number}.{self._starts}.sock")
        self.process = process
        self.started_s = time.monotonic()
        process.serve(config, self.socket_path, self.data)
        log.info("worker_started", extra=fields(worker=self.number, pid=process.pid))

    def replace(self) -> None:
        """Empty the place; who was in it goes on until the next one serves."""
        self.note_serving()
        self.outgoing, self.outgoing_path = self.process, self.socket_path
        self.process = None
        self.due_s = 0.0
