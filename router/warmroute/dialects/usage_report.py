"""Usage reports are read here in full: nested as they come, in any API's spelling. This is the slow way of `usage`."""

from __future__ import annotations

import re

import msgspec

from warmroute.core.types import Api

_MESSAGES = Api.MESSAGES
_RESPONSES = Api.RESPONSES
_KEY = b'"usage"'
_OBJECT = re.compile(rb'"usage"\s*:\s*(\{(?:[^{}"]++|"[^"\\]*+"|\{(?:[^{}"]++|"[^"\\]*+")*+\})*+\})')
"""An object of numbers, keys and at most one level of details."""
_MAX_TRIES = 16
_MAX_BODY_BYTES = 256 * 1024
"""Up to this size a whole body of `/v1/messages`, which may hold objects of the model's making, is read as JSON."""

Counts = tuple[int, int | None, int]
"""Prompt, cached and completion tokens."""


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


def read_report(api: Api, data: bytes) -> Counts | None:
    """The last usage report in a body, in one or more events, or in the end of either. Not asked whether it can be
    true."""
    at = data.rfind(_KEY)
    if at < 0:
        return None
    if api is _MESSAGES and data[:1] == b"{" and len(data) <= _MAX_BODY_BYTES:
        try:
            report = _decode_body(data).usage
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            pass
        else:
            return None if report is None else _counts(api, report)
    for _ in range(_MAX_TRIES):
        found = _OBJECT.match(data, at)
        if found is not None:
            try:
                return _counts(api, _decode(found[1]))
            except (msgspec.MsgspecError, UnicodeError):
                pass
        at = data.rfind(_KEY, 0, at)
        if at < 0:
            break
    return None


def _counts(api: Api, report: _Report) -> Counts | None:
    if api is _MESSAGES:
        cached, created = report.cache_read_input_tokens, report.cache_creation_input_tokens or 0
        rest = report.input_tokens or 0
        if rest < 0 or created < 0:
            return None
        prompt_tokens = rest + (cached or 0) + created
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
    return prompt_tokens, cached, completion_tokens or 0
