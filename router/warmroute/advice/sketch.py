"""A sketch is what is remembered of a prompt so that others can be compared with it: hashes of its words, no text.

Decides what a word is and which places of a prompt are *anchors*, by which a text is found again wherever it stands.
Only the beginning of a prompt is read word by word; of the rest, its *tail*, every eighth line is remembered by chance,
which tells how much of it another prompt has. A `Reading` is a sketch with the words themselves; it lives as long as
one comparison.

Hashes are Python's own of bytes: keyed anew in each process, and of no use outside it.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_right
from typing import Final

import msgspec

from warmroute.core.prompt.prompt import DOCUMENTS, MESSAGE, PROMPT_TOKENS, TOOLS

MOST_BYTES: Final = 32 << 10
"""How much of a prompt is read by words: two to four milliseconds."""
MOST_TAIL_BYTES: Final = 1 << 20
MOST_TOOLS_BYTES: Final = 128 << 10
"""A longer list of tools is read as words only: to read it as JSON takes longer than all the rest."""
_LEAST_LINE_BYTES: Final = 24
_WORDS: Final = re.compile(rb"[!-~\x80-\xdf]+|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf7][\x80-\xbf]{3}")
"""Words divided by blanks; of writing whose characters take three bytes or more, each character."""
_ANCHOR_WORDS: Final = 4
_ANCHOR_MASK: Final = 7
"""One word in eight begins an anchor, by its hash: so the same ones do wherever a text stands."""
WORD_BYTES: Final = 8
_MESSAGE_TAG: Final = MESSAGE[1:]
_ROLES: Final = frozenset((b"system", b"developer", b"user", b"assistant", b"tool"))

_decode_list: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode: Final = msgspec.json.Decoder().decode
_sorted: Final = msgspec.json.Encoder(order="sorted").encode


class Sketch:
    """What is remembered of one prompt."""

    __slots__ = ("anchors", "documents", "hashes", "messages", "tail", "tools")

    def __init__(
        self,
        hashes: bytes,
        anchors: dict[int, int],
        messages: list[int],
        tools: Listed | None,
        documents: Listed | None,
        tail: frozenset[int] = frozenset(),
    ) -> None:
        self.hashes = hashes
        """Of each word, 64 bits."""
        self.anchors = anchors
        """Hash of a few words -> the word at which they begin, the first time; in order of place."""
        self.messages = messages
        """The word at which each message begins."""
        self.tools = tools
        self.documents = documents
        self.tail = tail
        """Hashes of some lines of what is not read by words."""

    def __len__(self) -> int:
        """Words."""
        return len(self.hashes) // WORD_BYTES

    @property
    def bytes(self) -> int:
        """About how much memory it takes."""
        return (
            len(self.hashes) + 140 * len(self.anchors) + 40 * len(self.messages) + 80 * len(self.tail) + 1000
        )


class Listed:
    """Entries of a JSON list: by how they are written, and by what they say."""

    __slots__ = ("values", "written")

    def __init__(self, written: tuple[int, ...], values: tuple[int, ...]) -> None:
        self.written = written
        self.values = values


class Reading:
    """One prompt while it is compared."""

    __slots__ = ("field_tags", "fields", "prompt_bytes", "sketch", "tail_bytes", "words")

    def __init__(self, sketch: Sketch, words: list[bytes], fields: list[int], tags: list[bytes]) -> None:
        self.sketch = sketch
        self.words = words
        self.fields = fields
        """The word at which each field of the canonical prompt begins."""
        self.field_tags = tags
        self.prompt_bytes = 0
        """Length of the whole canonical prompt."""
        self.tail_bytes = 0
        """Length of what is not read by words."""

    def tag_at(self, word: int) -> bytes:
        """Tag of the field that has this word; empty behind the end."""
        if word >= len(self.words):
            return b""
        return self.field_tags[bisect_right(self.fields, word) - 1]

    def message_at(self, word: int) -> int:
        """Number of the message that has this word; -1 before the first."""
        return bisect_right(self.sketch.messages, word) - 1

    def role(self, message: int) -> str:
        """The role of a message, if it is one that is known."""
        role = self.words[self.sketch.messages[message]][len(MESSAGE) :]
        return role.decode() if role in _ROLES else "other"

    def size(self, start: int, end: int) -> int:
        """Bytes of these words and the blanks behind them."""
        return sum(map(len, self.words[start:end])) + max(end - start, 0)


def read(canonical: bytes) -> Reading | None:
    """A prompt, as far as it is looked at; None if it is no text."""
    if not canonical or canonical.find(PROMPT_TOKENS) >= 0:
        return None
    words: list[bytes] = []
    fields: list[int] = []
    tags: list[bytes] = []
    messages: list[int] = []
    tools = documents = None
    for part in canonical[:MOST_BYTES].split(b"\xff")[1:]:
        tag = part[:1]
        fields.append(len(words))
        tags.append(tag)
        if tag == _MESSAGE_TAG:
            messages.append(len(words))
            words.append(b"\xff" + part)
            continue
        if tag == TOOLS[1:]:
            tools = _listed(
                canonical[len(TOOLS) : _end_of_first(canonical)]
            )  # whole, beyond what is read by words
        elif tag == DOCUMENTS[1:]:
            documents = _listed(part[1:])
        words += _WORDS.findall(part, 1)
    hashes = array("q", map(hash, words))
    values = hashes.tolist()
    last = len(values) - _ANCHOR_WORDS
    anchors: dict[int, int] = {}
    for place, value in enumerate(values):
        if not value & _ANCHOR_MASK and place <= last:
            anchors.setdefault(hash(tuple(values[place : place + _ANCHOR_WORDS])), place)
    tail = _tail(canonical)
    found = Sketch(hashes.tobytes(), anchors, messages, tools, documents, tail)
    reading = Reading(found, words, fields, tags)
    reading.prompt_bytes = len(canonical)
    reading.tail_bytes = max(len(canonical) - MOST_BYTES, 0)
    return reading


def _tail(canonical: bytes) -> frozenset[int]:
    if len(canonical) <= MOST_BYTES:
        return frozenset()
    lines = canonical[MOST_BYTES : MOST_BYTES + MOST_TAIL_BYTES].split(b"\n")[1:]
    hashes = [hash(line) for line in lines if len(line) >= _LEAST_LINE_BYTES]
    return frozenset([value for value in hashes if not value & _ANCHOR_MASK])


def _end_of_first(canonical: bytes) -> int:
    end = canonical.find(b"\xff", 1)
    return len(canonical) if end < 0 else end


def _listed(raw: bytes) -> Listed | None:
    if len(raw) > MOST_TOOLS_BYTES:
        return None
    try:
        entries = [bytes(entry) for entry in _decode_list(raw)]
        values = tuple([hash(_sorted(_decode(entry))) for entry in entries])
    except (msgspec.MsgspecError, UnicodeError, RecursionError, OverflowError):
        return None  # cut where no more is looked at, or no list
    return Listed(tuple(map(hash, entries)), values)


def common_words(one: bytes, at_one: int, other: bytes, at_other: int) -> int:
    """How many words are the same from these two places on."""
    begin_one, begin_other = at_one * WORD_BYTES, at_other * WORD_BYTES
    most = min(len(one) - begin_one, len(other) - begin_other) // WORD_BYTES
    if most <= 0:
        return 0
    known, step = 0, 32
    while known < most:  # gallop to a stretch that differs
        end = min(known + step, most)
        if not _same(one, begin_one, other, begin_other, known, end):
            break
        known, step = end, step * 2
    else:
        return most
    low, high = known, min(known + step, most)
    while high - low > 1:
        middle = (low + high) // 2
        if _same(one, begin_one, other, begin_other, low, middle):
            low = middle
        else:
            high = middle
    return low


def _same(one: bytes, begin_one: int, other: bytes, begin_other: int, start: int, end: int) -> bool:
    start, end = start * WORD_BYTES, end * WORD_BYTES
    return one[begin_one + start : begin_one + end] == other[begin_other + start : begin_other + end]
