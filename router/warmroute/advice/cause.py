"""Causes for which a prompt misses the cache although another one had much of it; and of which kind a word is.

Data and patterns only. `departure` finds out which cause it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from typing import Final


class Cause(StrEnum):
    """Why a prompt departs from one that it shares much with. A metric's label."""

    TIMESTAMP = "timestamp"
    """A date or a time differs."""
    ID = "id"
    """A UUID, a hash or another random name differs."""
    NUMBER = "number"
    """A number differs."""
    WORDS = "words"
    """A few words differ: a name, a tenant, a language."""
    TEXT = "text"
    """A text that varies stands before one that does not."""
    TOOLS_ORDER = "tools_order"
    """The same tools come in another order."""
    TOOLS_FORM = "tools_form"
    """The same tools are written otherwise: their keys in another order, other blanks."""
    TOOLS_CHANGED = "tools_changed"
    """A tool more or less, or tools at all."""
    PASSAGES_ORDER = "passages_order"
    """The same passages come in another order."""
    HISTORY = "history"
    """Earlier messages were dropped or folded, and later ones kept."""
    SETTINGS = "settings"
    """What stands before the messages differs: a template's arguments, the reasoning effort."""


REMEDIES: Final = {
    Cause.TIMESTAMP: "move dates and times behind what does not change: into the last user message",
    Cause.ID: "move ids behind what does not change, or leave them out of the prompt",
    Cause.NUMBER: "move counters and figures behind what does not change",
    Cause.WORDS: "move what differs by user or request out of the front: into the first user message",
    Cause.TEXT: "put the text that is always the same first, and the text that varies behind it",
    Cause.TOOLS_ORDER: "send tools in one order; the router can sort them (rewrites.sort_tools)",
    Cause.TOOLS_FORM: "write tools the same way each time; the router can do it (rewrites.sort_keys)",
    Cause.TOOLS_CHANGED: "send the same tools each time, and forbid some by tool_choice instead",
    Cause.PASSAGES_ORDER: "send passages in one order; the router can sort them (rewrites.passages_begin)",
    Cause.HISTORY: "add to a conversation instead of rewriting it; drop many messages at once, and seldom",
    Cause.SETTINGS: "use one template, one set of its arguments and one reasoning effort for what shares a prompt",
}
"""What to do about each, for people."""

DATE: Final = "date"
TIME: Final = "time"
UUID: Final = "uuid"
HASH: Final = "id"
NUMBER: Final = "number"
EMAIL: Final = "email"
WORD: Final = "word"
LONG: Final = "text"

_NAMES: Final = frozenset(
    b"january february march april may june july august september october november december jan feb mar apr jun jul"
    b" aug sep sept oct nov dec monday tuesday wednesday thursday friday saturday sunday mon tue tues wed thu thur"
    b" thurs fri sat sun".split()
)
_HALVES: Final = frozenset((b"am", b"pm", b"utc", b"gmt", b"cet", b"cest", b"est", b"pst", b"z"))
_STRIPPED: Final = b".,;:!?()[]{}<>\"'`*_=#|"
_KINDS: Final = tuple(
    (re.compile(pattern), kind)
    for pattern, kind in (
        (rb"(?i)[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", UUID),
        (rb"(?<!\d)(?:19|20)\d\d[-/.](?:0?[1-9]|1[0-2])[-/.](?:[0-2]?\d|3[01])(?!\d)", DATE),
        (rb"(?<!\d)(?:[0-2]?\d|3[01])[-/.](?:[0-2]?\d|3[01])[-/.](?:19|20)?\d\d(?!\d)", DATE),
        (rb"(?<!\d)(?:[01]?\d|2[0-3]):[0-5]\d(?::[0-5]\d(?:[.,]\d+)?)?(?!\d)", TIME),
        (rb"(?<![\d.])1[5-9]\d{8}(?:\d{3}|\.\d+)?(?![\d.])", TIME),
        (rb"[^@\s]+@[^@\s]+\.[a-zA-Z]+", EMAIL),
        (rb"(?i)(?<![0-9a-z])(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{12,}(?![0-9a-z])", HASH),
        (rb"(?<![0-9A-Za-z])(?=[A-Za-z]*\d)(?=\d*[A-Za-z])(?=(?:[A-Za-z]*\d){3})[0-9A-Za-z_-]{14,}", HASH),
    )
)
_NUMBER: Final = re.compile(rb"[-+$#]?\d[\d.,:/%-]*(?:st|nd|rd|th|k|m|s|ms|gb|mb|%)?", re.IGNORECASE)
_TAIL_NUMBER: Final = re.compile(rb"[A-Za-z]{1,12}[-_#:=]\d+")
_MOST_WORD_BYTES: Final = 96


def kind_of(word: bytes) -> str:
    """Of which kind one word is, as an example shows it."""
    if len(word) > _MOST_WORD_BYTES:
        return LONG  # what has no blanks can be as long as a prompt, and patterns take their time
    for pattern, kind in _KINDS:
        if pattern.search(word) is not None:
            return kind
    bare = word.strip(_STRIPPED)
    if bare.lower() in _NAMES:
        return DATE
    if _NUMBER.fullmatch(bare) is not None or _TAIL_NUMBER.fullmatch(bare) is not None:
        return NUMBER
    return WORD


def kinds_of(words: Sequence[bytes], start: int, end: int) -> list[str]:
    """Of which kind the words from `start` to `end` are, each in the light of those around it: 29 is a date's where a
    month stands beside it."""
    found = [kind_of(word) for word in words[start:end]]
    around = [kind_of(word) for word in words[max(start - 3, 0) : start]]
    after = [kind_of(word) for word in words[end : end + 3]]
    near = [*around, *found, *after]
    for index, kind in enumerate(found):
        place = index + len(around)
        neighbours = near[max(place - 2, 0) : place] + near[place + 1 : place + 3]
        if kind == NUMBER and DATE in neighbours:
            found[index] = DATE
        elif kind == WORD and words[start + index].strip(_STRIPPED).lower() in _HALVES and TIME in neighbours:
            found[index] = TIME
    return found


def cause_of(kinds: Sequence[str]) -> Cause:
    """What a few words that differ amount to."""
    told = set(kinds)
    if told and told <= {DATE, TIME, NUMBER} and told & {DATE, TIME}:
        return Cause.TIMESTAMP
    if told and told <= {UUID, HASH, NUMBER} and told & {UUID, HASH}:
        return Cause.ID
    return Cause.NUMBER if told == {NUMBER} else Cause.WORDS
