"""An answer reads from its events when its tokens came, its text, and the tokens that the engine counted.

This module decides what counts as the first token: the first event with text, reasoning or a tool call's arguments in
it. Roles and other openings do not count. Counts of tokens are the engine's `usage`, never a count of events, since an
event may carry several tokens. Events after the first token are only decoded where something in them matters.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from warmroute_loadtest.locust.talks import Api

_decode = msgspec.json.Decoder().decode
MAX_ERROR_CHARS = 300


@dataclass(slots=True)
class Answer:
    """One answer while it is read."""

    api: Api
    keeps_text: bool = False
    """Whether the text is kept, since it will be part of a later prompt."""
    first_s: float | None = None
    """Clock at the first token; None until it came."""
    last_s: float | None = None
    longest_gap_s: float = 0.0
    """The longest time between two events with tokens, in seconds."""
    events: int = 0
    """Number of events with tokens."""
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    """Prompt tokens that the engine reports as cached; None where it does not say."""
    completion_tokens: int | None = None
    error: str | None = None
    complete: bool = False
    """True once the event that ends an answer in this API was seen."""
    _texts: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All text so far, if it is kept."""
        return "".join(self._texts)

    def event(self, data: bytes, now_s: float) -> None:
        """Read one event's data."""
        if data == b"[DONE]":
            self.complete = True
            return
        if self.first_s is not None and not self.keeps_text and self._is_plain(data):
            self._token(now_s)
            return
        try:
            said = _decode(data)
        except msgspec.DecodeError:
            self.error = f"an event is no JSON: {data[:MAX_ERROR_CHARS].decode(errors='replace')}"
            return
        if not isinstance(said, dict):
            self.error = f"an event is no object: {data[:MAX_ERROR_CHARS].decode(errors='replace')}"
        elif said.get("error") is not None:
            self.error = f"error in the stream: {_message(said['error'])}"
        elif self.api is Api.MESSAGES:
            self._message_event(said, now_s)
        else:
            self._chunk(said, now_s)

    def body(self, data: bytes) -> None:
        """Read a whole answer that is no stream."""
        try:
            said = _decode(data)
        except msgspec.DecodeError:
            self.error = "the answer is no JSON"
            return
        if isinstance(said, dict):
            self._usage(said.get("usage"))
            self.complete = True

    def finished(self) -> None:
        """Take note that the stream has ended; if it ended too early, `error` says so."""
        if self.error is None and not self.complete:
            self.error = "the stream ended too early"

    def itl_s(self) -> float | None:
        """Mean time between tokens after the first, in seconds; None for fewer than two tokens."""
        if self.first_s is None or self.last_s is None or (self.completion_tokens or 0) < 2:
            return None
        assert self.completion_tokens is not None
        return (self.last_s - self.first_s) / (self.completion_tokens - 1)

    def _is_plain(self, data: bytes) -> bool:
        """Return whether the event can only be one more token, so that it needs no decoding."""
        if self.api is Api.MESSAGES:
            return b'"content_block_delta"' in data
        return (b'"usage":' not in data or b'"usage":null' in data) and b'"error"' not in data

    def _token(self, now_s: float) -> None:
        if self.first_s is None:
            self.first_s = now_s
        elif self.last_s is not None:
            self.longest_gap_s = max(self.longest_gap_s, now_s - self.last_s)
        self.last_s = now_s
        self.events += 1

    def _chunk(self, said: dict[str, Any], now_s: float) -> None:
        self._usage(said.get("usage"))
        for choice in said.get("choices") or ():
            delta = choice.get("delta") or {}
            text = choice.get("text") or delta.get("content") or ""
            if text or delta.get("reasoning") or delta.get("reasoning_content") or delta.get("tool_calls"):
                self._token(now_s)
            if text and self.keeps_text:
                self._texts.append(text)

    def _message_event(self, said: dict[str, Any], now_s: float) -> None:
        kind = said.get("type")
        if kind == "content_block_delta":
            delta = said.get("delta") or {}
            self._token(now_s)
            if self.keeps_text and delta.get("text"):
                self._texts.append(delta["text"])
        elif kind == "message_start":
            self._usage((said.get("message") or {}).get("usage"))
        elif kind == "message_delta":
            self._usage(said.get("usage"))
        elif kind == "message_stop":
            self.complete = True

    def _usage(self, usage: Any) -> None:
        if not isinstance(usage, dict):
            return
        if self.api is Api.MESSAGES:
            # Anthropic's `input_tokens` leaves out the tokens that were read from the cache and written to it.
            if usage.get("input_tokens") is not None:
                cached = usage.get("cache_read_input_tokens")
                created = usage.get("cache_creation_input_tokens") or 0
                self.prompt_tokens = usage["input_tokens"] + (cached or 0) + created
                self.cached_tokens = cached if cached is not None else self.cached_tokens
            self.completion_tokens = usage.get("output_tokens", self.completion_tokens)
            return
        self.prompt_tokens = usage.get("prompt_tokens", self.prompt_tokens)
        self.completion_tokens = usage.get("completion_tokens", self.completion_tokens)
        details = usage.get("prompt_tokens_details")
        if isinstance(details, dict) and details.get("cached_tokens") is not None:
            self.cached_tokens = details["cached_tokens"]


def refusal(status: int, body: bytes) -> str:
    """Return what an answer with a status other than 200 says."""
    try:
        said = _decode(body)
    except msgspec.DecodeError:
        said = None
    error = said.get("error", said.get("message")) if isinstance(said, dict) else None
    text = _message(error) if error else body[:MAX_ERROR_CHARS].decode(errors="replace").strip()
    return f"status {status}: {text}" if text else f"status {status}"


def _message(error: Any) -> str:
    said = error.get("message", error) if isinstance(error, dict) else error
    return str(said)[:MAX_ERROR_CHARS]
