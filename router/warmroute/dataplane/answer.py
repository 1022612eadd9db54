"""The head of a replica's answer is read here as far as the client sees it, and so are answers that arrive whole.

This module decides which fields travel. An answer that is complete in one read needs no parser: its length says where
it ends. Whatever is unusual in any way (chunks, no length, more than one, informational) is left to llhttp.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Final

from warmroute.dataplane.repeated_head import RepeatedHead
from warmroute.dataplane.request import HOP_BY_HOP, Fields, named
from warmroute.dialects.coding import named as named_coding

STATUS_LINES: Final = {
    status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode()) for status in HTTPStatus
}

BODILESS: Final = frozenset((204, 304))

_DROPPED: Final = HOP_BY_HOP | frozenset((b"x-request-id", b"content-length"))
"""Fields that the router writes anew, or that mean the replica's connection only."""

_PASSED, _SKIPPED, _LENGTH, _CONNECTION, _TYPE, _CODING = range(6)
_WHAT: Final = dict.fromkeys(_DROPPED, _SKIPPED) | {
    b"date": _PASSED,
    b"server": _PASSED,
    b"vary": _PASSED,
    b"content-length": _LENGTH,
    b"connection": _CONNECTION,
    b"content-type": _TYPE,
    b"content-encoding": _CODING,
    b"transfer-encoding": -1,
    b"proxy-connection": -1,
}
_TOKEN: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROLS: Final = bytes([*range(9), *range(10, 32), 127])
"""What only line ends may contain."""
_LOCATION: Final = re.compile(rb"(?im)^((?:content-)?location:[ \t]*)https?://([^/?#\r\n]*)([^\r\n]*)")
_MAX_DIGITS: Final = 18
_LOWER_LENGTH: Final = b"\r\ncontent-length: "
_TITLE_LENGTH: Final = b"\r\nContent-Length: "
_LENGTH_BYTES: Final = 18
_CACHED_HEADS: Final = 256
_CACHED_HEAD_BYTES: Final = 2048


class AnswerHead:
    """Status and what is passed on of the fields."""

    __slots__ = ("coding", "event_stream", "length_bytes", "lines", "status")

    def __init__(
        self,
        status: int,
        lines: bytes,
        length_bytes: int | None,
        *,
        event_stream: bool,
        coding: bytes = b"",
    ) -> None:
        self.status = status
        self.lines = lines
        """Fields that travel, each with its line end."""
        self.length_bytes = length_bytes
        """Content-Length; None without one."""
        self.event_stream = event_stream and not coding
        """Whether its events can be read: a coded stream passes as it comes, like any bytes."""
        self.coding = coding
        """Content coding of the body; empty without one."""

    def again(self, length_bytes: int) -> AnswerHead:
        """The head of another answer that says the same, with a body of so many bytes."""
        return AnswerHead(
            self.status, self.lines, length_bytes, event_stream=self.event_stream, coding=self.coding
        )

    def names_request(self) -> bool:
        """Whether a `request-id` is among the fields."""
        return (b"\n" + self.lines.lower()).find(b"\nrequest-id:") >= 0

    def rendered(self, added: bytes) -> bytes:
        """Status line, fields and the router's own lines; no framing, no end of the head."""
        status = STATUS_LINES.get(self.status) or b"HTTP/1.1 %d Unknown\r\n" % self.status
        return b"%b%b%b" % (status, self.lines, added)


def from_fields(status: int, fields: Fields) -> AnswerHead:
    """Head of an answer that llhttp has parsed."""
    length_bytes = None
    event_stream = False
    coding = b""
    lines = []
    dropped = _DROPPED
    for name, value in fields:
        if name == b"connection":
            dropped = dropped | named(value)
    for name, value in fields:
        if name == b"content-length":
            length_bytes = int(value)
        elif name not in dropped:
            lines.append(b"%b: %b\r\n" % (name, value))
            if name == b"content-type":
                event_stream = value.startswith(b"text/event-stream")
            elif name == b"content-encoding":
                coding = named_coding(value)
    return AnswerHead(status, b"".join(lines), length_bytes, event_stream=event_stream, coding=coding)


def read_whole(data: bytes) -> tuple[AnswerHead, bytes] | None:
    """Head and body, if this read is exactly one plain answer after which the connection stays open; else None."""
    end = data.find(b"\r\n\r\n")
    if end < 13 or data[:9] != b"HTTP/1.1 ":
        return None
    whole_head = data[:end]
    lines = whole_head.split(b"\r\n")
    digits = lines[0][9:12]
    if not digits.isdigit() or lines[0][12:13] not in (b" ", b""):
        return None
    if len(whole_head.translate(None, _CONTROLS)) != end - 2 * (len(lines) - 1):
        return None
    status = int(digits)
    if status < 200 or status in BODILESS:
        return None
    length: bytes | None = None
    event_stream = False
    coding = b""
    passed = []
    for line in lines[1:]:
        colon = line.find(b":")
        if colon < 1:
            return None
        name = line[:colon].lower()
        what = _WHAT.get(name)
        if what is None:
            if _TOKEN.fullmatch(name) is None:
                return None
            passed.append(line)
        elif what == _PASSED:
            passed.append(line)
        elif what == _TYPE:
            passed.append(line)
            event_stream = line[colon + 1 :].lstrip(b" \t").startswith(b"text/event-stream")
        elif what == _CODING:
            passed.append(line)
            coding = named_coding(line[colon + 1 :])
        elif what == _LENGTH:
            if length is not None:
                return None
            length = line[colon + 1 :].strip(b" \t")
        elif what == _CONNECTION:
            if line[colon + 1 :].strip(b" \t").lower() != b"keep-alive":
                return None
        elif what < 0:
            return None
    body_at = end + 4
    if (
        length is None
        or not length.isdigit()
        or len(length) > _MAX_DIGITS
        or int(length) != len(data) - body_at
    ):
        return None
    passed.append(b"")
    return (
        AnswerHead(
            status, b"\r\n".join(passed), len(data) - body_at, event_stream=event_stream, coding=coding
        ),
        data[body_at:],
    )


def at_the_router(head: AnswerHead, host: bytes) -> AnswerHead:
    """The same head, where its Location names the replica itself, with a Location that is good for the client.

    Args:
        host: What the replica was called in the Host field: engines make absolute locations of it.
    """
    if _LOCATION.search(head.lines) is None:
        return head

    def shortened(found: re.Match[bytes]) -> bytes:
        if found[2].lower() != host.lower():
            return found[0]
        return found[1] + (found[3] if found[3][:1] == b"/" else b"/" + found[3])

    head.lines = _LOCATION.sub(shortened, head.lines)
    return head


class KnownAnswer(RepeatedHead):
    """What was found of a head, for every answer that begins with it."""

    __slots__ = ("head",)

    def __init__(self, before: bytes, after: bytes, head: AnswerHead) -> None:
        super().__init__(before, after)
        self.head = head


class AnswerCache:
    """Heads that `read_whole` has read before: a replica repeats its head but for the length, the id and the date.

    What was found of a head is found again by the same bytes without the length's digits and the request id, which are
    checked by themselves; a head that differs in anything else is read anew. The last one is tried first. Emptied when
    full, which the date makes happen now and then.
    """

    __slots__ = ("_digits_at", "_heads", "_last")

    def __init__(self) -> None:
        self._heads: dict[bytes, AnswerHead] = {}
        self._last: KnownAnswer | None = None
        self._digits_at = _LENGTH_BYTES
        """Where the last head had its length: the next one likely has it there too."""

    def read(self, data: bytes) -> tuple[AnswerHead, bytes] | None:
        """The same as `read_whole(data)`."""
        last = self._last
        if last is not None:
            body_at, length_bytes = last.measure(data)
            if body_at >= 0:
                body = data[body_at:]
                return (last.head.again(length_bytes), body) if len(body) == length_bytes else None
        end = data.find(b"\r\n\r\n")
        if end < 0 or end > _CACHED_HEAD_BYTES:
            return read_whole(data)
        digits_at = self._digits_at
        mark = data[digits_at - _LENGTH_BYTES : digits_at] if digits_at <= end else b""
        if mark != _LOWER_LENGTH and mark != _TITLE_LENGTH:
            at = data.find(_LOWER_LENGTH, 0, end)
            if at < 0:
                at = data.find(_TITLE_LENGTH, 0, end)
                if at < 0:
                    return read_whole(data)
            digits_at = self._digits_at = at + _LENGTH_BYTES
        digits_end = data.find(b"\r", digits_at, end + 2)
        digits = data[digits_at:digits_end]
        if not digits.isdigit() or len(digits) > _MAX_DIGITS:
            return read_whole(data)
        before = data[:digits_at]
        key = before + data[digits_end:end]
        known = self._heads.get(key)
        if known is not None:
            self._last = KnownAnswer(before, data[digits_end : end + 4], known)
        else:
            key = _without_id(key)
            known = self._heads.get(key)
            if known is None:
                whole = read_whole(data)
                if whole is not None:
                    if len(self._heads) >= _CACHED_HEADS:
                        self._heads.clear()
                    self._heads[key] = whole[0]
                return whole
        body = data[end + 4 :]
        return (known.again(len(body)), body) if int(digits) == len(body) else None


def _without_id(key: bytes) -> bytes:
    at = key.find(b"\r\nx-request-id: ")
    if at < 0:
        return key
    end = key.find(b"\r", at + 16)
    if end < 0:
        end = len(key)
    return key[:at] + key[end:] if key[at + 16 : end].replace(b"-", b"").isalnum() else key
