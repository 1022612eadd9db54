"""Events of one stream that differ only in what a JSON string says need no search for what they may contain.

This module decides whether a piece can hold a mark (a key in quotes) without looking through it. A stream repeats
itself: but for a few words each event is the one before. If a piece begins and ends as an earlier one in which no mark
was found, and what lies between them, inside a string, has no quote, then no mark is in it either, since every mark has
two.

This is exact: what is not alike is only searched, never guessed at.
"""

from __future__ import annotations

from typing import Final

_KEYS: Final[tuple[bytes, ...]] = (b'"content":"', b'"text":"', b'"arguments":"', b'"reasoning":"')
"""Of the string in which such events differ."""
_QUOTE: Final = 0x22
"""As a number: CPython looks for bytes in bytes by failing to take them for one first, at 2,000 instructions."""
_MOST_LESSONS: Final = 8
"""A stream whose events are never alike (`logprobs`) is not studied for long."""
_MOST_BYTES: Final = 2048


class Alike:
    """What the events of one stream begin and end with."""

    __slots__ = ("_end", "_lessons", "_start")

    def __init__(self) -> None:
        self._start = b""
        self._end = b""
        self._lessons = 0

    @property
    def event_bytes(self) -> int:
        """About how long one of the events is that the latest lesson was of; 0: none was learnt."""
        start = self._start
        return (len(start) + len(self._end)) // max(1, start.count(b"data:")) if start else 0

    def __contains__(self, piece: bytes) -> bool:
        """Whether the piece is like the one learnt last, and so has no mark."""
        start = self._start
        if not start:
            return False
        begin = len(start)
        rest = len(piece) - len(self._end)
        return (
            rest >= begin
            and piece.startswith(start)
            and piece.endswith(self._end)
            and _QUOTE not in piece[begin:rest]
        )

    def learn(self, piece: bytes) -> None:
        """Complete events without any mark: those to come may be like them."""
        if self._lessons >= _MOST_LESSONS or len(piece) > _MOST_BYTES:
            return
        self._lessons += 1
        for key in _KEYS:
            at = piece.rfind(key)
            if at >= 0:
                begin = at + len(key)
                end = piece.find(b'"', begin)
                if end >= 0:
                    self._start = piece[:begin]
                    self._end = piece[end:]
                return
