"""A stand-in takes the place of a client's connection where an answer does not go to one as it is written.

Decides nothing about answers. `translating` passes them on in another form, `own_requests` keeps them for the router
itself. An exchange writes to a stand-in as to any client, and `downstream` calls the exchange as any other: so holding
back a replica whose client reads slowly, and aborting it when the client leaves, work as for all requests.

The rule it keeps: what the exchange writes is one answer by HTTP/1.0, that is, a head and then the body, without
chunks; its request's head says so (`inner_head`).
"""

from __future__ import annotations

import asyncio
from typing import Final, cast

from warmroute.dataplane.client_side import ClientSide
from warmroute.dataplane.gateway import Gateway
from warmroute.dataplane.request import RequestHead

_NEVER_PASSED: Final = frozenset(
    (
        b"content-type",
        b"content-encoding",
        b"accept",
        b"accept-encoding",
        b"x-goog-api-key",
        b"x-goog-api-client",
    )
)
_FRAMING: Final = frozenset(
    (
        b"content-length",
        b"content-type",
        b"connection",
        b"transfer-encoding",
        b"content-encoding",
        b"keep-alive",
    )
)
_MOST_HEAD_BYTES: Final = 256 * 1024


class _Pieces:
    """What an exchange takes for the client's transport. Not asyncio's, so that it can be compiled."""

    __slots__ = ("_to",)

    def __init__(self, to: StandIn) -> None:
        self._to = to

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """A piece of the answer."""
        self._to.written(bytes(data))


class StandIn(ClientSide):
    """Reads the answer's head, and leaves the rest to whoever extends it."""

    __slots__ = ("_head", "event_stream", "lines", "status")

    def __init__(self, peer: bytes) -> None:
        super().__init__()
        self.peer = peer
        self.transport = cast(asyncio.Transport, _Pieces(self))
        self._head = b""
        self.status = 0
        """Of the answer; 0 before its head is there."""
        self.lines = b""
        """Fields of it that do not say how it is framed."""
        self.event_stream = False

    def written(self, data: bytes) -> None:
        """The exchange wrote this."""
        if self.status:
            self.on_piece(data)
            return
        self._head += data
        end = self._head.find(b"\r\n\r\n")
        if end < 0:
            if len(self._head) > _MOST_HEAD_BYTES:
                self.abort()
            return
        head, rest = self._head[:end], self._head[end + 4 :]
        self._head = b""
        first, _, fields = head.partition(b"\r\n")
        kept = []
        for line in fields.split(b"\r\n") if fields else ():
            name = line.partition(b":")[0].lower()
            if name == b"content-type":
                self.event_stream = line.partition(b":")[2].strip().startswith(b"text/event-stream")
            if name not in _FRAMING:
                kept.append(line + b"\r\n")
        self.lines = b"".join(kept)
        self.status = int(first[9:12])
        self.on_answer()
        if rest:
            self.on_piece(rest)

    def on_answer(self) -> None:
        """The answer's head is there."""
        raise NotImplementedError

    def on_piece(self, data: bytes) -> None:
        """A piece of its body is."""
        raise NotImplementedError


def inner_head(gateway: Gateway, head: RequestHead, target: bytes, key: bytes) -> RequestHead:
    """The head of the request that is sent in another's place: POST, JSON, an answer without chunks.

    Args:
        key: What the client shows as a key elsewhere than in `Authorization`; replicas are sent it there, unless the
            router asks for keys itself.
    """
    fields: list[tuple[bytes, bytes]] = [(b"content-type", b"application/json")]
    for line in head.prefix.split(b"\r\n")[1:]:
        name, _, value = line.partition(b": ")
        if name and name not in _NEVER_PASSED:
            fields.append((name, value))
    if key and gateway.upstream_authorization is None and not head.authorization:
        fields.append((b"authorization", b"Bearer " + key))
    inner = RequestHead(b"POST", target, fields, keep_alive=False, minor_version=0, sessions=gateway.sessions)
    inner.path = head.path  # as the access log knows it
    inner.request_id = head.request_id
    inner.forwarded_for = head.forwarded_for
    inner.credential = head.credential
    inner.caller = head.caller
    inner.caller_epoch = head.caller_epoch
    return inner
