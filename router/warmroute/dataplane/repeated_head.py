"""A repeated head is one that comes again byte for byte, but for the digits of its one Content-Length.

Clients and replicas send such heads. This module decides whether a read begins with one, and where its body begins. It
does not judge heads: an entry is made of one that has been read, whose framing is the same whatever the digits.
"""

from __future__ import annotations

from typing import Final

MAX_DIGITS: Final = 10
"""Of a length: more is left to whoever reads heads in full."""


class RepeatedHead:
    """The bytes of a head before and behind its length's digits, the empty line that ends it included."""

    __slots__ = ("_after", "_before")

    def __init__(self, before: bytes, after: bytes) -> None:
        self._before = before
        self._after = after

    def measure(self, data: bytes) -> tuple[int, int]:
        """Where the body begins and its announced length, if the read begins with this head; -1 and any length else."""
        if not data.startswith(self._before):
            return -1, 0
        size = len(data)
        start = at = len(self._before)
        last = start + MAX_DIGITS
        length_bytes = 0
        while at < size and at <= last:
            digit = data[at] - 48
            if not 0 <= digit <= 9:
                break
            length_bytes = length_bytes * 10 + digit
            at += 1
        end = at + len(self._after)
        if at == start or at > last or data[at:end] != self._after:
            return -1, 0
        return end, length_bytes
