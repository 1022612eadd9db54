"""Usage is what an answer says about itself: tokens used, tokens found in the cache, the id it is stored under.

This module reads single values out of bodies and events, whole or cut, and decides nothing with them. A model's own
words are never taken for a report: inside a JSON string every quote is escaped, and of several objects the last one
counts.

A report as vLLM writes it for chat and completions is read where it stands; any other is left to `usage_report`.
"""

from __future__ import annotations

import re
from typing import Final

from warmroute.core.types import Api
from warmroute.dialects.usage_report import read_report

_CHAT: Final = Api.CHAT
_COMPLETIONS: Final = Api.COMPLETIONS
_KEY: Final = b'"usage":{'
_PROMPT: Final = b'"prompt_tokens":'
_TOTAL: Final = b',"total_tokens":'
_COMPLETION: Final = b',"completion_tokens":'
_DETAILS: Final = b',"prompt_tokens_details":'
_CACHED: Final = b'{"cached_tokens":'
_MOST_DIGITS: Final = 16
MOST_TOKENS: Final = 10**8
"""Of a prompt, or of an answer: more than bodies can hold. Tenants are billed by what replicas say, so what cannot be
is no report."""
_RESPONSE_ID: Final = re.compile(rb'(?<!\\)"id"\s*:\s*"([!#-\[\]-~]{1,256})"')
"""Any id: vLLM takes the client's `request_id` for it."""


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
        return isinstance(other, Usage) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[int, int | None, int]:
        return self.prompt_tokens, self.cached_tokens, self.completion_tokens


def find_usage(api: Api, data: bytes) -> Usage | None:
    """The last usage report in a body, in one or more events, or in the end of either; None also if that cannot be
    true (`believed`)."""
    if api is _CHAT or api is _COMPLETIONS:
        _, key, report = data.rpartition(_KEY)
        if key:
            usage = _read_plain(report)
            if usage is not None:
                return believed(usage)
    counts = read_report(api, data)
    return None if counts is None else believed(Usage(counts[0], counts[1], counts[2]))


def believed(usage: Usage) -> Usage | None:
    """A report that can be true: no more is cached than there is. None: the whole of it is not to be used."""
    prompt_tokens, cached_tokens = usage.prompt_tokens, usage.cached_tokens
    if not (0 <= prompt_tokens <= MOST_TOKENS and 0 <= usage.completion_tokens <= MOST_TOKENS):
        return None
    if cached_tokens is not None:
        if cached_tokens < 0:
            return None
        if cached_tokens > prompt_tokens:
            usage.cached_tokens = prompt_tokens
    return usage


def _read_plain(data: bytes) -> Usage | None:
    """The report that begins here behind its brace, as vLLM writes it, without blanks; None if it is another, or cut.

    Source: vLLM 0.32.0, tests/golden/vllm. A pattern would cost more than twice as much.
    """
    prompt_tokens, at = _number(data, _PROMPT, 0)
    total_tokens, after_total = _number(data, _TOTAL, at)
    if total_tokens >= 0:
        at = after_total
    completion_tokens, at = _number(data, _COMPLETION, at)
    if total_tokens < 0:
        total_tokens, at = _number(data, _TOTAL, at)
    if prompt_tokens < 0 or completion_tokens < 0 or total_tokens < 0:
        return None
    end = at + len(_DETAILS)
    if data[at:end] != _DETAILS:
        return None
    if data[end : end + 4] == b"null":
        return Usage(prompt_tokens, None, completion_tokens)
    cached_tokens, _ = _number(data, _CACHED, end)
    return None if cached_tokens < 0 else Usage(prompt_tokens, cached_tokens, completion_tokens)


def _number(data: bytes, key: bytes, at: int) -> tuple[int, int]:
    """The number behind the key that starts here and what follows it, or -1 and the same place."""
    start = index = at + len(key)
    if data[at:start] != key:
        return -1, at
    last = min(start + _MOST_DIGITS, len(data))
    number = 0
    while index < last:
        digit = data[index] - 48
        if not 0 <= digit <= 9:
            return (number, index) if index > start else (-1, at)
        number = number * 10 + digit
        index += 1
    return -1, at


def response_id(data: bytes) -> str | None:
    """Id of the response object in a body or in a stream's first event: the first in either."""
    found = _RESPONSE_ID.search(data)
    return None if found is None else found[1].decode("ascii")
