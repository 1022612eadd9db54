"""This module runs one worker as a process: it handles signals, says why a start or a reload failed, and tunes memory.

It decides when a worker starts, reloads and stops; `app` decides what a worker is made of, and `supervisor` how many
there are.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import os
import signal
import socket
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import uvloop

from warmroute.app import Worker
from warmroute.config.errors import ConfigError
from warmroute.config.schema import Config
from warmroute.telemetry.logs import fields, set_up

log = logging.getLogger(__name__)

M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -3, -1
"""Parameters of glibc's mallopt. Source: malloc.h."""

GC_THRESHOLDS = (5_000, 80, 100)
"""A request makes no reference cycles; collecting every 700 allocations would cost it some microseconds. The first is
also how much is walked at once where much comes that stays, such as a thousand replicas: 1 ms."""


def run(
    config: Config,
    control_socket: str | None = None,
    on_serving: Callable[[], None] | None = None,
    reload: Callable[[], Config | None] = lambda: None,
    shared_file: str | None = None,
    listeners: Sequence[socket.socket] = (),
) -> int:
    """Serve until SIGTERM or SIGINT, then drain. Returns the exit status.

    With a `control_socket` (see `Worker`) the end of standard input, which the supervisor holds, is a signal too.
    `on_serving` is called once connections are taken; `reload` at SIGHUP, and at the start of one of several workers
    in case one came before: it gives new settings, if there are any, or raises `ConfigError`. In `shared_file` workers
    of one router keep what operators changed. For `listeners` see `Worker`.
    """
    set_up(config.log_level)
    return uvloop.run(_serve(config, control_socket, on_serving, reload, shared_file, listeners))


async def _serve(
    config: Config,
    control_socket: str | None,
    on_serving: Callable[[], None] | None,
    reload: Callable[[], Config | None],
    shared_file: str | None,
    listeners: Sequence[socket.socket],
) -> int:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    if control_socket is not None:
        loop.add_reader(0, ended.set)
    worker = Worker(
        config,
        control_socket=control_socket,
        keep_operated=None if shared_file is None else partial(_write, shared_file),
        operated_before=lambda: None if shared_file is None else _read(shared_file),
        listeners=listeners,
    )
    try:
        await worker.start()
    except OSError as error:
        log.error("cannot_start", extra=fields(error=error))
        await worker.close()
        return 1
    loop.add_signal_handler(signal.SIGHUP, _hang_up, worker, reload)
    if control_socket is not None:
        _reload(worker, reload, unless=config)
    if on_serving is not None:
        on_serving()
    _tune_memory()
    await ended.wait()
    if control_socket is not None:
        loop.remove_reader(0)
    log.info("draining", extra=fields(grace_s=config.drain_grace_s))
    await worker.stop()
    return 0


def _write(path: str, text: bytes) -> None:
    """Each worker that is told of a change writes the same; a reader finds all of one or of the other."""
    own = f"{path}.{os.getpid()}"
    try:
        Path(own).write_bytes(text)
        os.replace(own, path)
    except OSError as error:  # the supervisor has ended, and taken its directory along
        log.warning("operated_not_kept", extra=fields(error=error))


def _read(path: str) -> bytes | None:
    try:
        return Path(path).read_bytes()
    except OSError:
        return None  # nothing was changed yet


def _hang_up(worker: Worker, reload: Callable[[], Config | None]) -> None:
    worker.reopen_logs()
    _reload(worker, reload)


def _reload(worker: Worker, reload: Callable[[], Config | None], unless: Config | None = None) -> None:
    try:
        config = reload()
        if config is not None and config != unless:
            worker.reload(config)
        worker.settings_current = True
    except ConfigError as error:
        worker.settings_current = False
        for message in error.messages:
            log.error("reload_failed", extra=fields(error=message))


def _tune_memory() -> None:
    """Keep long bodies' memory instead of giving it back and faulting it in again for each request.

    glibc returns blocks over 128 KiB to the kernel at once; a 200 KB prompt then costs more in page faults than in
    reading it (60 us against 330 us to parse).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return  # another C library
    mallopt(M_MMAP_THRESHOLD, 32 << 20)
    mallopt(M_TRIM_THRESHOLD, 64 << 20)
