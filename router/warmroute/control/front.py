"""The front is the admin port of several workers: one address, which any worker that lives answers.

`GET /metrics` is read from all workers and merged. What changes the fleet (anything but a GET below `/replicas`) is
handed to all of them, one change after the other. Any other request is handed to one worker, byte for byte, on its
socket file. Each connection serves one request. The front knows no other endpoint. What one worker answers for the
fleet holds for all, since workers tell each other their load.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping, Sequence

from warmroute.control.tokens import AdminAuth
from warmroute.telemetry.merging import CONTENT_TYPE, Merger

log = logging.getLogger(__name__)

_HEAD_BYTES = 65_536
_HEAD_S = 10.0
_SCRAPE_S = 2.0
_SCRAPE_BYTES = 64 << 20
_PIECE_BYTES = 65_536

_CHANGE_BYTES = 65_536
_CHANGE_S = 5.0

_SCRAPE = b"GET /metrics HTTP/1.0\r\nHost: worker\r\nAccept: text/plain\r\n%b\r\n"
_TOKEN = (
    b'{"error":{"message":"a token is needed: Authorization: Bearer TOKEN (admin_auth)",'
    b'"type":"invalid_request_error","param":null,"code":"missing_token"}}'
)
_OF_CONNECTION = (b"connection:", b"keep-alive:", b"proxy-connection:")
_NOBODY = (
    b'{"error":{"message":"no worker of this router is up","type":"overloaded_error",'
    b'"param":null,"code":"no_worker"}}'
)


class AdminFront:
    """Listens on the admin address.

    Args:
        workers: Socket file of each live worker's control server, by the worker's name.
        own_metrics: What the supervisor counts itself, as Prometheus text.
        draining: The same of workers that have been replaced and finish what they have: only their counters are read.
        auth: Who may read metrics; workers judge all other requests.
    """

    def __init__(
        self,
        workers: Callable[[], Mapping[str, str]],
        own_metrics: Callable[[], str],
        draining: Callable[[], Mapping[str, str]] = dict,
        auth: AdminAuth | None = None,
    ) -> None:
        self._auth = auth if auth is not None else AdminAuth((), (), open_metrics=True)
        self.merger = Merger()
        self._workers = workers
        self._own_metrics = own_metrics
        self._draining = draining
        self._servers: list[asyncio.Server] = []
        self._turn = 0
        self._changing = asyncio.Lock()

    async def start(self, host: str, port: int, listeners: Sequence[socket.socket] = ()) -> int:
        """Listen, on sockets that listen already if any are given, and return the port.

        Raises:
            OSError: The address is taken or not this machine's.
        """
        for listener in listeners:
            self._servers.append(await asyncio.start_server(self._serve, sock=listener, limit=_HEAD_BYTES))
        if not listeners:
            self._servers.append(await asyncio.start_server(self._serve, host, port, limit=_HEAD_BYTES))
        bound: int = self._servers[0].sockets[0].getsockname()[1]
        return bound

    def descriptors(self) -> list[int]:
        """Of the listening sockets."""
        return [one.fileno() for server in self._servers for one in server.sockets]

    async def stop(self) -> None:
        """Stop listening."""
        for server in self._servers:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_HEAD_S):
                head = await reader.readuntil(b"\r\n\r\n")
            method, target = (head.split(b"\r\n", 1)[0].split(b" ") + [b"", b""])[:2]
            if method in (b"GET", b"HEAD") and target.partition(b"?")[0] == b"/metrics":
                if not self._auth.lets_scrape(_authorization(head)):
                    writer.write(_answer(b"401 Unauthorized", "application/json", _TOKEN, len(_TOKEN)))
                    await writer.drain()
                    return
                text = (await self._metrics()).encode()
                writer.write(_answer(b"200 OK", CONTENT_TYPE, b"" if method == b"HEAD" else text, len(text)))
            elif method not in (b"GET", b"HEAD") and _changes_fleet(target):
                writer.write(await self._change_all(head, reader))
            else:
                await self._hand_over(head, reader, writer)
            await writer.drain()
        except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError):
            pass  # A client that leaves, dawdles or sends no request gets no answer.
        finally:
            writer.close()

    async def _hand_over(
        self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        worker = await self._connect()
        if worker is None:
            writer.write(_answer(b"503 Service Unavailable", "application/json", _NOBODY, len(_NOBODY)))
            return
        answer, request = worker
        lines = head[:-4].split(b"\r\n")
        kept = [line for line in lines if not line.lower().startswith(_OF_CONNECTION)]
        request.write(b"\r\n".join([*kept, b"Connection: close", b"", b""]))
        try:
            async with asyncio.TaskGroup() as both:
                sending = both.create_task(_pass(reader, request, _body_bytes(lines)))
                await _pass(answer, writer)
                sending.cancel()
        finally:
            request.close()

    async def _change_all(self, head: bytes, reader: asyncio.StreamReader) -> bytes:
        """Have every worker make a change. The answer of the first that did not, else of the first.

        A worker that starts meanwhile reads what the others kept once it listens: one that is not reached at first is
        tried again after they have answered.
        """
        lines = head[:-4].split(b"\r\n")
        length = _body_bytes(lines)
        if length is None or length > _CHANGE_BYTES:
            body = b'{"error":{"message":"a change takes a body of a known length, 64 KiB at most"}}'
            return _answer(b"411 Length Required", "application/json", body, len(body))
        async with asyncio.timeout(_HEAD_S):
            request = await reader.readexactly(length)
        kept = [line for line in lines if not line.lower().startswith(_OF_CONNECTION)]
        request = b"\r\n".join([*kept, b"Connection: close", b"", b""]) + request
        answers: dict[str, bytes] = {}
        async with self._changing:
            for _ in range(2):
                missing = {path for path in self._workers().values() if not answers.get(path)}
                found = await asyncio.gather(*[_ask(path, request) for path in missing])
                answers.update(zip(missing, found, strict=True))
        told = [answer for answer in answers.values() if answer]
        if not told:
            return _answer(b"503 Service Unavailable", "application/json", _NOBODY, len(_NOBODY))
        return next((answer for answer in told if answer[9:10] != b"2"), told[0])

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """A connection to a worker that lives, each worker in turn."""
        paths = list(self._workers().values())
        self._turn += 1
        for index in range(len(paths)):
            try:
                return await asyncio.open_unix_connection(paths[(self._turn + index) % len(paths)])
            except OSError:
                continue
        return None

    async def _metrics(self) -> str:
        draining = self._draining()
        workers = {**self._workers(), **draining}
        read = await asyncio.gather(*[_scrape(path, self._auth.own_lines()) for path in workers.values()])
        texts = {name: text for name, text in zip(workers, read, strict=True) if text is not None}
        return self.merger.merge({**texts, "supervisor": self._own_metrics()}, draining)


def _changes_fleet(target: bytes) -> bool:
    path = target.partition(b"?")[0]
    return path == b"/replicas" or path.startswith(b"/replicas/")


async def _ask(path: str, request: bytes) -> bytes:
    """One worker's whole answer; empty if it does not give one in time."""
    try:
        async with asyncio.timeout(_CHANGE_S):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                writer.write(request)
                return await reader.read(-1)
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return b""


async def _scrape(path: str, lines: bytes) -> str | None:
    """One worker's metrics; `None` if it does not answer in time."""
    try:
        async with asyncio.timeout(_SCRAPE_S):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                writer.write(_SCRAPE % lines)
                pieces: list[bytes] = []
                while sum(map(len, pieces)) < _SCRAPE_BYTES and (piece := await reader.read(_PIECE_BYTES)):
                    pieces.append(piece)
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return None
    head, _, body = b"".join(pieces).partition(b"\r\n\r\n")
    return body.decode("utf-8", "replace") if b" 200 " in head.partition(b"\r\n")[0] else None


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, most: int | None = None) -> None:
    """Bytes as they come, until there are no more or so many have passed."""
    left = most
    try:
        while left is None or left > 0:
            piece = await reader.read(_PIECE_BYTES if left is None else min(left, _PIECE_BYTES))
            if not piece:
                return
            if left is not None:
                left -= len(piece)
            writer.write(piece)
            await writer.drain()
    except OSError:
        return


def _body_bytes(lines: list[bytes]) -> int | None:
    """Length of the body that follows the head; `None` where only the body itself tells."""
    length = 0
    for line in lines[1:]:
        name, _, value = line.partition(b":")
        match name.strip().lower():
            case b"transfer-encoding":
                return None
            case b"content-length" if value.strip().isdigit():
                length = int(value)
    return length


def _authorization(head: bytes) -> str:
    """What the field says; empty without one, or with several."""
    values = [
        value.strip()
        for name, _, value in (line.partition(b":") for line in head.split(b"\r\n")[1:])
        if name.strip().lower() == b"authorization"
    ]
    return values[0].decode("latin-1") if len(values) == 1 else ""


def _answer(status: bytes, content_type: str, body: bytes, length: int) -> bytes:
    head = b"HTTP/1.1 %b\r\nContent-Type: %b\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
    return head % (status, content_type.encode(), length) + body
