"""Asking an engine for the usage of a stream whose client did not, and taking the extra event out again.

Decides how the request is spliced and which event is the extra one; the client sees the stream it would have seen.
Source: vLLM 0.32.0, `stream_options.include_usage`: one event with empty `choices` and a `usage` before `[DONE]`
(tests/golden/vllm). Quotes inside a model's text are escaped in JSON, so no text can look like that event.
"""

from __future__ import annotations

ASKING = b'"stream_options":{"include_usage":true},'
_NO_CHOICES = b'"choices":[]'
_USAGE = b'"usage":{'
_DATA = b"data: {"
_ENDS = (b"\r\n\r\n", b"\n\n", b"\r\r")


def asking_at(body: bytes | bytearray) -> int:
    """Where `ASKING` goes into a JSON object that is not empty: behind its opening brace. -1 if there is none.

    First in the object, so that a `stream_options` of the client's own would still be the one that counts.
    """
    at = body.find(b"{", 0, 64)
    return at + 1 if at >= 0 and not body[:at].strip() else -1


def without_usage_event(events: bytes) -> bytes:
    """Complete events of a stream, less the one that only tells the usage."""
    if _NO_CHOICES not in events:
        return events
    kept = []
    start = 0
    while start < len(events):
        end = _end_of_event(events, start)
        event = events[start:end]
        if not (event.startswith(_DATA) and _NO_CHOICES in event and _USAGE in event):
            kept.append(event)
        start = end
    return b"".join(kept)


def _end_of_event(events: bytes, start: int) -> int:
    end = len(events)
    for mark in _ENDS:
        at = events.find(mark, start)
        if at >= 0 and at + len(mark) < end:
            end = at + len(mark)
    return end
