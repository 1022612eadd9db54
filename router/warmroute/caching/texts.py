"""Texts of promised prefixes, so that they can be computed again: kept in this process's memory alone, and bounded.

A text is the request that has an engine compute the prefix (`dialects.prefix_request`). What was put or renewed last
goes last; the oldest give way beyond the bound. What has given way is promised all the same, but not kept warm until
somebody sends it again. Pure: no I/O and no clock.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from warmroute.core.types import Api

ENTRY_BYTES: Final = 512
"""What a text takes besides itself."""
MOST_OF_ALL: Final = 0.25
"""Share of the bound that one text may take."""


class Text(NamedTuple):
    """One request, as it is sent."""

    api: Api
    body: bytes


class Texts:
    """Those of one router, by the promise's key."""

    __slots__ = ("_most_bytes", "_texts", "bytes", "dropped")

    def __init__(self, most_bytes: int) -> None:
        self._texts: dict[int, Text] = {}
        self._most_bytes = most_bytes
        self.bytes = 0
        """What they take together."""
        self.dropped = 0
        """Texts that gave way, or were too long, while their prefix was promised."""

    def __len__(self) -> int:
        return len(self._texts)

    def __iter__(self) -> Iterator[int]:
        return iter(list(self._texts))

    def get(self, key: int) -> Text | None:
        """The text of one promise; None: it is not kept."""
        return self._texts.get(key)

    def renew(self, key: int) -> bool:
        """Its promise was made or read again. Returns whether the text is there."""
        text = self._texts.pop(key, None)
        if text is None:
            return False
        self._texts[key] = text
        return True

    def put(self, key: int, text: Text) -> bool:
        """Keep one. Returns whether it is kept: one that is too long is not."""
        size_bytes = len(text.body) + ENTRY_BYTES
        self.drop(key)
        if size_bytes > MOST_OF_ALL * self._most_bytes:
            self.dropped += 1
            return False
        self._texts[key] = text
        self.bytes += size_bytes
        while self.bytes > self._most_bytes:
            self.drop(next(iter(self._texts)))
            self.dropped += 1
        return True

    def drop(self, key: int) -> None:
        """It need not be kept."""
        text = self._texts.pop(key, None)
        if text is not None:
            self.bytes -= len(text.body) + ENTRY_BYTES
