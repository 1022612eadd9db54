"""The wire speaks HTTP/1.1 to one server, one connection for each request at a time, and reads the clock at every
arrival.

This module decides nothing about what is sent. It uses Python's own sockets, which wait cooperatively once gevent has
patched them, and block as usual without it. If the server had closed an idle connection, the request goes out on a new
one and does not fail; anything else that breaks is reported.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import perf_counter
from urllib.parse import urlsplit

import httptools

RECEIVE_BYTES = 65_536
CONNECT_TIMEOUT_S = 10.0
IDLE_S = 3.0
"""Connections that were idle for longer than this, in seconds, are not used again: vLLM closes them after 5 s."""
ADDRESS_S = 30.0
"""A resolved name is used for this long, in seconds."""


class WireError(Exception):
    """There is no complete answer; the message says why."""


class Leave(Exception):
    """A reader raises this to have the connection closed at once."""


@dataclass(slots=True)
class Reply:
    """The head of an answer, and how the answer ended."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    """The headers by lower-case name."""
    has_ended: bool = False
    keeps_alive: bool = False
    received_bytes: int = 0


Reader = Callable[[Reply, bytes, float], None]
"""Called with the answer's head, body bytes as they come, and the clock at their arrival."""


class _Parts:
    """Receives what httptools parses."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.pieces: list[bytes] = []
        self.parser = httptools.HttpResponseParser(self)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.reply.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, piece: bytes) -> None:
        self.pieces.append(piece)

    def on_message_complete(self) -> None:
        self.reply.has_ended = True
        # Read now, since the parser forgets it after the message.
        self.reply.keeps_alive = self.parser.should_keep_alive()


class Wire:
    """A client of one server. It keeps connections, and uses the one next that was used last."""

    def __init__(self, url: str, *, timeout_s: float = 120.0, insecure: bool = False) -> None:
        """Prepare to connect; the name is not resolved yet.

        Args:
            url: `http://` or `https://`, host and port; a path is put before those of requests.
            timeout_s: Seconds of silence after which an answer counts as failed.
            insecure: Whether any certificate is accepted.
        Raises:
            ValueError: The text is no such URL.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no URL: expected http://HOST:PORT")
        self._host = parts.hostname
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._prefix = parts.path.rstrip("/").removesuffix("/v1")
        self._authority = parts.netloc.rpartition("@")[2]
        self._timeout_s = timeout_s
        self._context: ssl.SSLContext | None = None
        if parts.scheme == "https":
            self._context = ssl.create_default_context()
            if insecure:
                self._context.check_hostname = False
                self._context.verify_mode = ssl.CERT_NONE
        self._idle: list[tuple[socket.socket, float]] = []
        self._address: tuple[float, int, tuple[object, ...]] | None = None

    def head(self, method: str, path: str, headers: Mapping[str, str], body_bytes: int) -> bytes:
        """Return the head of a request."""
        lines = [f"{method} {self._prefix}{path} HTTP/1.1", f"Host: {self._authority}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if body_bytes:
            lines.append(f"Content-Length: {body_bytes}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def get(self, path: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """Send a GET, and return the answer's status and body.

        Raises:
            WireError: There is no complete answer.
        """
        pieces: list[bytes] = []
        reply = self.exchange(self.head("GET", path, headers, 0), lambda _, piece, __: pieces.append(piece))
        return reply.status or 0, b"".join(pieces)

    def exchange(self, request: bytes, read: Reader) -> Reply:
        """Send a request, and read its answer to the end.

        Raises:
            WireError: There is no complete answer.
            Leave: `read` raised it; the connection is closed.
        """
        while True:
            sock, is_used = self._take()
            reply = Reply()
            is_kept = False
            try:
                sock.sendall(request)
                self._receive(sock, reply, read)
                is_kept = reply.keeps_alive
            except OSError as error:
                if not is_used or reply.received_bytes or isinstance(error, TimeoutError):
                    raise WireError(_said(error)) from error
                continue
            finally:
                if is_kept:
                    self._idle.append((sock, perf_counter()))
                else:
                    sock.close()
            return reply

    def connect(self) -> socket.socket:
        """Return a new connection, which the caller closes.

        Raises:
            WireError: No connection can be made.
        """
        try:
            family, address = self._resolved()
            sock = socket.socket(family, socket.SOCK_STREAM)
            try:
                sock.settimeout(CONNECT_TIMEOUT_S)
                sock.connect(address)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if self._context is not None:
                    sock = self._context.wrap_socket(sock, server_hostname=self._host)
                sock.settimeout(self._timeout_s)
            except BaseException:
                sock.close()
                raise
            return sock
        except OSError as error:
            raise WireError(f"no connection to {self._host}:{self._port}: {_said(error)}") from error

    def close(self) -> None:
        """Close idle connections."""
        while self._idle:
            self._idle.pop()[0].close()

    def _take(self) -> tuple[socket.socket, bool]:
        now_s = perf_counter()
        while self._idle:
            sock, since_s = self._idle.pop()
            if now_s - since_s < IDLE_S:
                return sock, True
            sock.close()
        return self.connect(), False

    def _resolved(self) -> tuple[int, tuple[object, ...]]:
        now_s = perf_counter()
        if self._address is None or now_s - self._address[0] > ADDRESS_S:
            family, _, _, _, address = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)[0]
            self._address = (now_s, family, address)
        return self._address[1], self._address[2]

    def pump(self, sock: socket.socket, take: Callable[[bytes, float], bool]) -> None:
        """Call `take` with what arrives and the clock at its arrival, until `take` wants no more. Empty bytes mean that
        the server closed the connection.

        Raises:
            OSError: The connection broke, or was silent for too long.
        """
        while not take(sock.recv(RECEIVE_BYTES), perf_counter()):
            pass

    def _receive(self, sock: socket.socket, reply: Reply, read: Reader) -> None:
        parts = _Parts(reply)
        parser, pieces = parts.parser, parts.pieces

        def take(data: bytes, now_s: float) -> bool:
            if not data:
                return _ended(reply)
            reply.received_bytes += len(data)
            try:
                parser.feed_data(data)
            except httptools.HttpParserError as error:
                raise WireError(f"what came is no HTTP: {error}") from error
            if reply.status is None and (reply.headers or reply.has_ended):
                reply.status = parser.get_status_code()
            if pieces:
                piece = pieces[0] if len(pieces) == 1 else b"".join(pieces)
                pieces.clear()
                read(reply, piece, now_s)
            return reply.has_ended

        self.pump(sock, take)


def _ended(reply: Reply) -> bool:
    """Return whether the connection's end ends the answer, as it does for an answer without a length.

    Raises:
        ConnectionResetError: There was no answer.
        WireError: There was a part of an answer.
    """
    if not reply.received_bytes:
        raise ConnectionResetError("the connection was closed without an answer")
    if reply.status is None or "content-length" in reply.headers or "transfer-encoding" in reply.headers:
        raise WireError("the connection was closed in the middle of the answer")
    return True


def _said(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "timed out"
    return error.strerror or str(error) or type(error).__name__
