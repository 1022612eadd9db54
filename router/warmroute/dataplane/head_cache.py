"""The head cache knows heads that were read before: a client repeats its head byte for byte, but for the body's length.

This module decides whether a read holds a request whose head llhttp has already judged. llhttp stays the only parser:
an entry is made from its verdict on one head, and found again only by the same bytes with other digits in the one
Content-Length. Such a head is framed alike whatever the digits, so nothing can be smuggled past the parser. A
connection keeps the entry that it found last, and looks for others here only where the next read does not begin with
that.

The cache is bounded: it has `MAX_HEADS` heads of at most `MAX_HEAD_BYTES`, and is emptied when full. A client with ever
new heads can bring that about, which costs the others one parse each.
"""

from __future__ import annotations

from typing import Final

from warmroute.dataplane.repeated_head import RepeatedHead
from warmroute.dataplane.request import RequestHead

MAX_HEADS: Final = 2048
MAX_HEAD_BYTES: Final = 2048

_SPELLINGS: Final = (b"\r\nContent-Length: ", b"\r\ncontent-length: ")
_MARK_BYTES: Final = len(_SPELLINGS[0])


class KnownHead(RepeatedHead):
    """What llhttp has found of a head, for every read that begins with it."""

    __slots__ = ("cache", "head")

    def __init__(self, before: bytes, after: bytes, head: RequestHead, cache: HeadCache) -> None:
        super().__init__(before, after)
        self.head = head
        self.cache = cache
        """What it was kept in: heads that are written otherwise from now on are kept in another one."""


class HeadCache:
    """Heads by their bytes without the length's digits."""

    __slots__ = ("_heads",)

    def __init__(self) -> None:
        self._heads: dict[bytes, KnownHead] = {}

    def find(self, data: bytes) -> KnownHead | None:
        """The only known head with which this read may begin, which `measure` says; or None."""
        end = data.find(b"\r\n\r\n")
        if end < 0 or end > MAX_HEAD_BYTES:
            return None
        at = data.find(b"\r\nContent-Length: ", 0, end)
        if at < 0:
            at = data.find(b"\r\ncontent-length: ", 0, end)
            if at < 0:
                return None
        digits_at = at + _MARK_BYTES
        digits_end = data.find(b"\r", digits_at, end + 2)
        return self._heads.get(data[:digits_at] + data[digits_end:end])

    def keep(self, data: bytes, head: RequestHead) -> None:
        """Note that llhttp has read this head, at the start of this read, as a request with one Content-Length.

        Only heads that mean the same every time are kept: HTTP/1.1, no request id, nothing expected.
        """
        end = data.find(b"\r\n\r\n")
        if end < 0 or end > MAX_HEAD_BYTES or head.request_id is not None or head.expects_continue:
            return
        if head.minor_version != 1 or not head.target:
            return
        for spelling in _SPELLINGS:
            at = data.find(spelling, 0, end)
            if at >= 0:
                digits_at = at + _MARK_BYTES
                digits_end = data.find(b"\r", digits_at, end + 2)
                if data[digits_at:digits_end].isdigit():
                    if len(self._heads) >= MAX_HEADS:
                        self._heads.clear()
                    before = data[:digits_at]
                    key = before + data[digits_end:end]
                    self._heads[key] = KnownHead(before, data[digits_end : end + 4], head, self)
                return
