"""A TCP proxy before a real server that makes its answers late, or cuts them off in the middle."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

_PIECE_BYTES = 65_536


class TcpProxy:
    """Listens on a free port of the loopback interface; an async context manager.

    `delay_s` and `cut_after_bytes` may be changed at any time.
    """

    def __init__(self, port: int) -> None:
        self.port = 0
        self.delay_s = 0.0
        """How much later than it came each piece of an answer is passed on; pieces do not wait for each other."""
        self.cut_after_bytes: int | None = None
        """So many further bytes of answers are passed on, then every connection is reset."""
        self.accepted = 0
        self._to = port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._passing: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.reset()
        await asyncio.gather(*self._passing, return_exceptions=True)

    def reset(self) -> None:
        """Cut every connection."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            answers, asking = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, asking}
        for task in (
            asyncio.ensure_future(self._ask(reader, asking)),
            asyncio.ensure_future(self._answer(answers, writer)),
        ):
            self._passing.add(task)
            task.add_done_callback(self._passing.discard)

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while piece := await reader.read(_PIECE_BYTES):
                writer.write(piece)
        except OSError:
            pass
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        try:
            while piece := await reader.read(_PIECE_BYTES):
                if self.cut_after_bytes is not None:
                    left = piece[: self.cut_after_bytes]
                    self.cut_after_bytes -= len(left)
                    if len(left) < len(piece):
                        writer.write(left)
                        await writer.drain()
                        self.cut_after_bytes = None
                        writer.close()
                        self.reset()
                        return
                if self.delay_s:
                    loop.call_later(self.delay_s, self._write, writer, piece)
                else:
                    writer.write(piece)
        except OSError:
            pass
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    def _write(self, writer: asyncio.StreamWriter, piece: bytes) -> None:
        if not writer.is_closing():
            writer.write(piece)
