"""What an answer says about itself: tokens used, tokens found in the cache, the id it is stored under.

Reads single values out of bodies and events, whole or cut; decides nothing with them. A model's own words are never
taken for a report: inside a JSON string every quote is escaped, and of several objects the last one counts.

A report as vLLM writes it for chat and completions is read by its keys; any other is left to `usage_report`.
"""

from __future__ import annotations

import re

from router.core.types import Api
from router.dialects.usage_report import read_report

_PLAIN = (Api.CHAT, Api.COMPLETIONS)
_KEY = b'"usage":{'
_PROMPT = b'"prompt_tokens":'
_COMPLETION = b'"completion_tokens":'
_CACHED = b'"cached_tokens":'
_REPORT_BYTES = 512
"""Longest report that is read by its keys; vLLM's have about 250."""
_RESPONSE_ID = re.compile(rb'(?<!\\)"id"\s*:\s*"(resp_[A-Za-z0-9_.-]{1,128})"')


class Usage:
    """Token counts that an engine reported for one request."""

    __slots__ = ("cached_tokens", "completion_tokens", "prompt_tokens")

    def __init__(self, prompt_tokens: int, cached_tokens: int | None, completion_tokens: int) -> None:
        self.prompt_tokens = prompt_tokens
        """The whole prompt, cached tokens included; 0 if not reported."""
        self.cached_tokens = cached_tokens
        """`None` where the engine does not report it."""
        self.completion_tokens = completion_tokens

    def __repr__(self) -> str:
        return f"Usage({self.prompt_tokens}, {self.cached_tokens}, {self.completion_tokens})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Usage) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash((self.prompt_tokens, self.cached_tokens, self.completion_tokens))


def find_usage(api: Api, data: bytes) -> Usage | None:
    """The last usage report in a body, in one or more events, or in the end of either."""
    if api in _PLAIN:
        at = data.rfind(_KEY)
        if at >= 0:
            end = data.find(b"}}", at, at + _REPORT_BYTES)
            if end > 0:
                prompt_tokens = _number(data, _PROMPT, at, end)
                completion_tokens = _number(data, _COMPLETION, at, end)
                if prompt_tokens >= 0 and completion_tokens >= 0:
                    cached_tokens = _number(data, _CACHED, at, end)
                    return Usage(
                        prompt_tokens, cached_tokens if cached_tokens >= 0 else None, completion_tokens
                    )
    counts = read_report(api, data)
    return None if counts is None else Usage(counts[0], counts[1], counts[2])


def _number(data: bytes, key: bytes, start: int, end: int) -> int:
    """The whole number after a key, or -1."""
    at = data.find(key, start, end)
    if at < 0:
        return -1
    at += len(key)
    stop = data.find(b",", at, end)
    digits = data[at : stop if stop >= 0 else end]
    return int(digits) if digits.isdigit() and len(digits) < 16 else -1


def response_id(data: bytes) -> str | None:
    """Id of the response object in a body or in a stream's first event."""
    found = _RESPONSE_ID.search(data)
    return None if found is None else found[1].decode("ascii")
