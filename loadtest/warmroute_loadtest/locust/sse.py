"""This module reads server-sent events out of bytes that come in any pieces.

It decides what an event is (WHATWG HTML, section 9.2.6): lines end in LF, CR LF or CR, an empty line ends an event,
comments are no events. Names of events are not kept: the data of both APIs says its type.
"""

from __future__ import annotations


class Events:
    """Reads the events of one stream."""

    __slots__ = ("_data", "_rest")

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, piece: bytes) -> list[bytes]:
        """Return the data of the events that this piece completes."""
        text = self._rest + piece
        self._rest = b""
        if b"\r" in text:
            if text.endswith(b"\r"):
                # Only the next piece tells whether an LF follows.
                text, self._rest = text[:-1], b"\r"
            text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, last = text.split(b"\n")
        self._rest = last + self._rest
        complete: list[bytes] = []
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[6:] if line[5:6] == b" " else line[5:])
            elif not line and self._data:
                complete.append(self._data[0] if len(self._data) == 1 else b"\n".join(self._data))
                self._data = []
        return complete
