"""This module finds which processes belong to one replica, and ends them all.

One replica is a session of its own: the API server leads it, EngineCore and Worker are its members and survive when
the leader is killed outright. A process is named by pid and start time together, because a pid alone may belong to
somebody else by the time a signal is sent. This module reads `/proc`, so it is for Linux only.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Process:
    """One process, told from a later one with the same pid by its start time."""

    pid: int
    start_ticks: int
    """Clock ticks from boot to the process's start."""

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """Return the process that has this pid at this moment; None if there is none, or only a zombie."""
        stat = _stat(pid)
        return None if stat is None else cls(pid, stat[1])

    def is_alive(self) -> bool:
        """Return whether this very process still runs."""
        return Process.of(self.pid) == self

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, unless the process is gone."""
        if self.is_alive():
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return

    def session(self) -> list[Process]:
        """Return the engine processes of the session that this process leads or led, itself included.

        A session id is not given to another process while the session has members: if another process has it, none of
        ours is left. A leader that is gone cannot vouch for the members, so then only members that look like vLLM's are
        returned.
        """
        leader = Process.of(self.pid)
        if leader is not None and leader != self:
            return []
        members = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                stat = _stat(int(entry.name))
                if (
                    stat is not None
                    and stat[0] == self.pid
                    and (leader is not None or _is_engine(int(entry.name)))
                ):
                    members.append(Process(int(entry.name), stat[1]))
        return members


def end_session(leader: Process, *, grace_s: float) -> None:
    """Send SIGTERM to a session's leader, kill what is left after `grace_s` seconds, and return when all processes are
    gone."""
    deadline_s = time.monotonic() + grace_s
    leader.signal(signal.SIGTERM)
    while leader.is_alive() and time.monotonic() < deadline_s:
        _reap(leader.pid)
        time.sleep(0.05)
    kill_session(leader)


def kill_session(leader: Process) -> None:
    """Kill a session, its leader first, and wait until no member is left (at most ten seconds)."""
    leader.signal(signal.SIGKILL)
    deadline_s = time.monotonic() + 10.0
    while True:
        _reap(leader.pid)
        members = leader.session()
        if not members or time.monotonic() > deadline_s:
            return
        for member in members:
            member.signal(signal.SIGKILL)
        time.sleep(0.05)


def pss_bytes(leader: Process) -> int:
    """Return the memory of a session in bytes; a page shared with other processes counts in proportion."""
    total = 0
    for member in leader.session():
        try:
            rollup = Path(f"/proc/{member.pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:"))
    return total


def _stat(pid: int) -> tuple[int, int] | None:
    """Return the session id and the start time, in clock ticks, of a running process; None if it does not run."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    fields = text.rpartition(") ")[2].split()
    return None if fields[0] in "ZX" else (int(fields[3]), int(fields[19]))


def _is_engine(pid: int) -> bool:
    try:
        return b"vllm" in Path(f"/proc/{pid}/cmdline").read_bytes().lower()
    except OSError:
        return False


def _reap(pid: int) -> None:
    """Take the exit status if the process is our own child, so that no zombie stays."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return
