"""A replica that answers at once and always the same: what benchmarks measure behind it is the router.

    python -m tests.bench.fixed_replica --port P [--events 30] [--interval-s 0.5]

Plain requests get one short chat completion; requests that say `"stream":true` get `--events` events, all streams' next
one at the same tick of `--interval-s`.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import cast

import httptools
import uvloop

ANSWER = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"Hello there, this is a fixed answer."},"finish_reason":"stop"}],"usage":'
    b'{"prompt_tokens":10,"completion_tokens":9,"total_tokens":19,"prompt_tokens_details":{"cached_tokens":8}}}'
)
EVENT = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,'
    b'"delta":{"content":" word"},"logprobs":null,"finish_reason":null}]}\n\n'
)
DONE = b"data: [DONE]\n\n"
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def _whole(body: bytes, content_type: bytes = b"application/json") -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n%b" % (
        content_type,
        len(body),
        body,
    )


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


PLAIN = {
    b"/health": _whole(b""),
    b"/v1/models": _whole(b'{"object":"list","data":[{"id":"m","object":"model"}]}'),
    b"/metrics": _whole(b"process_start_time_seconds 1.5e9\n", b"text/plain"),
}


class Streams:
    """All streams under way; one timer writes to all of them."""

    def __init__(self, events: int, interval_s: float) -> None:
        self._events = events
        self._interval_s = interval_s
        self._left: dict[asyncio.Transport, int] = {}
        self._tick()

    def begin(self, transport: asyncio.Transport) -> None:
        transport.write(STREAM_HEAD + _chunk(EVENT))
        self._left[transport] = self._events - 1

    def end(self, transport: asyncio.Transport) -> None:
        self._left.pop(transport, None)

    def _tick(self) -> None:
        asyncio.get_running_loop().call_later(self._interval_s, self._tick)
        event, last = _chunk(EVENT), _chunk(DONE) + b"0\r\n\r\n"
        for transport, left in list(self._left.items()):
            if left > 0:
                transport.write(event)
                self._left[transport] = left - 1
            else:
                transport.write(last)
                del self._left[transport]


class Serve(asyncio.Protocol):
    """One connection."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._stream = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._streams.end(self._transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._url = b""
        self._stream = False

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_body(self, body: bytes) -> None:
        self._stream = self._stream or b'"stream":true' in body or b'"stream": true' in body

    def on_message_complete(self) -> None:
        if self._stream:
            self._streams.begin(self._transport)
        else:
            self._transport.write(PLAIN.get(self._url) or _whole(ANSWER))


async def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--events", type=int, default=30)
    parser.add_argument("--interval-s", type=float, default=0.5)
    arguments = parser.parse_args()
    streams = Streams(arguments.events, arguments.interval_s)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Serve(streams), "127.0.0.1", arguments.port, backlog=4096)
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
