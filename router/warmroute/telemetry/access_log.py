"""The access log has one JSON line a request. A thread writes it, so that a slow disk or pipe never holds up traffic.

A line costs its encoding (about 1 us) and an append. Full buffers go to the writer every 64 KiB or 100 ms. What the
writer has not taken is bounded; beyond it lines are dropped and counted. The file is opened for append, and opened anew
once it is moved or removed, so that it may be rotated either way.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import queue
import threading
import time

import msgspec

from warmroute.telemetry.logs import fields

FLUSH_BYTES = 64 << 10
FLUSH_INTERVAL_S = 0.1
MAX_PENDING_BYTES = 8 << 20
STOP_TIMEOUT_S = 1.0
"""Longest wait for the writer at the end; a pipe that nobody reads must not keep the process alive."""

_WARN_INTERVAL_S = 60.0

log = logging.getLogger(__name__)


class AccessEntry(msgspec.Struct, gc=False, kw_only=True, omit_defaults=False):
    """What is said of one request; the field order is the line's. Absent is null."""

    time: float
    """When it arrived, Unix seconds."""
    request_id: str
    client: str
    """Address of the client's end of the connection, or what trusted proxies say of it."""
    method: str
    path: str
    """Without the query, which may hold keys."""
    api: str
    model: str
    status: int
    code: str | None = None
    replica: str | None = None
    decision: str | None = None
    predicted_cached_tokens: int | None = None
    cached_tokens: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    ttft_s: float | None = None
    duration_s: float = 0.0
    bytes_in: int = 0
    bytes_out: int = 0
    attempts: int = 0
    held_s: float = 0.0
    """How long the request waited in the router for a replica to come free."""
    retried_after: str | None = None
    """Replica and reason of the last attempt that failed and that another replica made good."""
    tenant: str | None = None
    """Whose request it was, where keys are asked for."""
    key: str | None = None
    """Id of the key that it showed, which is not the key."""


class AccessLog:
    """Appends entries to a file, or to standard output for `-`. Used by one event loop."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._encoder = msgspec.json.Encoder()
        self._buffer = bytearray()
        self._lines = 0
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        # Bounded by bytes (`MAX_PENDING_BYTES`), not by items.
        self._queue: queue.SimpleQueue[tuple[bytes, int] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._handed_bytes = 0
        self._written_bytes = 0  # only the writer thread changes it
        self._dropped_here = 0
        self._dropped_writing = 0  # only the writer thread changes it
        self._warned_s = 0.0  # likewise

    @property
    def dropped(self) -> int:
        """Lines that were not written because the disk or pipe was too slow, or failed."""
        return self._dropped_here + self._dropped_writing

    def start(self) -> None:
        """Open the file and start the writer. Call inside the event loop.

        Raises:
            OSError: The file cannot be opened.
        """
        self._loop = asyncio.get_running_loop()
        fd = os.dup(1) if self._path == "-" else _open(self._path)
        self._thread = threading.Thread(target=self._write_all, args=(fd,), name="access-log", daemon=True)
        self._thread.start()

    def reopen(self) -> None:
        """Look now whether the file was moved, instead of when there is something to write."""
        self._queue.put((b"", 0))

    def write(self, entry: AccessEntry, members: bytes = b"") -> None:
        """Take one line, with further members of the object (`,"name":value`); never waits."""
        buffer = self._buffer
        self._encoder.encode_into(entry, buffer, -1)
        if members:
            buffer[-1:] = members
            buffer += b"}\n"
        else:
            buffer += b"\n"
        self._lines += 1
        if len(buffer) >= FLUSH_BYTES:
            self._hand_over()
        elif self._timer is None and self._loop is not None:
            self._timer = self._loop.call_later(FLUSH_INTERVAL_S, self._hand_over)

    async def stop(self) -> None:
        """Write what is pending, waiting at most `STOP_TIMEOUT_S` for a slow reader."""
        self._hand_over()
        self._queue.put(None)
        thread = self._thread
        if thread is not None:
            await asyncio.get_running_loop().run_in_executor(None, thread.join, STOP_TIMEOUT_S)
            if thread.is_alive():
                log.warning("access_log_abandoned", extra=fields(path=self._path))

    def _hand_over(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._lines:
            return
        size = len(self._buffer)
        if self._handed_bytes - self._written_bytes + size > MAX_PENDING_BYTES:
            self._dropped_here += self._lines
        else:
            self._handed_bytes += size
            self._queue.put((bytes(self._buffer), self._lines))
        self._buffer.clear()
        self._lines = 0

    def _write_all(self, fd: int) -> None:
        self._warned_s = -_WARN_INTERVAL_S
        try:
            while (item := self._queue.get()) is not None:
                data, lines = item
                fd = self._followed(fd)
                try:
                    view = memoryview(data)
                    while view:
                        view = view[os.write(fd, view) :]
                except OSError as error:
                    self._dropped_writing += lines
                    self._warn(error)
                self._written_bytes += len(data)
        finally:
            os.close(fd)

    def _followed(self, fd: int) -> int:
        """The file of this name: another than was written to before if that was moved away or removed."""
        if self._path == "-":
            return fd
        try:
            if not _is_same(self._path, fd):
                fresh = _open(self._path)
                os.close(fd)
                return fresh
        except OSError as error:  # the old one is better than none
            self._warn(error)
        return fd

    def _warn(self, error: OSError) -> None:
        if time.monotonic() - self._warned_s > _WARN_INTERVAL_S:
            self._warned_s = time.monotonic()
            log.warning("access_log_failed", extra=fields(path=self._path, error=error))


def check_path(path: str) -> None:
    """Raises:
    OSError: No access log can be written to this path.
    """
    if path != "-" and not os.path.exists(path):
        os.close(_open(path))
    elif path != "-" and not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)


def _open(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)


def _is_same(path: str, fd: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except FileNotFoundError:
        return False
