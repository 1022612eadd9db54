"""Answers that are kept as they go out: what a client is sent is copied, and read once the answer is over.

Decides how an answer is taken out of its framing, which is the router's own, and how a recorded one is framed for
whoever is given it. Whether it is whole and good is for `dialects.complete` to say.
"""

from __future__ import annotations

from typing import Final

from warmroute.dataplane.answer import STATUS_LINES
from warmroute.dataplane.client_side import ClientSide
from warmroute.dataplane.request import RequestHead
from warmroute.dataplane.translating import AddingClient
from warmroute.dialects.complete import events_of

_HEAD_BYTES: Final = 64 << 10
"""Room for the head and the framing of what may be kept; chunks of small events take as much again as they hold."""


class RecordingClient(AddingClient):
    """Passes one answer on, with a line in its head, and keeps a copy.

    Args:
        most_bytes: Longest body that is kept.
    """

    __slots__ = ("_kept", "_kept_bytes", "_most_bytes", "aborted", "too_long")

    def __init__(self, outer: ClientSide, most_bytes: int) -> None:
        super().__init__(outer)
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self._most_bytes = 2 * most_bytes + _HEAD_BYTES
        self.too_long = False
        self.aborted = False

    def written(self, data: bytes) -> None:
        """A piece of the answer."""
        if not self.too_long:
            self._kept.append(data)
            self._kept_bytes += len(data)
            if self._kept_bytes > self._most_bytes:
                self.too_long = True
                self._kept = []
        AddingClient.written(self, data)

    def abort(self) -> None:
        """The answer cannot be completed."""
        self.aborted = True
        AddingClient.abort(self)

    def answer(self) -> tuple[str, bytes] | None:
        """Content type and body of a 200 that is whole as far as `unframed` can tell; None: there is none."""
        if self.aborted or self.too_long:
            return None
        return unframed(b"".join(self._kept))


def unframed(data: bytes) -> tuple[str, bytes] | None:
    """Content type and body of a 200, as the router frames answers; None: it is no 200, coded, or was cut.

    An event stream need not have its last chunk: many clients close at the terminal event, and whether that came its
    reader sees (`dialects.complete`).
    """
    head, mark, rest = data.partition(b"\r\n\r\n")
    status, _, lines = head.partition(b"\r\n")
    if not mark or status[9:12] != b"200":
        return None
    kind = b""
    length = -1
    chunked = False
    for line in lines.split(b"\r\n"):
        name, _, value = line.partition(b":")
        name, value = name.lower(), value.strip()
        if name == b"content-type":
            kind = value
        elif name == b"content-length":
            length = int(value) if value.isdigit() else -1
        elif name == b"transfer-encoding":
            chunked = True
        elif name == b"content-encoding":
            return None
    body = _dechunked(rest, may_be_cut=kind.startswith(b"text/event-stream")) if chunked else rest
    if body is None or (length >= 0 and not chunked and len(body) != length):
        return None
    return kind.decode("latin-1"), body


def _dechunked(data: bytes, *, may_be_cut: bool) -> bytes | None:
    """What is in the chunks; None: they do not end, and may not be cut between two."""
    pieces: list[bytes] = []
    at = 0
    while True:
        end = data.find(b"\r\n", at)
        if end < 0:
            return b"".join(pieces) if may_be_cut and at == len(data) else None
        size = int(data[at:end], 16)
        if not size:
            return b"".join(pieces)
        at = end + 2
        if len(data) < at + size + 2:
            return None
        pieces.append(data[at : at + size])
        at += size + 2


def write_stream(client: ClientSide, head: RequestHead, kind: bytes, body: bytes, added: bytes) -> bool:
    """Write a recorded event stream, a chunk an event. Returns whether the connection stays open."""
    chunked = head.minor_version == 1
    keep_alive = chunked and head.keep_alive and not client.draining
    cors = client.cors
    if cors is not None:
        added += cors.added(head, added)
    added += b"transfer-encoding: chunked\r\n" if chunked else b""
    if not keep_alive:
        added += b"connection: close\r\n"
    if chunked:
        body = b"".join([b"%x\r\n%b\r\n" % (len(event), event) for event in events_of(body)]) + b"0\r\n\r\n"
    client.transport.write(b"%bcontent-type: %b\r\n%b\r\n%b" % (STATUS_LINES[200], kind, added, body))
    return keep_alive
