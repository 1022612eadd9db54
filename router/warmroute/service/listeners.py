"""Listening sockets of the data port that outlive those who accept from them.

Where from: bound here for workers to share; passed by systemd (socket activation); or handed over by the supervisor
that this process was before it started itself anew. Decides which of them a worker accepts from. Accepts nothing.

A socket is never closed in order to be opened again: with SO_REUSEPORT the connections in the queue of a socket that
closes are reset, and without it there is a moment in which nobody listens. One that several processes hold keeps its
queue whoever of them ends.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass

HANDED_OVER = "HANDED_OVER_BY_WARMROUTE"
"""Environment variable in which a supervisor leaves its `HandOver` to the one it becomes. No `WARMROUTE_…`: those are
settings."""

_FIRST_PASSED = 3
"""Descriptor of the first socket that systemd passes. Source: sd_listen_fds(3)."""

_REUSE = (socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


@dataclass(frozen=True, slots=True)
class Left:
    """A worker that is to be replaced, as the supervisor that started it leaves it."""

    number: int
    pid: int
    stdin: int
    """Descriptor whose end would tell it that its supervisor has died."""
    socket_path: str


@dataclass(frozen=True, slots=True)
class HandOver:
    """What a supervisor leaves to the one it becomes. Descriptors stay open over `exec`."""

    data: tuple[int, ...]
    admin: tuple[int, ...]
    directory: str
    workers: tuple[Left, ...]

    def leave(self, environ: MutableMapping[str, str]) -> None:
        """Write it where `taken_over` finds it, and let the descriptors survive."""
        for descriptor in (*self.data, *self.admin, *(worker.stdin for worker in self.workers)):
            os.set_inheritable(descriptor, True)
        workers = [[one.number, one.pid, one.stdin, one.socket_path] for one in self.workers]
        environ[HANDED_OVER] = json.dumps([self.data, self.admin, self.directory, workers])

    def take_back(self, environ: MutableMapping[str, str]) -> None:
        """Undo `leave`."""
        environ.pop(HANDED_OVER, None)
        for descriptor in (*self.data, *self.admin, *(worker.stdin for worker in self.workers)):
            os.set_inheritable(descriptor, False)


def taken_over(environ: MutableMapping[str, str]) -> HandOver | None:
    """What the supervisor before left, once; nothing in a process that was started by somebody else."""
    left = environ.pop(HANDED_OVER, None)
    if left is None:
        return None
    data, admin, directory, workers = json.loads(left)
    hand_over = HandOver(tuple(data), tuple(admin), directory, tuple(Left(*one) for one in workers))
    hand_over.take_back(environ)
    return hand_over


def passed(environ: MutableMapping[str, str], pid: int, first: int = _FIRST_PASSED) -> list[socket.socket]:
    """The sockets that systemd listens on for us, once; none where it does not."""
    count, meant = environ.pop("LISTEN_FDS", ""), environ.pop("LISTEN_PID", "")
    environ.pop("LISTEN_FDNAMES", None)
    if not count.isdigit() or meant != str(pid):
        return []
    sockets = [socket.socket(fileno=first + index) for index in range(int(count))]
    for one in sockets:
        one.set_inheritable(False)
        one.setblocking(False)
    return sockets


def bind_shared(host: str, port: int, count: int) -> list[socket.socket]:
    """So many sockets on one address, bound and not listening yet; a port of 0 becomes a free one.

    Raises:
        OSError: Somebody else listens there, or the address is not this machine's; it names the address.
    """
    try:
        return _bind(host, port, count)
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror or error}") from error


def _bind(host: str, port: int, count: int) -> list[socket.socket]:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    with socket.socket(family, kind, protocol) as probe:
        # Without SO_REUSEPORT, so that another router's shared port is not silently joined.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
        probe.listen(1)
    sockets: list[socket.socket] = []
    try:
        for _ in range(count):
            one = socket.socket(family, kind, protocol)
            sockets.append(one)
            one.setsockopt(*_REUSE)
            one.setblocking(False)
            one.bind(address)
            address = one.getsockname()
    except OSError:
        close(sockets)
        raise
    return sockets


def share(count: int, workers: int, number: int) -> list[int]:
    """Which of `count` sockets this worker accepts from: every socket has somebody, and every worker one.

    With fewer sockets than workers, several accept from one.
    """
    return list(range(number, count, workers)) or [number % count]


def address_of(one: socket.socket) -> tuple[str, int]:
    """Host, in brackets if it has colons, and port."""
    host, port = one.getsockname()[:2]
    return (f"[{host}]" if ":" in host else host), port


def addresses_of(sockets: Sequence[socket.socket]) -> list[str]:
    """Their addresses as the setting `listen` would have them."""
    return [f"{host}:{port}" for host, port in map(address_of, sockets)]


def close(sockets: Sequence[socket.socket]) -> None:
    """Let go of them; who else holds them keeps them."""
    for one in sockets:
        one.close()
