"""This module writes a generation to a client, as events when tokens come or as one JSON body, and carries out faults.

It decides framing, flow control and where a fault strikes. A `Format` decides the events' content.
"""

from __future__ import annotations

import asyncio
import zlib
from contextlib import suppress
from typing import Any

import msgspec
from aiohttp import web

from warmroute_replica.sim.errors import ENGINE_DEAD, ApiError
from warmroute_replica.sim.faults import Fault, FaultKind
from warmroute_replica.sim.generation import Choice, Format, Generation
from warmroute_replica.sim.simulated_replica import Compression

BUFFER_BYTES = 256 * 1024
"""Once a client has this many unsent bytes, its tokens wait in the generation instead of the socket's buffer."""
BATCH_TOKENS = 256
"""Number of tokens that are written at a time to a client that is behind."""

DONE = b"data: [DONE]\n\n"
COMMENT = b": keep-alive\n\n"
"""The comment that vLLM sends on an idle stream. Source: vLLM 0.32.0, `entrypoints/serve/utils/sse_keep_alive.py`."""

_WBITS = {"gzip": 31, "deflate": 15}


class Coder:
    """Encodes a body in a content coding, each piece so that a client can read all of it when it comes."""

    def __init__(self, coding: Compression) -> None:
        self._compressor = zlib.compressobj(6, zlib.DEFLATED, _WBITS[coding])

    def piece(self, data: bytes) -> bytes:
        """Return the next bytes of the coded body."""
        return self._compressor.compress(data) + self._compressor.flush(zlib.Z_SYNC_FLUSH)

    def end(self) -> bytes:
        """Return the last bytes of the coded body."""
        return self._compressor.flush(zlib.Z_FINISH)


def event(name: str, data: Any) -> bytes:
    """Encode a named server-sent event."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), msgspec.json.encode(data))


def data_event(data: Any) -> bytes:
    """Encode an unnamed server-sent event."""
    return b"data: %b\n\n" % msgspec.json.encode(data)


class EventStream:
    """One streamed answer.

    When the engine's clock hands tokens out, they are written straight to the transport, without waking a task. The
    request's own coroutine (`run`) opens and closes the answer, and writes to clients that are behind.
    """

    def __init__(
        self,
        request: web.Request,
        response: web.StreamResponse,
        generation: Generation,
        fmt: Format,
        fault: Fault | None,
    ) -> None:
        self._request = request
        self._response = response
        self._generation = generation
        self._format = fmt
        self._sent = [0] * len(generation.choices)
        self._begun = False
        self._silent = False
        """True once the clock must write nothing more, because the client is gone or a fault struck."""
        self._held: list[bytes] = []
        """The events that a hanging stream keeps back."""
        self._fault = fault
        coding = generation.replica.config.compress
        self._coder = Coder(coding) if coding is not None else None
        self._loop = asyncio.get_running_loop()
        self._written_s = 0.0
        self._comments: asyncio.TimerHandle | None = None
        self._chunks_left = -1
        if fault is not None:
            default = 1 if fault.kind is FaultKind.CUT else 0
            self._chunks_left = default if fault.after_chunks is None else fault.after_chunks

    async def run(self) -> None:
        """Answer the whole request; cancelled when the client goes."""
        generation = self._generation
        generation.start()
        await self._response.prepare(self._request)
        self._written_s = self._loop.time()
        self._comment_later()
        cutting = None
        if self._fault is not None and self._fault.after_s is not None:
            cutting = self._loop.call_later(self._fault.after_s, self._cut)
        generation.listener = self
        try:
            await generation.done
        finally:
            for timer in (self._comments, cutting):
                if timer is not None:
                    timer.cancel()
        if self._silent and self._fault is not None:
            if self._fault.kind is not FaultKind.HANG:
                await self._end(b"")
                return
            await generation.replica.faults.wait_cleared()
            await self._response.write(self._coded(b"".join(self._held)))
        while pending := self._pending(BATCH_TOKENS):
            await self._response.write(self._coded(b"".join(pending)))
        await self._end(self._format.end(generation))

    async def _end(self, last: bytes) -> None:
        await self._response.write(self._coded(last))
        if self._coder is not None:
            await self._response.write(self._coder.end())
        with suppress(ConnectionResetError):  # the client left as the last bytes were on their way
            await self._response.write_eof()

    def _coded(self, data: bytes) -> bytes:
        return self._coder.piece(data) if self._coder is not None and data else data

    def _comment_later(self) -> None:
        interval_s = self._generation.replica.config.keep_alive_s
        if interval_s > 0.0:
            due_s = max(self._written_s + interval_s, self._loop.time() + interval_s / 10.0)
            self._comments = self._loop.call_at(due_s, self._comment, interval_s)

    def _comment(self, interval_s: float) -> None:
        transport = self._request.transport
        if transport is None or transport.is_closing() or self._silent:
            return
        if self._loop.time() - self._written_s >= interval_s and not transport.get_write_buffer_size():
            self._write([COMMENT])
        self._comment_later()

    def _cut(self) -> None:
        self._silent = True
        if self._request.transport is not None:
            self._request.transport.abort()

    def on_progress(self, choice: Choice) -> None:
        """Write the new tokens; see `generation.ProgressListener`."""
        transport = self._request.transport
        if self._silent or transport is None or transport.is_closing():
            return
        if transport.get_write_buffer_size() > BUFFER_BYTES:
            return
        events = self._pending(BATCH_TOKENS)
        if self._fault is not None and self._fault.after_s is None:
            self._strike(events)
            return
        self._write(events)

    def _pending(self, limit: int) -> list[bytes]:
        """Return the events of tokens that are not yet written, in the order of the sequences, and count them as
        written."""
        generation = self._generation
        fmt = self._format
        events: list[bytes] = []
        if not self._begun:
            self._begun = True
            events.append(fmt.begin(generation))
        sent = self._sent
        for choice in generation.choices:
            number = sent[choice.index]
            upto = min(choice.generated, number + limit)
            while number < upto:
                part = fmt.token(generation, choice, number)
                if part:
                    events.append(part)
                number += 1
            sent[choice.index] = number
        return events

    def _write(self, events: list[bytes]) -> None:
        transport = self._request.transport
        if not events or transport is None:
            return
        self._written_s = self._loop.time()
        payload = self._coded(events[0] if len(events) == 1 else b"".join(events))
        if self._response.chunked:
            payload = b"%x\r\n%b\r\n" % (len(payload), payload)
        transport.write(payload)

    def _strike(self, events: list[bytes]) -> None:
        """Write events up to the fault, then carry the fault out."""
        fault = self._fault
        transport = self._request.transport
        assert fault is not None
        assert transport is not None
        if len(events) < self._chunks_left:
            self._chunks_left -= len(events)
            self._write(events)
            return
        self._write(events[: self._chunks_left])
        self._held = events[self._chunks_left :]
        self._silent = True
        if fault.kind is FaultKind.CUT:
            transport.close()
        elif fault.kind is not FaultKind.HANG:
            self._write([data_event(ApiError(500, ENGINE_DEAD).body()), DONE])
            if not self._generation.done.done():
                self._generation.done.set_result(None)


async def respond_stream(
    request: web.Request, generation: Generation, fmt: Format, fault: Fault | None, headers: dict[str, str]
) -> web.StreamResponse:
    """Stream an answer, and return when it is complete."""
    fields = {**headers, "Content-Type": "text/event-stream; charset=utf-8", **_coding_field(generation)}
    response = web.StreamResponse(headers=fields)
    if request.version >= (1, 1):
        response.enable_chunked_encoding()
    await EventStream(request, response, generation, fmt, fault).run()
    return response


async def respond_plain(
    request: web.Request, generation: Generation, fmt: Format, fault: Fault | None, headers: dict[str, str]
) -> web.StreamResponse:
    """Answer with one JSON body once all of it is generated."""
    generation.start()
    await generation.done
    body = msgspec.json.encode(fmt.body(generation))
    if fault is not None:
        return await _respond_broken(request, generation, body, fault, headers)
    coding = generation.replica.config.compress
    if coding is not None:
        coder = Coder(coding)
        body = coder.piece(body) + coder.end()
    fields = {**headers, **_coding_field(generation)}
    return web.Response(body=body, content_type="application/json", headers=fields)


def _coding_field(generation: Generation) -> dict[str, str]:
    coding = generation.replica.config.compress
    return {} if coding is None else {"Content-Encoding": coding, "Vary": "Accept-Encoding"}


async def _respond_broken(
    request: web.Request, generation: Generation, body: bytes, fault: Fault, headers: dict[str, str]
) -> web.StreamResponse:
    """Send half of the body, then close the connection or fall silent until the fault is cleared."""
    response = web.StreamResponse(headers={**headers, "Content-Type": "application/json"})
    response.content_length = len(body)
    await response.prepare(request)
    half = len(body) // 2
    await response.write(body[:half])
    if fault.kind is FaultKind.HANG:
        await generation.replica.faults.wait_cleared()
        await response.write(body[half:])
        await response.write_eof()
    elif request.transport is not None:
        request.transport.close()
    return response
