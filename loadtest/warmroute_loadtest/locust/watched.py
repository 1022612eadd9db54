"""This module reads plain connections from gevent's event loop itself, without waking a greenlet for every piece.

It decides nothing about what is read. Waking one for each event of a stream costs an exception, a second `recv` and
two switches; here the loop calls the reader, and the greenlet is woken once, when its answer has ended. TLS
connections are read as everywhere else.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from time import perf_counter
from typing import Any

import gevent
import gevent.ssl
from gevent.hub import Waiter

from warmroute_loadtest.locust.wire import RECEIVE_BYTES, Wire

READABLE = 1


class WatchedWire(Wire):
    """A wire for use within gevent."""

    def pump(self, sock: socket.socket, take: Callable[[bytes, float], bool]) -> None:
        """See `Wire.pump`."""
        # Only gevent's own sockets wrap a bare socket, and only without TLS can the bare one be read.
        bare: Any = None if isinstance(sock, gevent.ssl.SSLSocket) else getattr(sock, "_sock", None)
        if bare is None:
            super().pump(sock, take)
            return
        hub = gevent.get_hub()
        waiter: Any = Waiter(hub)
        receive = bare.recv
        silence_s = sock.gettimeout() or 0.0
        heard_s = perf_counter()

        def ready() -> None:
            nonlocal heard_s
            try:
                data = receive(RECEIVE_BYTES)
                heard_s = perf_counter()
                if take(data, heard_s):
                    watcher.stop()
                    waiter.switch(None)
            except BlockingIOError:
                return
            except BaseException as error:  # noqa: BLE001 - whatever it is, it is the greenlet's
                watcher.stop()
                waiter.throw(error)

        def look() -> None:
            if perf_counter() - heard_s >= silence_s:
                watcher.stop()
                timer.stop()
                waiter.throw(TimeoutError())

        watcher = hub.loop.io(bare.fileno(), READABLE)
        timer = hub.loop.timer(silence_s / 4, repeat=silence_s / 4)
        try:
            watcher.start(ready)
            if silence_s:
                timer.start(look)
            waiter.get()
        finally:
            for each in (watcher, timer):
                each.stop()
                each.close()
