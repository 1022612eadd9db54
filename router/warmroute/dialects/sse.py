"""The ends of server-sent events say what of a stream may be forwarded so that it never stops inside an event.

This module decides nothing about the events' content, but for what is none (`first_data`). The rule it keeps: what
comes out is what went in, in order, whole.
"""

from __future__ import annotations

from typing import Final

MAX_KEPT_BACK_BYTES: Final = 64 * 1024
"""A longer event is let through as it comes, so that a stream's memory stays bounded."""

_LINE_FEED: Final = 10
_CARRIAGE_RETURN: Final = 13
_COLON: Final = 58
_ENDS: Final = (b"\n\n", b"\r\n\r\n", b"\r\r")


def first_data(events: bytes) -> int:
    """Index of the first line that is neither a comment nor empty; -1 if none has begun.

    Comments (`: keep-alive`) are no part of an answer: engines and proxies send them while nothing is computed yet.
    """
    at = 0
    size = len(events)
    while at < size:
        first = events[at]
        if first == _COLON:
            line_feed = events.find(b"\n", at)
            carriage_return = events.find(b"\r", at, line_feed if line_feed >= 0 else size)
            at = carriage_return if carriage_return >= 0 else line_feed
            if at < 0:
                return -1
        elif first != _LINE_FEED and first != _CARRIAGE_RETURN:
            return at
        at += 1
    return -1


def unfinished_line(events: bytes) -> bytes:
    """What follows the last line end."""
    return events[max(events.rfind(b"\n"), events.rfind(b"\r")) + 1 :]


def end_of_event(events: bytes, start: int) -> int:
    """Index after the first event that begins at `start`, -1 if it is not complete."""
    end = -1
    for mark in _ENDS:
        at = events.find(mark, start, end if end >= 0 else len(events))
        if at >= 0:
            end = at + len(mark)
    return end


class EventGate:
    """Holds back the incomplete event at the end of what has arrived."""

    __slots__ = ("_kept_back", "at_boundary")

    def __init__(self) -> None:
        self._kept_back = bytearray()
        self.at_boundary = True
        """What was let through so far ends between two events: only then may the router add an event of its own."""

    @property
    def idle(self) -> bool:
        """Everything so far was let through, and ends between two events: events that follow pass as they are."""
        return self.at_boundary and not self._kept_back

    @property
    def kept_back_bytes(self) -> int:
        """How much is kept back."""
        return len(self._kept_back)

    def feed(self, data: bytes) -> bytes:
        """What may be forwarded, in addition to what was, possibly nothing."""
        kept_back = self._kept_back
        if not kept_back and data.endswith(_ENDS):
            self.at_boundary = True
            return data
        searched = len(kept_back) - 3
        kept_back += data
        end = _last_end(kept_back, searched if searched > 0 else 0)
        if end:
            self.at_boundary = True
        elif len(kept_back) > MAX_KEPT_BACK_BYTES:
            self.at_boundary = False
            end = len(kept_back)
        else:
            return b""
        out = bytes(memoryview(kept_back)[:end])
        del kept_back[:end]
        if len(kept_back) > MAX_KEPT_BACK_BYTES:
            self.at_boundary = False
            out += kept_back
            kept_back.clear()
        return out

    def flush(self) -> bytes:
        """What is still kept back: the end of a stream that ended properly without an empty line."""
        out = bytes(self._kept_back)
        if out:
            self._kept_back.clear()
            self.at_boundary = False
        return out


def _last_end(data: bytearray, start: int) -> int:
    """Index after the last end of an event, 0 if there is none."""
    end = 0
    for mark in _ENDS:
        at = data.rfind(mark, start)
        if at >= 0 and at + len(mark) > end:
            end = at + len(mark)
    return end
