"""Where a prompt departs from one that it shares much with, what stands behind that place in both, and why it departs.

Decides which of the remembered prompts is the nearest relative, how many tokens of it were shared in vain, and the
cause. A prompt that goes on where another ended, or that shares a beginning and nothing else, departs from nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from warmroute.advice.cause import Cause, cause_of, kinds_of
from warmroute.advice.sketch import Reading, Sketch, common_words
from warmroute.core.prompt.prompt import DOCUMENTS, MESSAGE, PROMPT_TEXT, TEXT, TOOLS

LEAST_RUN_WORDS: Final = 8
"""A shorter stretch is a matter of chance."""
FEW_WORDS: Final = 12
"""So many may differ and be a value: a date, a name."""
_TURNED_WORDS: Final = 24
"""So much of what is shared must come in another order for that to be the cause."""
_MOST_BACK_WORDS: Final = 256
_SHOWN_BEFORE: Final = 3
_SHOWN_BEHIND: Final = 2
_OF_MESSAGES: Final = frozenset(
    (MESSAGE[1:], TEXT[1:], b"n", b"i", b"r", b"g", b"u", b"c", b"d", b"a", b"x", b"w")
)
_FRONT: Final = frozenset(("system", "developer"))


class Run(NamedTuple):
    """A stretch that two prompts share, behind where they depart."""

    at: int
    """The word of the new prompt at which it begins."""
    there: int
    """The same of the other."""
    words: int


class Finding(NamedTuple):
    """What is found of one prompt."""

    cause: Cause
    tokens: int
    """Prompt tokens behind the departure that the other prompt has too: what a prompt without it could have found
    cached. An estimate."""
    example: str
    """Where it departs, and how: words that vary as their kinds."""


def find(
    reading: Reading,
    known: Sequence[Sketch],
    prompt_tokens: int,
    *,
    minimum_tokens: int,
    show_shared: bool = False,
) -> Finding | None:
    """Compare a prompt with those that are remembered.

    Args:
        known: Earlier prompts of the same tenant and model, oldest first.
        prompt_tokens: The whole prompt's.
        minimum_tokens: Less is not worth an advice.
        show_shared: Whether examples have the words that both prompts share.
    """
    new = reading.sketch
    if not known or not new.anchors:
        return None
    prefixes = [common_words(new.hashes, 0, other.hashes, 0) for other in known]
    covered = max(prefixes)  # what a cache has of it in any case
    behind = {key for key, place in new.anchors.items() if place >= covered}
    tokens_per_byte = prompt_tokens / max(reading.prompt_bytes, 1)
    if reading.size(covered, len(reading.words)) * tokens_per_byte < minimum_tokens:
        return None
    shared = [len(behind.intersection(other.anchors)) for other in known]
    best = max(shared)
    if not best:
        return None
    near = [index for index, count in enumerate(shared) if count * 10 >= best * 9]
    chosen = max(near, key=lambda index: (prefixes[index], index))
    other, at = known[chosen], prefixes[chosen]
    runs = runs_behind(new, other, at)
    lost_bytes = sum(reading.size(max(run.at, covered), run.at + run.words) for run in runs)
    if new.tail:
        lost_bytes += reading.tail_bytes * len(new.tail & other.tail) // len(new.tail)
    tokens = min(int(lost_bytes * tokens_per_byte), prompt_tokens)
    if tokens < max(minimum_tokens, 1):
        return None
    found = _explained(reading, other, at, runs)
    if found is None:
        return None
    cause, end = found
    return Finding(cause, tokens, _example(reading, at, end, cause, show_shared))


def runs_behind(new: Sketch, other: Sketch, at: int) -> list[Run]:
    """What two prompts share from the word `at` on, up to which they are the same, in the new one's order."""
    mine, theirs = memoryview(new.hashes).cast("q"), memoryview(other.hashes).cast("q")
    runs: list[Run] = []
    begin = at
    anchors = other.anchors
    for key, place in new.anchors.items():
        if place < begin:
            continue
        there = anchors.get(key)
        if there is None or there < at:
            continue
        back = 0
        most = min(place - begin, there - at, _MOST_BACK_WORDS)
        while back < most and mine[place - back - 1] == theirs[there - back - 1]:
            back += 1
        words = back + common_words(new.hashes, place, other.hashes, there)
        if words >= LEAST_RUN_WORDS:
            runs.append(Run(place - back, there - back, words))
            begin = place - back + words
    return runs


def _explained(reading: Reading, other: Sketch, at: int, runs: Sequence[Run]) -> tuple[Cause, int] | None:
    """The cause, and the word of the new prompt at which what varies ends; None: no cause that anybody can mend."""
    tag = reading.tag_at(at)
    first = runs[0]
    turned = _turned_words(runs)
    gap, gap_there = first.at - at, first.there - at
    few = gap <= FEW_WORDS and gap_there <= FEW_WORDS
    if tag == TOOLS[1:] or (reading.sketch.tools is None) != (other.tools is None):
        return _of_tools(reading, other, at, first, few, turned)
    if tag not in _OF_MESSAGES and tag not in (DOCUMENTS[1:], PROMPT_TEXT[1:]):
        return Cause.SETTINGS, first.at
    message = reading.message_at(at)
    in_front = message < 0 or reading.role(message) in _FRONT
    near = in_front or reading.message_at(first.at) == message or gap <= FEW_WORDS
    folded = _messages_between(other, at, first.there) > _messages_between(reading.sketch, at, first.at)
    if not near and not (folded and not turned and _goes_on(other, runs)):
        return None  # another conversation that comes to speak of the same
    if turned >= _TURNED_WORDS:
        return Cause.PASSAGES_ORDER, first.at
    if folded and not in_front and gap_there > FEW_WORDS:
        return Cause.HISTORY, first.at
    if few:
        return cause_of(kinds_of(reading.words, at, first.at)), first.at
    return Cause.TEXT, first.at


def _of_tools(
    reading: Reading, other: Sketch, at: int, first: Run, few: bool, turned: int
) -> tuple[Cause, int] | None:
    mine, theirs = reading.sketch.tools, other.tools
    if mine is None or theirs is None:
        if mine is None and theirs is None and turned >= _TURNED_WORDS:
            return Cause.TOOLS_ORDER, first.at
        return Cause.TOOLS_CHANGED, first.at
    if sorted(mine.values) == sorted(theirs.values):
        return (Cause.TOOLS_FORM if mine.values == theirs.values else Cause.TOOLS_ORDER), first.at
    if few and len(mine.values) == len(theirs.values):
        cause = cause_of(kinds_of(reading.words, at, first.at))
        if cause is not Cause.WORDS:
            return cause, first.at
    return Cause.TOOLS_CHANGED, first.at


def _turned_words(runs: Sequence[Run]) -> int:
    """Words of what is shared that stood further in front in the other prompt than what comes before them now."""
    turned = end = 0
    for run in runs:
        if run.there < end:
            turned += run.words
        else:
            end = run.there + run.words
    return turned


def _goes_on(other: Sketch, runs: Sequence[Run]) -> bool:
    """Whether the new prompt has all that the other one has from the first run on, or nearly."""
    return sum(run.words for run in runs) * 10 >= (len(other) - runs[0].there) * 9


def _messages_between(sketch: Sketch, start: int, end: int) -> int:
    return sum(start < begin <= end for begin in sketch.messages)


def _example(reading: Reading, at: int, end: int, cause: Cause, show_shared: bool) -> str:
    """A shape of the place, without what varies and, unless it may be shown, without what does not."""
    words = reading.words
    tag = reading.tag_at(at)
    message = reading.message_at(at)
    if tag == TOOLS[1:]:
        place, begin = "tools", 0
    elif message < 0:
        place, begin = "before the messages", 0
    else:
        place, begin = f"message {message + 1} ({reading.role(message)})", reading.sketch.messages[message]
    varied = kinds_of(words, at, min(max(end, at), at + FEW_WORDS))
    shape = [f"«{kind}»" for kind in varied]
    if end - at > FEW_WORDS:
        shape.append(f"… ({end - at} words)")
    if show_shared:
        shape = [
            *_shown(words[max(begin + 1, at - _SHOWN_BEFORE) : at]),
            *shape,
            *_shown(words[end : end + _SHOWN_BEHIND]),
        ]
    if cause in (Cause.TOOLS_ORDER, Cause.TOOLS_FORM, Cause.TOOLS_CHANGED) and not show_shared:
        shape = []
    text = " ".join(shape)
    return f"{place}, word {at - begin + (tag == TOOLS[1:] or message < 0)}" + (f": {text}" if text else "")


def _shown(words: Sequence[bytes]) -> list[str]:
    return [word.decode("utf-8", "replace") for word in words if not word.startswith(b"\xff")]
