"""The tape gives texts of a wished length: the same for one key, different from the first bytes on for another.

A text is a stretch cut from one long tape of words, behind a few characters of its own. So making 100,000 tokens takes
microseconds, where drawing words would hold up every other client of the process. Each run has a salt: with a new salt
no text of an earlier run appears again, so that every run finds cold caches, whatever the replicas hold.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from hashlib import blake2b

from warmroute_loadtest.locust.talks import Piece

TAPE_BYTES = 1 << 20
_WORDS = (
    "import return class self value index string error module object function default result table python file name "
    "type list number server client answer question document search order house water people world school country"
).split()


class Tape:
    """The texts of one run."""

    def __init__(self, salt: str, bytes_per_token: float = 4.0) -> None:
        self._salt = salt
        self._bytes_per_token = bytes_per_token
        words = random.Random(salt).choices(_WORDS, k=TAPE_BYTES // 5)
        tape = " ".join(words)
        # The tape holds its words twice, so that a stretch can begin anywhere.
        self._length = len(tape)
        self._tape = tape + " " + tape

    def text(self, pieces: Iterable[Piece]) -> str:
        """Return the text of these pieces, one after the other."""
        return "".join(self._piece(piece.key, piece.tokens) for piece in pieces)

    def _piece(self, key: str, tokens: int) -> str:
        size = round(tokens * self._bytes_per_token)
        digest = blake2b(f"{self._salt}/{key}".encode(), digest_size=6)
        at = int.from_bytes(digest.digest(), "big") % self._length
        text = f"{digest.hexdigest()} {self._tape[at : at + min(size, self._length)]}"
        while len(text) < size:
            text += self._tape[: self._length]
        return text[:size]
