"""Records of API keys in a file: one JSON object a line, empty lines and those that begin with `#` aside.

Read again when it changes, by looking at it; written by renaming a new one into its place, under a lock, so that
readers see one version or the other and writers do not undo each other. A file with a fault in it, or one that was
removed, leaves the last good keys in force: nobody is let in for it, and nobody locked out.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence

from warmroute.ports import KeyStoreError
from warmroute.tasks import Tasks
from warmroute.telemetry.logs import fields
from warmroute.tenants.keys import KeyRecord, decoded, encoded

log = logging.getLogger(__name__)

MAX_BYTES = 256 << 20
_YOUNG_NS = 100_000_000
"""A file that was changed so lately may change again within one step of its clock: it is read once more."""

_Mark = tuple[int, int, int, int]


class KeyFile:
    """Implements the port `KeyStore` in a file, which need not exist yet.

    Args:
        path: The file.
        interval_s: Time between two looks.
    """

    def __init__(self, path: str, interval_s: float = 0.25) -> None:
        self._path = path
        self._interval_s = interval_s
        self._tasks = Tasks()
        self._on_keys: Callable[[Sequence[KeyRecord]], None] = lambda _: None
        self._seen: _Mark | None = None
        self._trouble = ""

    async def start(self, on_keys: Callable[[Sequence[KeyRecord]], None]) -> None:
        """Read it, and look at it from now on."""
        self._on_keys = on_keys
        self._tasks = Tasks()
        try:
            mark, records = await asyncio.to_thread(_read_marked, self._path)
        except FileNotFoundError:
            log.warning("no_keys", extra=fields(path=self._path))
            records = []
        else:
            self._seen = mark
        on_keys(records)
        self._tasks.supervise(self._watch, name="key file")

    async def stop(self) -> None:
        """Look no more."""
        await self._tasks.stop()

    async def records(self) -> Sequence[KeyRecord]:
        """As the file is now; none where there is no file."""
        try:
            return (await asyncio.to_thread(_read_marked, self._path))[1]
        except FileNotFoundError:
            return []

    async def add(self, record: KeyRecord) -> None:
        """One line more."""

        def change(lines: list[bytes], records: list[KeyRecord]) -> list[bytes]:
            if any(one.id == record.id for one in records):
                raise KeyStoreError(f"{self._path}: there is a key {record.id!r} already")
            if any(one.sha256 == record.sha256 for one in records):
                raise KeyStoreError(f"{self._path}: this very key is there already")
            return [*lines, encoded(record)]

        await asyncio.to_thread(_rewrite, self._path, change)

    async def revoke(self, key_id: str) -> bool:
        """One line less; all others stay as they are, comments too."""
        found = False

        def change(lines: list[bytes], records: list[KeyRecord]) -> list[bytes]:
            nonlocal found
            found = any(record.id == key_id for record in records)
            return [line for line in lines if _empty(line) or decoded(line).id != key_id]

        await asyncio.to_thread(_rewrite, self._path, change)
        return found

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                status = os.stat(self._path)
                if _mark(status) == self._seen:
                    continue
                mark, records = await asyncio.to_thread(_read_marked, self._path)
            except OSError as error:  # KeyStoreError too
                self._say(str(error.strerror or error))
                continue
            self._seen = mark
            self._say("")
            self._on_keys(records)

    def _say(self, trouble: str) -> None:
        """One line a change of state."""
        if trouble and trouble != self._trouble and (self._seen is not None or "No such file" not in trouble):
            log.error("keys_unreadable", extra=fields(path=self._path, error=trouble))
        self._trouble = trouble


def _mark(status: os.stat_result) -> _Mark | None:
    """What changes with the file; None while it is so young that the next change may not show."""
    if time.time_ns() - status.st_mtime_ns < _YOUNG_NS:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _read_marked(path: str) -> tuple[_Mark | None, list[KeyRecord]]:
    with open(path, "rb") as file:
        mark = _mark(os.fstat(file.fileno()))
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise KeyStoreError(f"{path} is longer than {MAX_BYTES} bytes: no file of keys")
    return mark, list(_records(path, data.split(b"\n")))


def _records(path: str, lines: Sequence[bytes]) -> Iterator[KeyRecord]:
    ids: set[str] = set()
    for number, line in enumerate(lines, 1):
        if _empty(line):
            continue
        try:
            record = decoded(line)
        except ValueError as error:
            raise KeyStoreError(f"{path}:{number}: {error}") from None
        if record.id in ids:
            raise KeyStoreError(f"{path}:{number}: there are two keys {record.id!r}")
        ids.add(record.id)
        yield record


def _empty(line: bytes) -> bool:
    stripped = line.strip()
    return not stripped or stripped.startswith(b"#")


def _rewrite(path: str, change: Callable[[list[bytes], list[KeyRecord]], list[bytes]]) -> None:
    """Change the file, alone among all who change it."""
    target = os.path.realpath(path)
    new = f"{target}.new"
    try:
        with _locked(f"{target}.lock", target):
            lines: list[bytes] = []
            with contextlib.suppress(FileNotFoundError):
                with open(target, "rb") as file:
                    lines = file.read().split(b"\n")
            while lines and not lines[-1].strip():
                lines.pop()
            lines = change(lines, list(_records(path, lines)))
            try:
                descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
                with open(descriptor, "wb") as file:
                    _make_like(descriptor, target)
                    file.write(b"".join([line + b"\n" for line in lines]))
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(new, target)
            except OSError:
                with contextlib.suppress(OSError):
                    os.unlink(new)
                raise
    except KeyStoreError:
        raise
    except OSError as error:
        remedy = "Is its folder there?"
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            remedy = "Of a Secret that is mounted, change the Secret."
        raise KeyStoreError(f"{path} cannot be changed: {error.strerror}. {remedy}") from error


def _make_like(descriptor: int, target: str) -> None:
    """Whoever reads the one must be able to read the other: a router whose file became somebody else's, root's say,
    would keep the keys that it had."""
    try:
        before = os.stat(target)
    except FileNotFoundError:
        return
    made = os.fstat(descriptor)
    if (made.st_uid, made.st_gid) != (before.st_uid, before.st_gid):
        os.fchown(descriptor, before.st_uid, before.st_gid)
    os.fchmod(descriptor, before.st_mode & 0o777)


@contextlib.contextmanager
def _locked(path: str, target: str) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        with contextlib.suppress(OSError):
            _make_like(descriptor, target)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
