"""A replica that answers exactly the bytes a test tells it to: for wire-level tests of the data plane.

Each connection runs `script(upstream, connection)` in a thread of its own; the script reads requests and writes bytes
as it likes. Unless told otherwise it is healthy and serves the model `m`.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

MODELS = json.dumps({"object": "list", "data": [{"id": "m", "object": "model", "owned_by": "test"}]}).encode()


@dataclass
class Received:
    """One request as the replica got it."""

    line: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def header(self, name: bytes) -> bytes | None:
        """First value of a header, by lower-case name."""
        return next((value for key, value in self.headers if key.lower() == name), None)


class Connection:
    """One accepted connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._buffer = b""

    def _read_until(self, mark: bytes) -> bytes | None:
        while mark not in self._buffer:
            data = self.sock.recv(65536)
            if not data:
                return None
            self._buffer += data
        head, _, self._buffer = self._buffer.partition(mark)
        return head

    def receive(self) -> Received | None:
        """The next request, or None when the router closes."""
        try:
            head = self._read_until(b"\r\n\r\n")
            if head is None:
                return None
            line, *rest = head.split(b"\r\n")
            headers = [(name, value.strip()) for name, _, value in (field.partition(b":") for field in rest)]
            received = Received(line, headers, b"")
            length = int(received.header(b"content-length") or 0)
            while len(self._buffer) < length:
                data = self.sock.recv(1 << 20)
                if not data:
                    return None
                self._buffer += data
            received.body, self._buffer = self._buffer[:length], self._buffer[length:]
            return received
        except OSError:
            return None

    def send(self, data: bytes) -> None:
        """Write bytes as they are."""
        self.sock.sendall(data)

    def closed_by_peer(self, timeout_s: float) -> bool:
        """Whether the router closes the connection within this time."""
        self.sock.settimeout(timeout_s)
        try:
            return self.sock.recv(1) == b""
        except TimeoutError:
            return False
        except OSError:
            return True

    def reset(self) -> None:
        """Close with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        self.sock.close()


def plain(body: bytes, status: bytes = b"200 OK", content_type: bytes = b"application/json") -> bytes:
    """A whole answer with Content-Length."""
    return b"HTTP/1.1 %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n%b" % (
        status,
        content_type,
        len(body),
        body,
    )


SSE_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


Script = Callable[["ScriptedUpstream", Connection, Received], bool]
"""Answers one POST; returns whether the connection goes on."""


def answer_ok(upstream: ScriptedUpstream, connection: Connection, received: Received) -> bool:
    """The default script."""
    connection.send(plain(b'{"id":"x","object":"chat.completion","choices":[]}'))
    return True


@dataclass
class ScriptedUpstream:
    """A server on a free port of the loopback interface; a context manager."""

    script: Script = answer_ok
    port: int = 0
    models: bytes = MODELS
    healthy: bool = True
    received: list[Received] = field(default_factory=list)
    _listener: socket.socket | None = None
    _open: set[socket.socket] = field(default_factory=set)

    @property
    def url(self) -> str:
        """Base URL."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def id(self) -> str:
        """The replica id that the router gives it."""
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> ScriptedUpstream:
        self.listen()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def listen(self) -> None:
        """Accept connections (again, on the same port)."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(1024)
        self.port = listener.getsockname()[1]
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def stop(self) -> None:
        """Close the port and every connection at once, as a killed process does."""
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        for sock in list(self._open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            self._open.add(sock)
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # `stop` may have closed it already
            connection = Connection(sock)
            while (received := connection.receive()) is not None:
                if not self._answer(connection, received):
                    return
        except OSError:
            return
        finally:
            self._open.discard(sock)
            sock.close()

    def _answer(self, connection: Connection, received: Received) -> bool:
        path = received.line.split(b" ")[1]
        if path == b"/health":
            connection.send(plain(b"", b"200 OK" if self.healthy else b"503 Service Unavailable"))
            return True
        if path == b"/v1/models":
            connection.send(plain(self.models))
            return True
        if path in (b"/is_paused", b"/weight_info"):
            connection.send(plain(b"{}", b"404 Not Found"))
            return True
        if path == b"/metrics":
            connection.send(plain(b"process_start_time_seconds 1.5e9\n", content_type=b"text/plain"))
            return True
        self.received.append(received)
        return self.script(self, connection, received)
