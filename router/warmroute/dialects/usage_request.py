"""The router asks engines for the usage of streams whose clients did not ask, who get the streams they would have had.

This module decides whether an engine's streams may be asked so, how the request is spliced, which event is the extra
one, and what the engine moved into it. The rule it keeps: a client that did not ask sees the very bytes of a stream not
asked for.

How an engine ends a stream is seen before it is asked: its first stream goes unasked and is watched. One that tells
usage by itself, in whatever form, is never asked; nor is one that was asked and told nothing. Of several answers in
one stream (`n`) each ends with what vLLM keeps for the very last event: those are not asked for either.

Source: vLLM 0.32.0, `stream_options.include_usage` (tests/golden/vllm): one event with empty `choices` and a `usage`
before `[DONE]`, and `system_fingerprint` there instead of at the end of the event with the `finish_reason`. The latter
is kept back until the next event, which comes at once. Quotes inside a model's text are escaped, so no text looks like
it.
"""

from __future__ import annotations

import re
from typing import Final

from warmroute.dialects.sse import end_of_event

ASKING: Final = b'"stream_options":{"include_usage":true},'
FINISH: Final = b'"finish_reason":"'
USAGE: Final = b'"usage":'
_NO_CHOICES: Final = b'"choices":[]'
_FINGERPRINT_KEY: Final = b'"system_fingerprint":'
_FINGERPRINT: Final = re.compile(rb',"system_fingerprint":"[^"\\]*"')
_LAST: Final = re.compile(rb"\}\s*\Z")
_ADDED: Final = re.compile(rb',"usage":(?:null|\{(?:[^{}"]++|"[^"\\]*+"|\{(?:[^{}"]++|"[^"\\]*+")*+\})*+\})')
"""A usage that an engine adds to events with choices, where it is not the first key."""
_OPEN_BYTES: Final = 32
"""How much of an event that comes in parts is kept to find a mark across their border."""

UNSEEN: Final = 0
ASKS: Final = 1
NEVER: Final = 2


class UsageSupport:
    """How one engine ends the streams of one API, as far as was seen in this life of it."""

    __slots__ = ("accepted", "ending", "verdict")

    def __init__(self) -> None:
        self.verdict = UNSEEN
        """`UNSEEN`: its next stream is watched; `ASKS`: may be asked; `NEVER`: is not."""
        self.ending = b""
        """What the event with the finish reason ends with, unasked, and has not if asked."""
        self.accepted = False
        """It has answered a request that asked: refusals are about something else."""

    def refuse(self) -> None:
        """Never ask it again."""
        self.verdict = NEVER


def asking_at(body: bytes | bytearray) -> int:
    """Where `ASKING` goes into a JSON object that is not empty: behind its opening brace. -1 if there is none."""
    at = body.find(b"{", 0, 64)
    return at + 1 if at >= 0 and not body[:at].strip() else -1


class StreamWatch:
    """Follows one stream of one answer: learns from it if it was not asked for usage, else hides that it was.

    Fed with whole events, but for those too long to be kept back, which come in parts. Only pieces in which `FINISH` or
    `USAGE` occurs have to be fed, and all while `alert`.
    """

    __slots__ = (
        "_finished",
        "_kept_back",
        "_support",
        "_open",
        "_open_finish",
        "_tells",
        "alert",
        "asked",
        "usage",
    )

    def __init__(self, support: UsageSupport, asked: bool) -> None:
        self.asked = asked
        self._support = support
        self._finished = False
        self._kept_back = b""
        self._open = b""
        """The end of what was passed on of an event that is not complete."""
        self._open_finish = False
        self._tells = False
        """Some event told usage."""
        self.alert = False
        self.usage = b""
        """The last event that told it."""

    def feed(self, piece: bytes) -> bytes:
        """What of it the client gets, now."""
        out = []
        start = 0
        size = len(piece)
        while start < size:
            end = end_of_event(piece, start)
            if end < 0:
                part = piece[start:]
                seen = self._open + part
                self._open_finish = self._open_finish or seen.find(FINISH) >= 0
                self._open = seen[-_OPEN_BYTES:]
                out.append(self._released(b"") + part)
                break
            out.append(self._event(piece[start:end]))
            start = end
        self.alert = bool(self._open or self._kept_back)
        return b"".join(out)

    def end(self, rest: bytes) -> bytes:
        """The stream is complete, with an event that lacks its empty line or nothing: what is still to be passed on."""
        if rest:
            rest = self._event(rest)
        support = self._support
        if self._finished:
            if self.asked and not self._tells:
                support.refuse()
            elif not self.asked and support.verdict == UNSEEN:
                support.verdict = ASKS
        return rest + self._released(b"")

    def broken(self) -> bytes:
        """The stream is cut off: what is still kept back."""
        return self._released(b"")

    def _event(self, event: bytes) -> bytes:
        finish = self._open_finish or FINISH in (self._open + event if self._open else event)
        self._open = b""
        self._open_finish = False
        return self._restored(event, finish) if self.asked else self._learnt(event, finish)

    def _learnt(self, event: bytes, finish: bool) -> bytes:
        support = self._support
        if USAGE in event:
            self.usage = event
            support.refuse()
        if finish:
            found = _FINGERPRINT.search(event)
            if self._finished or (found is None) is (_FINGERPRINT_KEY in event):
                support.refuse()  # several answers, or a fingerprint of another form
            elif found is not None:
                if _LAST.match(event, found.end()) is None:
                    support.refuse()
                support.ending = found[0]
            self._finished = True
        return event

    def _restored(self, event: bytes, finish: bool) -> bytes:
        told = b""
        if USAGE in event:
            self.usage = event
            self._tells = True
            if _NO_CHOICES in event:
                found = _FINGERPRINT.search(event)
                if found is not None:
                    told = found[0]
                event = b""
            else:
                # Not how it was seen to answer: what it has added goes, and it is not asked again.
                self._support.refuse()
                event = _ADDED.sub(b"", event, 1)
        released = self._released(told)
        if not finish or not event:
            return released + event
        self._finished = True
        self._kept_back = event
        return released

    def _released(self, told: bytes) -> bytes:
        """The event kept back, with the ending it has where nobody asks."""
        kept_back = self._kept_back
        if not kept_back:
            return b""
        self._kept_back = b""
        support = self._support
        if support.ending and _FINGERPRINT_KEY not in kept_back:
            at = kept_back.rfind(b"}")
            return kept_back[:at] + (told or support.ending) + kept_back[at:]
        return kept_back
