"""What an answer says about itself: tokens used, tokens found in the cache, the id it is stored under.

Reads single values out of bodies and events, whole or cut; decides nothing with them. A model's own words are never
taken for a report: inside a JSON string every quote is escaped, and of several objects the last one counts.
"""

from __future__ import annotations

import re

import msgspec

from router.core.types import Api

_MESSAGES = Api.MESSAGES
_RESPONSES = Api.RESPONSES
_KEY = b'"usage"'
_OBJECT = re.compile(rb'"usage"\s*:\s*(\{(?:[^{}"]++|"[^"\\]*+"|\{(?:[^{}"]++|"[^"\\]*+")*+\})*+\})')
"""An object of numbers, keys and at most one level of details."""
_RESPONSE_ID = re.compile(rb'(?<!\\)"id"\s*:\s*"(resp_[A-Za-z0-9_.-]{1,128})"')
_MAX_TRIES = 16
_MAX_BODY_BYTES = 256 * 1024
"""Up to this size a whole body of `/v1/messages`, which may hold objects of the model's making, is read as JSON."""


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


class _Details(msgspec.Struct, gc=False):
    cached_tokens: int | None = None


class _Report(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: _Details | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None


class _Body(msgspec.Struct, gc=False):
    usage: _Report | None = None


_decode = msgspec.json.Decoder(_Report).decode
_decode_body = msgspec.json.Decoder(_Body).decode


def find_usage(api: Api, data: bytes) -> Usage | None:
    """The last usage report in a body, in one or more events, or in the end of either."""
    at = data.rfind(_KEY)
    if at < 0:
        return None
    if api is _MESSAGES and data[:1] == b"{" and len(data) <= _MAX_BODY_BYTES:
        try:
            report = _decode_body(data).usage
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            pass
        else:
            return None if report is None else _usage(api, report)
    for _ in range(_MAX_TRIES):
        found = _OBJECT.match(data, at)
        if found is not None:
            try:
                return _usage(api, _decode(found[1]))
            except (msgspec.MsgspecError, UnicodeError):
                pass
        at = data.rfind(_KEY, 0, at)
        if at < 0:
            break
    return None


def _usage(api: Api, report: _Report) -> Usage | None:
    if api is _MESSAGES:
        cached = report.cache_read_input_tokens
        prompt_tokens = (report.input_tokens or 0) + (cached or 0) + (report.cache_creation_input_tokens or 0)
        completion_tokens, known = report.output_tokens, report.input_tokens
    else:
        if api is _RESPONSES:
            known, completion_tokens, details = (
                report.input_tokens,
                report.output_tokens,
                report.input_tokens_details,
            )
        else:
            known, completion_tokens = report.prompt_tokens, report.completion_tokens
            details = report.prompt_tokens_details
        cached = None if details is None else details.cached_tokens
        prompt_tokens = known or 0
    if known is None and completion_tokens is None:
        return None
    return Usage(prompt_tokens, cached, completion_tokens or 0)


def response_id(data: bytes) -> str | None:
    """Id of the response object in a body or in a stream's first event."""
    found = _RESPONSE_ID.search(data)
    return None if found is None else found[1].decode("ascii")
