"""The front is the admin port of several workers: one address, which any worker that lives answers.

`GET /metrics` is read from all workers and merged. What changes the fleet (anything but a GET below `/replicas`) is
handed to all of them, one change after the other. Any other request is handed to one worker, on its socket file, and
its answer is passed on as it comes. Each connection serves one request. The front knows no other endpoint. What one
worker answers for the fleet holds for all, since workers tell each other their load.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

from aiohttp import (
    ClientConnectorError,
    ClientError,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    UnixConnector,
    web,
)
from yarl import URL

from warmroute.control.tokens import AdminAuth
from warmroute.telemetry.merging import CONTENT_TYPE, Merger

_HEAD_S = 10.0
"""How long a client may take for a head, and for the body of a change."""
_SCRAPE_S = 2.0
_SCRAPE_BYTES = 64 << 20
_PIECE_BYTES = 65_536

_CHANGE_BYTES = 65_536
_CHANGE_S = 5.0

_READS = ("GET", "HEAD")
_OF_CONNECTION = ("Connection", "Expect", "Keep-Alive", "Proxy-Connection", "Transfer-Encoding")
_ADDED = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")
"""What aiohttp's client adds where it is missing: workers get what the client sent."""


class _Answer(NamedTuple):
    """One worker's whole answer to a change."""

    status: int
    content_type: str
    body: bytes


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
        self._http = web.Server(
            self._serve, access_log=None, keepalive_timeout=_HEAD_S, handler_cancellation=True
        )
        self._servers: list[asyncio.Server] = []
        self._turn = 0
        self._changing = asyncio.Lock()

    async def start(self, host: str, port: int, listeners: Sequence[socket.socket] = ()) -> int:
        """Listen, on sockets that listen already if any are given, and return the port.

        Raises:
            OSError: The address is taken or not this machine's.
        """
        loop = asyncio.get_running_loop()
        for listener in listeners:
            self._servers.append(await loop.create_server(self._http, sock=listener))
        if not listeners:
            self._servers.append(await loop.create_server(self._http, host, port))
        bound: int = self._servers[0].sockets[0].getsockname()[1]
        return bound

    def descriptors(self) -> list[int]:
        """Of the listening sockets."""
        return [one.fileno() for server in self._servers for one in server.sockets]

    async def stop(self) -> None:
        """Stop listening."""
        for server in self._servers:
            server.close()

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        reads = request.method in _READS
        if reads and request.path == "/metrics":
            answer: web.StreamResponse = await self._answer_metrics(request)
        elif not reads and _changes_fleet(request.path):
            answer = await self._change_all(request)
        else:
            answer = await self._hand_over(request)
        answer.force_close()
        return answer

    async def _answer_metrics(self, request: web.BaseRequest) -> web.Response:
        shown = request.headers.getall("Authorization", [])
        if not self._auth.lets_scrape(shown[0] if len(shown) == 1 else ""):
            return _error(401, "missing_token", "a token is needed: Authorization: Bearer TOKEN (admin_auth)")
        return web.Response(body=(await self._metrics()).encode(), headers={"Content-Type": CONTENT_TYPE})

    async def _hand_over(self, request: web.BaseRequest) -> web.StreamResponse:
        paths = list(self._workers().values())
        self._turn += 1
        begun: web.StreamResponse | None = None
        for index in range(len(paths)):
            try:
                async with _asked(paths[(self._turn + index) % len(paths)], request, None) as answer:
                    headers = answer.headers.copy()
                    for name in _OF_CONNECTION:
                        headers.popall(name, None)
                    begun = web.StreamResponse(status=answer.status, reason=answer.reason, headers=headers)
                    begun.force_close()
                    await begun.prepare(request)
                    async for piece in answer.content.iter_chunked(_PIECE_BYTES):
                        await begun.write(piece)
                    await begun.write_eof()
                    return begun
            except ClientConnectorError:
                continue
            except (ClientError, OSError):
                if begun is not None:  # the client must see that it is not complete
                    if request.transport is not None:
                        request.transport.abort()
                    return begun
                return _error(
                    502, "worker_lost", "the worker that was asked ended before it answered: ask again"
                )
        return _nobody()

    async def _change_all(self, request: web.BaseRequest) -> web.Response:
        """Have every worker make a change. The answer of the first that did not, else of the first.

        A worker that starts meanwhile reads what the others kept once it listens: one that is not reached at first is
        tried again after they have answered.
        """
        length = request.content_length if "Transfer-Encoding" not in request.headers else None
        if request.body_exists and (length is None or length > _CHANGE_BYTES):
            return _error(411, "length_required", "a change takes a body of a known length, 64 KiB at most")
        try:
            async with asyncio.timeout(_HEAD_S):
                body = await request.read()
        except TimeoutError:
            return _error(408, "body_timeout", f"the body did not come within {_HEAD_S:g} s")
        answers: dict[str, _Answer | None] = {}
        async with self._changing:
            for _ in range(2):
                missing = {path for path in self._workers().values() if answers.get(path) is None}
                found = await asyncio.gather(*[_change(path, request, body) for path in missing])
                answers.update(zip(missing, found, strict=True))
        told = [answer for answer in answers.values() if answer is not None]
        if not told:
            return _nobody()
        answer = next((one for one in told if one.status // 100 != 2), told[0])
        return web.Response(
            status=answer.status, body=answer.body, headers={"Content-Type": answer.content_type}
        )

    async def _metrics(self) -> str:
        draining = self._draining()
        workers = {**self._workers(), **draining}
        headers = self._auth.own_headers()
        read = await asyncio.gather(*[_scrape(path, headers) for path in workers.values()])
        texts = {name: text for name, text in zip(workers, read, strict=True) if text is not None}
        return self.merger.merge({**texts, "supervisor": self._own_metrics()}, draining)


def _changes_fleet(path: str) -> bool:
    return path == "/replicas" or path.startswith("/replicas/")


@asynccontextmanager
async def _asked(path: str, request: web.BaseRequest, body: bytes | None) -> AsyncIterator[ClientResponse]:
    """One worker's answer to a client's request, as the worker sends it.

    Args:
        body: None: it is still to be read from the client.
    Raises:
        ClientConnectorError: Nobody listens there.
    """
    headers = request.headers.copy()
    for name in _OF_CONNECTION:
        headers.popall(name, None)
    data = body if body is not None else request.content if request.body_exists else None
    async with (
        ClientSession(
            connector=UnixConnector(path), auto_decompress=False, timeout=ClientTimeout()
        ) as session,
        session.request(
            request.method,
            URL(f"http://worker{request.raw_path}", encoded=True),
            headers=headers,
            data=data,
            allow_redirects=False,
            skip_auto_headers=_ADDED,
        ) as answer,
    ):
        yield answer


async def _change(path: str, request: web.BaseRequest, body: bytes) -> _Answer | None:
    """None if the worker does not answer in time."""
    try:
        async with asyncio.timeout(_CHANGE_S), _asked(path, request, body) as answer:
            return _Answer(answer.status, answer.headers.get("Content-Type", ""), await answer.read())
    except (ClientError, OSError, TimeoutError):
        return None


async def _scrape(path: str, headers: Mapping[str, str]) -> str | None:
    """One worker's metrics; `None` if it does not answer in time, or at a length that nobody believes."""
    try:
        async with (
            asyncio.timeout(_SCRAPE_S),
            ClientSession(connector=UnixConnector(path)) as session,
            session.get("http://worker/metrics", headers={"Accept": "text/plain", **headers}) as answer,
        ):
            pieces: list[bytes] = []
            left = _SCRAPE_BYTES
            async for piece in answer.content.iter_chunked(_PIECE_BYTES):
                pieces.append(piece)
                left -= len(piece)
                if left < 0:
                    return None
            return b"".join(pieces).decode("utf-8", "replace") if answer.status == 200 else None
    except (ClientError, OSError, TimeoutError):
        return None


def _nobody() -> web.Response:
    return _error(503, "no_worker", "no worker of this router is up")


def _error(status: int, code: str, message: str) -> web.Response:
    kind = "invalid_request_error" if status < 500 else "overloaded_error"
    return web.json_response(
        {"error": {"message": message, "type": kind, "param": None, "code": code}}, status=status
    )
